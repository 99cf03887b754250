//! The part of a SentencePiece model file (`spiece.model`) that tokenizes: pieces with their scores and the table that
//! normalises characters. The file is a protocol-buffer message, `ModelProto` of `sentencepiece_model.proto`.

/// A vocabulary as the file has it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Model {
    /// Pieces in order of their ids.
    pub(super) pieces: Vec<Piece>,
    /// `normalizer_spec.precompiled_charsmap`; empty where characters stay as they are.
    pub(super) charsmap: Vec<u8>,
}

/// A piece of text that is a token.
#[derive(Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    /// Whether the text stands for itself wherever it occurs: control symbols and those that a user defined.
    pub(super) symbol: bool,
}

/// `TrainerSpec.ModelType.UNIGRAM`.
const UNIGRAM: u64 = 1;
/// `ModelProto.SentencePiece.Type.CONTROL` and `USER_DEFINED`.
const SYMBOLS: [u64; 2] = [3, 4];

impl Model {
    /// Reads a model file. The error says in words what is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self::default();
        let mut kind = UNIGRAM;
        for field in Message(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(Piece::read(piece, model.pieces.len())?),
                (2, Value::Bytes(trainer)) => {
                    for field in Message(trainer) {
                        if let (3, Value::Integer(number)) = field? {
                            kind = number;
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in Message(normalizer) {
                        if let (2, Value::Bytes(charsmap)) = field? {
                            model.charsmap = charsmap.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        if kind != UNIGRAM {
            return Err(format!("its trainer_spec.model_type is {kind}; expected 1, a unigram model"));
        }
        Ok(model)
    }
}

impl Piece {
    fn read(bytes: &[u8], id: usize) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, symbol: false };
        for field in Message(bytes) {
            match field? {
                (1, Value::Bytes(text)) => {
                    let text = str::from_utf8(text).map_err(|_| format!("piece {id} is not UTF-8"))?;
                    piece.text = text.to_owned();
                }
                (2, Value::Four(score)) => piece.score = f32::from_le_bytes(score),
                (3, Value::Integer(kind)) => piece.symbol = SYMBOLS.contains(&kind),
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// A value of a protocol-buffer field.
enum Value<'a> {
    Integer(u64),
    Four([u8; 4]),
    Bytes(&'a [u8]),
    /// Eight bytes: no field of ours.
    Eight,
}

/// The fields of a message, by number, as far as it can be read.
struct Message<'a>(&'a [u8]);

impl<'a> Iterator for Message<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[]; // nothing that follows can be told apart
        }
        Some(field.ok_or_else(|| "it is truncated, damaged or no SentencePiece model".to_owned()))
    }
}

impl<'a> Message<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Integer(self.varint()?),
            1 => self.take(8).map(|_| Value::Eight)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of two pieces and a three-byte charsmap, with fields that are skipped between.
    const FILE: &[u8] = &[
        0x0a, 0x0b, 0x0a, 0x02, b'a', b'b', 0x15, 0, 0, 0x80, 0xbf, 0x18,
        0x01, // piece "ab", -1.0, normal
        0x0a, 0x06, 0x0a, 0x02, b'<', b'>', 0x18, 0x03, // piece "<>", control
        0x12, 0x04, 0x18, 0x01, 0x20, 0x64, // trainer: unigram, vocab_size
        0x1a, 0x09, 0x0a, 0x02, b'n', b'f', 0x12, 0x03, 1, 2, 3, // normalizer
    ];

    #[test]
    fn pieces_and_normaliser_are_found() {
        let model = Model::read(FILE).unwrap();
        let piece = |text: &str, score, symbol| Piece { text: text.into(), score, symbol };
        assert_eq!(model.pieces, [piece("ab", -1.0, false), piece("<>", 0.0, true)]);
        assert_eq!(model.charsmap, [1, 2, 3]);
    }

    #[test]
    fn damage_is_an_error() {
        for length in [1, 5, 12, 20, FILE.len() - 1] {
            assert!(Model::read(&FILE[..length]).unwrap_err().contains("truncated"), "{length}");
        }
        let mut other = FILE.to_vec();
        other[24] = 2;
        assert!(Model::read(&other).unwrap_err().contains("model_type is 2"));
        assert!(Model::read(b"version https://git-lfs.github.com/spec/v1").is_err());
        assert!(Model::read(&[0xff; 40]).is_err());
        assert!(Model::read(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
    }
}
