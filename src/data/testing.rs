//! Tables and configurations for the tests of this module.

use super::table::{Cells, Origin, Table};
use crate::config::Config;

/// A table of `n` rows of a text file with one header line.
pub(crate) fn table(path: &str, n: usize, columns: Vec<(String, Cells)>) -> Table {
    let origins = vec![Origin { path: path.into(), rows: 0..n, lines: (2..n as u32 + 2).collect() }];
    Table { n_rows: n, columns, origins }
}

pub(crate) fn column(name: &str, cells: Cells) -> (String, Cells) {
    (name.to_string(), cells)
}

/// Single numbers; NaN is missing.
pub(crate) fn numbers(values: &[f64]) -> Cells {
    Cells::Numbers { shape: vec![], values: values.to_vec() }
}

/// Strings; an empty one is missing.
pub(crate) fn strings(values: &[&str]) -> Cells {
    Cells::Strings(values.iter().map(|v| (!v.is_empty()).then(|| (*v).into())).collect())
}

/// A configuration from the sections `data`, `tasks` and any other; `run` and `model` are filled in.
pub(crate) fn config(json: &str) -> Config {
    let mut all: serde_json::Value = serde_json::from_str(json).unwrap();
    all["run"] = serde_json::json!({"name": "test"});
    all["model"] = serde_json::json!({"encoder": {"mlp": {}}});
    serde_json::from_value(all).unwrap()
}
