//! What is learned from the training split alone, over all sources together: standardisation, vocabularies, classes.
//!
//! It is saved with the model, so that evaluation, prediction and a resumed run transform their inputs in the same way.
//! Nothing here depends on the number of ranks: every rank fits the whole training split and finds the same.

use super::columns::Columns;
use super::labels;
use super::split::View;
use super::table::Cells;
use super::values::{sort_values, width};
use super::words::{Counter, Vocabulary, tokenize};
use super::{DataError, InputDims};
use crate::config::{self, Config, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Everything fitted on the training split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// Standardised columns, first in the dense inputs.
    pub numeric: Vec<Standard>,
    /// Arrays taken as they are, after them.
    pub dense: Vec<Block>,
    /// Bits, last in the dense inputs.
    pub bits: Vec<Block>,
    /// Categorical columns.
    pub categorical: Vec<Category>,
    /// The vocabulary of all text columns.
    pub text: Option<Vocabulary>,
    /// Images as (channels, height, width).
    pub image: Option<[usize; 3]>,
    /// What was fitted on the targets, in the order of the tasks.
    pub tasks: Vec<FittedTask>,
}

/// A column standardised with the mean and the (population) standard deviation of each of its values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standard {
    /// Name of the column.
    pub name: String,
    /// Means, one per value of a row.
    pub mean: Vec<f64>,
    /// Standard deviations; 1 where all values are the same.
    pub std: Vec<f64>,
}

/// A column taken as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Name of the column.
    pub name: String,
    /// Values per row.
    pub width: usize,
}

/// A categorical column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// Name of the column.
    pub name: String,
    /// Known values, sorted. Index 0 is "unknown or missing", so `values[i]` has `i + 1`.
    pub values: Vec<String>,
}

/// What was fitted on the target of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedTask {
    /// Name of the task.
    pub name: String,
    /// Names of the outputs: classes of a multi-class task, else target columns.
    pub outputs: Vec<String>,
    /// Regression: what was subtracted from each target column (0 without standardisation); else empty.
    pub mean: Vec<f64>,
    /// Regression: what each target column was divided by after that; else empty.
    pub std: Vec<f64>,
}

impl Fitted {
    /// Widths of the inputs.
    pub fn dims(&self) -> InputDims {
        let numeric: usize = self.numeric.iter().map(|n| n.mean.len()).sum();
        let blocks: usize = self.dense.iter().chain(&self.bits).map(|b| b.width).sum();
        InputDims {
            dense: numeric + blocks,
            categories: self.categorical.iter().map(|c| c.values.len() + 1).collect(),
            vocab: self.text.as_ref().map_or(0, |v| v.words.len() + 1),
            image: self.image,
        }
    }

    /// Whether the parts agree with each other and with the tasks: a checkpoint may come from anywhere.
    ///
    /// # Errors
    /// The first part that cannot be.
    pub(crate) fn check(&self, config: &Config) -> Result<(), DataError> {
        let unfit = |text: String| DataError::Unfit(format!("the transforms of the checkpoint: {text}"));
        for Standard { name, mean, std } in &self.numeric {
            scales(mean, std, mean.len()).map_err(|why| unfit(format!("column `{name}`: {why}")))?;
        }
        let widths = self.dense.iter().chain(&self.bits).map(|block| block.width);
        let total = widths.chain(self.image.into_iter().flatten()).try_fold(1usize, |n, width| n.checked_add(width));
        let pixels = self.image.map_or(Some(1), |[c, h, w]| c.checked_mul(h)?.checked_mul(w));
        if total.max(pixels).is_none_or(|n| n > MOST_INPUTS) || total.is_none() || pixels.is_none() {
            return Err(unfit(format!("more than {MOST_INPUTS} inputs")));
        }
        if let Some(text) = self.text.as_ref().filter(|text| text.ngrams > MOST_NGRAMS) {
            return Err(unfit(format!("runs of {} words, at most {MOST_NGRAMS} are read", text.ngrams)));
        }
        for ((name, task), fitted) in config.tasks.iter().zip(&self.tasks) {
            task_fits(task, fitted).map_err(|why| unfit(format!("task `{name}`: {why}")))?;
        }
        Ok(())
    }

    /// The inputs in words, to compare with those of a table.
    pub(crate) fn signature(&self) -> Vec<String> {
        let numeric = self.numeric.iter().map(|n| entry("numeric", &n.name, n.mean.len()));
        let dense = self.dense.iter().map(|b| entry("dense", &b.name, b.width));
        let bits = self.bits.iter().map(|b| entry("bits", &b.name, b.width));
        let categorical = self.categorical.iter().map(|c| format!("categorical `{}`", c.name));
        let text = self.text.iter().map(|_| "text".to_string());
        let image = self.image.iter().map(|&[c, h, w]| format!("images of {c}x{h}x{w}"));
        numeric.chain(dense).chain(bits).chain(categorical).chain(text).chain(image).collect()
    }
}

