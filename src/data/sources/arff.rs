//! Attribute-Relation File Format (Weka, Mulan): `@attribute` lines that type the columns, then rows after `@data`.
//!
//! `numeric`, `real`, `integer`, `string`, `date` and nominal `{a, b}` attributes are read, cells in single or double
//! quotes with backslash escapes, `%` comments, and `?` for a missing value. Sparse rows, relational attributes and
//! instance weights are refused.

use super::cells::{Collector, count, shown};
use super::lines::Lines;
use super::names;
use crate::data::DataError;
use crate::data::table::{Table, Wanted};
use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

/// One `@attribute`.
struct Attribute {
    name: String,
    /// The declared values of a nominal attribute, sorted.
    values: Option<Vec<String>>,
}

/// Reads the wanted columns of an ARFF file.
///
/// # Errors
/// [`DataError`] with file, line and column: for text that breaks the format, columns that are not there, and cells
/// that are not what they are declared or wanted as.
pub fn parse(input: impl Read, path: &Path, wanted: &[Wanted]) -> Result<Table, DataError> {
    let mut lines = Lines::new(input, path)?;
    let attributes = header(&mut lines, path)?;
    let names: Vec<String> = attributes.iter().map(|a| a.name.clone()).collect();
    let picks = names::pick(path, &names, wanted)?;
    let mut table = Collector::new(path, wanted)?;
    let mut n_rows = 0;
    while let Some((number, line)) = lines.next()? {
        let line = line.trim();
        if line.is_empty() || line.starts_with('%') {
            continue;
        }
        let bad = |message: String| DataError::line(path, number, message);
        let cells = row(line, attributes.len()).map_err(bad)?;
        for ((column, &pick), want) in table.columns.iter_mut().zip(&picks).zip(wanted) {
            let pushed = match &cells[pick] {
                None => column.missing(),
                Some(cell) => declared(cell, &attributes[pick]).and_then(|()| column.text(cell)),
            };
            pushed.map_err(|message| bad(message).in_column(&want.name))?;
        }
        table.lines.push(number);
        n_rows += 1;
    }
    table.finish(n_rows)
}

/// The names of the attributes.
///
/// # Errors
/// When the header breaks the format.
pub fn columns(input: impl Read, path: &Path) -> Result<Vec<String>, DataError> {
    let attributes = header(&mut Lines::new(input, path)?, path)?;
    Ok(attributes.into_iter().map(|a| a.name).collect())
}

/// Reads up to and with `@data`.
fn header(lines: &mut Lines, path: &Path) -> Result<Vec<Attribute>, DataError> {
    let mut attributes = Vec::new();
    let mut empty = true;
    while let Some((number, line)) = lines.next()? {
        empty = false;
        let line = line.trim();
        if line.is_empty() || line.starts_with('%') {
            continue;
        }
        let bad = |message: String| DataError::line(path, number, message);
        let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match keyword.to_ascii_lowercase().as_str() {
            "@relation" => {}
            "@attribute" => attributes.push(attribute(rest.trim()).map_err(bad)?),
            "@data" if attributes.is_empty() => return Err(bad("`@data` without any `@attribute` before it".into())),
            "@data" => return Ok(attributes),
            _ => {
                let found = shown(keyword);
                return Err(bad(format!(
                    "{found} where `@relation`, `@attribute`, `@data` or a `%` comment is expected"
                )));
            }
        }
    }
    Err(DataError::file(path, if empty { "the file is empty" } else { "ends before `@data`: the file is truncated" }))
}

