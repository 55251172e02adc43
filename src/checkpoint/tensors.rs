//! The safetensors format, streamed: tensors go to the file and come back without a second copy in memory.
//!
//! Written by hand because the `safetensors` crate sorts tensors by name (layer 10 before layer 2), needs the whole
//! file in memory, and drops doubled names silently. A test reads our files with the crate and the crate's with ours.
//!
//! Layout: `u64` length of the header, JSON header (padded with blanks to 8 bytes), values in little endian. The
//! header lists tensors in the order of the snapshot; values of 64 bits come before those of 32, so that all are
//! aligned.

use super::{Floats, NamedTensor};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

/// The limit of the format's own readers.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const METADATA: &str = "__metadata__";
const CHUNK_BYTES: usize = 1 << 16;

/// Text beside the tensors, by key.
pub(super) type Metadata = BTreeMap<String, String>;

/// What PyTorch users' tools look for.
pub(super) fn plain() -> Metadata {
    BTreeMap::from([("format".to_string(), "pt".to_string())])
}

/// Refuses what could be written but not read back.
pub(super) fn check(tensors: &[NamedTensor], metadata: &Metadata) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for tensor in tensors {
        let name = &tensor.name;
        if name == METADATA || !names.insert(name) {
            return Err(format!("tensor name `{name}` is reserved or stands twice"));
        }
        let n = tensor.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        if n != Some(tensor.data.len()) {
            return Err(format!("tensor `{name}` of shape {:?} has {} values", tensor.shape, tensor.data.len()));
        }
    }
    if header(tensors, metadata).len() as u64 > MAX_HEADER_BYTES {
        return Err(format!("{} tensors make a header above the format's {MAX_HEADER_BYTES} bytes", tensors.len()));
    }
    Ok(())
}

/// Writes tensors that pass [`check`].
pub(super) fn write(tensors: &[NamedTensor], metadata: &Metadata, out: &mut dyn Write) -> io::Result<()> {
    let header = header(tensors, metadata);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for tensor in in_file_order(tensors) {
        match &tensor.data {
            Floats::F64(values) => write_values(values, |x| x.to_le_bytes(), out)?,
            Floats::F32(values) => write_values(values, |x| x.to_le_bytes(), out)?,
        }
    }
    Ok(())
}

fn in_file_order(tensors: &[NamedTensor]) -> impl Iterator<Item = &NamedTensor> {
    let wide = |tensor: &&NamedTensor| matches!(tensor.data, Floats::F64(_));
    tensors.iter().filter(wide).chain(tensors.iter().filter(move |tensor| !wide(tensor)))
}

fn header(tensors: &[NamedTensor], metadata: &Metadata) -> Vec<u8> {
    let mut ranges = BTreeMap::new();
    let mut start = 0;
    for tensor in in_file_order(tensors) {
        let end = start + tensor.data.len() * if matches!(tensor.data, Floats::F64(_)) { 8 } else { 4 };
        ranges.insert(tensor.name.as_str(), [start, end]);
        start = end;
    }
    let mut entries = serde_json::Map::new();
    entries.insert(METADATA.into(), json!(metadata));
    for tensor in tensors {
        let dtype = if matches!(tensor.data, Floats::F64(_)) { "F64" } else { "F32" };
        let range = ranges[tensor.name.as_str()];
        entries.insert(tensor.name.clone(), json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": range }));
    }
    let mut bytes = serde_json::Value::Object(entries).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

fn write_values<T: Copy, const N: usize>(
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    for chunk in values.chunks(CHUNK_BYTES / N) {
        buffer.clear();
        chunk.iter().for_each(|&x| buffer.extend_from_slice(&bytes(x)));
        out.write_all(&buffer)?;
    }
    Ok(())
}

/// What the start of a file tells, checked against its length.
#[derive(Debug)]
pub(super) struct Header {
    /// Tensors in the order of the header.
    pub(super) entries: Vec<(String, TensorEntry)>,
    pub(super) metadata: Metadata,
    /// Where values begin.
    pub(super) values: u64,
}

/// Reads the header of a file of `bytes` bytes. Nothing is allocated beyond the length of the file, and no tensor reaches
/// beyond its end.
pub(super) fn read_header(input: &mut dyn Read, bytes: u64) -> Result<Header, String> {
    let mut length = [0; 8];
    input.read_exact(&mut length).map_err(|_| "too short for a safetensors file".to_string())?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES.min(bytes.saturating_sub(8)) {
        return Err(format!("a header of {length} bytes does not fit the file of {bytes} bytes"));
    }
    let mut header = vec![0; length as usize];
    input.read_exact(&mut header).map_err(|e| format!("header: {e}"))?;
    let Listed { entries, metadata } = serde_json::from_slice(&header).map_err(|e| format!("header: {e}"))?;
    let header = Header { entries, metadata, values: 8 + length };
    check_ranges(header.in_file_order().into_iter().map(|i| &header.entries[i]), bytes - header.values)?;
    Ok(header)
}

impl Header {
    fn in_file_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|&i| self.entries[i].1.data_offsets);
        order
    }
}

