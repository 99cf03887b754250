//! A `torch.save` file of a flat state dict, readable with `torch.load(weights_only=True)`.

use std::io::{Seek, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::write::{Precision, TensorSource, ensure_distinct};
use crate::atomic;
use crate::error::{Error, Result};
use crate::zip_output::ZipOutput;

/// The folder inside the archive.
const ROOT: &str = "archive";

/// Writes a state dict as PyTorch does: a pickle of tensors and one uncompressed archive member per storage.
///
/// # Errors
/// A failed read or write, two tensors of one name, or a value that the precision cannot hold.
pub fn write_pytorch(path: &Path, tensors: &[TensorSource], precision: Precision) -> Result<()> {
    ensure_distinct(path, tensors)?;
    atomic::write_with(path, |file| {
        let mut zip = ZipWriter::new(ZipOutput::new(file));
        let small = [
            ("data.pkl", pickle(path, tensors, precision)?),
            (".format_version", b"1".to_vec()),
            (".storage_alignment", b"64".to_vec()),
            ("byteorder", b"little".to_vec()),
        ];
        for (name, bytes) in &small {
            start(&mut zip, path, name, bytes.len())?;
            zip.write_all(bytes).map_err(|e| Error::io("write", path, e))?;
        }
        for (key, tensor) in tensors.iter().enumerate() {
            start(&mut zip, path, &format!("data/{key}"), tensor.numel() * precision.size())?;
            tensor.write(path, precision, &mut zip)?;
        }
        start(&mut zip, path, "version", 2)?;
        zip.write_all(b"3\n").map_err(|e| Error::io("write", path, e))?;
        zip.finish().map_err(|e| Error::io("write", path, e.into()))?;
        Ok(())
    })
}

fn start<W: Write + Seek>(zip: &mut ZipWriter<W>, path: &Path, name: &str, len: usize) -> Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(64) // what torch.load(mmap=True) relies on
        .large_file(len as u64 >= u64::from(u32::MAX));
    zip.start_file(format!("{ROOT}/{name}"), options).map_err(|e| Error::io("write", path, e.into()))
}

/// The pickle (protocol 2) of an `OrderedDict` of contiguous tensors, storage `i` under key "i".
fn pickle(path: &Path, tensors: &[TensorSource], precision: Precision) -> Result<Vec<u8>> {
    let storage = match precision {
        Precision::F32 => "FloatStorage",
        Precision::F16 => "HalfStorage",
        Precision::BF16 => "BFloat16Storage",
    };
    let mut out = vec![0x80, 2];
    ordered_dict(&mut out);
    out.push(b'(');
    for (key, tensor) in tensors.iter().enumerate() {
        let too_big =
            || Error::invalid(path, format!("tensor `{}` is too big for a PyTorch file", tensor.name));
        text(&mut out, &tensor.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{storage}\n").bytes());
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.numel()).ok_or_else(too_big)?;
        out.extend(b"tQK\x00"); // end of the storage's tuple, persistent id, offset 0
        integers(&mut out, &tensor.shape).ok_or_else(too_big)?;
        integers(&mut out, &strides(&tensor.shape)).ok_or_else(too_big)?;
        out.push(0x89); // requires_grad=False
        ordered_dict(&mut out); // backward hooks
        out.extend(b"tR");
    }
    out.extend(b"u.");
    Ok(out)
}

fn ordered_dict(out: &mut Vec<u8>) {
    out.extend(b"ccollections\nOrderedDict\n)R");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

fn integer(out: &mut Vec<u8>, number: usize) -> Option<()> {
    match i32::try_from(number) {
        Ok(small) => {
            out.push(b'J');
            out.extend(small.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]); // LONG1 of eight bytes
            out.extend(i64::try_from(number).ok()?.to_le_bytes());
        }
    }
    Some(())
}

fn integers(out: &mut Vec<u8>, numbers: &[usize]) -> Option<()> {
    out.push(b'(');
    numbers.iter().try_for_each(|&number| integer(out, number))?;
    out.push(b't');
    Some(())
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}
