//! Target columns into labels: 0/1, class indices, or standardised numbers, with missing labels kept apart.

use super::fit::{FittedTask, Moments, finish};
use super::split::View;
use super::table::Cells;
use super::values::{same_value, sort_values, width};
use super::{DataError, Target};
use crate::config::{Binary, Kind, Task};
use crate::ffi::tensor_of;
use std::collections::{BTreeMap, BTreeSet};

/// The target of one task in some rows.
pub(crate) struct Column<'a> {
    pub name: &'a str,
    pub task: &'a Task,
    pub columns: &'a [usize],
    pub view: View<'a>,
    pub refuse_nan: bool,
}

/// One value per row of the table.
type Texts<'a> = &'a [Option<Box<str>>];

/// Labels of one task, a row per sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Labels {
    /// `n * width` numbers, NaN where missing.
    Numbers { width: usize, values: Vec<f32> },
    /// `n` class indices, -1 where missing.
    Classes(Vec<i32>),
}

impl Column<'_> {
    fn unfit(&self, text: String) -> DataError {
        DataError::Unfit(format!("task `{}`: {text}", self.name))
    }

    /// The only target column of a task that takes one value per row.
    fn single(&self) -> Result<(usize, Texts<'_>), DataError> {
        match self.columns {
            [column] => match self.view.cells(*column) {
                Cells::Strings(cells) => Ok((*column, cells)),
                _ => Err(self.unfit("the target must hold one value per row".into())),
            },
            _ => Err(self.unfit(format!("one target column is needed, {} are given", self.columns.len()))),
        }
    }

    /// Names of the values of a row: the columns, numbered where a column holds several values.
    fn value_names(&self) -> Vec<String> {
        let of = |&c: &usize| {
            let (name, n) = (self.view.name(c), width(self.view.cells(c)));
            (0..n).map(move |i| if n == 1 { name.to_string() } else { format!("{name}[{i}]") })
        };
        self.columns.iter().flat_map(of).collect()
    }

    /// The column that holds a row's value at `at`.
    fn column_of(&self, at: usize) -> usize {
        let owners = self.columns.iter().flat_map(|&c| std::iter::repeat_n(c, width(self.view.cells(c))));
        owners.skip(at).chain(self.columns.iter().copied()).next().unwrap_or_default()
    }

    /// All values of the rows, row by row, as `parse` makes them out of cells; NaN where missing.
    fn numbers(&self, parse: impl Fn(Cell) -> Result<f64, String>) -> Result<Vec<f64>, DataError> {
        let total: usize = self.columns.iter().map(|&c| width(self.view.cells(c))).sum();
        let mut all = Vec::with_capacity(total * self.view.rows.len());
        for &row in self.view.rows {
            for &column in self.columns {
                let bad = |message| self.view.bad(row, column, message);
                match self.view.cells(column) {
                    Cells::Strings(cells) => {
                        let cell = cells[row as usize].as_deref();
                        all.push(cell.map_or(Ok(f64::NAN), |text| parse(Cell::Text(text))).map_err(bad)?);
                    }
                    Cells::Numbers { values, .. } => {
                        let width = width(self.view.cells(column));
                        for &x in &values[row as usize * width..][..width] {
                            all.push(self.number(x).and_then(&parse).map_err(bad)?);
                        }
                    }
                    Cells::Bits { .. } | Cells::Bytes { .. } => {
                        return Err(self.unfit(format!("column `{}` does not hold labels", self.view.name(column))));
                    }
                }
            }
        }
        Ok(all)
    }

    fn number(&self, x: f64) -> Result<Cell<'static>, String> {
        match x {
            x if x.is_finite() => Ok(Cell::Number(x)),
            x if x.is_nan() && !self.refuse_nan => Ok(Cell::Number(x)),
            x if x.is_nan() => Err("NaN target; remove the row, or give the label".into()),
            x => Err(format!("target {x} is not finite; remove the row, or correct the label")),
        }
    }
}

/// A cell that is there.
#[derive(Clone, Copy)]
enum Cell<'a> {
    Text(&'a str),
    Number(f64),
}

impl std::fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Cell::Text(text) => f.write_str(text),
            Cell::Number(x) => write!(f, "{x}"),
        }
    }
}

