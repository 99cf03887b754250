//! One NumPy array (`.npy`, format versions 1 to 3): a text header with type and shape, then the values.

use half::f16;

/// Values of an array, in C order.
#[derive(Clone, Debug, PartialEq)]
pub enum NpyData {
    U8(Vec<u8>),
    F16(Vec<f16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
}

impl NpyData {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type's name: u8, f16, f32, f64 or i64.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::F16(_) => "f16",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::I64(_) => "i64",
        }
    }

    fn descr(&self) -> &'static str {
        match self {
            Self::U8(_) => "|u1",
            Self::F16(_) => "<f2",
            Self::F32(_) => "<f4",
            Self::F64(_) => "<f8",
            Self::I64(_) => "<i8",
        }
    }

    /// The values as little-endian bytes.
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::U8(v) => v.clone(),
            Self::F16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

/// A shape and its values in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct NpyArray {
    pub shape: Vec<usize>,
    pub data: NpyData,
}

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy pads the header so that the data begin at a multiple of this.
const ALIGNMENT: usize = 64;

impl NpyArray {
    /// Parses the bytes of an `.npy` file.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong, for the caller to put a file's name to: bad magic or header,
    /// an element type that is not little-endian u8, f16, f32, f64 or i64, Fortran order, a wrong length.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let (header, start) = split_header(&bytes)?;
        let shape = parse_shape(field(header, "shape")?)?;
        if field(header, "fortran_order")?.starts_with("True") {
            return Err("in Fortran (column-major) order; save it with numpy.ascontiguousarray".into());
        }
        let descr = field(header, "descr")?;
        let kind = descr.strip_prefix('\'').and_then(|rest| rest.split('\'').next()).unwrap_or(descr);
        let width = match kind {
            "|u1" => 1,
            "<f2" => 2,
            "<f4" => 4,
            "<f8" | "<i8" => 8,
            other => {
                return Err(format!("of NumPy type {other}, expected |u1, <f2, <f4, <f8 or <i8"));
            }
        };
        let expected = shape.iter().try_fold(width, |product: usize, &n| product.checked_mul(n));
        let found = bytes.len() - start;
        if expected != Some(found) {
            return Err(format!("{found} data bytes long, which does not fit {kind} with shape {shape:?}"));
        }
        let kind = kind.to_owned();
        let raw = &bytes[start..];
        let data = match kind.as_str() {
            "<f2" => NpyData::F16(raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect()),
            "<f4" => NpyData::F32(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            "<f8" => NpyData::F64(raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
            "<i8" => NpyData::I64(raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            _ => {
                let mut bytes = bytes;
                bytes.drain(..start);
                NpyData::U8(bytes)
            }
        };
        Ok(Self { shape, data })
    }

    /// The bytes of an `.npy` file, format version 1.
    ///
    /// # Errors
    /// A sentence fragment if the shape does not fit the number of values.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        if self.shape.iter().try_fold(1usize, |p, &n| p.checked_mul(n)) != Some(self.data.len()) {
            return Err(format!("{} values for shape {:?}", self.data.len(), self.shape));
        }
        let sides: String = self.shape.iter().map(|n| format!("{n}, ")).collect();
        // A one-dimensional Python tuple keeps its comma: (5,).
        let sides = if self.shape.len() == 1 { sides.trim_end() } else { sides.trim_end_matches(", ") };
        let descr = self.data.descr();
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sides}), }}");
        let prefix = MAGIC.len() + 4;
        let unpadded = prefix + header.len() + 1;
        header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGNMENT) - unpadded));
        header.push('\n');
        let length =
            u16::try_from(header.len()).map_err(|_| "a shape with too many dimensions".to_owned())?;
        Ok([MAGIC.as_slice(), &[1, 0], &length.to_le_bytes(), header.as_bytes(), &self.data.to_bytes()]
            .concat())
    }
}