/// Reads a file of `bytes` bytes. Nothing is allocated beyond the length of the file.
pub(super) fn read(input: &mut dyn Read, bytes: u64) -> Result<Vec<NamedTensor>, String> {
    read_all(input, bytes).map(|(tensors, _)| tensors)
}

/// As [`read`], with the text beside the tensors.
pub(super) fn read_all(input: &mut dyn Read, bytes: u64) -> Result<(Vec<NamedTensor>, Metadata), String> {
    let header = read_header(input, bytes)?;
    let mut tensors: Vec<Option<NamedTensor>> = vec![None; header.entries.len()];
    for i in header.in_file_order() {
        let (name, entry) = &header.entries[i];
        let n = entry.shape.iter().product();
        let data = entry.dtype.read(input, n).map_err(|e| format!("tensor `{name}`: {e}"))?;
        tensors[i] = Some(NamedTensor { name: name.clone(), shape: entry.shape.clone(), data });
    }
    Ok((tensors.into_iter().flatten().collect(), header.metadata))
}

/// Tensors in file order must lie end to end and fill the file, each with room for exactly its shape.
fn check_ranges<'a>(entries: impl Iterator<Item = &'a (String, TensorEntry)>, bytes: u64) -> Result<(), String> {
    let mut at = 0;
    for (name, entry) in entries {
        let wanted = entry.shape.iter().try_fold(entry.dtype.bytes(), |n: u64, &dim| n.checked_mul(dim as u64));
        let (start, end) = entry.data_offsets;
        if start != at || wanted.and_then(|n| n.checked_add(at)) != Some(end) || end > bytes {
            return Err(format!(
                "header: tensor `{name}` of shape {:?} does not fit bytes {start}..{end}",
                entry.shape
            ));
        }
        at = end;
    }
    if at == bytes { Ok(()) } else { Err(format!("header: {at} bytes of values described, {bytes} are there")) }
}

fn read_values<T, const N: usize>(input: &mut dyn Read, n: usize, value: fn([u8; N]) -> T) -> io::Result<Vec<T>> {
    let mut values = Vec::new();
    // Files may be longer than memory, for example where nothing of them is on the disk.
    values.try_reserve_exact(n).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    while values.len() < n {
        let part = &mut buffer[..(CHUNK_BYTES / N).min(n - values.len()) * N];
        input.read_exact(part)?;
        values.extend(part.as_chunks::<N>().0.iter().map(|&bytes| value(bytes)));
    }
    Ok(values)
}

/// Kind of float.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub(super) enum Dtype {
    F32,
    F64,
}

impl Dtype {
    /// Bytes of a value.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
        }
    }

    /// No values of this kind.
    pub(super) fn none(self) -> Floats {
        match self {
            Dtype::F32 => Floats::F32(Vec::new()),
            Dtype::F64 => Floats::F64(Vec::new()),
        }
    }

    /// Reads so many values.
    pub(super) fn read(self, input: &mut dyn Read, n: usize) -> io::Result<Floats> {
        match self {
            Dtype::F32 => read_values(input, n, f32::from_le_bytes).map(Floats::F32),
            Dtype::F64 => read_values(input, n, f64::from_le_bytes).map(Floats::F64),
        }
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorEntry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Where its values lie, from the first value of the file on.
    pub(super) data_offsets: (u64, u64),
}

