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

#[cfg(test)]
mod tests {
    use super::super::testing::{column, config, numbers, strings, table};
    use super::super::{Dataset, SourceTables};
    use super::*;

    #[test]
    fn a_file_without_targets_goes_through_the_fitted_transforms() {
        let config = config(
            r#"{"data": {"sources": {"s": {"csv": {"train": "t.csv", "numeric": ["x"], "categorical": ["c"]}}}},
                "tasks": {"t": {"source": "s", "target": "y", "kind": {"regression": {}}}}}"#,
        );
        let inputs = |x: &[f64], c: &[&str]| vec![column("x", numbers(x)), column("c", strings(c))];
        let mut train = inputs(&[1.0, 3.0], &["a", "b"]);
        train.push(column("y", numbers(&[0.0, 1.0])));
        let tables = SourceTables { train: Some(table("t.csv", 2, train)), ..Default::default() };
        let d = Dataset::from_tables(&config, vec![tables]).unwrap();

        let file = table("new.csv", 3, inputs(&[2.0, 4.0, 1.0], &["b", "z", "a"]));
        let new = Unlabelled::from_table(&config, 0, &file, d.fitted()).unwrap();
        assert_eq!((new.len(), new.is_empty()), (3, false));
        let parts: Vec<Part> = new.parts(2).collect();
        assert_eq!(
            parts.iter().map(|p| (p.source, p.len, p.targets.len())).collect::<Vec<_>>(),
            [(0, 2, 0), (0, 1, 0)]
        );
        let dense = |p: &Part| Vec::<f32>::try_from(p.inputs.dense.as_ref().unwrap().flatten(0, -1)).unwrap();
        let categories =
            |p: &Part| Vec::<i64>::try_from(p.inputs.categorical.as_ref().unwrap().flatten(0, -1)).unwrap();
        assert_eq!(parts.iter().flat_map(dense).collect::<Vec<_>>(), [0.0, 2.0, -1.0]);
        assert_eq!(parts.iter().flat_map(categories).collect::<Vec<_>>(), [2, 0, 1]);

        let blank = table("new.csv", 1, inputs(&[f64::NAN], &["b"]));
        let e = Unlabelled::from_table(&config, 0, &blank, d.fitted()).unwrap_err();
        let expected = "new.csv:2: column `x`: blank; give a number, or set `missing: mean` on the source";
        assert_eq!(e.to_string(), expected);
        let empty = Unlabelled::from_table(&config, 0, &table("new.csv", 0, inputs(&[], &[])), d.fitted()).unwrap();
        assert_eq!((empty.is_empty(), empty.parts(2).count()), (true, 0));
    }
}
