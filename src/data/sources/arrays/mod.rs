//! Arrays in `npy`, `npz` and `safetensors` files; the first axis counts rows.
//!
//! Wanted as [`Role::Number`], an array gives blocks of the shape of its other axes; NaN and infinity are errors.
//! Wanted as [`Role::Category`] it must be `[n]` or `[n, 1]`; NaN in a float array is then a missing label. Wanted as
//! [`Role::Image`], `u8` stays bytes and everything else becomes numbers. Arrays of objects (pickles), strings and
//! records are refused, and so is any size that the file does not hold.
//!
//! The files of one split are laid side by side, as columns of the same rows, until an array comes again that an
//! earlier one had; from there on they are further rows. So `[x.npy, y.npy]` is one table of two columns, and
//! `[part1.npz, part2.npz]` one after the other.

mod npy;
mod npz;
mod raw;
mod safetensors;

use super::cells::count;
use super::names;
use super::open;
use crate::data::DataError;
use crate::data::table::{Cells, Role, Table, Wanted};
use raw::RawArray;
use std::path::{Path, PathBuf};

/// A format of arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One array, called by the file's stem.
    Npy,
    /// A zip archive of `npy` files.
    Npz,
    /// Named tensors after a JSON header.
    SafeTensors,
}

impl Format {
    /// The format that a file's name ends in.
    pub fn of(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_ascii_lowercase();
        match extension.to_str()? {
            "npy" => Some(Format::Npy),
            "npz" => Some(Format::Npz),
            "safetensors" => Some(Format::SafeTensors),
            _ => None,
        }
    }
}

/// Reads the wanted arrays of one file from its bytes.
///
/// # Errors
/// [`DataError`] with file, row (from 0) and array: for damaged files, arrays that are not there, of unequal length,
/// of a type that is not read, or not what they are wanted as.
pub fn parse(bytes: &[u8], path: &Path, format: Format, wanted: &[Wanted]) -> Result<Table, DataError> {
    let mut file = File::open(bytes, path, format)?;
    names::pick(path, &file.names(), wanted)?;
    table(path, file.read(wanted)?)
}

/// The names of the arrays of one file.
///
/// # Errors
/// When the file is damaged.
pub fn columns(bytes: &[u8], path: &Path, format: Format) -> Result<Vec<String>, DataError> {
    Ok(File::open(bytes, path, format)?.names())
}

/// Shape and values of the one array of an `npy` file, row by row: finite numbers of any type.
///
/// # Errors
/// [`DataError`] with file and row.
pub fn numbers(path: &Path) -> Result<(Vec<usize>, Vec<f64>), DataError> {
    let failed = |source| DataError::Io { path: path.display().to_string(), source };
    let bytes = std::fs::read(path).map_err(failed)?;
    if bytes.is_empty() {
        return Err(DataError::file(path, "the file is empty"));
    }
    let array = npy::parse(&bytes).map_err(|message| DataError::file(path, message))?;
    match array.cells(Role::Number).map_err(|fault| fault.in_file(path))? {
        Cells::Numbers { values, .. } => Ok((array.shape, values)),
        _ => Err(DataError::file(path, "holds no numbers")),
    }
}

/// Reads the files of a split as the module says.
///
/// # Errors
/// As [`parse`].
pub(super) fn read(paths: &[PathBuf], wanted: &[Wanted]) -> Result<Option<Table>, DataError> {
    let mut whole: Option<Table> = None;
    let mut block = Block::default();
    for path in paths {
        let bytes = open::bytes(path)?;
        let mut file = File::open(&bytes, path, format(path)?)?;
        let names = file.names();
        if names.iter().any(|name| block.names.contains(name)) {
            append(&mut whole, std::mem::take(&mut block).finish(wanted)?)?;
        }
        let here: Vec<Wanted> = wanted.iter().filter(|w| names.contains(&w.name)).cloned().collect();
        names::pick(path, &names, &here)?;
        let arrays = file.read(&here)?;
        block.add(path, names, here, arrays);
    }
    if !block.paths.is_empty() {
        append(&mut whole, block.finish(wanted)?)?;
    }
    Ok(whole)
}

/// The names of all arrays of a split.
///
/// # Errors
/// When a file is damaged.
pub(super) fn all_columns(paths: &[PathBuf]) -> Result<Vec<String>, DataError> {
    let mut all: Vec<String> = Vec::new();
    for path in paths {
        let names = columns(&open::bytes(path)?, path, format(path)?)?;
        all.extend(names.into_iter().filter(|name| !all.contains(name)).collect::<Vec<_>>());
    }
    Ok(all)
}

