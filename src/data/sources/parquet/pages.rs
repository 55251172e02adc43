//! Walks over the page headers of a column chunk, to refuse sizes that its bytes cannot justify.
//!
//! The parquet crate asks for as much memory as a page header claims (up to 2 GiB) before it unpacks the page, so a
//! file of some hundred bytes could take it; and under the two delta encodings of strings it asks for as much as the
//! page's first bytes claim, and aborts when there is not so much. Sizes and encodings are all that is read here;
//! headers are Thrift structs in the compact protocol, and everything else in them is skipped.

use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::ChunkReader;
use std::io::{self, Read};

/// A page may unpack to so many bytes whatever its packed size; writers make pages of about one MiB.
const MODEST: u64 = 64 << 20;
/// A larger page may be so many times its packed size.
const MAX_INFLATION: u64 = 1024;
/// Most levels of structs, lists and maps in a header; real ones have three.
const MAX_DEPTH: usize = 8;

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
        let mut header = Header { input: reader.take(end - at), used: 0 };
        let bad = |_| format!("damaged: no page header at byte {at}");
        let Sizes { unpacked, packed, encoding } = header.sizes().map_err(bad)?;
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

/// A page header that is being read.
struct Header<R> {
    input: R,
    /// Bytes read.
    used: u64,
}

impl<R: Read> Header<R> {
    /// Fields 2 and 3 of the struct, and the encoding in the header of a data page (5) or one of version 2 (8).
    fn sizes(&mut self) -> io::Result<Sizes> {
        let (mut unpacked, mut packed, mut encoding) = (None, None, None);
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, 5) => unpacked = Some(self.zigzag()?),
                (3, 5) => packed = Some(self.zigzag()?),
                (5, 12) => encoding = self.integer_in_struct(2)?,
                (8, 12) => encoding = self.integer_in_struct(4)?,
                _ => self.skip(kind, MAX_DEPTH)?,
            }
        }
        let size = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).ok_or_else(bad);
        Ok(Sizes { unpacked: size(unpacked)?, packed: size(packed)?, encoding })
    }

    /// The 32-bit integer of one field of a struct, to whose end it reads.
    fn integer_in_struct(&mut self, wanted: i64) -> io::Result<Option<i64>> {
        let (mut id, mut found) = (0, None);
        while let Some(kind) = self.field(&mut id)? {
            if (id, kind) == (wanted, 5) {
                found = Some(self.zigzag()?);
            } else {
                self.skip(kind, MAX_DEPTH)?;
            }
        }
        Ok(found)
    }

    /// The type of the next field of a struct, whose number goes to `id`; `None` at the end of the struct.
    fn field(&mut self, id: &mut i64) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte & 15 == 0 {
            return Ok(None);
        }
        *id = if byte >> 4 == 0 { self.zigzag()? } else { id.saturating_add(i64::from(byte >> 4)) };
        Ok(Some(byte & 15))
    }

    /// Skips a value of a compact type; in a struct, a boolean is its type.
    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        let deeper = depth.checked_sub(1).ok_or_else(bad)?;
        match kind {
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let n = self.varint()?;
                self.pass(n)
            }
            9 | 10 => {
                let head = self.byte()?;
                let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                (0..n).try_for_each(|_| self.skip_element(head & 15, deeper))
            }
            11 => {
                let n = self.varint()?;
                let kinds = if n > 0 { self.byte()? } else { 0 };
                (0..n).try_for_each(|_| {
                    self.skip_element(kinds >> 4, deeper)?;
                    self.skip_element(kinds & 15, deeper)
                })
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, deeper)?;
                }
                Ok(())
            }
            _ => Err(bad()),
        }
    }

    /// In a list or map, a boolean is a byte of its own.
    fn skip_element(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        if matches!(kind, 1 | 2) { self.byte().map(drop) } else { self.skip(kind, depth) }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.used += 1;
        Ok(byte[0])
    }

    fn pass(&mut self, n: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.input.by_ref().take(n), &mut io::sink())?;
        self.used += passed;
        if passed == n { Ok(()) } else { Err(bad()) }
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte & 128 == 0 {
                return Ok(value);
            }
        }
        Err(bad())
    }

    fn zigzag(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

fn bad() -> io::Error {
    io::ErrorKind::InvalidData.into()
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
            0x2c, 0x15, 2, 0x15, 14, 0x11, 0x18, 2, 7, 7, 0x19, 0x32, 1, 1, 0, 0x1b, 1, 0x53, 4, 9, 0x17, 0, 0, 0, 0,
            0, 0, 0, 0, 0,
        ];
        [&[0x15, 0][..], &[0x15], &int(unpacked), &[0x15], &int(packed), &data_page, &[0]].concat()
    }

    #[test]
    fn sizes_are_found_among_fields_of_every_kind() {
        let bytes = header(1 << 30, 77);
        let mut reader = Header { input: &bytes[..], used: 0 };
        assert_eq!(reader.sizes().expect("a header"), Sizes { unpacked: 1 << 30, packed: 77, encoding: Some(7) });
        assert_eq!(reader.used, bytes.len() as u64);
    }

    #[test]
    fn cut_negative_and_deep_headers_are_refused() {
        let whole = header(5, 5);
        for n in 0..whole.len() {
            assert!(Header { input: &whole[..n], used: 0 }.sizes().is_err(), "{n} bytes");
        }
        assert!(Header { input: &header(5, -5)[..], used: 0 }.sizes().is_err());
        let deep = vec![0x1c; 1 << 16];
        assert!(Header { input: &deep[..], used: 0 }.sizes().is_err());
    }
}
