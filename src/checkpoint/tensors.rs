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

/// Refuses what could be written but not read back.
pub(super) fn check(tensors: &[NamedTensor]) -> Result<(), String> {
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
    if header(tensors).len() as u64 > MAX_HEADER_BYTES {
        return Err(format!("{} tensors make a header above the format's {MAX_HEADER_BYTES} bytes", tensors.len()));
    }
    Ok(())
}

/// Writes tensors that pass [`check`].
pub(super) fn write(tensors: &[NamedTensor], out: &mut dyn Write) -> io::Result<()> {
    let header = header(tensors);
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

fn header(tensors: &[NamedTensor]) -> Vec<u8> {
    let mut ranges = BTreeMap::new();
    let mut start = 0;
    for tensor in in_file_order(tensors) {
        let end = start + tensor.data.len() * if matches!(tensor.data, Floats::F64(_)) { 8 } else { 4 };
        ranges.insert(tensor.name.as_str(), [start, end]);
        start = end;
    }
    let mut entries = serde_json::Map::new();
    // PyTorch users' tools look for this entry.
    entries.insert(METADATA.into(), json!({ "format": "pt" }));
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

/// Reads a file of `bytes` bytes. Nothing is allocated beyond the length of the file.
pub(super) fn read(input: &mut dyn Read, bytes: u64) -> Result<Vec<NamedTensor>, String> {
    let mut length = [0; 8];
    input.read_exact(&mut length).map_err(|_| "too short for a safetensors file".to_string())?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES.min(bytes.saturating_sub(8)) {
        return Err(format!("a header of {length} bytes does not fit the file of {bytes} bytes"));
    }
    let mut header = vec![0; length as usize];
    input.read_exact(&mut header).map_err(|e| format!("header: {e}"))?;
    let entries: Header = serde_json::from_slice(&header).map_err(|e| format!("header: {e}"))?;
    let mut order: Vec<usize> = (0..entries.0.len()).collect();
    order.sort_by_key(|&i| entries.0[i].1.data_offsets);
    check_ranges(order.iter().map(|&i| &entries.0[i]), bytes - 8 - length)?;

    let mut tensors: Vec<Option<NamedTensor>> = vec![None; entries.0.len()];
    for i in order {
        let (name, entry) = &entries.0[i];
        let n = entry.shape.iter().product();
        let data = match entry.dtype {
            Dtype::F32 => read_values(input, n, f32::from_le_bytes).map(Floats::F32),
            Dtype::F64 => read_values(input, n, f64::from_le_bytes).map(Floats::F64),
        };
        let data = data.map_err(|e| format!("tensor `{name}`: {e}"))?;
        tensors[i] = Some(NamedTensor { name: name.clone(), shape: entry.shape.clone(), data });
    }
    Ok(tensors.into_iter().flatten().collect())
}

/// Tensors in file order must lie end to end and fill the file, each with room for exactly its shape.
fn check_ranges<'a>(entries: impl Iterator<Item = &'a (String, TensorEntry)>, bytes: u64) -> Result<(), String> {
    let mut at = 0;
    for (name, entry) in entries {
        let size = match entry.dtype {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
        };
        let wanted = entry.shape.iter().try_fold(size, |n: u64, &dim| n.checked_mul(dim as u64));
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

#[derive(serde::Deserialize)]
enum Dtype {
    F32,
    F64,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The JSON header in its own order, without doubled names.
struct Header(Vec<(String, TensorEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor `{name}` stands twice")));
            }
            if name == METADATA {
                map.next_value::<BTreeMap<String, String>>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Header(entries))
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
        check(tensors).unwrap();
        let mut out = Vec::new();
        write(tensors, &mut out).unwrap();
        out
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<NamedTensor>, String> {
        read(&mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn order_kinds_and_bits_come_back() {
        assert_eq!(read_all(&bytes(&mixed())).unwrap(), mixed());
        assert_eq!(read_all(&bytes(&[])).unwrap(), []);
        let long = vec![tensor("long", &[50_000], Floats::F32((0..50_000).map(|i| i as f32).collect()))];
        assert_eq!(read_all(&bytes(&long)).unwrap(), long);
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
        assert_eq!(read_all(&file).unwrap(), [tensor("a", &[2, 1], Floats::F32(vec![1.5, 2.5]))]);
    }

    fn with_header(header: &str, values: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; values]].concat()
    }

    #[test]
    fn bad_headers_are_refused() {
        let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        assert_eq!(read_all(&with_header(&format!("{{{a}}}"), 8)).unwrap().len(), 1);
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
            assert_eq!(read_all(&with_header(&header, values)).unwrap_err(), message);
        }
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert_eq!(
            read_all(&huge).unwrap_err(),
            format!("a header of {} bytes does not fit the file of 10 bytes", u64::MAX)
        );
        assert_eq!(read_all(b"{}").unwrap_err(), "too short for a safetensors file");
    }

    #[test]
    fn what_cannot_be_read_back_is_not_written() {
        let a = tensor("a", &[1], Floats::F32(vec![1.0]));
        assert_eq!(check(&[a.clone(), a]).unwrap_err(), "tensor name `a` is reserved or stands twice");
        let misfit = tensor("a", &[2], Floats::F32(vec![1.0]));
        assert_eq!(check(&[misfit]).unwrap_err(), "tensor `a` of shape [2] has 1 values");
        assert!(check(&[tensor(METADATA, &[0], Floats::F32(vec![]))]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(header in "[ -~]{0,60}", tail in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read_all(&tail);
            let _ = read_all(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &tail].concat());
        }

        #[test]
        fn damaged_files_never_panic(at in 0usize..400, bit in 0u8..8) {
            let mut file = bytes(&mixed());
            let at = at % file.len();
            file[at] ^= 1 << bit;
            let _ = read_all(&file);
            let _ = read_all(&file[..at]);
        }
    }
}
