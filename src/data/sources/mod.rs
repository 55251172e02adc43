//! From files to tables: one file per format, one entry for all.
//!
//! A reader is handed the columns that are [`Wanted`], with what each is for, and gives a [`Table`] of typed columns
//! that knows the place of every row. Files come from strangers: whatever is in them, a reader answers with a table
//! or a [`DataError`], never a panic, and allocates nothing that the input does not justify.
//!
//! Adding a format: a file here with `parse` (from bytes or a [`std::io::Read`]) and `columns`, a variant of
//! [`config::Source`], an arm in each `match` below, rows in `tests/broken_data.rs`, a target in `fuzz/`.

pub mod arff;
pub mod arrays;
mod cells;
mod contain;
pub mod csv;
pub mod idx;
pub mod jsonl;
mod lines;
pub mod multimnist;
mod names;
mod open;
pub mod parquet;

pub(super) use contain::contain;
pub use contain::panic_is_contained;

use crate::config::{self, Dialect, IdxPair, MultiMnist, Source};
use crate::data::DataError;
use crate::data::table::{Table, Wanted};
use std::path::{Path, PathBuf};

/// Which rows of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The files of the training split.
    Train,
    /// The files of the validation split.
    Val,
    /// The files of the test split.
    Test,
    /// The files of all splits together (`file`).
    All,
}

/// Reads the wanted columns of a split's files, one file after the other. `None` when the configuration names no
/// file for that split. Relative paths start at `root`, or at the working directory.
///
/// # Errors
/// [`DataError`] with file, row and column.
pub fn read(source: &Source, which: Which, root: Option<&Path>, wanted: &[Wanted]) -> Result<Option<Table>, DataError> {
    match source {
        Source::Csv(t) => tables(&files(t, which, root), |path| read_csv(path, &t.dialect, wanted)),
        Source::Parquet(t) => tables(&files(t, which, root), |path| parquet::parse(open::open(path)?, path, wanted)),
        Source::Arff(t) => tables(&files(t, which, root), |path| arff::parse(open::open(path)?, path, wanted)),
        Source::Arrays(a) => arrays::read(&array_files(a, which, root), wanted),
        Source::Idx(i) => idx_pair(i, which).map(|pair| read_idx(pair, root, wanted)).transpose(),
        Source::Multimnist(m) => read_multimnist(m, which, root, wanted),
    }
}

/// The names of the columns of a split's first file (of all its files, for arrays); empty when there is no file.
///
/// # Errors
/// [`DataError`] when the file's header cannot be read.
pub fn columns(source: &Source, which: Which, root: Option<&Path>) -> Result<Vec<String>, DataError> {
    let first = |table: &config::Table| files(table, which, root).into_iter().next();
    let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    match source {
        Source::Csv(t) => first(t).map_or(Ok(Vec::new()), |path| csv::columns(open::open(&path)?, &path, &t.dialect)),
        Source::Parquet(t) => first(t).map_or(Ok(Vec::new()), |path| parquet::columns(open::open(&path)?, &path)),
        Source::Arff(t) => first(t).map_or(Ok(Vec::new()), |path| arff::columns(open::open(&path)?, &path)),
        Source::Arrays(a) => arrays::all_columns(&array_files(a, which, root)),
        Source::Idx(i) => Ok(idx_pair(i, which).map_or(Vec::new(), |_| owned(&idx::COLUMNS))),
        Source::Multimnist(m) => Ok(recipe_split(m, which).map_or(Vec::new(), |_| owned(&multimnist::COLUMNS))),
    }
}

/// Reads a user's file, in the format that its name ends in (`.csv`, `.tsv`, `.parquet`, `.arff`, `.jsonl`, `.ndjson`,
/// `.npy`, `.npz`, `.safetensors`; the text formats with `.gz` too), or else in the source's. For IDX and MultiMNIST
/// sources any other file is an IDX file of images, and `image` is all there is to want.
///
/// # Errors
/// [`DataError`] with file, row and column.
pub fn read_for_predict(source: &Source, file: &Path, wanted: &[Wanted]) -> Result<Table, DataError> {
    let dialect = match source {
        // A given header and delimiter belong to the source's own files; other formats have the usual ones.
        Source::Csv(table) => table.dialect.clone(),
        _ => Dialect::default(),
    };
    let single = |table: Option<Table>| table.ok_or_else(|| DataError::file(file, "no rows"));
    match extension(file).as_str() {
        "csv" | "tsv" => read_csv(file, &dialect, wanted),
        "parquet" => parquet::parse(open::open(file)?, file, wanted),
        "arff" => arff::parse(open::open(file)?, file, wanted),
        "jsonl" | "ndjson" => jsonl::parse(open::open(file)?, file, wanted),
        "npy" | "npz" | "safetensors" => single(arrays::read(&[file.to_owned()], wanted)?),
        _ => match source {
            Source::Csv(_) => read_csv(file, &dialect, wanted),
            Source::Parquet(_) => parquet::parse(open::open(file)?, file, wanted),
            Source::Arff(_) => arff::parse(open::open(file)?, file, wanted),
            Source::Arrays(_) => single(arrays::read(&[file.to_owned()], wanted)?),
            Source::Idx(_) | Source::Multimnist(_) => {
                let images = idx::Idx::parse(open::open(file)?, file, 3)?;
                let n = images.len();
                idx::assemble(file, n, (&images.shape[1..], images.values), &[], wanted)
            }
        },
    }
}

