//! Splits delimited text into records, RFC 4180 with exact line numbers.
//!
//! Why not the `csv` crate: it takes an unclosed quote for a cell that runs to the end of the file (rows vanish
//! without a word), takes text after a closing quote for part of the cell, and gives the wrong line after blank
//! lines and in files with `\r\n`. Messages with the right line are half of what this reader is for. The tests
//! compare the two on well-formed text.

use std::io::{self, Read};
use std::ops::Range;

/// Size of the first buffer; it doubles for longer records.
const CHUNK: usize = 1 << 18;
/// Longest record that is accepted, in bytes.
const MAX_RECORD: usize = 64 << 20;
/// Most cells of a record.
const MAX_FIELDS: usize = 1 << 20;

/// Where a cell lies in its record's bytes.
pub(super) struct Field {
    /// Without quotes, and without blanks when they are trimmed.
    pub range: Range<usize>,
    pub quoted: bool,
    /// A quoted cell in which quotes are doubled.
    pub doubled: bool,
}

/// One record.
pub(super) struct Record<'a> {
    /// Line on which it starts, from 1.
    pub line: u32,
    pub bytes: &'a [u8],
    pub fields: &'a [Field],
}

/// Text that cannot be read or split.
pub(super) enum Trouble {
    Io { line: u32, error: io::Error },
    Bad { line: u32, field: usize, message: &'static str },
}

/// Reads record after record from a buffer that holds at least one.
pub(super) struct Records<R> {
    input: R,
    buffer: Vec<u8>,
    /// Unread bytes.
    unread: Range<usize>,
    end_of_input: bool,
    /// A failure of the input that waits until what was read before it is used up.
    failed: Option<io::Error>,
    line: u32,
    fields: Vec<Field>,
    delimiter: u8,
    quoting: bool,
    trim: bool,
}

/// What the scan of a record came to.
enum Scan {
    /// A record of `len` bytes (with its line end) that spans `lines` line ends.
    Whole { len: usize, lines: u32 },
    /// It does not end within the buffer.
    More,
    /// `lines` line ends before a fault in the last field.
    Bad { lines: u32, message: &'static str },
}

/// What the scan of a field came to: the place after it and what stands there.
enum Stop {
    Delimiter(usize),
    Newline(usize),
    End(usize),
    More,
    Bad(&'static str),
}

impl<R: Read> Records<R> {
    pub fn new(input: R, delimiter: u8, quoting: bool, trim: bool) -> Self {
        let (buffer, fields) = (Vec::new(), Vec::new());
        let (unread, end_of_input, failed) = (0..0, false, None);
        Records { input, buffer, unread, end_of_input, failed, line: 1, fields, delimiter, quoting, trim }
    }

    /// Fills the buffer, skips a UTF-8 byte order mark, and shows what is there.
    pub fn start(&mut self) -> io::Result<&[u8]> {
        self.refill()?;
        if self.unread.is_empty() {
            // The input may have failed before its first byte.
            self.refill()?;
        }
        if self.buffer[self.unread.clone()].starts_with(b"\xef\xbb\xbf") {
            self.unread.start += 3;
        }
        Ok(&self.buffer[self.unread.clone()])
    }

    /// The next record that is not a blank line.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Trouble> {
        let (line, range) = loop {
            if self.unread.is_empty() && self.end_of_input {
                return Ok(None);
            }
            match self.scan() {
                Scan::Whole { len, lines } => {
                    let (line, range) = (self.line, self.unread.start..self.unread.start + len);
                    self.line = self.line.saturating_add(lines);
                    self.unread.start += len;
                    if !self.blank() {
                        break (line, range);
                    }
                }
                Scan::Bad { lines, message } => {
                    let field = self.fields.len();
                    return Err(Trouble::Bad { line: self.line.saturating_add(lines), field, message });
                }
                Scan::More if self.unread.len() >= MAX_RECORD => {
                    let message = "a record longer than 64 MiB; is a quote left open?";
                    return Err(Trouble::Bad { line: self.line, field: self.fields.len(), message });
                }
                Scan::More => self.refill().map_err(|error| Trouble::Io { line: self.line, error })?,
            }
        };
        Ok(Some(Record { line, bytes: &self.buffer[range], fields: &self.fields }))
    }

    fn blank(&self) -> bool {
        matches!(&self.fields[..], [only] if only.range.is_empty() && !only.quoted)
    }

