//! Which rows train, which validate, which test: by file, by the value of a column, or by a seeded fraction.
//!
//! Rows keep the order of the file inside a split, so that a split by fraction reads like a split by file.

use super::DataError;
use super::shuffle::permutation;
use super::table::{Cells, Table};
use super::values::same_value;
use crate::config;
use crate::rng::{Stream, rng};

/// One of the three parts of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// Trained on; the only part that transforms are fitted on.
    Train,
    /// Evaluated while training, to choose the best checkpoint.
    Val,
    /// Evaluated at the end.
    Test,
}

impl Split {
    /// All three, in order.
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Test];

    /// Name in configurations, records and messages.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        }
    }
}

/// What the reader of one source found, by the kind of file. At least `train` or `all` is needed.
#[derive(Debug, Default)]
pub struct SourceTables {
    /// Rows of `train` files.
    pub train: Option<Table>,
    /// Rows of `val` files.
    pub val: Option<Table>,
    /// Rows of `test` files.
    pub test: Option<Table>,
    /// Rows of `file`, which `split` divides.
    pub all: Option<Table>,
}

/// Some rows of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub table: &'a Table,
    pub rows: &'a [u32],
}

impl<'a> View<'a> {
    pub fn cells(&self, column: usize) -> &'a Cells {
        &self.table.columns[column].1
    }

    pub fn name(&self, column: usize) -> &'a str {
        &self.table.columns[column].0
    }

    /// An error about a cell; `row` counts in the table.
    pub fn bad(&self, row: u32, column: usize, message: String) -> DataError {
        DataError::Bad { place: self.table.place(row as usize), column: Some(self.name(column).to_string()), message }
    }
}

/// The rows of each split of one source, as indices into one of its tables.
#[derive(Debug)]
pub(crate) struct Division {
    parts: [Option<(FromFile, Vec<u32>)>; 3],
}

/// Whether a split is cut from the main table (`file`, or `train`), or has files of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FromFile {
    Main,
    Own,
}

impl Division {
    /// The rows of a split, if the source has that split. `tables` are those that were divided.
    pub fn view<'a>(&'a self, tables: &'a SourceTables, split: Split) -> Option<View<'a>> {
        let (from, rows) = self.parts[split as usize].as_ref()?;
        let table = match (from, split) {
            (FromFile::Own, Split::Val) => tables.val.as_ref(),
            (FromFile::Own, Split::Test) => tables.test.as_ref(),
            _ => tables.all.as_ref().or(tables.train.as_ref()),
        }?;
        Some(View { table, rows })
    }
}

/// Divides the rows of a source. `column` is the position of the split column in the main table.
///
/// # Errors
/// No training file, a split value listed nowhere, a split given twice, or a split that is asked for and empty.
pub(crate) fn divide(
    (index, name): (usize, &str),
    tables: &SourceTables,
    split: Option<&config::Split>,
    column: Option<usize>,
) -> Result<Division, DataError> {
    let unfit = |text: String| DataError::Unfit(format!("source `{name}`: {text}"));
    let main = match (&tables.all, &tables.train) {
        (Some(_), None) if split.is_none() => return Err(unfit("`file` needs `split` to divide its rows".into())),
        (Some(table), None) | (None, Some(table)) => table,
        (Some(_), Some(_)) => return Err(unfit("both `file` and `train` are given; keep one of them".into())),
        (None, None) => return Err(unfit("no training rows: give `train`, or `file` with `split`".into())),
    };
    let cut = match (split, column) {
        (None, _) => [Some((0..main.n_rows as u32).collect()), None, None],
        (Some(config::Split::Fraction(f)), _) => by_fraction(main.n_rows, f, index),
        (Some(config::Split::Column(c)), Some(column)) => by_column(main, c, column)?,
        (Some(config::Split::Column(c)), None) => return Err(unfit(format!("no split column `{}`", c.name))),
    };
    let mut parts = cut.map(|rows| rows.map(|rows| (FromFile::Main, rows)));
    for (split, own) in [(Split::Val, &tables.val), (Split::Test, &tables.test)] {
        let (Some(table), part) = (own, &mut parts[split as usize]) else { continue };
        if part.is_some() {
            let name = split.name();
            return Err(unfit(format!(
                "the {name} split has files of its own and a share in `split`; keep one of them"
            )));
        }
        *part = Some((FromFile::Own, (0..table.n_rows as u32).collect()));
    }
    let division = Division { parts };
    for split in Split::ALL {
        if let Some(View { table, .. }) = division.view(tables, split).filter(|view| view.rows.is_empty()) {
            let (name, n, files) = (split.name(), table.n_rows, files(table));
            let advice = "check the files and `split`";
            return Err(unfit(format!("the {name} split is empty ({n} rows were read{files}); {advice}")));
        }
    }
    Ok(division)
}