/// The rest of an `@attribute` line: name and type.
fn attribute(text: &str) -> Result<Attribute, String> {
    let (name, rest) = match text.chars().next() {
        None => return Err("`@attribute` without a name".into()),
        Some(quote @ ('\'' | '"')) => {
            let (name, rest) = quoted(&text[1..], quote)?;
            (name.into_owned(), rest)
        }
        Some(_) => {
            let end = text.find(|c: char| c.is_whitespace() || c == '{').unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    let kind = rest.trim();
    if let Some(list) = kind.strip_prefix('{') {
        let Some(list) = list.trim_end().strip_suffix('}') else {
            return Err(format!("the list of values of attribute {} has no closing brace", shown(&name)));
        };
        let values = nominal(list)?;
        return Ok(Attribute { name, values: Some(values) });
    }
    let word = kind.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    match word.as_str() {
        "numeric" | "real" | "integer" | "string" | "date" => Ok(Attribute { name, values: None }),
        "" => Err(format!("attribute {} has no type", shown(&name))),
        "relational" => Err(format!("attribute {} is relational, which is not read", shown(&name))),
        _ => {
            let expected = "expected numeric, real, integer, string, date or {a, b, ...}";
            Err(format!("attribute {} has the unknown type {}; {expected}", shown(&name), shown(&word)))
        }
    }
}

/// The values of a nominal attribute.
fn nominal(list: &str) -> Result<Vec<String>, String> {
    let mut values = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let (cell, after) = next_cell(rest)?;
        // A quoted or bare `?` is a value like any other here.
        values.push(cell.map_or_else(|| "?".to_owned(), Cow::into_owned));
        rest = after.unwrap_or_default().trim_start();
    }
    values.sort_unstable();
    Ok(values)
}

/// The cells of a data row; `None` is a missing value.
fn row(line: &str, expected: usize) -> Result<Vec<Option<Cow<'_, str>>>, String> {
    if line.starts_with('{') {
        return Err("sparse rows `{index value, ...}` are not read; write dense rows (Weka: SparseToNonSparse)".into());
    }
    let mut cells = Vec::new();
    let mut n_cells = 0;
    let mut rest = Some(line);
    while let Some(text) = rest {
        let (cell, after) = next_cell(text)?;
        if cell.as_deref() == Some("") && !text.trim_start().starts_with(['\'', '"']) {
            return Err(format!("cell {} is empty; missing values are written `?`", n_cells + 1));
        }
        n_cells += 1;
        let weight = after.is_none() && cell.as_deref().is_some_and(|c| c.starts_with('{') && c.ends_with('}'));
        if n_cells > expected && weight {
            return Err("instance weights `{...}` at the end of a row are not read".into());
        }
        if n_cells <= expected {
            cells.push(cell);
        }
        rest = after;
    }
    if n_cells != expected {
        return Err(format!("{}, but {}", count(n_cells, "cell"), count(expected, "attribute")));
    }
    Ok(cells)
}

/// A cell and what follows its comma (`None` at the end of the row).
type Cell<'a> = (Option<Cow<'a, str>>, Option<&'a str>);

fn next_cell(text: &str) -> Result<Cell<'_>, String> {
    let text = text.trim_start();
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let (cell, rest) = quoted(&text[1..], quote)?;
        let rest = rest.trim_start();
        return match rest.strip_prefix(',') {
            Some(after) => Ok((Some(cell), Some(after))),
            None if rest.is_empty() => Ok((Some(cell), None)),
            None => Err(format!("{} after a closing quote, where a comma is expected", shown(rest))),
        };
    }
    let (cell, after) = match text.split_once(',') {
        Some((cell, after)) => (cell.trim_end(), Some(after)),
        None => (text.trim_end(), None),
    };
    Ok((if cell == "?" { None } else { Some(Cow::Borrowed(cell)) }, after))
}

/// The text up to the closing quote, with escapes undone, and what follows it.
fn quoted(text: &str, quote: char) -> Result<(Cow<'_, str>, &str), String> {
    let mut owned = String::new();
    let mut rest = text;
    loop {
        let Some(at) = rest.find([quote, '\\']) else {
            return Err(format!("the quote before {} is never closed", shown(text)));
        };
        if rest[at..].starts_with(quote) {
            let after = &rest[at + 1..];
            let plain = owned.is_empty() && rest.len() == text.len();
            return Ok((if plain { Cow::Borrowed(&rest[..at]) } else { Cow::Owned(owned + &rest[..at]) }, after));
        }
        owned.push_str(&rest[..at]);
        let mut escaped = rest[at + 1..].chars();
        match escaped.next() {
            Some('n') => owned.push('\n'),
            Some('t') => owned.push('\t'),
            Some('r') => owned.push('\r'),
            Some(other) => owned.push(other),
            None => return Err(format!("the quote before {} is never closed", shown(text))),
        }
        rest = escaped.as_str();
    }
}

/// Checks a cell of a nominal attribute against the declared values.
fn declared(cell: &str, attribute: &Attribute) -> Result<(), String> {
    match &attribute.values {
        Some(values) if values.binary_search_by(|v| v.as_str().cmp(cell)).is_err() => {
            let hint = names::nearest(values, cell).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            Err(format!("{} is not among the values that the header declares{hint}", shown(cell)))
        }
        _ => Ok(()),
    }
}