/// The header text, and where the data begin.
fn split_header(bytes: &[u8]) -> Result<(&str, usize), String> {
    let cut = || "cut off inside its header".to_owned();
    if !bytes.starts_with(MAGIC) {
        return Err("not in .npy format (bad magic)".into());
    }
    let (&version, rest) = bytes[MAGIC.len()..].split_first().ok_or_else(cut)?;
    let (start, length) = match (version, rest) {
        (1, [_, a, b, ..]) => (10, u32::from(u16::from_le_bytes([*a, *b]))),
        (2 | 3, [_, a, b, c, d, ..]) => (12, u32::from_le_bytes([*a, *b, *c, *d])),
        (1..=3, _) => return Err(cut()),
        _ => return Err(format!("in .npy format version {version}, expected 1 to 3")),
    };
    let end = start + length as usize;
    let header = bytes.get(start..end).ok_or_else(cut)?;
    let text =
        std::str::from_utf8(header).map_err(|_| "not in .npy format (header is not text)".to_owned())?;
    Ok((text, end))
}

/// What follows `'name':` in the header, a Python dictionary literal.
fn field<'a>(header: &'a str, name: &str) -> Result<&'a str, String> {
    let (_, value) = header
        .split_once(&format!("'{name}':"))
        .ok_or_else(|| format!("not in .npy format (header lacks {name})"))?;
    Ok(value.trim_start())
}

fn parse_shape(text: &str) -> Result<Vec<usize>, String> {
    let bad = || format!("not in .npy format (bad shape {})", text.chars().take(40).collect::<String>());
    let inner = text.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(bad)?.0;
    let sides = inner.split(',').map(str::trim).filter(|side| !side.is_empty());
    sides.map(|side| side.parse().map_err(|_| bad())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        [MAGIC.as_slice(), &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn every_kind_and_rank_round_trips() {
        let arrays = [
            (vec![], NpyData::F64(vec![1.5])),
            (vec![3], NpyData::U8(vec![1, 2, 255])),
            (vec![2, 0], NpyData::F32(vec![])),
            (vec![1, 2], NpyData::F16(vec![f16::ONE, f16::NEG_INFINITY])),
            (vec![2, 1, 1], NpyData::I64(vec![i64::MIN, 7])),
        ];
        for (shape, data) in arrays {
            let array = NpyArray { shape, data };
            let bytes = array.to_bytes().unwrap();
            assert_eq!((bytes.len() - array.data.to_bytes().len()) % ALIGNMENT, 0);
            assert_eq!(NpyArray::parse(bytes).unwrap(), array);
        }
        assert!(NpyArray { shape: vec![2], data: NpyData::U8(vec![1]) }.to_bytes().is_err());
    }

    #[test]
    fn bad_arrays_are_explained() {
        let message = |bytes: Vec<u8>| NpyArray::parse(bytes).unwrap_err();
        let header = |descr, fortran, shape| {
            format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}")
        };
        assert!(message(npy(&header("'<f4'", "True", "(1, 1)"), &[0; 4])).contains("Fortran"));
        assert!(message(npy(&header("'>f4'", "False", "(1,)"), &[0; 4])).contains("type >f4, expected"));
        assert!(message(npy(&header("[('a', '<f4')]", "False", "(1,)"), &[0; 4])).contains("expected |u1"));
        assert!(message(npy(&header("'<f4'", "False", "(2,)"), &[0; 4])).contains("4 data bytes long"));
        let huge = format!("({0}, {0})", u64::MAX / 2);
        assert!(message(npy(&header("'|u1'", "False", &huge), &[])).contains("does not fit"));
        assert!(message(npy(&header("'|u1'", "False", "(-1,)"), &[])).contains("bad shape"));
        assert!(message(npy("{}", &[])).contains("lacks shape"));
        assert!(message(b"PK".to_vec()).contains("bad magic"));
        assert!(message(b"\x93NUMPY\x01\x00\xff\x00{".to_vec()).contains("cut off"));
        assert!(message(b"\x93NUMPY\x09\x00\xff\x00{".to_vec()).contains("version 9"));
    }
}
