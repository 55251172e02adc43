//! Everything that can be wrong with data, naming file, row and column.

/// Data that cannot be read or does not fit the configuration.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A cell, row or column is bad. `place` is `file:line` or `file: row N`.
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
}