/// Fits a target on the training rows.
///
/// # Errors
/// No label at all, a single class, or a label of the wrong kind.
pub(crate) fn fit(target: &Column) -> Result<FittedTask, DataError> {
    let mut fitted =
        FittedTask { name: target.name.into(), outputs: target.value_names(), mean: Vec::new(), std: Vec::new() };
    match &target.task.kind {
        Kind::Multiclass(options) => fitted.outputs = classes(target, options.classes)?,
        Kind::Regression(options) => {
            let values = target.numbers(regression)?;
            let mut moments = vec![Moments::default(); fitted.outputs.len()];
            for row in values.chunks_exact(moments.len()) {
                moments.iter_mut().zip(row).filter(|(_, y)| !y.is_nan()).for_each(|(m, y)| m.add(*y));
            }
            (fitted.mean, fitted.std) = finish(target.view.name(target.columns[0]), moments)?;
            if !options.standardize {
                fitted.mean.fill(0.0);
                fitted.std.fill(1.0);
            }
        }
        Kind::Binary(_) | Kind::Multilabel(_) => {}
    }
    if encode(target, &fitted)?.n_labelled() == 0 {
        let columns: Vec<&str> = target.columns.iter().map(|&c| target.view.name(c)).collect();
        return Err(target.unfit(format!(
            "no row of the training split has a label in `{}`; check the column, or remove the task",
            columns.join("`, `")
        )));
    }
    if let Kind::Binary(options) = &target.task.kind {
        check_positive(target, &options.positive)?;
    }
    Ok(fitted)
}

/// A misspelt value in `positive` would make every sample negative without a word.
fn check_positive(target: &Column, positive: &[String]) -> Result<(), DataError> {
    let (column, cells) = target.single()?;
    let found: BTreeSet<&str> = target.view.rows.iter().filter_map(|&row| cells[row as usize].as_deref()).collect();
    if positive.is_empty() || found.iter().any(|value| positive.iter().any(|listed| same_value(listed, value))) {
        return Ok(());
    }
    let found: Vec<String> = found.into_iter().map(str::to_string).collect();
    Err(target.unfit(format!(
        "none of the values in `positive` ({}) occurs in `{}` in the training split ({})",
        some(positive),
        target.view.name(column),
        some(&found)
    )))
}

fn classes(target: &Column, n: Option<usize>) -> Result<Vec<String>, DataError> {
    if let Some(n) = n {
        return Ok((0..n).map(|c| c.to_string()).collect());
    }
    let (column, cells) = target.single()?;
    let found: BTreeSet<&str> = target.view.rows.iter().filter_map(|&row| cells[row as usize].as_deref()).collect();
    if found.len() == 1 {
        let (column, class) = (target.view.name(column), found.first().copied().unwrap_or_default());
        return Err(target
            .unfit(format!("`{column}` has the one class `{class}` in the training split; two or more are needed")));
    }
    Ok(sort_values(found.into_iter().map(str::to_string).collect()))
}

/// Turns the target cells of some rows into labels.
///
/// # Errors
/// The first label that does not fit, with its place.
pub(crate) fn encode(target: &Column, fitted: &FittedTask) -> Result<Labels, DataError> {
    let width = fitted.outputs.len();
    let given: usize = target.columns.iter().map(|&c| self::width(target.view.cells(c))).sum();
    if !matches!(target.task.kind, Kind::Multiclass(_)) && width != given {
        return Err(target.unfit(format!("{given} target values a row, but the model was fitted for {width}")));
    }
    let values = match &target.task.kind {
        Kind::Multiclass(options) => return encode_classes(target, fitted, options.classes.is_some()),
        Kind::Binary(options) => {
            target.single()?;
            target.numbers(|cell| binary(cell, options))?
        }
        Kind::Multilabel(_) => target.numbers(|cell| binary(cell, &Binary::default()))?,
        Kind::Regression(_) => {
            let mut values = target.numbers(regression)?;
            for row in values.chunks_exact_mut(width.max(1)) {
                let transform = fitted.mean.iter().zip(&fitted.std);
                row.iter_mut().zip(transform).for_each(|(y, (mean, std))| *y = (*y - mean) / std);
            }
            values
        }
    };
    if let Some(at) = values.iter().position(|y| (*y as f32).is_infinite()) {
        let (row, column) = (target.view.rows[at / width], target.column_of(at % width));
        return Err(target.view.bad(row, column, format!("target {} is too large for a 32-bit float", values[at])));
    }
    Ok(Labels::Numbers { width, values: values.into_iter().map(|y| y as f32).collect() })
}