/// ` from a.csv, b.csv`, or nothing where the files are not known.
fn files(table: &Table) -> String {
    let paths: Vec<String> = table.origins.iter().map(|o| o.path.display().to_string()).collect();
    if paths.is_empty() { String::new() } else { format!(" from {}", paths.join(", ")) }
}

/// Test rows come first in the permutation, then validation rows: changing `val` leaves the test split as it is.
fn by_fraction(n: usize, fraction: &config::SplitFraction, source: usize) -> [Option<Vec<u32>>; 3] {
    let order = permutation(&mut rng(fraction.seed, Stream::Split, source as u64, 0), n);
    let count = |share: f64| if share > 0.0 { ((n as f64 * share).round() as usize).max(1) } else { 0 };
    let n_test = count(fraction.test).min(n);
    let n_val = count(fraction.val).min(n - n_test);
    let sorted = |part: &[u32]| {
        let mut rows = part.to_vec();
        rows.sort_unstable();
        rows
    };
    let wanted = |share: f64, part: &[u32]| (share > 0.0).then(|| sorted(part));
    [
        Some(sorted(&order[n_test + n_val..])),
        wanted(fraction.val, &order[n_test..n_test + n_val]),
        wanted(fraction.test, &order[..n_test]),
    ]
}

fn by_column(table: &Table, split: &config::SplitColumn, column: usize) -> Result<[Option<Vec<u32>>; 3], DataError> {
    let lists = [&split.train, &split.val, &split.test];
    let bad = |row: usize, message: String| DataError::Bad {
        place: table.place(row),
        column: Some(split.name.clone()),
        message,
    };
    let Cells::Strings(values) = &table.columns[column].1 else {
        return Err(DataError::Unfit(format!("split column `{}` does not hold single values", split.name)));
    };
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for (row, value) in values.iter().enumerate() {
        let Some(value) = value else {
            return Err(bad(row, "blank; every row needs a split value".into()));
        };
        let found = lists.iter().position(|list| list.iter().any(|listed| same_value(listed, value)));
        let Some(found) = found else {
            let known = Split::ALL.map(|s| format!("{}: {:?}", s.name(), lists[s as usize])).join(", ");
            return Err(bad(
                row,
                format!("split value `{value}` is listed nowhere ({known}); list it in `split.column`"),
            ));
        };
        parts[found].push(row as u32);
    }
    let [train, val, test] = parts;
    let listed = |list: &[String], rows| (!list.is_empty()).then_some(rows);
    Ok([Some(train), listed(&split.val, val), listed(&split.test, test)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{column, strings, table};
    use super::*;

    fn rows(division: &Division, tables: &SourceTables, split: Split) -> Vec<u32> {
        division.view(tables, split).map(|v| v.rows.to_vec()).unwrap_or_default()
    }

    fn of_file(n: usize) -> SourceTables {
        SourceTables { all: Some(table("a.csv", n, vec![])), ..Default::default() }
    }

    fn fraction(val: f64, test: f64, seed: u64) -> config::Split {
        config::Split::Fraction(config::SplitFraction { val, test, seed })
    }

    #[test]
    fn fractions_partition_the_rows_in_file_order() {
        let tables = of_file(103);
        let d = divide((0, "s"), &tables, Some(&fraction(0.1, 0.2, 3)), None).unwrap();
        let parts = Split::ALL.map(|s| rows(&d, &tables, s));
        assert_eq!(parts.each_ref().map(Vec::len), [72, 10, 21]);
        assert!(parts.iter().all(|p| p.is_sorted()));
        let mut all = parts.concat();
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<_>>());
    }

    #[test]
    fn fractions_depend_on_seed_and_source_and_another_val_share_keeps_the_test_split() {
        let tables = of_file(50);
        let test_rows = |source, val, seed| {
            let d = divide((source, "s"), &tables, Some(&fraction(val, 0.2, seed)), None).unwrap();
            rows(&d, &tables, Split::Test)
        };
        assert_eq!(test_rows(0, 0.1, 0), test_rows(0, 0.3, 0));
        assert_ne!(test_rows(0, 0.1, 0), test_rows(0, 0.1, 1));
        assert_ne!(test_rows(0, 0.1, 0), test_rows(1, 0.1, 0));
    }

    #[test]
    fn a_fraction_cuts_only_splits_without_files() {
        let mut tables = SourceTables {
            train: Some(table("train.csv", 10, vec![])),
            test: Some(table("test.csv", 4, vec![])),
            ..Default::default()
        };
        let d = divide((0, "s"), &tables, Some(&fraction(0.2, 0.0, 0)), None).unwrap();
        assert_eq!(Split::ALL.map(|s| rows(&d, &tables, s).len()), [8, 2, 4]);
        assert_eq!(d.view(&tables, Split::Test).unwrap().table.place(0), "test.csv:2");
        tables.val = Some(table("val.csv", 4, vec![]));
        let e = divide((0, "s"), &tables, Some(&fraction(0.2, 0.0, 0)), None).unwrap_err();
        assert_eq!(
            e.to_string(),
            "source `s`: the val split has files of its own and a share in `split`; keep one of them"
        );
    }

    fn by(train: &[&str], val: &[&str], test: &[&str]) -> config::Split {
        let list = |v: &[&str]| v.iter().map(|s| s.to_string()).collect();
        config::Split::Column(column_of(list(train), list(val), list(test)))
    }

    fn column_of(train: Vec<String>, val: Vec<String>, test: Vec<String>) -> config::SplitColumn {
        config::SplitColumn { name: "fold".into(), train, val, test }
    }

    #[test]
    fn a_column_sends_rows_to_where_their_value_is_listed() {
        let all = table("a.csv", 5, vec![column("fold", strings(&["0", "2", "1.0", "0", "3"]))]);
        let tables = SourceTables { all: Some(all), ..Default::default() };
        let d = divide((0, "s"), &tables, Some(&by(&["0", "3"], &["1"], &["2"])), Some(0)).unwrap();
        assert_eq!(Split::ALL.map(|s| rows(&d, &tables, s)), [vec![0, 3, 4], vec![2], vec![1]]);
        let e = divide((0, "s"), &tables, Some(&by(&["0"], &["1"], &["2"])), Some(0)).unwrap_err();
        assert_eq!(
            e.to_string(),
            "a.csv:6: column `fold`: split value `3` is listed nowhere (train: [\"0\"], val: [\"1\"], test: [\"2\"]); \
             list it in `split.column`"
        );
    }

    #[test]
    fn what_cannot_be_divided_is_refused() {
        let all = table("a.csv", 2, vec![column("fold", strings(&["0", "0"]))]);
        let tables = SourceTables { all: Some(all), ..Default::default() };
        let message =
            |split: &config::Split, column| divide((0, "s"), &tables, Some(split), column).unwrap_err().to_string();
        let empty = |name| {
            format!("source `s`: the {name} split is empty (2 rows were read from a.csv); check the files and `split`")
        };
        assert_eq!(message(&by(&["1"], &["0"], &[]), Some(0)), empty("train"));
        assert_eq!(message(&by(&["0"], &["1"], &[]), Some(0)), empty("val"));
        assert_eq!(message(&fraction(0.4, 0.5, 0), None), empty("train"));
        let e = divide((0, "s"), &of_file(3), None, None).unwrap_err();
        assert_eq!(e.to_string(), "source `s`: `file` needs `split` to divide its rows");
        let e = divide((0, "s"), &SourceTables::default(), None, None).unwrap_err();
        assert_eq!(e.to_string(), "source `s`: no training rows: give `train`, or `file` with `split`");
    }

    #[test]
    fn a_blank_split_value_is_refused() {
        let all = table("a.csv", 2, vec![column("fold", Cells::Strings(vec![Some("0".into()), None]))]);
        let tables = SourceTables { all: Some(all), ..Default::default() };
        let e = divide((0, "s"), &tables, Some(&by(&["0"], &[], &[])), Some(0)).unwrap_err();
        assert_eq!(e.to_string(), "a.csv:3: column `fold`: blank; every row needs a split value");
    }
}
