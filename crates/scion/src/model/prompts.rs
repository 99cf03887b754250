use std::path::Path;

use burn::tensor::Device;

use super::conditioning::Text;
use super::config::DitConfig;
use crate::checkpoint::{Checkpoint, Precision, TensorSource, write_safetensors};
use crate::error::{Error, Result};

/// The label that stands for the null prompt, as the row behind the classes does for the null class.
pub const NULL_PROMPT: usize = usize::MAX;

/// The null prompt's tensor in a file.
const NULL: &str = "null";

/// Encoded prompts, which a text-to-image model looks up by label as a class-conditional one does its classes.
#[derive(Debug)]
pub struct Prompts {
    width: usize,
    rows: Rows,
}

/// Each prompt's tokens, row-major [L, width], and behind them the null prompt's.
#[derive(Debug)]
enum Rows {
    Memory(Vec<Vec<f32>>),
    /// Read when they are looked up; with the tensors' names.
    File(Box<Checkpoint>, Vec<String>),
}

impl Prompts {
    /// Each prompt, and the null prompt behind them, is row-major [L, width] with a length of its own and at least one token.
    ///
    /// # Errors
    /// When a prompt is empty, or no whole number of tokens.
    pub fn new(width: usize, mut rows: Vec<Vec<f32>>, null: Vec<f32>) -> Result<Self> {
        rows.push(null);
        let whole = |row: &Vec<f32>| width > 0 && !row.is_empty() && row.len().is_multiple_of(width);
        if let Some(at) = rows.iter().position(|row| !whole(row)) {
            return Err(Error::Usage(format!(
                "encoded prompts: number {at} of {} has {} values; expected tokens of width {width}, at least one",
                rows.len() - 1,
                rows[at].len()
            )));
        }
        Ok(Self { width, rows: Rows::Memory(rows) })
    }

    /// Writes prompts to a file that [`Prompts::open`] maps: a tensor [L, width] in f16 each, in the order of the sources,
    /// whose names do not matter; `null` is the null prompt's. A source is asked for when it is written.
    ///
    /// # Errors
    /// When a source fails, has a value that f16 cannot hold, or the file cannot be written.
    pub fn write(path: &Path, prompts: Vec<TensorSource>, null: TensorSource) -> Result<()> {
        let numbered = prompts.into_iter().enumerate().map(|(i, source)| source.renamed(name(i)));
        let sources: Vec<TensorSource> = numbered.chain([null.renamed(NULL.into())]).collect();
        write_safetensors(path, &sources, Precision::F16, &Default::default())
    }

    /// Opens a file that [`Prompts::write`] wrote; prompts are read from it when they are looked up.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let count = file.names().filter(|name| *name != NULL).count();
        let names: Vec<String> = (0..count).map(name).chain([NULL.into()]).collect();
        let width = match file.entry(NULL).map(|entry| &entry.shape[..]) {
            Some(&[_, width]) => width,
            found => {
                let detail =
                    format!("holds {NULL} {found:?}; expected encoded prompts, [tokens, width] each");
                return Err(Error::invalid(path, detail));
            }
        };
        for name in &names {
            let shape = file.entry(name).map_or(&[][..], |entry| &entry.shape[..]);
            if !matches!(shape, &[tokens, columns] if tokens > 0 && columns == width) {
                let detail = format!("holds {name} {shape:?}; expected [tokens, {width}]");
                return Err(Error::invalid(path, detail));
            }
        }
        Ok(Self { width, rows: Rows::File(Box::new(file), names) })
    }

    /// Number of prompts, the null prompt left out.
    pub fn len(&self) -> usize {
        self.with_null() - 1
    }

    /// Whether there is no prompt but the null prompt.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with_null(&self) -> usize {
        match &self.rows {
            Rows::Memory(rows) => rows.len(),
            Rows::File(_, names) => names.len(),
        }
    }

    /// Number of tokens of a prompt.
    fn tokens(&self, row: usize) -> usize {
        match &self.rows {
            Rows::Memory(rows) => rows[row].len() / self.width,
            Rows::File(file, names) => file.entry(&names[row]).map_or(0, |entry| entry.shape[0]),
        }
    }

    /// Whether a model can read them.
    ///
    /// # Errors
    /// When they have another width than its text encoder's, or more tokens than it takes, or it reads no text.
    pub fn check(&self, sizes: &DitConfig) -> Result<()> {
        let Some(text) = sizes.text() else {
            return Err(Error::Usage("a class-conditional model has no use for prompts".into()));
        };
        let longest = (0..self.with_null()).map(|row| self.tokens(row)).max().unwrap_or_default();
        if (self.width, longest) != (text.width, longest.min(text.tokens)) {
            return Err(Error::Usage(format!(
                "encoded prompts have tokens of width {} and up to {longest} of them; this model takes width {} and at \
                 most {}",
                self.width, text.width, text.tokens
            )));
        }
        Ok(())
    }

    /// The prompts of some labels; [`NULL_PROMPT`] stands for the null prompt.
    ///
    /// # Panics
    /// When the file behind them was changed since it was opened.
    pub(super) fn text(&self, labels: &[usize], device: &Device) -> Text {
        let row = |&label: &usize| if label == NULL_PROMPT { self.len() } else { label };
        let rows: Vec<usize> = labels.iter().map(row).collect();
        let longest = rows.iter().map(|&row| self.tokens(row)).max().unwrap_or_default();
        let mut tokens = Vec::with_capacity(rows.len() * longest * self.width);
        let mut mask = Vec::with_capacity(rows.len() * longest);
        for &row in &rows {
            match &self.rows {
                Rows::Memory(rows) => tokens.extend_from_slice(&rows[row]),
                Rows::File(file, names) => {
                    let read = file.read_f32(&names[row]);
                    tokens.extend(read.unwrap_or_else(|e| panic!("a prompt that was there is gone: {e}")));
                }
            }
            let real = self.tokens(row);
            tokens.resize(tokens.len() + (longest - real) * self.width, 0.0);
            mask.extend((0..longest).map(|token| if token < real { 1.0 } else { 0.0 }));
        }
        Text::new(tokens, mask, [rows.len(), longest, self.width], device)
    }
}

