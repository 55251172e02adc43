//! Lines of a UTF-8 text file, numbered, for the formats in which a line is a record.

use super::open::{read_error, unpack};
use crate::data::DataError;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Longest line that is accepted, in bytes.
const MAX_LINE: u64 = 64 << 20;

/// Reads line after line, through gzip where needed.
pub(super) struct Lines<'a> {
    path: &'a Path,
    input: BufReader<Box<dyn Read + 'a>>,
    line: u32,
    buffer: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// # Errors
    /// When the first bytes cannot be read.
    pub fn new(input: impl Read + 'a, path: &'a Path) -> Result<Self, DataError> {
        let input = BufReader::with_capacity(1 << 16, unpack(input, path)?);
        Ok(Lines { path, input, line: 0, buffer: Vec::new() })
    }

    /// The next line without its end, with its number from 1.
    ///
    /// # Errors
    /// When gzip data are damaged, or the line is too long, is not UTF-8 or holds a NUL byte.
    pub fn next(&mut self) -> Result<Option<(u32, &str)>, DataError> {
        self.line = self.line.saturating_add(1);
        self.buffer.clear();
        let read = self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.buffer);
        let n = read.map_err(|error| read_error(self.path, Some(self.line), error))?;
        if n == 0 {
            return Ok(None);
        }
        let bad = |message: &str| Err(DataError::line(self.path, self.line, message));
        if n as u64 == MAX_LINE {
            return bad("the line is longer than 64 MiB");
        }
        if memchr::memchr(0, &self.buffer).is_some() {
            return bad("holds a NUL byte: not a text file, or UTF-16 (save it as UTF-8)");
        }
        let Ok(text) = std::str::from_utf8(&self.buffer) else {
            return bad("not UTF-8; convert the file, for example with `iconv -f latin1 -t utf8`");
        };
        let text = if self.line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        Ok(Some((self.line, text.trim_end_matches(['\n', '\r']))))
    }
}