fn encode_classes(target: &Column, fitted: &FittedTask, numbered: bool) -> Result<Labels, DataError> {
    let (column, cells) = target.single()?;
    let n = fitted.outputs.len();
    let known: BTreeMap<&str, i32> = fitted.outputs.iter().map(String::as_str).zip(0..).collect();
    let whole = |text: &str| text.parse::<f64>().ok().filter(|x| x.fract() == 0.0 && (0.0..n as f64).contains(x));
    let find = |text: &str| match numbered {
        true => whole(text).map(|x| x as i32),
        false => known.get(text).copied(),
    };
    let class = |&row: &u32| match cells[row as usize].as_deref() {
        None => Ok(-1),
        Some(text) => find(text).ok_or_else(|| {
            let message = match numbered {
                true => {
                    format!("label `{text}` is out of range; expected a whole number from 0 to {}", n.saturating_sub(1))
                }
                false => format!("class `{text}` does not occur in the training split ({})", some(&fitted.outputs)),
            };
            target.view.bad(row, column, message)
        }),
    };
    Ok(Labels::Classes(target.view.rows.iter().map(class).collect::<Result<_, _>>()?))
}

/// The first names of a list that may be long.
fn some(names: &[String]) -> String {
    match names {
        [.., _] if names.len() > 10 => format!("{}, .. {} in all", names[..8].join(", "), names.len()),
        _ => names.join(", "),
    }
}

fn regression(cell: Cell) -> Result<f64, String> {
    match cell {
        Cell::Number(y) => Ok(y),
        Cell::Text(text) => Err(format!("target `{text}` is not a number")),
    }
}

fn binary(cell: Cell, options: &Binary) -> Result<f64, String> {
    let bit = |yes: bool| f64::from(u8::from(yes));
    match cell {
        Cell::Number(x) if x.is_nan() || x == 0.0 || x == 1.0 => Ok(x),
        Cell::Text(text) if !options.positive.is_empty() => {
            Ok(bit(options.positive.iter().any(|listed| same_value(listed, text))))
        }
        Cell::Text("1" | "1.0" | "true" | "True" | "TRUE") => Ok(1.0),
        Cell::Text("0" | "0.0" | "false" | "False" | "FALSE") => Ok(0.0),
        cell => Err(format!(
            "label `{cell}` is not binary; expected 0/1 or true/false, or name the positive values in \
             `kind: {{binary: {{positive: [..]}}}}`"
        )),
    }
}

impl Labels {
    /// Number of samples with at least one label.
    pub fn n_labelled(&self) -> usize {
        match self {
            Labels::Classes(classes) => classes.iter().filter(|c| **c >= 0).count(),
            Labels::Numbers { width, values } => {
                values.chunks_exact((*width).max(1)).filter(|row| row.iter().any(|y| !y.is_nan())).count()
            }
        }
    }

    /// The labels of some rows as tensors.
    pub fn gather(&self, task: usize, rows: &[u32]) -> Target {
        match self {
            Labels::Classes(classes) => {
                let of = |&row: &u32| match classes[row as usize] {
                    -1 => -100,
                    class => i64::from(class),
                };
                let values: Vec<i64> = rows.iter().map(of).collect();
                let n_labelled = values.iter().filter(|c| **c >= 0).count();
                Target { task, values: tensor_of(&values, &[rows.len()]), mask: None, n_labelled }
            }
            Labels::Numbers { width, values } => gather_numbers(task, *width, values, rows),
        }
    }
}

fn gather_numbers(task: usize, width: usize, values: &[f32], rows: &[u32]) -> Target {
    let mut picked = Vec::with_capacity(rows.len() * width);
    let mut n_labelled = 0;
    for &row in rows {
        let labels = &values[row as usize * width..][..width];
        n_labelled += usize::from(labels.iter().any(|y| !y.is_nan()));
        picked.extend_from_slice(labels);
    }
    let shape = [rows.len(), width];
    let mask = picked.iter().any(|y| y.is_nan()).then(|| {
        let mask: Vec<f32> = picked.iter().map(|y| f32::from(u8::from(!y.is_nan()))).collect();
        picked.iter_mut().filter(|y| y.is_nan()).for_each(|y| *y = 0.0);
        tensor_of(&mask, &shape)
    });
    Target { task, values: tensor_of(&picked, &shape), mask, n_labelled }
}
