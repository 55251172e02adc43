//! A file per format: bytes in, [`Table`](super::table::Table) out. No tensors here.

use super::DataError;
use super::table::{Cells, Origin, Role, Table, Wanted};
use crate::config::Source;
use std::path::Path;

/// Which files of a source are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// `train`.
    Train,
    /// `val`.
    Val,
    /// `test`.
    Test,
    /// `file`.
    All,
}

/// Reads the wanted columns of a source's files; `None` without such files.
///
/// # Errors
/// A file that cannot be read or a bad cell, with its place.
pub fn read(source: &Source, which: Which, root: Option<&Path>, wanted: &[Wanted]) -> Result<Option<Table>, DataError> {
    let Source::Csv(table) = source else {
        return Err(DataError::Unfit("this build reads CSV alone".into()));
    };
    let paths = match which {
        Which::Train => &table.train,
        Which::Val => &table.val,
        Which::Test => &table.test,
        Which::All => &table.file,
    };
    match &paths.list()[..] {
        [] => Ok(None),
        [path, ..] => read_csv(&root.map_or_else(|| path.clone(), |root| root.join(path)), wanted).map(Some),
    }
}

/// Reads the wanted columns of a user's file in the format of a source.
///
/// # Errors
/// As for [`read`].
pub fn read_for_predict(source: &Source, file: &Path, wanted: &[Wanted]) -> Result<Table, DataError> {
    let _ = source;
    read_csv(file, wanted)
}

fn read_csv(path: &Path, wanted: &[Wanted]) -> Result<Table, DataError> {
    let io = |source| DataError::Io { path: path.display().to_string(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let (header, rows) = rows.split_first().ok_or_else(|| DataError::Unfit("no header".into()))?;
    let mut columns = Vec::new();
    for Wanted { name, role } in wanted {
        let at = header.iter().position(|h| h == name);
        let at = at.ok_or_else(|| DataError::Unfit(format!("{}: no column `{name}`", path.display())))?;
        let cells = rows.iter().map(|row| row.get(at).copied().unwrap_or_default());
        let cells = match role {
            Role::Number => {
                Cells::Numbers { shape: vec![], values: cells.map(|c| c.parse().unwrap_or(f64::NAN)).collect() }
            }
            _ => Cells::Strings(cells.map(|c| (!c.is_empty()).then(|| c.into())).collect()),
        };
        columns.push((name.clone(), cells));
    }
    let lines = (2..rows.len() as u32 + 2).collect();
    let origins = vec![Origin { path: path.to_path_buf(), rows: 0..rows.len(), lines }];
    Ok(Table { n_rows: rows.len(), columns, origins })
}
