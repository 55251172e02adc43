//! From the text, numbers and gaps of a file to typed cells, alike for every tabular format.

use crate::data::DataError;
use crate::data::table::{Cells, Role, Table, Wanted, shortest};
use std::path::Path;

/// Collects the cells of one column.
pub(super) enum Column {
    Numbers(Vec<f64>),
    Strings(Vec<Option<Box<str>>>),
    /// Like `Strings`, with numbers written shortest.
    Categories(Vec<Option<Box<str>>>),
    Bits {
        /// Hexadecimal digits per row, known from the first row on.
        digits: Option<usize>,
        values: Vec<u8>,
    },
}

impl Column {
    fn new(role: Role) -> Result<Column, String> {
        match role {
            Role::Number => Ok(Column::Numbers(Vec::new())),
            Role::Category => Ok(Column::Categories(Vec::new())),
            Role::Text => Ok(Column::Strings(Vec::new())),
            Role::Bits => Ok(Column::Bits { digits: None, values: Vec::new() }),
            Role::Image => Err("images cannot be read from tables; use a source of `arrays` or `idx`".into()),
        }
    }

    /// A missing cell.
    pub fn missing(&mut self) -> Result<(), String> {
        match self {
            Column::Numbers(values) => values.push(f64::NAN),
            Column::Strings(values) | Column::Categories(values) => values.push(None),
            Column::Bits { .. } => return Err("the bit string is missing; every row needs one".into()),
        }
        Ok(())
    }

    /// A cell of text that is not missing.
    pub fn text(&mut self, text: &str) -> Result<(), String> {
        match self {
            Column::Numbers(values) => values.push(number(text)?),
            Column::Strings(values) => values.push(Some(text.into())),
            Column::Categories(values) => values.push(Some(shortest(text).into())),
            Column::Bits { digits, values } => bits(text, digits, values)?,
        }
        Ok(())
    }

    /// A cell that is a number in the file; `shortest` is how it is written as a category.
    pub fn number(&mut self, value: f64, shortest: impl FnOnce() -> String) -> Result<(), String> {
        match self {
            Column::Numbers(_) if !value.is_finite() => {
                return Err(format!("{value} is not a finite number; missing values are nulls"));
            }
            Column::Numbers(values) => values.push(value),
            Column::Strings(values) | Column::Categories(values) if value.is_nan() => values.push(None),
            Column::Strings(values) | Column::Categories(values) => values.push(Some(shortest().into())),
            Column::Bits { .. } => return Err("a number where a hexadecimal string is expected".into()),
        }
        Ok(())
    }

    fn finish(self) -> Cells {
        match self {
            Column::Numbers(values) => Cells::Numbers { shape: Vec::new(), values },
            Column::Strings(values) | Column::Categories(values) => Cells::Strings(values),
            Column::Bits { digits, values } => Cells::Bits { width: 4 * digits.unwrap_or(0), values },
        }
    }
}

/// Collects the wanted columns of one file.
pub(super) struct Collector<'a> {
    path: &'a Path,
    wanted: &'a [Wanted],
    /// One per wanted column.
    pub columns: Vec<Column>,
    /// Line of each row; stays empty for binary files.
    pub lines: Vec<u32>,
}

impl<'a> Collector<'a> {
    /// # Errors
    /// When a column is wanted as something that tables do not hold.
    pub fn new(path: &'a Path, wanted: &'a [Wanted]) -> Result<Self, DataError> {
        let column = |w: &Wanted| Column::new(w.role).map_err(|m| DataError::file(path, m).in_column(&w.name));
        let columns = wanted.iter().map(column).collect::<Result<_, _>>()?;
        Ok(Collector { path, wanted, columns, lines: Vec::new() })
    }

    /// # Errors
    /// When the file has no rows.
    pub fn finish(self, n_rows: usize) -> Result<Table, DataError> {
        if n_rows == 0 {
            return Err(DataError::file(self.path, "no rows"));
        }
        let names = self.wanted.iter().map(|w| w.name.clone());
        let columns = names.zip(self.columns.into_iter().map(Column::finish)).collect();
        Ok(Table::from_file(self.path, n_rows, columns, self.lines))
    }
}

/// A finite number, or what is wrong with it.
fn number(text: &str) -> Result<f64, String> {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) if text.bytes().any(|b| b.is_ascii_digit()) => Err(format!("{} is too large a number", shown(text))),
        Ok(_) => Err(format!("{} is not a finite number", shown(text))),
        Err(_) => Err(format!("{} is not a number", shown(text))),
    }
}

/// Appends the bits of a hexadecimal string, most significant first.
fn bits(text: &str, digits: &mut Option<usize>, values: &mut Vec<u8>) -> Result<(), String> {
    let expected = *digits.get_or_insert(text.len());
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
        return Err(format!("`{}` is not a hexadecimal digit", bad.escape_debug()));
    }
    if text.len() != expected {
        return Err(format!("{} hexadecimal digits, but {expected} in the first row", text.len()));
    }
    for nibble in text.chars().filter_map(|c| c.to_digit(16)) {
        values.extend([3, 2, 1, 0].map(|shift| (nibble >> shift & 1) as u8));
    }
    Ok(())
}

/// A cell as messages show it: shortened, without control characters.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() { format!("`{short}...`") } else { format!("`{short}`") }
}

/// A number of things, in words: `1 cell`, `2 cells`.
pub(super) fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}