fn format(path: &Path) -> Result<Format, DataError> {
    Format::of(path)
        .ok_or_else(|| DataError::file(path, "arrays are read from `.npy`, `.npz` and `.safetensors` files"))
}

fn append(whole: &mut Option<Table>, more: Table) -> Result<(), DataError> {
    match whole {
        Some(table) => table.append(more),
        None => {
            *whole = Some(more);
            Ok(())
        }
    }
}

/// Files side by side.
#[derive(Default)]
struct Block {
    paths: Vec<PathBuf>,
    names: Vec<String>,
    arrays: Vec<(Wanted, PathBuf, Cells)>,
}

impl Block {
    fn add(&mut self, path: &Path, names: Vec<String>, wanted: Vec<Wanted>, arrays: Vec<(String, Cells)>) {
        self.paths.push(path.to_owned());
        self.names.extend(names);
        self.arrays.extend(wanted.into_iter().zip(arrays).map(|(w, (_, cells))| (w, path.to_owned(), cells)));
    }

    fn finish(mut self, wanted: &[Wanted]) -> Result<Table, DataError> {
        let mut columns = Vec::with_capacity(wanted.len());
        let mut first: Option<PathBuf> = None;
        for want in wanted {
            let Some(at) = self.arrays.iter().position(|(w, ..)| w == want) else {
                let last = self.paths.last().cloned().unwrap_or_default();
                return Err(names::absent(&last, &self.names, &want.name));
            };
            let (_, path, cells) = self.arrays.swap_remove(at);
            same_length(&path, &columns, &want.name, &cells)?;
            first.get_or_insert(path);
            columns.push((want.name.clone(), cells));
        }
        let path = first.or_else(|| self.paths.first().cloned()).unwrap_or_default();
        table(&path, columns)
    }
}

fn table(path: &Path, columns: Vec<(String, Cells)>) -> Result<Table, DataError> {
    for at in 1..columns.len() {
        let (name, cells) = &columns[at];
        same_length(path, &columns[..at], name, cells)?;
    }
    let n_rows = columns.first().map_or(0, |(_, cells)| cells.n_rows());
    Ok(Table::from_file(path, n_rows, columns, Vec::new()))
}

fn same_length(path: &Path, before: &[(String, Cells)], name: &str, cells: &Cells) -> Result<(), DataError> {
    match before.first() {
        Some((other, theirs)) if theirs.n_rows() != cells.n_rows() => {
            let (n, m) = (cells.n_rows(), theirs.n_rows());
            Err(DataError::file(path, format!("{}, but {m} in `{other}`", count(n, "row"))).in_column(name))
        }
        _ => Ok(()),
    }
}

/// An opened file.
enum File<'a> {
    Npy(&'a Path, &'a [u8]),
    Npz(npz::Archive<'a>),
    SafeTensors(safetensors::File<'a>),
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8], path: &'a Path, format: Format) -> Result<Self, DataError> {
        if bytes.is_empty() {
            return Err(DataError::file(path, "the file is empty"));
        }
        Ok(match format {
            Format::Npy => File::Npy(path, bytes),
            Format::Npz => File::Npz(npz::Archive::open(bytes, path)?),
            Format::SafeTensors => File::SafeTensors(safetensors::File::open(bytes, path)?),
        })
    }

    fn names(&self) -> Vec<String> {
        match self {
            File::Npy(path, _) => vec![path.file_stem().unwrap_or_default().to_string_lossy().into_owned()],
            File::Npz(archive) => archive.names(),
            File::SafeTensors(file) => file.names(),
        }
    }

    fn read(&mut self, wanted: &[Wanted]) -> Result<Vec<(String, Cells)>, DataError> {
        let mut columns = Vec::with_capacity(wanted.len());
        for want in wanted {
            let (path, array) = match self {
                File::Npy(path, bytes) => (*path, npy::parse(bytes).map_err(|m| DataError::file(path, m))),
                File::Npz(archive) => (archive.path, archive.read(&want.name)),
                File::SafeTensors(file) => (file.path, file.read(&want.name)),
            };
            let cells = array?.cells(want.role).map_err(|fault| fault.error(path, &want.name))?;
            columns.push((want.name.clone(), cells));
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests;