/// The end of a file's name without `.gz`, in lower case.
fn extension(path: &Path) -> String {
    let lower = |path: &Path| path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    match lower(path).as_str() {
        "gz" => path.file_stem().map(|stem| lower(Path::new(stem))).unwrap_or_default(),
        other => other.to_owned(),
    }
}

/// Reads files one after the other into one table.
fn tables(paths: &[PathBuf], read: impl Fn(&Path) -> Result<Table, DataError>) -> Result<Option<Table>, DataError> {
    let mut whole: Option<Table> = None;
    for path in paths {
        let table = read(path)?;
        match &mut whole {
            Some(before) => before.append(table)?,
            None => whole = Some(table),
        }
    }
    Ok(whole)
}

fn read_csv(path: &Path, dialect: &Dialect, wanted: &[Wanted]) -> Result<Table, DataError> {
    csv::parse(open::open(path)?, path, dialect, wanted)
}

fn read_pair(pair: &IdxPair, root: Option<&Path>) -> Result<(idx::Pair, PathBuf), DataError> {
    let (images, labels) = (under(root, &pair.images), under(root, &pair.labels));
    let read = idx::Pair::parse((open::open(&images)?, &images), (open::open(&labels)?, &labels))?;
    Ok((read, images))
}

fn read_idx(pair: &IdxPair, root: Option<&Path>, wanted: &[Wanted]) -> Result<Table, DataError> {
    let (pair, path) = read_pair(pair, root)?;
    idx::table(pair, &path, wanted)
}

fn read_multimnist(
    recipe: &MultiMnist,
    which: Which,
    root: Option<&Path>,
    wanted: &[Wanted],
) -> Result<Option<Table>, DataError> {
    let Some((split, files)) = recipe_split(recipe, which) else { return Ok(None) };
    let (digits, path) = read_pair(files, root)?;
    multimnist::make(recipe, split, &digits, &path, wanted).map(Some)
}

/// The split of the recipe and the files that it draws from; a split without pairs is none.
fn recipe_split(recipe: &MultiMnist, which: Which) -> Option<(multimnist::Split, &IdxPair)> {
    use multimnist::Split;
    let (n, split, files) = match which {
        Which::Train => (recipe.n_train, Split::Train, &recipe.train),
        Which::Val => (recipe.n_val, Split::Val, &recipe.train),
        Which::Test => (recipe.n_test, Split::Test, &recipe.test),
        Which::All => return None,
    };
    (n > 0).then_some((split, files))
}

fn idx_pair(idx: &config::Idx, which: Which) -> Option<&IdxPair> {
    match which {
        Which::Train => Some(&idx.train),
        Which::Val => idx.val.as_ref(),
        Which::Test => idx.test.as_ref(),
        Which::All => None,
    }
}

fn files(table: &config::Table, which: Which, root: Option<&Path>) -> Vec<PathBuf> {
    let paths = match which {
        Which::Train => &table.train,
        Which::Val => &table.val,
        Which::Test => &table.test,
        Which::All => &table.file,
    };
    paths.list().iter().map(|path| under(root, path)).collect()
}

fn array_files(arrays: &config::Arrays, which: Which, root: Option<&Path>) -> Vec<PathBuf> {
    let paths = match which {
        Which::Train => &arrays.train,
        Which::Val => &arrays.val,
        Which::Test => &arrays.test,
        Which::All => &arrays.file,
    };
    paths.list().iter().map(|path| under(root, path)).collect()
}

fn under(root: Option<&Path>, path: &Path) -> PathBuf {
    match root {
        Some(root) => root.join(path),
        None => path.to_owned(),
    }
}

/// A double as a category: `1`, not `1.0`, and no negative zero.
fn shortest_f64(value: f64) -> String {
    if value == 0.0 { "0".into() } else { value.to_string() }
}

/// A single as a category, with no more digits than it has.
fn shortest_f32(value: f32) -> String {
    if value == 0.0 { "0".into() } else { value.to_string() }
}

#[cfg(test)]
mod tests;
