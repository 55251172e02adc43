//! JSON Lines: one flat object per line, for `predict`. A key that is absent or null is a missing value.

use super::cells::{Collector, Column};
use super::lines::Lines;
use super::names;
use crate::data::DataError;
use crate::data::table::{Table, Wanted};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

/// Reads the wanted columns of a file of JSON objects, through gzip where it is packed.
///
/// # Errors
/// [`DataError`] with file, line and column: for lines that are no flat object, keys that are in no line, and values
/// that are not what they are wanted as.
pub fn parse(input: impl Read, path: &Path, wanted: &[Wanted]) -> Result<Table, DataError> {
    let mut lines = Lines::new(input, path)?;
    let mut table = Collector::new(path, wanted)?;
    let mut keys = BTreeSet::new();
    let mut n_rows = 0;
    while let Some((number, line)) = lines.next()? {
        if line.trim().is_empty() {
            continue;
        }
        let bad = |message: String| DataError::line(path, number, message);
        let object: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
            bad(format!("not a JSON object on one line (column {}): {}", error.column(), plain(&error)))
        })?;
        for (column, want) in table.columns.iter_mut().zip(wanted) {
            push(column, object.get(&want.name)).map_err(|message| bad(message).in_column(&want.name))?;
        }
        keys.extend(object.into_iter().map(|(key, _)| key));
        table.lines.push(number);
        n_rows += 1;
    }
    let keys: Vec<String> = keys.into_iter().collect();
    match wanted.iter().find(|w| n_rows > 0 && !keys.contains(&w.name)) {
        Some(w) => Err(names::absent(path, &keys, &w.name)),
        None => table.finish(n_rows),
    }
}

fn push(column: &mut Column, value: Option<&Value>) -> Result<(), String> {
    match value {
        None | Some(Value::Null) => column.missing(),
        Some(Value::String(text)) if text.is_empty() => column.missing(),
        Some(Value::String(text)) => column.text(text),
        Some(Value::Bool(value)) => match column {
            Column::Numbers(_) => column.number(f64::from(u8::from(*value)), String::new),
            _ => column.text(if *value { "true" } else { "false" }),
        },
        Some(Value::Number(number)) => match number.as_f64() {
            Some(value) => column.number(value, || shortest(number, value)),
            None => Err(format!("{number} is too large a number")),
        },
        Some(Value::Array(_) | Value::Object(_)) => {
            Err("a nested value; give a number, a string, a boolean or null".into())
        }
    }
}

fn shortest(number: &serde_json::Number, value: f64) -> String {
    if number.is_f64() { super::shortest_f64(value) } else { number.to_string() }
}

/// The message without the place, which we give ourselves.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}