/// What a configuration may ask for: the time of a text goes by it.
const MOST_NGRAMS: usize = 10;
/// More inputs of one row than any model has.
const MOST_INPUTS: usize = 1 << 31;

/// Means and standard deviations of `n` values, which numbers can be scaled with.
fn scales(mean: &[f64], std: &[f64], n: usize) -> Result<(), String> {
    if (mean.len(), std.len()) != (n, n) {
        return Err(format!("{} means and {} deviations, expected {n}", mean.len(), std.len()));
    }
    match mean.iter().find(|m| !m.is_finite()).or(std.iter().find(|s| !s.is_finite() || **s <= 0.0)) {
        Some(odd) => Err(format!("{odd} is no mean, or no deviation")),
        None => Ok(()),
    }
}

/// Outputs and scales of a task of this kind.
fn task_fits(task: &config::Task, fitted: &FittedTask) -> Result<(), String> {
    let n = fitted.outputs.len();
    let wanted = match &task.kind {
        Kind::Multiclass(options) => options.classes,
        Kind::Binary(_) => Some(1),
        Kind::Multilabel(_) | Kind::Regression(_) => None,
    };
    match wanted {
        Some(wanted) if wanted != n => return Err(format!("{n} outputs, expected {wanted}")),
        None if n == 0 => return Err("no outputs".into()),
        _ => {}
    }
    scales(&fitted.mean, &fitted.std, if matches!(task.kind, Kind::Regression(_)) { n } else { 0 })
}

fn entry(kind: &str, name: &str, width: usize) -> String {
    format!("{kind} `{name}` of width {width}")
}

/// The inputs of a table in words. Names of text and image columns do not matter: their contents are alike everywhere.
pub(crate) fn signature(columns: &Columns, view: View) -> Result<Vec<String>, DataError> {
    let of = |kind: &'static str, list: &[usize]| {
        list.iter().map(|&c| entry(kind, view.name(c), width(view.cells(c)))).collect::<Vec<_>>()
    };
    let mut all = [of("numeric", &columns.numeric), of("dense", &columns.dense), of("bits", &columns.bits)].concat();
    all.extend(columns.categorical.iter().map(|&c| format!("categorical `{}`", view.name(c))));
    all.extend((!columns.text.is_empty()).then(|| "text".to_string()));
    if let Some(image) = columns.image {
        let [c, h, w] = image_shape(view, image)?;
        all.push(format!("images of {c}x{h}x{w}"));
    }
    Ok(all)
}

/// Refuses inputs that differ; each side comes with the words for what it is.
///
/// # Errors
/// The first difference, naming both sides.
pub(crate) fn check_same(a: (&str, &[String]), b: (&str, &[String])) -> Result<(), DataError> {
    let n = a.1.len().max(b.1.len());
    let Some(at) = (0..n).find(|&i| a.1.get(i) != b.1.get(i)) else { return Ok(()) };
    let what = |side: &[String]| side.get(at).cloned().unwrap_or_else(|| "nothing".into());
    Err(DataError::Unfit(format!(
        "{} has {} where {} has {}; the encoder is shared, so all inputs must have the same columns and widths, in the \
         same order",
        b.0,
        what(b.1),
        a.0,
        what(a.1)
    )))
}

/// Shape of an image column as (channels, height, width).
pub(crate) fn image_shape(view: View, column: usize) -> Result<[usize; 3], DataError> {
    let shape = match view.cells(column) {
        Cells::Numbers { shape, .. } | Cells::Bytes { shape, .. } => shape.as_slice(),
        Cells::Strings(_) | Cells::Bits { .. } => &[],
    };
    match *shape {
        [h, w] => Ok([1, h, w]),
        [c, h, w] => Ok([c, h, w]),
        _ => Err(DataError::Unfit(format!(
            "image column `{}` has rows of shape {shape:?}; expected [height, width] or [channels, height, width]",
            view.name(column)
        ))),
    }
}

/// One source of [`fit`].
pub(crate) struct TrainSource<'a> {
    pub name: &'a str,
    pub columns: &'a Columns,
    pub train: View<'a>,
}

/// Fits everything on the training rows of all sources.
///
/// # Errors
/// Sources with different inputs, no inputs at all, a missing number where it is refused, a bad label, or a task without
/// any label.
pub(crate) fn fit(config: &Config, sources: &[TrainSource]) -> Result<Fitted, DataError> {
    let Some(first) = sources.first() else {
        return Err(DataError::Unfit("there is no source".into()));
    };
    let inputs = signature(first.columns, first.train)?;
    if inputs.is_empty() {
        return Err(DataError::Unfit(format!("source `{}` has no input columns", first.name)));
    }
    for other in &sources[1..] {
        let found = signature(other.columns, other.train)?;
        check_same((&format!("source `{}`", first.name), &inputs), (&format!("source `{}`", other.name), &found))?;
    }
    let block = |&c: &usize| Block { name: first.train.name(c).into(), width: width(first.train.cells(c)) };
    Ok(Fitted {
        numeric: (0..first.columns.numeric.len()).map(|i| standard(sources, i)).collect::<Result<_, _>>()?,
        dense: first.columns.dense.iter().map(block).collect(),
        bits: first.columns.bits.iter().map(block).collect(),
        categorical: (0..first.columns.categorical.len()).map(|i| category(sources, i)).collect(),
        text: (!first.columns.text.is_empty()).then(|| vocabulary(&config.data.vocab, sources)),
        image: first.columns.image.map(|c| image_shape(first.train, c)).transpose()?,
        tasks: tasks(config, sources)?,
    })
}

