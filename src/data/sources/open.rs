//! Opening files, through gzip where their first bytes say so.

use crate::data::DataError;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Read};
use std::path::Path;

/// Opens a file.
///
/// # Errors
/// When the file is not there or may not be read.
pub(super) fn open(path: &Path) -> Result<File, DataError> {
    let file = File::open(path).map_err(|error| io_error(path, error))?;
    match file.metadata() {
        Ok(data) if data.is_dir() => Err(DataError::file(path, "is a folder, not a file")),
        _ => Ok(file),
    }
}

/// Reads a whole file.
///
/// # Errors
/// When the file is not there or may not be read.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(|error| io_error(path, error))?;
    Ok(bytes)
}

/// Unpacks gzip (of one or several members) when the first bytes say so; passes other data on as it is.
///
/// # Errors
/// When the file's name ends in `.gz` and its content is not gzip.
pub(super) fn unpack<'a>(mut input: impl Read + 'a, path: &Path) -> Result<Box<dyn Read + 'a>, DataError> {
    let mut magic = Vec::with_capacity(2);
    input.by_ref().take(2).read_to_end(&mut magic).map_err(|error| io_error(path, error))?;
    let gzip = magic == [0x1f, 0x8b];
    let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    if named && !gzip && !magic.is_empty() {
        return Err(DataError::file(path, "not gzip data, although the name ends in `.gz`"));
    }
    let whole = Cursor::new(magic).chain(input);
    Ok(if gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

/// What a failed read means; `line` is where reading stopped, in text files.
pub(super) fn read_error(path: &Path, line: Option<u32>, error: io::Error) -> DataError {
    let at = |message: String| match line {
        Some(line) => DataError::line(path, line, message),
        None => DataError::file(path, message),
    };
    match error.kind() {
        ErrorKind::UnexpectedEof => at("the gzip data ends early: the file is truncated; copy it again".into()),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => at(format!("the gzip data is damaged ({error})")),
        _ => io_error(path, error),
    }
}

fn io_error(path: &Path, error: io::Error) -> DataError {
    match error.kind() {
        ErrorKind::NotFound => {
            DataError::file(path, "no such file; relative paths start at `data.root`, by default the working directory")
        }
        _ => DataError::Io { path: path.display().to_string(), source: error },
    }
}
