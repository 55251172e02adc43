//! What every format's reader hands over: typed columns, and where each row came from.

use super::DataError;
use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a column will be used for; decides how a reader parses its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A finite number; blank or `na` is missing. Gives [`Cells::Numbers`]. "nan", "inf" and other text are errors, and
    /// so are NaN and infinity in Parquet columns and in arrays.
    Number,
    /// A category, class, label or split value. Gives [`Cells::Strings`]; numbers are written shortest (`1`, not `1.0`,
    /// see [`shortest`]). NaN in a float column or array is a missing value: the only way to say so there.
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

/// How a cell with a number is written as a category: `1.0` and `1.00` become `1`, `2.50` becomes `2.5`. Text that is
/// not a plain decimal number stays as it is, and so do codes with leading zeros (`007`). Values that a configuration
/// lists (split values, positive labels) go through the same function before they are compared.
pub fn shortest(text: &str) -> Cow<'_, str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let Some((whole, fraction)) = digits.split_once('.') else { return Cow::Borrowed(text) };
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || (whole.len() > 1 && whole.starts_with('0')) {
        return Cow::Borrowed(text);
    }
    let short = text.trim_end_matches('0').trim_end_matches('.');
    Cow::Borrowed(if short == "-0" { "0" } else { short })
}

impl Cells {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        match self {
            Cells::Numbers { shape, values } => values.len() / shape.iter().product::<usize>().max(1),
            Cells::Strings(values) => values.len(),
            Cells::Bits { width, values } => values.len() / (*width).max(1),
            Cells::Bytes { shape, values } => values.len() / shape.iter().product::<usize>().max(1),
        }
    }

    /// Appends the rows of another column of the same kind and shape; says what differs otherwise.
    fn append(&mut self, other: Cells) -> Result<(), String> {
        match (self, other) {
            (Cells::Numbers { shape, values }, Cells::Numbers { shape: theirs, values: more }) => {
                same_shape(shape, &theirs)?;
                values.extend(more);
            }
            (Cells::Strings(values), Cells::Strings(more)) => values.extend(more),
            (Cells::Bits { width, values }, Cells::Bits { width: theirs, values: more }) => {
                if *width != theirs {
                    return Err(format!("bit strings of {theirs} bits, but {width} in the file before"));
                }
                values.extend(more);
            }
            (Cells::Bytes { shape, values }, Cells::Bytes { shape: theirs, values: more }) => {
                same_shape(shape, &theirs)?;
                values.extend(more);
            }
            _ => return Err("another type of array than in the file before".into()),
        }
        Ok(())
    }
}

fn same_shape(ours: &[usize], theirs: &[usize]) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    Err(format!("shape {theirs:?} per row, but {ours:?} in the file before"))
}

impl Table {
    /// A table of rows that all come from one file.
    pub fn from_file(path: &Path, n_rows: usize, columns: Vec<(String, Cells)>, lines: Vec<u32>) -> Table {
        Table { n_rows, columns, origins: vec![Origin { path: path.to_owned(), rows: 0..n_rows, lines }] }
    }

    /// Appends the rows of another table with the same columns.
    ///
    /// # Errors
    /// When a column of `other` has another shape, naming its first file.
    pub fn append(&mut self, other: Table) -> Result<(), DataError> {
        let path = other.origins.first().map(|o| o.path.clone()).unwrap_or_default();
        for ((name, ours), (_, theirs)) in self.columns.iter_mut().zip(other.columns) {
            ours.append(theirs).map_err(|message| DataError::file(&path, message).in_column(name))?;
        }
        for mut origin in other.origins {
            origin.rows = origin.rows.start + self.n_rows..origin.rows.end + self.n_rows;
            self.origins.push(origin);
        }
        self.n_rows += other.n_rows;
        Ok(())
    }

    /// The cells of a column.
    pub fn column(&self, name: &str) -> Option<&Cells> {
        self.columns.iter().find(|(n, _)| n == name).map(|(_, cells)| cells)
    }

    /// The files, for messages: the first one by name.
    pub fn files(&self) -> String {
        match self.origins.split_first() {
            None => String::new(),
            Some((first, [])) => first.path.display().to_string(),
            Some((first, more)) => format!("{} and {} more", first.path.display(), more.len()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_shortest_and_codes_stay() {
        let cases = [
            ("1.0", "1"),
            ("1.00", "1"),
            ("10", "10"),
            ("100.0", "100"),
            ("-2.50", "-2.5"),
            ("0.0", "0"),
            ("-0.0", "0"),
            ("007", "007"),
            ("00.10", "00.10"),
            ("1.", "1."),
            (".5", ".5"),
            ("1e3", "1e3"),
            ("50000.", "50000."),
            ("v1.0", "v1.0"),
        ];
        for (text, expected) in cases {
            assert_eq!(shortest(text), expected, "{text}");
        }
    }

    fn numbers(path: &str, shape: Vec<usize>, values: Vec<f64>, lines: Vec<u32>) -> Table {
        let n = values.len() / shape.iter().product::<usize>();
        Table::from_file(Path::new(path), n, vec![("x".into(), Cells::Numbers { shape, values })], lines)
    }

    #[test]
    fn appended_rows_keep_their_places() {
        let mut table = numbers("a.csv", vec![], vec![1.0, 2.0], vec![2, 5]);
        table.append(numbers("b.npz", vec![], vec![3.0], vec![])).expect("same shape");
        assert_eq!(table.n_rows, 3);
        assert_eq!(table.column("x"), Some(&Cells::Numbers { shape: vec![], values: vec![1.0, 2.0, 3.0] }));
        let places: Vec<String> = (0..4).map(|row| table.place(row)).collect();
        assert_eq!(places, ["a.csv:2", "a.csv:5", "b.npz: row 0", "row 3"]);
    }

    #[test]
    fn appending_another_shape_is_refused() {
        let mut table = numbers("a.npz", vec![2], vec![1.0, 2.0], vec![]);
        let error = table.append(numbers("b.npz", vec![1], vec![3.0], vec![])).expect_err("shapes differ");
        assert_eq!(error.to_string(), "b.npz: column `x`: shape [1] per row, but [2] in the file before");
    }
}
