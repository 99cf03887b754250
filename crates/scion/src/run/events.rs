//! Event files for TensorBoard: the records of TensorFlow's `TFRecord` format, each an `Event` message of its
//! `event.proto`. Scalars are all that is written, so the few fields are encoded here.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// The event file of one session of a stage.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventFile {
    /// Begins a file in the folder, beside those of earlier sessions. TensorBoard drops what these logged from step
    /// `first` on.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(folder: &Path, first: u64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
        let list = fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
        // Read in the order of their names.
        let name = format!("events.out.tfevents.{}.{:04}.scion", now() as u64, list.count());
        let path = folder.join(name);
        let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        let mut events = Self { path, file: BufWriter::new(file) };
        events.write(&version(now()))?;
        events.write(&start(now(), first))?;
        Ok(events)
    }

    /// Appends the values of one step.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn scalars(&mut self, step: u64, values: &[(String, f32)]) -> Result<()> {
        self.write(&scalars(now(), step, values))
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let io = |e| Error::io("write", &self.path, e);
        self.file.write_all(&record(event)).map_err(io)?;
        self.file.flush().map_err(io)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// A record: length, its checksum, data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

/// CRC-32C, rotated and shifted so that checksums of checksums keep their worth.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

// Protocol buffers: a field is its number and wire type (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes), then
// its value. Fields that are zero are left out.

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn bytes(field: u8, value: &[u8], to: &mut Vec<u8>) {
    to.push(field << 3 | 2);
    varint(value.len() as u64, to);
    to.extend(value);
}

fn event(time: f64, step: u64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(time.to_le_bytes());
    if step != 0 {
        event.push(2 << 3);
        varint(step, &mut event);
    }
    event
}

/// The event that comes first in a file.
fn version(time: f64) -> Vec<u8> {
    let mut event = event(time, 0);
    bytes(3, b"brain.Event:2", &mut event);
    event
}

/// A session's start at a step.
fn start(time: f64, step: u64) -> Vec<u8> {
    const STATUS_START: [u8; 2] = [1 << 3, 1];
    let mut event = event(time, step);
    bytes(7, &STATUS_START, &mut event);
    event
}

fn scalars(time: f64, step: u64, values: &[(String, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut entry = Vec::new();
        bytes(1, tag.as_bytes(), &mut entry);
        entry.push(2 << 3 | 5);
        entry.extend(value.to_le_bytes());
        bytes(1, &entry, &mut summary);
    }
    let mut event = event(time, step);
    bytes(5, &summary, &mut event);
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_the_tensorboard_package() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/events/tfevents");
        let values = [("stage1/block 3 attention/loss".to_string(), 0.25), ("b".to_string(), -1.5e-3)];
        let events =
            [version(1.5), start(2.5, 7), scalars(3.25, 300, &values), scalars(4.0, 0, &values[1..])];
        let written: Vec<u8> = events.iter().flat_map(|event| record(event)).collect();
        assert!(written == fs::read(path).unwrap());
    }
}
