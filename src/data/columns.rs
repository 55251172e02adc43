//! Which columns of a source's files are wanted, what for, and where each one is in the table that comes back.

use super::DataError;
use super::table::{Role, Table, Wanted};
use super::values::{n_values, width};
use crate::config::{self, Config, Kind, Missing, Source};

/// Columns of one source by use, as positions in `wanted` (and so in the table).
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub wanted: Vec<Wanted>,
    pub numeric: Vec<usize>,
    pub categorical: Vec<usize>,
    pub bits: Vec<usize>,
    pub dense: Vec<usize>,
    pub text: Vec<usize>,
    pub image: Option<usize>,
    /// Per task of this source: index of the task, its target columns.
    pub targets: Vec<(usize, Vec<usize>)>,
    pub split: Option<usize>,
    /// The split column is wanted for nothing else (it is then the last one, and own `val` and `test` files need not have it).
    split_alone: bool,
    /// What a blank numeric cell becomes.
    pub missing: Missing,
    /// Number arrays have no blanks: a NaN is a mistake.
    pub refuse_nan: bool,
}

impl Columns {
    /// Inputs alone, as for predictions.
    pub fn inputs(source: &Source) -> Columns {
        let mut c = Columns::default();
        match source {
            Source::Csv(t) | Source::Parquet(t) | Source::Arff(t) => {
                c.missing = t.missing;
                c.numeric = c.want_all(&t.numeric, Role::Number);
                c.categorical = c.want_all(&t.categorical, Role::Category);
                c.bits = c.want_all(&t.bits, Role::Bits);
                c.text = c.want_all(&t.text, Role::Text);
            }
            Source::Arrays(a) => {
                c.refuse_nan = true;
                c.numeric = c.want_all(&a.numeric, Role::Number);
                c.dense = c.want_all(&a.dense, Role::Number);
                c.image = a.image.as_ref().map(|name| c.want(name, Role::Image));
            }
            Source::Idx(_) | Source::Multimnist(_) => c.image = Some(c.want("image", Role::Image)),
        }
        c
    }

    /// Inputs, the targets of every task on the source, and the split column.
    pub fn all(config: &Config, source: usize) -> Columns {
        let (name, source) = &config.data.sources[source];
        let mut c = Columns::inputs(source);
        for (index, (_, task)) in config.tasks.iter().enumerate().filter(|(_, (_, task))| task.source == *name) {
            let role = target_role(&task.kind, matches!(source, Source::Arrays(_)));
            let columns = task.target.columns().into_iter().map(|column| c.want(column, role)).collect();
            c.targets.push((index, columns));
        }
        if let Some(config::Split::Column(split)) = split_of(source) {
            let before = c.wanted.len();
            c.split = Some(c.want(&split.name, Role::Category));
            c.split_alone = c.wanted.len() > before;
        }
        c
    }

    /// What to ask of a `val` or `test` file.
    pub fn without_split(&self) -> &[Wanted] {
        &self.wanted[..self.wanted.len() - usize::from(self.split_alone)]
    }

    fn want(&mut self, name: &str, role: Role) -> usize {
        if let Some(at) = self.wanted.iter().position(|w| w.name == name && w.role == role) {
            return at;
        }
        self.wanted.push(Wanted { name: name.to_string(), role });
        self.wanted.len() - 1
    }

    fn want_all(&mut self, names: &[String], role: Role) -> Vec<usize> {
        names.iter().map(|name| self.want(name, role)).collect()
    }
}

/// Labels are read as strings, so that any value can be a class; label arrays may have several columns, so as numbers.
fn target_role(kind: &Kind, arrays: bool) -> Role {
    match kind {
        Kind::Regression(_) => Role::Number,
        Kind::Multilabel(_) if arrays => Role::Number,
        Kind::Binary(_) | Kind::Multiclass(_) | Kind::Multilabel(_) => Role::Category,
    }
}

/// How a source's rows are divided.
pub(crate) fn split_of(source: &Source) -> Option<&config::Split> {
    match source {
        Source::Csv(t) | Source::Parquet(t) | Source::Arff(t) => t.split.as_ref(),
        Source::Arrays(a) => a.split.as_ref(),
        Source::Idx(i) => i.split.as_ref(),
        Source::Multimnist(_) => None,
    }
}

/// Checks that a reader handed over what was asked for: positions are relied upon from here on.
///
/// # Errors
/// A table with other columns, with columns of another length, or with more rows than an index can count.
pub(crate) fn check_table(source: &str, wanted: &[Wanted], table: &Table) -> Result<(), DataError> {
    let asked = wanted.iter().map(|w| w.name.as_str());
    if table.columns.len() != wanted.len() || !asked.eq(table.columns.iter().map(|(name, _)| name.as_str())) {
        let names = |list: Vec<&str>| list.join(", ");
        return Err(DataError::Unfit(format!(
            "source `{source}`: expected the columns {}, found {}",
            names(wanted.iter().map(|w| w.name.as_str()).collect()),
            names(table.columns.iter().map(|(name, _)| name.as_str()).collect()),
        )));
    }
    if table.n_rows >= u32::MAX as usize {
        return Err(DataError::Unfit(format!(
            "source `{source}`: {} rows are too many (at most {}); divide it into several sources",
            table.n_rows,
            u32::MAX - 1
        )));
    }
    for (name, cells) in &table.columns {
        let found = n_values(cells);
        if found != table.n_rows * width(cells) {
            let (rows, width) = (table.n_rows, width(cells));
            return Err(DataError::Unfit(format!(
                "source `{source}`: column `{name}` has {found} values, expected {rows} rows of {width}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{column, config, numbers, table};
    use super::*;

    #[test]
    fn a_column_with_two_uses_of_one_role_is_wanted_once() {
        let c = config(
            r#"{"data": {"sources": {"s": {"csv": {"file": "a.csv", "numeric": ["x", "y"], "text": ["t"],
                "split": {"column": {"name": "c", "train": ["a"]}}}}}},
              "tasks": {"c": {"source": "s", "target": "c", "kind": {"multiclass": {}}},
                        "y": {"source": "s", "target": ["y"], "kind": {"regression": {}}},
                        "d": {"source": "s", "target": "y", "kind": {"binary": {}}}}}"#,
        );
        let columns = Columns::all(&c, 0);
        let wanted: Vec<_> = columns.wanted.iter().map(|w| (w.name.as_str(), w.role)).collect();
        let expected =
            [("x", Role::Number), ("y", Role::Number), ("t", Role::Text), ("c", Role::Category), ("y", Role::Category)];
        assert_eq!(wanted, expected);
        assert_eq!(columns.targets, [(0, vec![3]), (1, vec![1]), (2, vec![4])]);
        // The split column is a target too, so every file must have it.
        assert_eq!((columns.split, columns.without_split().len()), (Some(3), 5));
    }

    #[test]
    fn tables_other_than_asked_for_are_refused() {
        let wanted = [Wanted { name: "x".into(), role: Role::Number }];
        let other = table("a.csv", 1, vec![column("y", numbers(&[1.0]))]);
        let e = check_table("s", &wanted, &other).unwrap_err();
        assert_eq!(e.to_string(), "source `s`: expected the columns x, found y");
        let short = table("a.csv", 2, vec![column("x", numbers(&[1.0]))]);
        let e = check_table("s", &wanted, &short).unwrap_err();
        assert_eq!(e.to_string(), "source `s`: column `x` has 1 values, expected 2 rows of 1");
    }
}