    /// Moves what is unread to the front and reads until the buffer is full or the input ends or fails.
    fn refill(&mut self) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.buffer.copy_within(self.unread.clone(), 0);
        let kept = self.unread.len();
        if kept * 2 > self.buffer.len() || self.buffer.is_empty() {
            self.buffer.resize((self.buffer.len() * 2).max(CHUNK), 0);
        }
        self.unread = 0..kept;
        while self.unread.end < self.buffer.len() {
            match self.input.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => {
                    self.end_of_input = true;
                    break;
                }
                Ok(n) => self.unread.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(())
    }

    fn scan(&mut self) -> Scan {
        self.fields.clear();
        let data = &self.buffer[self.unread.clone()];
        let (mut at, mut lines) = (0, 0);
        loop {
            if self.fields.len() >= MAX_FIELDS {
                return Scan::Bad { lines, message: "a record of more than 1048576 cells" };
            }
            let begin = if self.trim { skip_blanks(data, at, self.delimiter) } else { at };
            let quoted = self.quoting && data.get(begin) == Some(&b'"');
            let (stop, field) = if quoted {
                let mut inside = 0;
                let result = self.quoted(data, begin + 1, &mut inside);
                if let Stop::Bad(message) = result.0 {
                    // An open quote is blamed on the line it stands on, text after a quote on its own line.
                    return Scan::Bad { lines: if result.1.is_some() { lines + inside } else { lines }, message };
                }
                lines += inside;
                result
            } else {
                self.plain(data, at)
            };
            let Some(field) = field else { return Scan::More };
            match stop {
                Stop::Delimiter(next) => at = next,
                Stop::Newline(len) => {
                    self.fields.push(field);
                    return Scan::Whole { len, lines: lines + 1 };
                }
                Stop::End(len) => {
                    self.fields.push(field);
                    return Scan::Whole { len, lines };
                }
                Stop::More | Stop::Bad(_) => return Scan::More,
            }
            self.fields.push(field);
        }
    }

    /// A field without quotes, from `at`.
    fn plain(&self, data: &[u8], at: usize) -> (Stop, Option<Field>) {
        let (mut end, stop) = match memchr::memchr2(self.delimiter, b'\n', &data[at..]) {
            Some(n) if data[at + n] == b'\n' => (at + n, Stop::Newline(at + n + 1)),
            Some(n) => (at + n, Stop::Delimiter(at + n + 1)),
            None if self.end_of_input => (data.len(), Stop::End(data.len())),
            None => return (Stop::More, None),
        };
        if !matches!(stop, Stop::Delimiter(_)) && end > at && data[end - 1] == b'\r' {
            end -= 1;
        }
        let mut begin = at;
        if self.trim {
            begin = skip_blanks(&data[..end], at, self.delimiter);
            while end > begin && matches!(data[end - 1], b' ' | b'\t') {
                end -= 1;
            }
        }
        (stop, Some(Field { range: begin..end, quoted: false, doubled: false }))
    }

    /// A quoted field whose content starts at `begin`; counts the line ends inside.
    fn quoted(&self, data: &[u8], begin: usize, lines: &mut u32) -> (Stop, Option<Field>) {
        let (mut at, mut doubled) = (begin, false);
        let end = loop {
            let Some(quote) = memchr::memchr(b'"', &data[at..]).map(|n| at + n) else {
                let open = "a quote is opened and never closed; `dialect.quoting: false` reads quotes as text";
                return (if self.end_of_input { Stop::Bad(open) } else { Stop::More }, None);
            };
            *lines += memchr::memchr_iter(b'\n', &data[at..quote]).count() as u32;
            match data.get(quote + 1) {
                Some(b'"') => (at, doubled) = (quote + 2, true),
                None if !self.end_of_input => return (Stop::More, None),
                _ => break quote,
            }
        };
        let next = if self.trim { skip_blanks(data, end + 1, self.delimiter) } else { end + 1 };
        let stop = match &data[next..] {
            [] if self.end_of_input => Stop::End(next),
            [b'\r'] if self.end_of_input => Stop::End(next + 1),
            [] | [b'\r'] => return (Stop::More, None),
            [b'\n', ..] => Stop::Newline(next + 1),
            [b'\r', b'\n', ..] => Stop::Newline(next + 2),
            [byte, ..] if *byte == self.delimiter => Stop::Delimiter(next + 1),
            _ => Stop::Bad(
                "text after a closing quote; double the quotes within a quoted cell, or set `dialect.quoting: false`",
            ),
        };
        (stop, Some(Field { range: begin..end, quoted: true, doubled }))
    }
}

/// The first place from `at` on that is neither a space nor a tab, or is the delimiter.
fn skip_blanks(data: &[u8], at: usize, delimiter: u8) -> usize {
    let rest = data[at..].iter();
    at + rest.take_while(|&&b| matches!(b, b' ' | b'\t') && b != delimiter).count()
}