/// The JSON header in its own order, without doubled names.
struct Listed {
    entries: Vec<(String, TensorEntry)>,
    metadata: Metadata,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Listed;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
        let mut seen = BTreeSet::new();
        let (mut entries, mut metadata) = (Vec::new(), Metadata::new());
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor `{name}` stands twice")));
            }
            if name == METADATA {
                metadata = map.next_value()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Listed { entries, metadata })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(name: &str, shape: &[usize], data: Floats) -> NamedTensor {
        NamedTensor { name: name.into(), shape: shape.to_vec(), data }
    }

    fn mixed() -> Vec<NamedTensor> {
        vec![
            tensor("encoder.layers.10.weight", &[1, 3], Floats::F32(vec![1.0, -0.0, f32::INFINITY])),
            tensor("encoder.layers.2.weight", &[2], Floats::F64(vec![0.1, f64::MIN_POSITIVE])),
            tensor("scalar", &[], Floats::F64(vec![3.0])),
            tensor("empty", &[0, 4], Floats::F32(vec![])),
            tensor("name \" with \\ quotes é", &[1], Floats::F32(vec![7.0])),
        ]
    }

    fn bytes(tensors: &[NamedTensor]) -> Vec<u8> {
        check(tensors, &plain()).unwrap();
        let mut out = Vec::new();
        write(tensors, &plain(), &mut out).unwrap();
        out
    }

    fn parse(bytes: &[u8]) -> Result<Vec<NamedTensor>, String> {
        read(&mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn order_kinds_and_bits_come_back() {
        assert_eq!(parse(&bytes(&mixed())).unwrap(), mixed());
        assert_eq!(parse(&bytes(&[])).unwrap(), []);
        let long = vec![tensor("long", &[50_000], Floats::F32((0..50_000).map(|i| i as f32).collect()))];
        assert_eq!(parse(&bytes(&long)).unwrap(), long);
    }

    #[test]
    fn the_reference_implementation_reads_our_files() {
        let file = bytes(&mixed());
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap().get("format").map(String::as_str), Some("pt"));
        let theirs = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(theirs.len(), mixed().len());
        for tensor in mixed() {
            let view = theirs.tensor(&tensor.name).unwrap();
            assert_eq!(view.shape(), tensor.shape);
            let expected: Vec<u8> = match &tensor.data {
                Floats::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Floats::F64(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            };
            assert_eq!(view.data(), expected);
        }
    }

    #[test]
    fn we_read_files_of_the_reference_implementation() {
        use safetensors::tensor::{Dtype, TensorView};
        let values: Vec<u8> = [1.5f32, 2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![2, 1], &values).unwrap();
        let file = safetensors::serialize([("a", view)], None).unwrap();
        assert_eq!(parse(&file).unwrap(), [tensor("a", &[2, 1], Floats::F32(vec![1.5, 2.5]))]);
    }

    fn with_header(header: &str, values: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; values]].concat()
    }

    #[test]
    fn bad_headers_are_refused() {
        let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        assert_eq!(parse(&with_header(&format!("{{{a}}}"), 8)).unwrap().len(), 1);
        for (header, values, message) in [
            (format!("{{{a},{a}}}"), 8, "header: tensor `a` stands twice at line 1 column 57"),
            (format!("{{{a}}}"), 12, "header: 8 bytes of values described, 12 are there"),
            (format!("{{{a}}}"), 4, "header: tensor `a` of shape [2] does not fit bytes 0..8"),
            (a.to_string(), 8, "header: invalid type: string \"a\", expected an object of tensors at line 1 column 3"),
            (format!("{{{}}}", a.replace("[2]", "[3]")), 8, "header: tensor `a` of shape [3] does not fit bytes 0..8"),
            (
                format!("{{{}}}", a.replace("[2]", "[4611686018427387904,4]")),
                8,
                "header: tensor `a` of shape [4611686018427387904, 4] does not fit bytes 0..8",
            ),
            (
                format!("{{{}}}", a.replace("F32", "I8")),
                8,
                "header: unknown variant `I8`, expected `F32` or `F64` at line 1 column 18",
            ),
        ] {
            assert_eq!(parse(&with_header(&header, values)).unwrap_err(), message);
        }
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert_eq!(
            parse(&huge).unwrap_err(),
            format!("a header of {} bytes does not fit the file of 10 bytes", u64::MAX)
        );
        assert_eq!(parse(b"{}").unwrap_err(), "too short for a safetensors file");
    }

    #[test]
    fn what_cannot_be_read_back_is_not_written() {
        let a = tensor("a", &[1], Floats::F32(vec![1.0]));
        assert_eq!(check(&[a.clone(), a], &plain()).unwrap_err(), "tensor name `a` is reserved or stands twice");
        let misfit = tensor("a", &[2], Floats::F32(vec![1.0]));
        assert_eq!(check(&[misfit], &plain()).unwrap_err(), "tensor `a` of shape [2] has 1 values");
        assert!(check(&[tensor(METADATA, &[0], Floats::F32(vec![]))], &plain()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(header in "[ -~]{0,60}", tail in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&tail);
            let _ = parse(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &tail].concat());
        }

        #[test]
        fn damaged_files_never_panic(at in 0usize..400, bit in 0u8..8) {
            let mut file = bytes(&mixed());
            let at = at % file.len();
            file[at] ^= 1 << bit;
            let _ = parse(&file);
            let _ = parse(&file[..at]);
        }
    }
}
