//! Finding wanted columns among those a file has.

use super::cells::shown;
use crate::data::DataError;
use crate::data::table::Wanted;
use std::path::Path;

/// How many names a message lists.
const LISTED: usize = 12;
/// Longest name, in bytes, that is looked for among similar ones.
const MAX_TYPED: usize = 80;

/// Index of each wanted column among `names`.
///
/// # Errors
/// When a column is not there (with the nearest name), or is there twice.
pub(super) fn pick(path: &Path, names: &[String], wanted: &[Wanted]) -> Result<Vec<usize>, DataError> {
    wanted.iter().map(|w| find(path, names, &w.name)).collect()
}

fn find(path: &Path, names: &[String], name: &str) -> Result<usize, DataError> {
    let mut hits = names.iter().enumerate().filter(|(_, n)| *n == name).map(|(index, _)| index);
    match (hits.next(), hits.next()) {
        (Some(index), None) => Ok(index),
        (Some(_), Some(_)) => Err(DataError::file(path, "several columns have this name").in_column(name)),
        (None, _) => Err(absent(path, names, name)),
    }
}

/// The error for a column that a file does not have.
pub(super) fn absent(path: &Path, names: &[String], name: &str) -> DataError {
    let has = listed(names);
    let message = match nearest(names, name) {
        Some(near) => format!("not in this file; did you mean `{near}`? It has {has}"),
        None => format!("not in this file, which has {has}"),
    };
    DataError::file(path, message).in_column(name)
}

/// The name most like `name`, if one is like it at all. Long names are no typing mistakes, and comparing them would
/// take memory by the product of their lengths.
pub(super) fn nearest<'a>(names: &'a [String], name: &str) -> Option<&'a str> {
    let short = |n: &&String| n.len() <= MAX_TYPED && name.len() <= MAX_TYPED;
    let likeness = |n: &String| strsim::damerau_levenshtein(&n.to_lowercase(), &name.to_lowercase());
    let near = names.iter().filter(short).map(|n| (likeness(n), n)).min_by_key(|(distance, _)| *distance)?;
    (near.0 <= 1 + name.chars().count() / 4).then_some(near.1.as_str())
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|n| shown(n)).collect();
    match names.len() {
        0 => "no columns".into(),
        n if n > LISTED => format!("{} and {} more", shown.join(", "), n - LISTED),
        _ => shown.join(", "),
    }
}
