//! `results.jsonl`: what became of each image, in the fields of GenEval's own results.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::words::Tag;
use crate::atomic;
use crate::error::{Error, Result};

/// One image's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub filename: String,
    pub tag: Tag,
    pub prompt: String,
    pub correct: bool,
    /// A line for each condition that fails.
    pub reason: String,
    /// The prompt with its conditions as JSON; images with equal ones count as images of one prompt.
    pub metadata: String,
    /// The boxes that counted, by class, as JSON: `{"dog": [[x0, y0, x1, y1, score], …]}`.
    pub details: String,
}

/// Reads results, of Scion or of GenEval's own program.
///
/// # Errors
/// `Io`; `Invalid`, naming the line, for anything that is no such result, and for a file without results.
pub fn read_records(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let one = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            let detail = e.to_string().replace(" at line 1 column", ", at column");
            Error::invalid(path, format!("line {}: {detail}", index + 1))
        })
    };
    let records: Vec<Record> = text.lines().enumerate().map(one).collect::<Result<_>>()?;
    if records.is_empty() {
        return Err(Error::invalid(path, "holds no results; expected one JSON object a line"));
    }
    Ok(records)
}

/// Writes results, one JSON object a line.
///
/// # Errors
/// `Io` if the file cannot be written.
pub fn write_records(path: &Path, records: &[Record]) -> Result<()> {
    atomic::write_with(path, |file| {
        records.iter().try_for_each(|record| {
            let line = serde_json::to_string(record).expect("results are plain data");
            writeln!(file, "{line}").map_err(|e| Error::io("write", path, e))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_round_trip_and_wrong_ones_name_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let record = Record {
            filename: "a/00000/samples/0000.png".into(),
            tag: Tag::ColorAttr,
            prompt: "a “dog”".into(),
            correct: false,
            reason: "one\ntwo".into(),
            metadata: "{}".into(),
            details: "{}".into(),
        };
        write_records(&path, &[record.clone(), record.clone()]).unwrap();
        assert_eq!(read_records(&path).unwrap(), [record.clone(), record]);

        // pandas escapes slashes.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace('/', "\\/")).unwrap();
        assert_eq!(read_records(&path).unwrap()[1].filename, "a/00000/samples/0000.png");

        fs::write(&path, format!("{text}{{\"tag\": \"colors\"}}\n")).unwrap();
        let message = read_records(&path).unwrap_err().to_string();
        assert!(message.contains("results.jsonl: line 3: missing field `filename`"), "{message}");
        fs::write(&path, "").unwrap();
        assert!(read_records(&path).unwrap_err().to_string().contains("holds no results"));
    }
}
