use std::path::Path;

use crate::checkpoint::{Checkpoint, Precision, TensorSource, write_safetensors};
use crate::error::{Error, Result};
use crate::text::{Sequence, T5Encoder, Weights};

/// Runs a text encoder on `ids` [N, L] and `mask` [N, L], and writes its last hidden states, `out` [N, L, D] f32. One layer
/// is in memory at a time: a single batch needs each of them once.
pub fn encode_text(folder: &Path, inputs: &Path, output: &Path) -> Result<()> {
    let encoder = T5Encoder::open(folder, Weights::Streamed)?;
    let (texts, [count, tokens]) = read(inputs)?;
    let out = encoder.encode(&texts)?.concat();
    let shape = vec![count, tokens, encoder.config().width];
    let source = TensorSource::new("out".into(), shape, || Ok(out.clone()));
    write_safetensors(output, &[source], Precision::F32, &Default::default())
}

/// The texts in a file of inputs, and the shape [N, L] of its tensors.
fn read(path: &Path) -> Result<(Vec<Sequence>, [usize; 2])> {
    let file = Checkpoint::open(path)?;
    let shape = |name: &str| {
        file.entry(name).map(|entry| (entry.dtype, &entry.shape[..])).ok_or_else(|| {
            Error::invalid(path, format!("has no tensor {name}; expected ids [N,L] and mask [N,L]"))
        })
    };
    let ((_, ids), (mask_type, mask)) = (shape("ids")?, shape("mask")?);
    let wrong = || Error::invalid(path, format!("holds ids {ids:?}; expected [N,L] with one token or more"));
    let [count, tokens] =
        <[usize; 2]>::try_from(ids).ok().filter(|[_, tokens]| *tokens > 0).ok_or_else(wrong)?;
    if mask != ids {
        return Err(Error::invalid(
            path,
            format!("holds ids {ids:?} but mask {mask:?}; expected the same shape"),
        ));
    }
    let mask: Vec<bool> = if mask_type.is_float() {
        file.read_f32("mask")?.into_iter().map(|seen| seen != 0.0).collect()
    } else {
        file.read_i64("mask")?.into_iter().map(|seen| seen != 0).collect()
    };
    let id = |id: i64| {
        u32::try_from(id)
            .map_err(|_| Error::invalid(path, format!("ids holds {id}; expected the number of a token")))
    };
    let ids = file.read_i64("ids")?.into_iter().map(id).collect::<Result<Vec<_>>>()?;
    let texts = ids
        .chunks_exact(tokens)
        .zip(mask.chunks_exact(tokens))
        .map(|(ids, mask)| Sequence { ids: ids.to_vec(), mask: mask.to_vec() })
        .collect();
    Ok((texts, [count, tokens]))
}
