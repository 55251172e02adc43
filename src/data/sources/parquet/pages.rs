//! Walks over the page headers of a column chunk, to refuse sizes that its bytes cannot justify.
//!
//! The parquet crate asks for as much memory as a page header claims (up to 2 GiB) before it unpacks the page, so a
//! file of some hundred bytes could take it; and under the two delta encodings of strings it asks for as much as the
//! page's first bytes claim, and aborts when there is not so much. Sizes and encodings are all that is read here;
//! headers are Thrift structs, and everything else in them is skipped.

use super::thrift::{I32, MAX_DEPTH, STRUCT, Thrift, bad};
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::ChunkReader;
use std::io::{self, Read};

/// A page may unpack to so many bytes whatever its packed size; writers make pages of about one MiB.
const MODEST: u64 = 64 << 20;
/// A larger page may be so many times its packed size.
const MAX_INFLATION: u64 = 1024;

/// Checks all pages of a chunk.
///
/// # Errors
/// A message, when a header does not parse or claims too much.
pub(super) fn check(input: &impl ChunkReader, chunk: &ColumnChunkMetaData) -> Result<(), String> {
    let (start, len) = chunk.byte_range();
    let end = start.checked_add(len).filter(|&end| end <= input.len());
    let end = end.ok_or_else(|| "damaged: a column chunk reaches past the end of the file".to_owned())?;
    let mut at = start;
    while at < end {
        let reader = input.get_read(at).map_err(|error| error.to_string())?;
        let mut header = Thrift::new(reader.take(end - at));
        let bad = |_| format!("damaged: no page header at byte {at}");
        let Sizes { unpacked, packed, encoding } = sizes(&mut header).map_err(bad)?;
        if packed > (end - at).saturating_sub(header.used) {
            return Err(format!("damaged: the page at byte {at} reaches past its column chunk"));
        }
        if unpacked > MODEST && unpacked / MAX_INFLATION > packed {
            return Err(format!(
                "damaged: the {packed} bytes of the page at byte {at} are said to unpack to {unpacked}"
            ));
        }
        if let Some(name) = refused(encoding) {
            let hint = "write the file with the default encodings (plain or dictionary)";
            return Err(format!("strings in the encoding {name} are not read; {hint}"));
        }
        at += header.used + packed;
    }
    Ok(())
}

/// The encodings whose sizes cannot be checked before they are unpacked.
fn refused(encoding: Option<i64>) -> Option<&'static str> {
    match encoding {
        Some(6) => Some("DELTA_LENGTH_BYTE_ARRAY"),
        Some(7) => Some("DELTA_BYTE_ARRAY"),
        _ => None,
    }
}

/// What a page header says.
#[derive(Debug, PartialEq)]
struct Sizes {
    unpacked: u64,
    packed: u64,
    /// Of a data page.
    encoding: Option<i64>,
}

/// Fields 2 and 3 of a page header, and the encoding in the header of a data page (5) or one of version 2 (8).
fn sizes(header: &mut Thrift<impl Read>) -> io::Result<Sizes> {
    let (mut unpacked, mut packed, mut encoding) = (None, None, None);
    let mut id = 0;
    while let Some(kind) = header.field(&mut id)? {
        match (id, kind) {
            (2, I32) => unpacked = Some(header.zigzag()?),
            (3, I32) => packed = Some(header.zigzag()?),
            (5, STRUCT) => encoding = integer_in_struct(header, 2)?,
            (8, STRUCT) => encoding = integer_in_struct(header, 4)?,
            _ => header.skip(kind, MAX_DEPTH)?,
        }
    }
    let size = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).ok_or_else(bad);
    Ok(Sizes { unpacked: size(unpacked)?, packed: size(packed)?, encoding })
}

/// The 32-bit integer of one field of a struct, to whose end it reads.
fn integer_in_struct(header: &mut Thrift<impl Read>, wanted: i64) -> io::Result<Option<i64>> {
    let (mut id, mut found) = (0, None);
    while let Some(kind) = header.field(&mut id)? {
        if (id, kind) == (wanted, I32) {
            found = Some(header.zigzag()?);
        } else {
            header.skip(kind, MAX_DEPTH)?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zigzag varint.
    fn int(value: i64) -> Vec<u8> {
        let mut rest = (value << 1 ^ value >> 63) as u64;
        let mut bytes = Vec::new();
        while rest > 127 {
            bytes.push(rest as u8 | 128);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    /// type, sizes, then a field of each compact kind, then stop.
    fn header(unpacked: i64, packed: i64) -> Vec<u8> {
        let data_page = [
            0x2c, 0x15, 2, 0x15, 14, 0x11, 0x18, 2, 7, 7, 0x19, 0x33, 1, 1, 0, 0x1b, 1, 0x53, 4, 9, 0x17, 0, 0, 0, 0,
            0, 0, 0, 0, 0,
        ];
        [&[0x15, 0][..], &[0x15], &int(unpacked), &[0x15], &int(packed), &data_page, &[0]].concat()
    }

    #[test]
    fn sizes_are_found_among_fields_of_every_kind() {
        let bytes = header(1 << 30, 77);
        let mut reader = Thrift::new(&bytes[..]);
        assert_eq!(sizes(&mut reader).expect("a header"), Sizes { unpacked: 1 << 30, packed: 77, encoding: Some(7) });
        assert_eq!(reader.used, bytes.len() as u64);
    }

    #[test]
    fn cut_negative_and_deep_headers_are_refused() {
        let whole = header(5, 5);
        for n in 0..whole.len() {
            assert!(sizes(&mut Thrift::new(&whole[..n])).is_err(), "{n} bytes");
        }
        assert!(sizes(&mut Thrift::new(&header(5, -5)[..])).is_err());
        let deep = vec![0x1c; 1 << 16];
        assert!(sizes(&mut Thrift::new(&deep[..])).is_err());
    }
}
