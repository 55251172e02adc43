//! Delimited text: CSV, TSV and their kin, through gzip where the file is packed.
//!
//! Cells are trimmed outside quotes (`dialect.trim`); an empty cell, quoted or not, is a missing value, and so is each
//! text of `dialect.na`. Blank lines are skipped. A line with too few or too many cells is an error.

mod records;

use super::cells::{Collector, count, shown};
use super::names;
use super::open::{read_error, unpack};
use crate::config::{Dialect, Encoding};
use crate::data::DataError;
use crate::data::table::{Table, Wanted};
use records::{Field, Record, Records, Trouble};
use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

/// Reads the wanted columns of delimited text. `path` gives the name for messages, and the delimiter when the
/// dialect names none.
///
/// # Errors
/// [`DataError`] with file, line and column: for text that is damaged or ragged, columns that are not there, and
/// cells that are not what they are wanted as.
pub fn parse(input: impl Read, path: &Path, dialect: &Dialect, wanted: &[Wanted]) -> Result<Table, DataError> {
    let mut text = Text::open(input, path, dialect)?;
    let picks = names::pick(path, &text.names, wanted).map_err(|error| text.explain_missing(error))?;
    let mut table = Collector::new(path, wanted)?;
    let mut n_rows = 0;
    let Text { records, names, .. } = &mut text;
    while let Some(record) = next(records, path, dialect, names)? {
        if record.fields.len() != names.len() {
            return Err(ragged(path, &record, names.len(), dialect));
        }
        for ((column, &pick), want) in table.columns.iter_mut().zip(&picks).zip(wanted) {
            let cell = cell(&record, &record.fields[pick], dialect.encoding);
            let missing = cell.is_empty() || dialect.na.iter().any(|na| *na == *cell);
            let pushed = if missing { column.missing() } else { column.text(&cell) };
            pushed.map_err(|message| cell_error(path, record.line, &want.name, &message))?;
        }
        table.lines.push(record.line);
        n_rows += 1;
    }
    table.finish(n_rows)
}

/// The names of the columns of delimited text.
///
/// # Errors
/// When the header cannot be read.
pub fn columns(input: impl Read, path: &Path, dialect: &Dialect) -> Result<Vec<String>, DataError> {
    Ok(Text::open(input, path, dialect)?.names)
}

/// An open text, just after its header.
struct Text<'a> {
    records: Records<Box<dyn Read + 'a>>,
    names: Vec<String>,
    /// The delimiter is not given by the configuration.
    guessed: bool,
}

impl<'a> Text<'a> {
    fn open(input: impl Read + 'a, path: &Path, dialect: &Dialect) -> Result<Self, DataError> {
        let delimiter = delimiter(path, dialect)?;
        let mut records = Records::new(unpack(input, path)?, delimiter, dialect.quoting, dialect.trim);
        let start = records.start().map_err(|error| read_error(path, Some(1), error))?;
        match start {
            [] => return Err(DataError::file(path, "the file is empty")),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                return Err(DataError::file(path, "the file is UTF-16; save it as UTF-8"));
            }
            _ => {}
        }
        let names = match &dialect.header {
            Some(names) => names.clone(),
            None => header(&mut records, path, dialect)?,
        };
        Ok(Text { records, names, guessed: dialect.delimiter.is_none() })
    }

    /// Adds the likely reason when no column is found because the whole header is one.
    fn explain_missing(&self, error: DataError) -> DataError {
        let ([only], true) = (&self.names[..], self.guessed) else { return error };
        let Some(found) = [';', '\t', '|', ','].into_iter().find(|&c| only.contains(c)) else { return error };
        match error {
            DataError::Bad { place, column, .. } => {
                let message = format!(
                    "not in this file, whose header is one cell, {}; is it delimited by `{}`? Then set `dialect.delimiter`",
                    shown(only),
                    found.escape_debug()
                );
                DataError::Bad { place, column, message }
            }
            other => other,
        }
    }
}

