//! Walks over the footer of a Parquet file before the parquet crate reads it.
//!
//! The crate skips fields that it does not know, and takes no byte for a boolean of a list: a list of two thousand
//! million booleans is six bytes long and keeps it busy for seconds, and a footer has room for thousands of them. Here
//! such lists are refused, and so is a field of another type than its number has: the crate reads what the number
//! says, so that it would see other fields from there on than this walk.

use super::thrift::{BINARY, I32, I64, LIST, MAX_DEPTH, STRUCT, Thrift, bad};
use ::parquet::file::reader::ChunkReader;
use std::io::{self, Read};

/// The last bytes of a file: length of the footer, and a magic number.
const TAIL: u64 = 8;
/// Footers are tens of kilobytes; a hundred thousand columns make about ten megabytes.
const MOST_BYTES: u64 = 256 << 20;

/// What a field of a known number holds.
enum Kind {
    /// A value of this type, of no further interest.
    Plain(u8),
    /// A boolean, which is its type.
    Bool,
    Struct(Fields),
    Structs(Fields),
    /// A list of values of this type.
    List(u8),
}

/// The fields that the crate knows, by number.
type Fields = &'static [(i64, Kind)];

use Kind::{Bool, List, Plain, Struct, Structs};

/// `FileMetaData`, and the rest below it, with the numbers of `parquet.thrift`.
const FILE: Fields = &[
    (1, Plain(I32)),
    (2, Structs(SCHEMA)),
    (3, Plain(I64)),
    (4, Structs(ROW_GROUP)),
    (5, Structs(&[(1, Plain(BINARY)), (2, Plain(BINARY))])),
    (6, Plain(BINARY)),
    (7, Structs(&[(1, Struct(&[])), (2, Struct(&[]))])),
    (8, Struct(ENCRYPTION)),
    (9, Plain(BINARY)),
];

const SCHEMA: Fields = &[
    (1, Plain(I32)),
    (2, Plain(I32)),
    (3, Plain(I32)),
    (4, Plain(BINARY)),
    (5, Plain(I32)),
    (6, Plain(I32)),
    (7, Plain(I32)),
    (8, Plain(I32)),
    (9, Plain(I32)),
    (10, Struct(LOGICAL)),
];

const LOGICAL: Fields = &[
    (1, Struct(&[])),
    (2, Struct(&[])),
    (3, Struct(&[])),
    (4, Struct(&[])),
    (5, Struct(&[(1, Plain(I32)), (2, Plain(I32))])),
    (6, Struct(&[])),
    (7, Struct(TIME)),
    (8, Struct(TIME)),
    (10, Struct(&[(1, Plain(3)), (2, Bool)])),
    (11, Struct(&[])),
    (12, Struct(&[])),
    (13, Struct(&[])),
    (14, Struct(&[])),
    (15, Struct(&[])),
    (16, Struct(&[(1, Plain(3))])),
    (17, Struct(&[(1, Plain(BINARY))])),
    (18, Struct(&[(1, Plain(BINARY)), (2, Plain(I32))])),
];

const TIME: Fields = &[(1, Bool), (2, Struct(&[(1, Struct(&[])), (2, Struct(&[])), (3, Struct(&[]))]))];

const ROW_GROUP: Fields = &[
    (1, Structs(CHUNK)),
    (2, Plain(I64)),
    (3, Plain(I64)),
    (4, Structs(&[(1, Plain(I32)), (2, Bool), (3, Bool)])),
    (5, Plain(I64)),
    (6, Plain(I64)),
    (7, Plain(4)),
];

const CHUNK: Fields = &[
    (1, Plain(BINARY)),
    (2, Plain(I64)),
    (3, Struct(COLUMN)),
    (4, Plain(I64)),
    (5, Plain(I32)),
    (6, Plain(I64)),
    (7, Plain(I32)),
    (8, Struct(&[(1, Struct(&[])), (2, Struct(&[(1, List(BINARY)), (2, Plain(BINARY))]))])),
    (9, Plain(BINARY)),
];

const COLUMN: Fields = &[
    (1, Plain(I32)),
    (2, List(I32)),
    (3, List(BINARY)),
    (4, Plain(I32)),
    (5, Plain(I64)),
    (6, Plain(I64)),
    (7, Plain(I64)),
    (8, Structs(&[(1, Plain(BINARY)), (2, Plain(BINARY))])),
    (9, Plain(I64)),
    (10, Plain(I64)),
    (11, Plain(I64)),
    (12, Struct(STATISTICS)),
    (13, Structs(&[(1, Plain(I32)), (2, Plain(I32)), (3, Plain(I32))])),
    (14, Plain(I64)),
    (15, Plain(I32)),
    (16, Struct(&[(1, Plain(I64)), (2, List(I64)), (3, List(I64))])),
    (17, Struct(&[(1, Struct(BOX)), (2, List(I32))])),
];

