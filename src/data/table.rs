//! What every format's reader hands over: typed columns, and where each row came from.

use std::ops::Range;
use std::path::PathBuf;

/// What a column will be used for; decides how a reader parses its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A finite number; blank or `na` is missing. Gives [`Cells::Numbers`]. "nan", "inf" and other text are errors.
    Number,
    /// A category, class, label or split value. Gives [`Cells::Strings`]; numbers are written shortest (`1`, not `1.0`).
    Category,
    /// A hexadecimal bit string of one length. Gives [`Cells::Bits`].
    Bits,
    /// Free text. Gives [`Cells::Strings`].
    Text,
    /// An image array. Gives [`Cells::Bytes`] or [`Cells::Numbers`] with a shape.
    Image,
}

/// A column that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name in the file.
    pub name: String,
    /// What for.
    pub role: Role,
}

/// Cells of one column, one entry (or one block of `shape.product()` entries) per row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cells {
    /// Finite numbers; NaN means missing. Row-major blocks of `shape` (empty: scalars).
    Numbers {
        /// Shape of one row's block.
        shape: Vec<usize>,
        /// `n * shape.product()` values.
        values: Vec<f64>,
    },
    /// Strings; `None` means missing.
    Strings(Vec<Option<Box<str>>>),
    /// Bits as bytes 0/1, most significant first: `n * width`.
    Bits {
        /// Bits per row.
        width: usize,
        /// `n * width` bytes.
        values: Vec<u8>,
    },
    /// Unsigned bytes (images), blocks of `shape`.
    Bytes {
        /// Shape of one row's block.
        shape: Vec<usize>,
        /// `n * shape.product()` bytes.
        values: Vec<u8>,
    },
}

/// Columns of the same length, with the place of each row for messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Number of rows.
    pub n_rows: usize,
    /// The wanted columns in the order asked for.
    pub columns: Vec<(String, Cells)>,
    /// Where rows came from, in order.
    pub origins: Vec<Origin>,
}

/// A run of rows from one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The file.
    pub path: PathBuf,
    /// Rows of the table.
    pub rows: Range<usize>,
    /// Line (from 1) of each row in a text file; empty for binary formats, where the index within the file is used.
    pub lines: Vec<u32>,
}

impl Table {
    /// The cells of a column.
    pub fn column(&self, name: &str) -> Option<&Cells> {
        self.columns.iter().find(|(n, _)| n == name).map(|(_, cells)| cells)
    }

    /// Where a row came from, for messages: `file:line` for text files, `file: row N` (from 0) for binary ones.
    pub fn place(&self, row: usize) -> String {
        match self.origins.iter().find(|o| o.rows.contains(&row)) {
            Some(o) => {
                let index = row - o.rows.start;
                match o.lines.get(index) {
                    Some(line) => format!("{}:{line}", o.path.display()),
                    None => format!("{}: row {index}", o.path.display()),
                }
            }
            None => format!("row {row}"),
        }
    }
}