/// Mean and standard deviation in one pass (Welford), pooled over the sources; exactly 0 spread for constant values.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moments {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    pub fn add(&mut self, x: f64) {
        self.n += 1.0;
        let delta = x - self.mean;
        self.mean += delta / self.n;
        self.squares += delta * (x - self.mean);
    }

    /// (mean, standard deviation), (0, 1) of nothing, 1 instead of a deviation of 0.
    ///
    /// # Errors
    /// `None` for numbers too large to be squared.
    pub fn finish(self) -> Option<(f64, f64)> {
        let std = if self.squares > 0.0 { (self.squares / self.n).sqrt() } else { 1.0 };
        // The spread of very small numbers can vanish when squared.
        let std = if std > 0.0 { std } else { 1.0 };
        (std.is_finite() && self.mean.is_finite()).then_some((self.mean, std))
    }
}

/// Mean and standard deviation of each value of a column, by name.
pub(crate) fn finish(name: &str, moments: Vec<Moments>) -> Result<(Vec<f64>, Vec<f64>), DataError> {
    let all: Option<Vec<_>> = moments.into_iter().map(Moments::finish).collect();
    let too_large = || DataError::Unfit(format!("column `{name}`: the numbers are too large to be standardised"));
    Ok(all.ok_or_else(too_large)?.into_iter().unzip())
}

fn standard(sources: &[TrainSource], which: usize) -> Result<Standard, DataError> {
    let name = sources[0].train.name(sources[0].columns.numeric[which]);
    let mut moments = vec![Moments::default(); width(sources[0].train.cells(sources[0].columns.numeric[which]))];
    for TrainSource { columns, train, .. } in sources {
        let Cells::Numbers { values, .. } = train.cells(columns.numeric[which]) else {
            return Err(DataError::Unfit(format!("column `{name}` does not hold numbers")));
        };
        for &row in train.rows {
            let block = &values[row as usize * moments.len()..][..moments.len()];
            let there = moments.iter_mut().zip(block).filter(|(_, x)| x.is_finite());
            there.for_each(|(m, x)| m.add(*x));
        }
    }
    let (mean, std) = finish(name, moments)?;
    Ok(Standard { name: name.into(), mean, std })
}

fn category(sources: &[TrainSource], which: usize) -> Category {
    let mut values = BTreeSet::new();
    for TrainSource { columns, train, .. } in sources {
        if let Cells::Strings(cells) = train.cells(columns.categorical[which]) {
            values.extend(train.rows.iter().filter_map(|&row| cells[row as usize].as_deref()));
        }
    }
    let name = sources[0].train.name(sources[0].columns.categorical[which]).into();
    Category { name, values: sort_values(values.into_iter().map(str::to_string).collect()) }
}

fn vocabulary(options: &config::Vocab, sources: &[TrainSource]) -> Vocabulary {
    let mut counter = Counter::new();
    for TrainSource { columns, train, .. } in sources {
        for &column in &columns.text {
            let Cells::Strings(cells) = train.cells(column) else { continue };
            for text in train.rows.iter().filter_map(|&row| cells[row as usize].as_deref()) {
                tokenize(text, options.ngrams, options.max_tokens, |token, _| counter.add(token));
            }
        }
    }
    let words = counter.most_frequent(options.min_count, options.max_words);
    Vocabulary { ngrams: options.ngrams, max_tokens: options.max_tokens, words }
}

fn tasks(config: &Config, sources: &[TrainSource]) -> Result<Vec<FittedTask>, DataError> {
    let fit_one = |(index, (name, task)): (usize, &(String, config::Task))| {
        let found = sources.iter().find(|s| s.name == task.source).and_then(|s| {
            let (_, columns) = s.columns.targets.iter().find(|(t, _)| *t == index)?;
            Some((s, columns))
        });
        let Some((source, columns)) = found else {
            return Err(DataError::Unfit(format!("task `{name}`: there is no source `{}`", task.source)));
        };
        let target = labels::Column { name, task, columns, view: source.train, refuse_nan: source.columns.refuse_nan };
        labels::fit(&target)
    };
    config.tasks.iter().enumerate().map(fit_one).collect()
}