/// A prompt's tensor in a file.
fn name(number: usize) -> String {
    format!("{number:06}")
}

#[cfg(test)]
mod tests {
    use super::super::conditioning::values;
    use super::*;

    #[test]
    fn prompts_of_unequal_length_are_filled_up_and_masked() {
        let prompts = Prompts::new(2, vec![vec![1.0; 6], vec![2.0; 2]], vec![3.0; 4]).unwrap();
        let device = Device::flex();
        let text = prompts.text(&[1, NULL_PROMPT], &device);
        assert_eq!(values(&text.tokens), [2.0, 2.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0]);
        assert_eq!(values(&text.mask), [1.0, 0.0, 1.0, 1.0]);
        assert_eq!(values(&text.bias()), [0.0, -10_000.0, 0.0, 0.0]);
        assert_eq!(prompts.text(&[0, 1], &device).tokens.dims(), [2, 3, 2]);
        assert!(
            Prompts::new(2, vec![vec![1.0; 3]], vec![3.0; 4]).unwrap_err().to_string().contains("number 0")
        );
        assert!(Prompts::new(2, vec![], vec![]).unwrap_err().to_string().contains("at least one"));
    }

    #[test]
    fn prompts_in_a_file_are_those_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.safetensors");
        let source = |tokens: usize, value: f32| {
            TensorSource::new("any".into(), vec![tokens, 2], move || Ok(vec![value; 2 * tokens]))
        };
        Prompts::write(&path, vec![source(3, 1.0), source(1, 2.0)], source(2, 3.0)).unwrap();
        let file = Prompts::open(&path).unwrap();
        let memory = Prompts::new(2, vec![vec![1.0; 6], vec![2.0; 2]], vec![3.0; 4]).unwrap();
        assert_eq!((file.len(), memory.len()), (2, 2));
        let device = Device::flex();
        let [found, expected] = [&file, &memory].map(|prompts| prompts.text(&[1, NULL_PROMPT, 0], &device));
        assert_eq!(values(&found.tokens), values(&expected.tokens));
        assert_eq!(values(&found.mask), values(&expected.mask));
        write_safetensors(&path, &[source(1, 0.0)], Precision::F16, &Default::default()).unwrap();
        assert!(Prompts::open(&path).unwrap_err().to_string().contains("expected encoded prompts"));
        Prompts::write(
            &path,
            vec![TensorSource::new("any".into(), vec![4], || Ok(vec![0.0; 4]))],
            source(1, 0.0),
        )
        .unwrap();
        assert!(
            Prompts::open(&path).unwrap_err().to_string().contains("holds 000000 [4]; expected [tokens, 2]")
        );
    }
}
