//! Metrics of size: MAE, RMSE, relative RMSE, coefficient of determination; the mean over outputs.
//!
//! Relative RMSE and R² compare with predicting the mean of the evaluated targets; both are undefined where these are
//! constant.

use super::moments::{Moments, Sum};
use super::wire::{MergeError, Reader};
use super::{Meter, Scored, Shape, macro_average};

/// Which of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    Mae,
    Rmse,
    Rrmse,
    R2,
}

/// Errors of one output.
#[derive(Debug, Clone, Copy, Default)]
struct Output {
    n: u64,
    /// Sum of absolute errors.
    absolute: Sum,
    /// Sum of squared errors.
    squared: Sum,
    /// Moments of the targets (first variable).
    targets: Moments,
}

/// Sums of errors; their state has a fixed length.
pub(super) struct Errors {
    measure: Measure,
    shape: Shape,
    outputs: Vec<Output>,
}

impl Errors {
    pub(super) fn new(measure: Measure, shape: Shape) -> Self {
        Errors { measure, shape, outputs: vec![Output::default(); shape.width()] }
    }
}

impl Meter for Errors {
    fn update(&mut self, batch: &Scored<'_>) {
        for (column, score, target) in batch.labelled(self.shape) {
            self.outputs[column].add(score, target);
        }
    }

    fn state(&self) -> Vec<f64> {
        let mut state = Vec::new();
        for output in &self.outputs {
            state.push(output.n as f64);
            state.extend(output.absolute.state());
            state.extend(output.squared.state());
            state.extend(output.targets.state());
        }
        state
    }

    fn merge(&mut self, state: &[f64]) -> Result<(), MergeError> {
        let mut reader = Reader::new(state);
        for output in &mut self.outputs {
            output.n += reader.count()?;
            output.absolute.merge(reader.array()?);
            output.squared.merge(reader.array()?);
            output.targets.merge(reader.array()?);
        }
        reader.done()
    }

    fn value(&self) -> Option<f64> {
        // A NaN score makes the sums of its output NaN, hence the mean, which is then not reported.
        macro_average(self.outputs.iter().map(|output| output.value(self.measure)))
    }
}

impl Output {
    fn add(&mut self, score: f64, target: f64) {
        let error = score - target;
        self.n += 1;
        self.absolute.add(error.abs());
        self.squared.add(error * error);
        self.targets.add(target, 0.0);
    }

    fn value(&self, measure: Measure) -> Option<f64> {
        if self.n == 0 {
            return None;
        }
        let n = self.n as f64;
        let [spread, ..] = self.targets.centred();
        let relative = self.squared.get() / spread;
        // Errors that are NaN must show, also where the targets are constant.
        let compares = spread > 0.0 || self.squared.get().is_nan();
        match measure {
            Measure::Mae => Some(self.absolute.get() / n),
            Measure::Rmse => Some((self.squared.get() / n).sqrt()),
            Measure::Rrmse => compares.then(|| relative.sqrt()),
            Measure::R2 => compares.then_some(1.0 - relative),
        }
    }
}
