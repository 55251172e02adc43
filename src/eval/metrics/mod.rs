//! Metrics as mergeable meters: each rank meters its own samples, the states travel, and the merged meter has the
//! value of all samples together. No metric is ever averaged over ranks.
//!
//! Values are those of scikit-learn and SciPy, with macro averages over labels, classes or outputs where there are
//! several. They differ where a number would hide that nothing was measured; [`Meter::value`] is then `None`:
//!
//! * no labelled sample; a ranking metric of a label without both classes (average precision: without a positive);
//!   F1 of a class that is neither there nor predicted; MCC, R², RRMSE and correlations of constant targets. A macro
//!   average leaves such a label out, and is `None` when none is left;
//! * any NaN score of a labelled sample: a diverged model must not look like a guessing one. So is a value that
//!   itself is not finite.

mod correlation;
mod counts;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod golden;
mod moments;
mod ranking;
mod regression;
mod wire;

pub use wire::MergeError;

use crate::config::Metric;

/// Predictions and labels of some samples, row-major. NaN targets are missing labels.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// `[n, width]`: probabilities (binary, multi-label), class probabilities (multi-class), or predictions in
    /// original units (regression).
    pub scores: &'a [f64],
    /// `[n, width]`: 0 or 1, or the value in original units; multi-class: class indices `[n]`.
    pub targets: &'a [f64],
    /// Scores per sample.
    pub width: usize,
}

/// What scores and targets look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One probability.
    Binary,
    /// A probability per class.
    Multiclass {
        /// Number of classes.
        classes: usize,
    },
    /// A probability per label.
    Multilabel {
        /// Number of labels.
        labels: usize,
    },
    /// A number per output.
    Regression {
        /// Number of outputs.
        outputs: usize,
    },
}

impl Shape {
    /// Scores per sample.
    pub fn width(self) -> usize {
        match self {
            Shape::Binary => 1,
            Shape::Multiclass { classes } => classes,
            Shape::Multilabel { labels } => labels,
            Shape::Regression { outputs } => outputs,
        }
    }
}

/// One metric, being measured.
///
/// To evaluate over ranks: every rank updates a meter with its samples, then a fresh meter merges the states of all
/// ranks in rank order. Counting and ranking metrics do not even depend on the order; the others agree with one
/// meter on all samples to rounding.
pub trait Meter: Send {
    /// Takes in some samples.
    ///
    /// # Panics
    /// If the batch has another width than the meter, or a class index outside `0 .. classes`: data is checked
    /// when it is loaded.
    fn update(&mut self, batch: &Scored<'_>);

    /// Everything it has seen, as numbers to send.
    fn state(&self) -> Vec<f64>;

    /// Takes in what another meter of the same metric and shape has seen.
    ///
    /// # Errors
    /// If the state is not one of such a meter; this meter is then not to be used.
    fn merge(&mut self, state: &[f64]) -> Result<(), MergeError>;

    /// The metric of all samples so far; `None` where it is not defined.
    fn value(&self) -> Option<f64>;
}

/// Whether the metric has a meaning for this kind of task. The mean loss has one for all.
pub fn applies(metric: Metric, shape: Shape) -> bool {
    let regression = matches!(shape, Shape::Regression { .. });
    match metric {
        Metric::Accuracy | Metric::Auc | Metric::AveragePrecision | Metric::F1 | Metric::Mcc => !regression,
        Metric::Mae | Metric::Rmse | Metric::Rrmse | Metric::R2 | Metric::Pearson | Metric::Spearman => regression,
        Metric::Loss => true,
    }
}

/// A new meter; `None` where the metric has no meaning for the shape, and for [`Metric::Loss`], which is made of
/// losses and not of scores.
pub fn meter(metric: Metric, shape: Shape) -> Option<Box<dyn Meter>> {
    if !applies(metric, shape) {
        return None;
    }
    Some(match metric {
        Metric::Accuracy => Box::new(counts::Counts::new(counts::Rate::Accuracy, shape)),
        Metric::F1 => Box::new(counts::Counts::new(counts::Rate::F1, shape)),
        Metric::Mcc => Box::new(counts::Counts::new(counts::Rate::Mcc, shape)),
        Metric::Auc => Box::new(ranking::Ranking::new(ranking::Curve::Roc, shape)),
        Metric::AveragePrecision => Box::new(ranking::Ranking::new(ranking::Curve::PrecisionRecall, shape)),
        Metric::Mae => Box::new(regression::Errors::new(regression::Measure::Mae, shape)),
        Metric::Rmse => Box::new(regression::Errors::new(regression::Measure::Rmse, shape)),
        Metric::Rrmse => Box::new(regression::Errors::new(regression::Measure::Rrmse, shape)),
        Metric::R2 => Box::new(regression::Errors::new(regression::Measure::R2, shape)),
        Metric::Pearson => Box::new(correlation::Pearson::new(shape)),
        Metric::Spearman => Box::new(correlation::Spearman::new(shape)),
        Metric::Loss => return None,
    })
}

impl Scored<'_> {
    /// The labelled (column, score, target) of binary, multi-label and regression tasks.
    fn labelled(&self, shape: Shape) -> impl Iterator<Item = (usize, f64, f64)> {
        assert_eq!(self.width, shape.width(), "scores per sample");
        assert_eq!(self.scores.len(), self.targets.len(), "scores and targets");
        let cells = self.scores.iter().zip(self.targets).enumerate();
        cells.filter(|(_, (_, target))| !target.is_nan()).map(|(i, (&score, &target))| (i % self.width, score, target))
    }

    /// The labelled (class probabilities, class) of a multi-class task.
    fn classified(&self, classes: usize) -> impl Iterator<Item = (&[f64], usize)> {
        assert_eq!(self.width, classes, "scores per sample");
        assert_eq!(self.scores.len(), self.targets.len() * classes, "scores and targets");
        let rows = self.scores.chunks_exact(classes).zip(self.targets);
        rows.filter(|(_, target)| !target.is_nan()).map(move |(row, &target)| {
            assert!(target >= 0.0 && target < classes as f64 && target.fract() == 0.0, "class {target} of {classes}");
            (row, target as usize)
        })
    }
}

/// The mean over those that are defined.
fn macro_average(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, n) = values.flatten().fold((0.0, 0u32), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n)).filter(|mean| mean.is_finite())
}
