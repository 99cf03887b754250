//! One NumPy array (`.npy`, format versions 1 to 3): a text header with type and shape, then the values.

use std::io::Read;

use half::f16;

/// The element types that are read and written, all little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U8,
    F16,
    F32,
    F64,
    I64,
}

impl Kind {
    /// Bytes of one value.
    pub fn width(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// NumPy's name of the type.
    fn descr(self) -> &'static str {
        match self {
            Self::U8 => "|u1",
            Self::F16 => "<f2",
            Self::F32 => "<f4",
            Self::F64 => "<f8",
            Self::I64 => "<i8",
        }
    }

    fn of_descr(descr: &str) -> Result<Self, String> {
        let all = [Self::U8, Self::F16, Self::F32, Self::F64, Self::I64];
        all.into_iter()
            .find(|kind| kind.descr() == descr)
            .ok_or_else(|| format!("of NumPy type {descr}, expected |u1, <f2, <f4, <f8 or <i8"))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I64 => "i64",
        })
    }
}

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

    /// The element type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::U8(_) => Kind::U8,
            Self::F16(_) => Kind::F16,
            Self::F32(_) => Kind::F32,
            Self::F64(_) => Kind::F64,
            Self::I64(_) => Kind::I64,
        }
    }

    /// The values as little-endian bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
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
        let Header { kind, shape } = Header::parse(header)?;
        let expected = shape.iter().try_fold(kind.width(), |product: usize, &n| product.checked_mul(n));
        let found = bytes.len() - start;
        if expected != Some(found) {
            let descr = kind.descr();
            return Err(format!("{found} data bytes long, which does not fit {descr} with shape {shape:?}"));
        }
        let raw = &bytes[start..];
        let data = match kind {
            Kind::F16 => NpyData::F16(raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect()),
            Kind::F32 => NpyData::F32(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            Kind::F64 => NpyData::F64(raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
            Kind::I64 => NpyData::I64(raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            Kind::U8 => {
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
        let descr = self.data.kind().descr();
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

/// What the header says.
struct Header {
    kind: Kind,
    shape: Vec<usize>,
}

impl Header {
    fn parse(text: &str) -> Result<Self, String> {
        let shape = parse_shape(field(text, "shape")?)?;
        if field(text, "fortran_order")?.starts_with("True") {
            return Err("in Fortran (column-major) order; save it with numpy.ascontiguousarray".into());
        }
        let descr = field(text, "descr")?;
        let name = descr.strip_prefix('\'').and_then(|rest| rest.split('\'').next()).unwrap_or(descr);
        Ok(Self { kind: Kind::of_descr(name)?, shape })
    }
}

/// An array read from start to end in pieces, for those that are too large to hold twice.
pub struct NpyStream<R> {
    reader: R,
    kind: Kind,
    shape: Vec<usize>,
    /// Values not read yet.
    left: usize,
}

impl<R: Read> NpyStream<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// A sentence fragment, as [`NpyArray::parse`].
    pub fn new(mut reader: R) -> Result<Self, String> {
        let cut = |e: std::io::Error| format!("cut off inside its header ({e})");
        let mut start = vec![0; PREFIX];
        reader.read_exact(&mut start).map_err(cut)?;
        // Versions 2 and 3 have two more bytes of length.
        if start.starts_with(MAGIC) && start[MAGIC.len()] > 1 {
            start.resize(PREFIX + 2, 0);
            reader.read_exact(&mut start[PREFIX..]).map_err(cut)?;
        }
        let (begin, length) = header_place(&start)?;
        let read = reader.by_ref().take(length as u64).read_to_end(&mut start).map_err(cut)?;
        if read < length {
            return Err(CUT.into());
        }
        debug_assert_eq!(begin + length, start.len());
        let Header { kind, shape } = Header::parse(split_header(&start)?.0)?;
        let left = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let left = left.ok_or_else(|| format!("of shape {shape:?}, which is too large"))?;
        Ok(Self { reader, kind, shape, left })
    }

    /// The element type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The array's shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The next `count` values, fewer at the end, as f32 (f64 and i64 are rounded).
    ///
    /// # Errors
    /// A sentence fragment where the data end too early or are damaged.
    pub fn next_f32(&mut self, count: usize) -> Result<Vec<f32>, String> {
        let kind = self.kind;
        let mut values = Vec::new();
        let mut wanted = count.min(self.left);
        // Pieces bound the raw copy, and keep a lying shape from claiming memory before data arrive.
        while wanted > 0 {
            let raw = self.next_bytes(wanted.min(PIECE))?;
            wanted -= raw.len() / kind.width();
            match kind {
                Kind::U8 => values.extend(raw.iter().map(|&b| f32::from(b))),
                Kind::F16 => values.extend(raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
                Kind::F32 => values.extend(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
                Kind::F64 => values.extend(raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
                Kind::I64 => values.extend(raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32)),
            }
        }
        Ok(values)
    }

    /// The next `count` values, fewer at the end, as they are stored.
    ///
    /// # Errors
    /// As [`NpyStream::next_f32`].
    pub fn next_bytes(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let count = count.min(self.left);
        let bytes = count * self.kind.width();
        let mut raw = Vec::new();
        let read = self.reader.by_ref().take(bytes as u64).read_to_end(&mut raw).map_err(|e| damaged(&e))?;
        if read < bytes {
            let missing = self.left * self.kind.width() - read;
            return Err(format!("{missing} data bytes shorter than its shape {:?}", self.shape));
        }
        self.left -= count;
        if self.left == 0 {
            // Reading on to the end makes the archive verify its checksum.
            let mut rest = [0];
            if self.reader.read(&mut rest).map_err(|e| damaged(&e))? > 0 {
                return Err(format!("longer than its shape {:?}", self.shape));
            }
        }
        Ok(raw)
    }
}

fn damaged(error: &std::io::Error) -> String {
    format!("damaged: {error}")
}

/// Magic, version and the shorter form of the header's length.
const PREFIX: usize = 10;
/// Values converted at a time.
const PIECE: usize = 1 << 20;
const CUT: &str = "cut off inside its header";

/// The header text, and where the data begin.
fn split_header(bytes: &[u8]) -> Result<(&str, usize), String> {
    let (start, length) = header_place(bytes)?;
    let end = start + length;
    let header = bytes.get(start..end).ok_or(CUT)?;
    let text =
        std::str::from_utf8(header).map_err(|_| "not in .npy format (header is not text)".to_owned())?;
    Ok((text, end))
}

/// Where the header text starts, and its length.
fn header_place(bytes: &[u8]) -> Result<(usize, usize), String> {
    if !bytes.starts_with(MAGIC) {
        return Err("not in .npy format (bad magic)".into());
    }
    let (&version, rest) = bytes[MAGIC.len()..].split_first().ok_or(CUT)?;
    match (version, rest) {
        (1, [_, a, b, ..]) => Ok((PREFIX, usize::from(u16::from_le_bytes([*a, *b])))),
        (2 | 3, [_, a, b, c, d, ..]) => Ok((PREFIX + 2, u32::from_le_bytes([*a, *b, *c, *d]) as usize)),
        (1..=3, _) => Err(CUT.into()),
        _ => Err(format!("in .npy format version {version}, expected 1 to 3")),
    }
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
            assert_eq!(NpyArray::parse(bytes.clone()).unwrap(), array);
            let mut stream = NpyStream::new(bytes.as_slice()).unwrap();
            assert_eq!((stream.shape(), stream.kind()), (array.shape.as_slice(), array.data.kind()));
            let pieces: Vec<u8> =
                std::iter::repeat_with(|| stream.next_bytes(2).unwrap()).take(3).flatten().collect();
            assert_eq!(pieces, array.data.to_bytes());
        }
        assert!(NpyArray { shape: vec![2], data: NpyData::U8(vec![1]) }.to_bytes().is_err());
    }

    #[test]
    fn streams_convert_and_notice_wrong_lengths() {
        let halves =
            NpyArray { shape: vec![3], data: NpyData::F16([0.5, -2.0, 1.0].map(f16::from_f32).into()) };
        let bytes = halves.to_bytes().unwrap();
        let mut stream = NpyStream::new(bytes.as_slice()).unwrap();
        assert_eq!(stream.next_f32(2).unwrap(), [0.5, -2.0]);
        assert_eq!(stream.next_f32(9).unwrap(), [1.0]);
        let read = |bytes: &[u8]| NpyStream::new(bytes).and_then(|mut s| s.next_f32(usize::MAX)).unwrap_err();
        assert!(read(&bytes[..bytes.len() - 1]).contains("1 data bytes shorter than its shape [3]"));
        assert!(read(&[bytes.as_slice(), &[0]].concat()).contains("longer than its shape"));
        assert!(read(&bytes[..40]).contains("cut off"));
        assert!(read(&bytes[..4]).contains("cut off"));
        assert!(read(b"PK34567890").contains("bad magic"));
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
