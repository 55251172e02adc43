//! The `npy` format: a magic number, a header that is a Python dictionary literal, then the elements.
//!
//! Why not the header parser of the `npyz` crate: it recurses into whatever the literal nests (a file can overflow
//! the stack), allocates what a length field says, and multiplies the shape without a check.

use super::raw::{Element, RawArray, n_bytes, row_major};
use std::borrow::Cow;

/// Longest header that is accepted; NumPy itself writes about a hundred bytes.
const MAX_HEADER: usize = 1 << 16;

/// Reads an array from the bytes of a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<RawArray<'_>, String> {
    let (header, data) = split(bytes)?;
    let header = Header::parse(header)?;
    let (element, big_endian) = element(&header.descr)?;
    let expected = n_bytes(&header.shape, element);
    if expected != Some(data.len()) {
        let needed = expected.map_or_else(|| "more bytes than memory can hold".to_owned(), |n| format!("{n} bytes"));
        let (shape, found) = (&header.shape, data.len());
        return Err(format!("shape {shape:?} of `{}` needs {needed}, but the file holds {found}", header.descr));
    }
    let data = if header.fortran && header.shape.len() > 1 {
        Cow::Owned(row_major(data, &header.shape, element.size()))
    } else {
        Cow::Borrowed(data)
    };
    Ok(RawArray { shape: header.shape, element, big_endian, bytes: data })
}

/// Header text and data.
fn split(bytes: &[u8]) -> Result<(&str, &[u8]), String> {
    let Some(rest) = bytes.strip_prefix(b"\x93NUMPY") else {
        return Err("not an npy file: it does not begin with the magic number".into());
    };
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [major, minor, ..] if *major > 3 => return Err(format!("npy version {major}.{minor} is not known")),
        _ => return Err("ends within the header: the file is truncated".into()),
    };
    if length > MAX_HEADER {
        return Err(format!("a header of {length} bytes, where at most {MAX_HEADER} are read"));
    }
    let (Some(header), Some(data)) = (rest.get(..length), rest.get(length..)) else {
        return Err("ends within the header: the file is truncated".into());
    };
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text".to_owned())?;
    Ok((header, data))
}

/// The three entries of the header.
#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &str) -> Result<Header, String> {
        let bad = || "the header is not a dictionary of `descr`, `fortran_order` and `shape`".to_owned();
        let mut rest = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(bad)?.trim();
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, after) = string(rest).ok_or_else(bad)?;
            rest = after.trim_start().strip_prefix(':').ok_or_else(bad)?.trim_start();
            rest = match key {
                "descr" if rest.starts_with('[') => return Err("records (a structured dtype) are not read".into()),
                "descr" => {
                    let (value, after) = string(rest).ok_or_else(bad)?;
                    descr = Some(value.to_owned());
                    after
                }
                "fortran_order" => {
                    let word = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
                    fortran = Some(match &rest[..word] {
                        "True" => true,
                        "False" => false,
                        _ => return Err(bad()),
                    });
                    &rest[word..]
                }
                "shape" => {
                    let (value, after) = rest.strip_prefix('(').and_then(|t| t.split_once(')')).ok_or_else(bad)?;
                    shape = Some(dims(value).ok_or_else(bad)?);
                    after
                }
                _ => return Err(bad()),
            }
            .trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        match (descr, fortran, shape) {
            (Some(descr), Some(fortran), Some(shape)) => Ok(Header { descr, fortran, shape }),
            _ => Err(bad()),
        }
    }
}

/// A quoted string and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// The numbers of a tuple.
fn dims(text: &str) -> Option<Vec<usize>> {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|n| n.trim().trim_end_matches('L').parse().ok()).collect()
}

/// Element type and whether it is big-endian, from a NumPy type string.
fn element(descr: &str) -> Result<(Element, bool), String> {
    let (order, kind) = match descr.split_at_checked(1) {
        Some((order @ ("<" | ">" | "|" | "="), kind)) => (order, kind),
        _ => ("|", descr),
    };
    let element = match kind {
        "b1" | "?" => Element::Bool,
        "i1" => Element::I8,
        "i2" => Element::I16,
        "i4" => Element::I32,
        "i8" => Element::I64,
        "u1" => Element::U8,
        "u2" => Element::U16,
        "u4" => Element::U32,
        "u8" => Element::U64,
        "f2" => Element::F16,
        "f4" => Element::F32,
        "f8" => Element::F64,
        _ if kind.starts_with('O') => {
            return Err("holds Python objects (a pickle), which could run code; save it as an array of numbers".into());
        }
        _ => {
            let known = "bool, integers and floats of 16 to 64 bits are";
            return Err(format!("elements of type `{}` are not read; {known}", descr.escape_debug()));
        }
    };
    Ok((element, order == ">"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_as_numpy_writes_them() {
        let header = Header::parse("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }      \n");
        assert_eq!(header, Ok(Header { descr: "<f4".into(), fortran: false, shape: vec![3, 4] }));
        let header = Header::parse("{\"shape\": (7,), 'fortran_order': True, 'descr': '|u1'}");
        assert_eq!(header, Ok(Header { descr: "|u1".into(), fortran: true, shape: vec![7] }));
        let scalar = Header::parse("{'descr': '<i8', 'fortran_order': False, 'shape': ()}").expect("a scalar");
        assert_eq!(scalar.shape, Vec::<usize>::new());
    }

    #[test]
    fn broken_headers_are_refused() {
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4'}",
            "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (3,)}",
            "{'shape': (-1,)}",
            "{'shape': (3",
            "{1: 2}",
        ] {
            assert!(Header::parse(text).is_err(), "{text}");
        }
    }
}
