//! Thrift's compact protocol, as far as sizes are concerned: what the metadata of a Parquet file is written in.
//!
//! Nothing is kept of what is read, and every step takes at least a byte of the input: the time is that of the input's
//! length, whatever its numbers say.

use std::io::{self, Read};

/// Types of values.
pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// Most levels of structs, lists and maps in what is skipped; real metadata has six.
pub(super) const MAX_DEPTH: usize = 16;

/// An input that is read.
pub(super) struct Thrift<R> {
    input: R,
    /// Bytes read.
    pub used: u64,
}

impl<R: Read> Thrift<R> {
    pub fn new(input: R) -> Self {
        Thrift { input, used: 0 }
    }

    /// The type of the next field of a struct, whose number goes to `id`; `None` at the end of the struct.
    pub fn field(&mut self, id: &mut i64) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte & 15 == 0 {
            return Ok(None);
        }
        *id = if byte >> 4 == 0 { self.zigzag()? } else { *id + i64::from(byte >> 4) };
        // Some readers cut a larger number off, and take it for another one.
        i16::try_from(*id).map_err(|_| bad())?;
        Ok(Some(byte & 15))
    }

    /// The number of elements of a list, and their type.
    pub fn list(&mut self) -> io::Result<(u64, u8)> {
        let head = self.byte()?;
        let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        Ok((n, head & 15))
    }

    /// Skips a value of a compact type; in a struct, a boolean is its type.
    pub fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        let deeper = depth.checked_sub(1).ok_or_else(bad)?;
        match kind {
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            BINARY => {
                let n = self.varint()?;
                self.pass(n)
            }
            LIST | 10 => {
                let (n, kind) = self.list()?;
                (0..n).try_for_each(|_| self.skip_element(kind, deeper))
            }
            11 => {
                let n = self.varint()?;
                let kinds = if n > 0 { self.byte()? } else { 0 };
                (0..n).try_for_each(|_| {
                    self.skip_element(kinds >> 4, deeper)?;
                    self.skip_element(kinds & 15, deeper)
                })
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, deeper)?;
                }
                Ok(())
            }
            _ => Err(bad()),
        }
    }

    /// No list or map of Parquet's metadata has booleans. Some readers take no byte for one, so that a file of a few
    /// bytes can keep them busy for as long as it likes.
    fn skip_element(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        if matches!(kind, 1 | 2) { Err(bad()) } else { self.skip(kind, depth) }
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

    pub fn zigzag(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

pub(super) fn bad() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
