//! A user's rows, without targets, through the fitted transforms.

use super::columns::{Columns, check_table};
use super::dataset::chunks;
use super::features::{Encoder, Features};
use super::split::View;
use super::table::Table;
use super::{DataError, Fitted, Part, sources};
use crate::config::Config;
use std::path::Path;

/// Transformed samples without targets, in the order of the file.
#[derive(Debug)]
pub struct Unlabelled {
    source: usize,
    features: Features,
}

impl Unlabelled {
    /// Reads a file in the format of a source (by index); only the input columns are needed.
    ///
    /// # Errors
    /// A file that cannot be read, bad cells, or inputs other than those of the training data.
    pub fn open(config: &Config, source: usize, file: &Path, fitted: &Fitted) -> Result<Unlabelled, DataError> {
        let (_, format) = &config.data.sources[source];
        let table = sources::read_for_predict(format, file, &Columns::inputs(format).wanted)?;
        Unlabelled::from_table(config, source, &table, fitted)
    }

    /// As [`open`](Unlabelled::open), from a table in memory.
    ///
    /// # Errors
    /// Bad cells, or inputs other than those of the training data.
    pub fn from_table(config: &Config, source: usize, table: &Table, fitted: &Fitted) -> Result<Unlabelled, DataError> {
        let (name, format) = &config.data.sources[source];
        let columns = Columns::inputs(format);
        check_table(name, &columns.wanted, table)?;
        let rows: Vec<u32> = (0..table.n_rows as u32).collect();
        let features = Encoder::new(fitted).encode("the file", &columns, View { table, rows: &rows })?;
        Ok(Unlabelled { source, features })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.features.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All samples in order, in parts of at most `batch`, with no targets.
    pub fn parts(&self, batch: usize) -> impl Iterator<Item = Part> + '_ {
        let part = |rows: Vec<u32>| {
            let inputs = self.features.gather(&rows);
            Part { source: self.source, len: rows.len(), inputs, targets: Vec::new() }
        };
        chunks(0, self.len(), batch).map(part)
    }
}