const STATISTICS: Fields = &[
    (1, Plain(BINARY)),
    (2, Plain(BINARY)),
    (3, Plain(I64)),
    (4, Plain(I64)),
    (5, Plain(BINARY)),
    (6, Plain(BINARY)),
    (7, Bool),
    (8, Bool),
    (9, Plain(I64)),
];

/// Corners of what a column of geometry covers.
const BOX: Fields = &[
    (1, Plain(7)),
    (2, Plain(7)),
    (3, Plain(7)),
    (4, Plain(7)),
    (5, Plain(7)),
    (6, Plain(7)),
    (7, Plain(7)),
    (8, Plain(7)),
];

const ENCRYPTION: Fields = &[(1, Struct(AES)), (2, Struct(AES))];
const AES: Fields = &[(1, Plain(BINARY)), (2, Plain(BINARY)), (3, Bool)];

/// Checks the footer of a file. One that is too short, or says that its footer is longer than itself, is left to the
/// crate, which says so.
///
/// # Errors
/// A message, when the footer breaks the format.
pub(super) fn check(input: &impl ChunkReader) -> Result<(), String> {
    let Some(end) = input.len().checked_sub(TAIL) else { return Ok(()) };
    let broken = |error: &dyn std::fmt::Display| format!("damaged: the footer cannot be read ({error})");
    let tail = input.get_bytes(end, 4).map_err(|error| broken(&error))?;
    let Some(length) = tail.first_chunk::<4>().map(|bytes| u64::from(u32::from_le_bytes(*bytes))) else {
        return Ok(());
    };
    let Some(start) = end.checked_sub(length) else { return Ok(()) };
    if length > MOST_BYTES {
        return Err(format!("a footer of {} MiB, at most {} are read", length >> 20, MOST_BYTES >> 20));
    }
    let bytes = input.get_bytes(start, length as usize).map_err(|error| broken(&error))?;
    walk(&mut Thrift::new(&bytes[..]), FILE).map_err(|_| "damaged: the footer breaks the format".into())
}

/// Reads a struct to its end.
fn walk(footer: &mut Thrift<impl Read>, fields: Fields) -> io::Result<()> {
    let mut id = 0;
    while let Some(found) = footer.field(&mut id)? {
        let known = fields.iter().find(|(known, _)| *known == id).map(|(_, kind)| kind);
        match (known, found) {
            (None, kind) => footer.skip(kind, MAX_DEPTH)?,
            (Some(Bool), 1 | 2) => {}
            (Some(Plain(kind)), found) if *kind == found => footer.skip(found, MAX_DEPTH)?,
            (Some(Struct(fields)), STRUCT) => walk(footer, fields)?,
            (Some(Structs(fields)), LIST) => elements(footer, STRUCT, |footer| walk(footer, fields))?,
            (Some(List(kind)), LIST) => elements(footer, *kind, |footer| footer.skip(*kind, MAX_DEPTH))?,
            _ => return Err(bad()),
        }
    }
    Ok(())
}

/// Reads a list. Some writers give an empty one no type.
fn elements<R: Read>(
    footer: &mut Thrift<R>,
    wanted: u8,
    mut each: impl FnMut(&mut Thrift<R>) -> io::Result<()>,
) -> io::Result<()> {
    let (n, kind) = footer.list()?;
    if kind != wanted && n > 0 {
        return Err(bad());
    }
    (0..n).try_for_each(|_| each(footer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// A file of nothing but a footer.
    fn file(footer: &[u8]) -> Bytes {
        Bytes::from([footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat())
    }

    /// A list of 2^31 - 1 booleans under field 15, which nobody knows, and the end of the struct.
    const BUSY: [u8; 8] = [0xf9, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07, 0];

    #[test]
    fn lists_that_take_time_and_no_room_are_refused_wherever_they_are() {
        assert_eq!(check(&file(&[0x15, 2, 0])), Ok(()), "a version alone");
        let refused = Err("damaged: the footer breaks the format".to_string());
        assert_eq!(check(&file(&BUSY)), refused);
        // In a row group, in an unknown struct, in an unknown map.
        assert_eq!(check(&file(&[&[0x49, 0x1c][..], &BUSY, &[0]].concat())), refused);
        assert_eq!(check(&file(&[&[0xfc][..], &BUSY, &[0]].concat())), refused);
        assert_eq!(check(&file(&[0xfb, 0xff, 0xff, 0xff, 0xff, 0x07, 0x11, 0])), refused);
        // The crate would read field 1 as a number of one byte, and then what this walk takes for the text of it.
        assert_eq!(check(&file(&[&[0x18, 8][..], &BUSY, &[0]].concat())), refused);
    }

    #[test]
    fn what_is_no_parquet_file_is_left_to_the_crate() {
        for bytes in [&b""[..], b"PAR1", b"\xff\xff\xff\xffPAR1"] {
            assert_eq!(check(&Bytes::from_static(bytes)), Ok(()));
        }
    }
}
