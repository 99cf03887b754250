//! What zip archives are written through.

use std::io::{self, ErrorKind, Seek, SeekFrom, Write};

/// A writer that fails once and then only pretends.
///
/// `ZipWriter` finishes its archive when dropped, and complains on standard error where it cannot. After a
/// failed write the archive is lost anyway, so what comes after the first error goes nowhere.
#[derive(Debug)]
pub(crate) struct ZipOutput<W> {
    inner: W,
    failed: bool,
    position: u64,
    end: u64,
}

impl<W> ZipOutput<W> {
    /// Writes to `inner`, which stands at its start.
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, failed: false, position: 0, end: 0 }
    }

    /// The writer underneath.
    pub(crate) fn into_inner(self) -> W {
        self.inner
    }

    fn note<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        self.failed |= outcome.as_ref().is_err_and(|e| e.kind() != ErrorKind::Interrupted);
        outcome
    }
}

impl<W: Write> Write for ZipOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = if self.failed {
            bytes.len()
        } else {
            let outcome = self.inner.write(bytes);
            self.note(outcome)?
        };
        self.position += count as u64;
        self.end = self.end.max(self.position);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed {
            return Ok(());
        }
        let outcome = self.inner.flush();
        self.note(outcome)
    }
}

impl<W: Seek> Seek for ZipOutput<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = if self.failed {
            match to {
                SeekFrom::Start(position) => position,
                SeekFrom::Current(offset) => self.position.saturating_add_signed(offset),
                SeekFrom::End(offset) => self.end.saturating_add_signed(offset),
            }
        } else {
            let outcome = self.inner.seek(to);
            self.note(outcome)?
        };
        Ok(self.position)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a number of bytes, then is full.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::StorageFull.into())
        }
    }

    impl Seek for Full {
        fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
            Err(ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn only_the_first_failure_shows() {
        let mut output = ZipOutput::new(Full(3));
        assert_eq!(output.write_all(b"12345").unwrap_err().kind(), ErrorKind::StorageFull);
        output.write_all(b"45").unwrap();
        output.flush().unwrap();
        assert_eq!(output.seek(SeekFrom::Start(1)).unwrap(), 1);
        assert_eq!(output.seek(SeekFrom::End(0)).unwrap(), 5);
    }
}