fn delimiter(path: &Path, dialect: &Dialect) -> Result<u8, DataError> {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let tabs = name.ends_with(".tsv") || name.ends_with(".tsv.gz");
    let given = dialect.delimiter.unwrap_or(if tabs { '\t' } else { ',' });
    match u8::try_from(given) {
        Ok(byte) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | b'"' | 0) => Ok(byte),
        _ => Err(DataError::Unfit(format!(
            "dialect.delimiter: `{}` cannot delimit cells; give one ASCII character",
            given.escape_debug()
        ))),
    }
}

fn header(records: &mut Records<Box<dyn Read + '_>>, path: &Path, dialect: &Dialect) -> Result<Vec<String>, DataError> {
    let Some(record) = next(records, path, dialect, &[])? else {
        return Err(DataError::file(path, "the file is empty"));
    };
    let cells = record.fields.iter().map(|field| cell(&record, field, dialect.encoding).into_owned());
    let names: Vec<String> = cells.collect();
    if names.iter().any(|name| name.contains('\r')) {
        let message = "lines end in carriage returns alone; convert the file, for example with `tr '\\r' '\\n'`";
        return Err(DataError::line(path, record.line, message));
    }
    Ok(names)
}

/// The next record, checked for NUL bytes and bad UTF-8.
fn next<'r>(
    records: &'r mut Records<Box<dyn Read + '_>>,
    path: &Path,
    dialect: &Dialect,
    names: &[String],
) -> Result<Option<Record<'r>>, DataError> {
    let record = match records.next() {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(None),
        Err(Trouble::Io { line, error }) => return Err(read_error(path, Some(line), error)),
        Err(Trouble::Bad { line, field, message }) => {
            return Err(in_field(DataError::line(path, line, message), field, names));
        }
    };
    let trouble = |at: usize, message: &str| {
        let field = record.fields.iter().position(|f| at < f.range.end).unwrap_or(record.fields.len() - 1);
        let line = record.line + memchr::memchr_iter(b'\n', &record.bytes[..at]).count() as u32;
        Err(in_field(DataError::line(path, line, message), field, names))
    };
    if let Some(at) = memchr::memchr(0, record.bytes) {
        return trouble(at, "holds a NUL byte: not a text file, or UTF-16 (save it as UTF-8)");
    }
    if dialect.encoding == Encoding::Utf8
        && let Err(error) = std::str::from_utf8(record.bytes)
    {
        let at = error.valid_up_to();
        let found = record.bytes[at];
        let message = format!("byte 0x{found:02x} is not UTF-8; set `dialect.encoding` to `latin1` or `utf8_lossy`");
        return trouble(at, &message);
    }
    Ok(Some(record))
}

fn in_field(error: DataError, field: usize, names: &[String]) -> DataError {
    match names.get(field) {
        Some(name) => error.in_column(name),
        None => error,
    }
}

/// A cell's text, without quotes.
fn cell<'r>(record: &Record<'r>, field: &Field, encoding: Encoding) -> Cow<'r, str> {
    let bytes = &record.bytes[field.range.clone()];
    let text = match encoding {
        Encoding::Latin1 => encoding_rs::mem::decode_latin1(bytes),
        // Under `utf8` the record has been checked: nothing is lost.
        Encoding::Utf8 | Encoding::Utf8Lossy => String::from_utf8_lossy(bytes),
    };
    if field.doubled { Cow::Owned(text.replace("\"\"", "\"")) } else { text }
}

fn ragged(path: &Path, record: &Record, expected: usize, dialect: &Dialect) -> DataError {
    let source = if dialect.header.is_some() { "`dialect.header`" } else { "the header" };
    let hint = match (record.fields.len() > expected, dialect.quoting) {
        (true, true) => "; cells that hold the delimiter must be quoted",
        (true, false) => "; cells that hold the delimiter must be quoted, with `dialect.quoting: true`",
        (false, _) => "",
    };
    let (found, expected) = (count(record.fields.len(), "cell"), count(expected, "cell"));
    DataError::line(path, record.line, format!("{found}, but {source} has {expected}{hint}"))
}

fn cell_error(path: &Path, line: u32, column: &str, message: &str) -> DataError {
    let hint = if message.ends_with("number") && !message.contains("too large") {
        "; if it means \"missing\", list it in `dialect.na`"
    } else {
        ""
    };
    DataError::line(path, line, format!("{message}{hint}")).in_column(column)
}

#[cfg(test)]
mod tests;
