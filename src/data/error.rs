//! Everything that can be wrong with data, naming file, row and column.

use std::path::Path;

/// Data that cannot be read or does not fit the configuration.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A cell, row or column is bad. `place` is `file`, `file:line` or `file: row N`.
    #[error("{place}: {}{message}", column.as_ref().map(|c| format!("column `{c}`: ")).unwrap_or_default())]
    Bad {
        /// File and row.
        place: String,
        /// Column, when one is to blame.
        column: Option<String>,
        /// What is wrong, what was expected, and the way out.
        message: String,
    },
    /// A file cannot be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The data as a whole does not fit the configuration.
    #[error("{0}")]
    Unfit(String),
    /// The thread that prepares batches has failed: our bug, unless memory is short.
    #[error("batches can no longer be prepared: {0}")]
    Loader(String),
    /// The thread that prepares batches does not answer.
    #[error(
        "this rank has waited {seconds} s for {what}\n  hint: the node may be swapping, or its cores may be taken by others \
         (free, top, `train.threads`, `batch.prefetch`); where a batch may rightly take so long, raise `data.timeout` (and \
         `comm.timeout`, of which it takes three quarters at most)"
    )]
    Stalled {
        /// The batch: step, source, files, rows.
        what: String,
        /// How long it was waited for.
        seconds: f64,
    },
}

impl DataError {
    /// Something wrong with a file as a whole.
    pub fn file(path: &Path, message: impl Into<String>) -> DataError {
        DataError::Bad { place: path.display().to_string(), column: None, message: message.into() }
    }

    /// Something wrong with one line (from 1) of a text file.
    pub fn line(path: &Path, line: u32, message: impl Into<String>) -> DataError {
        DataError::Bad { place: format!("{}:{line}", path.display()), column: None, message: message.into() }
    }

    /// Something wrong with one row (from 0) of a binary file.
    pub fn row(path: &Path, row: usize, message: impl Into<String>) -> DataError {
        DataError::Bad { place: format!("{}: row {row}", path.display()), column: None, message: message.into() }
    }

    /// The same, with the column to blame.
    pub fn in_column(self, name: &str) -> DataError {
        match self {
            DataError::Bad { place, message, .. } => DataError::Bad { place, column: Some(name.to_owned()), message },
            other => other,
        }
    }
}
