//! Metrics of order: area under the ROC curve and average precision, with exact ties.
//!
//! All scores are kept and sent: a histogram would be smaller and wrong. Several classes are judged one against the
//! rest.

use super::wire::{MergeError, Reader};
use super::{Meter, Scored, Shape, macro_average};

/// Which curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    Roc,
    PrecisionRecall,
}

/// Scores of one label, in no particular order.
#[derive(Debug, Clone, Default)]
struct Scores {
    positive: Vec<f64>,
    negative: Vec<f64>,
}

/// Positive and negative samples that share a score.
struct Tie {
    positive: u64,
    negative: u64,
}

/// All scores so far; its state grows with the samples.
pub(super) struct Ranking {
    curve: Curve,
    shape: Shape,
    labels: Vec<Scores>,
    /// Labelled samples with a NaN score.
    spoiled: u64,
}

impl Ranking {
    pub(super) fn new(curve: Curve, shape: Shape) -> Self {
        Ranking { curve, shape, labels: vec![Scores::default(); shape.width()], spoiled: 0 }
    }

    fn add(&mut self, label: usize, score: f64, is_positive: bool) {
        let scores = &mut self.labels[label];
        if score.is_nan() {
            self.spoiled += 1;
        } else if is_positive {
            scores.positive.push(score);
        } else {
            scores.negative.push(score);
        }
    }
}

impl Meter for Ranking {
    fn update(&mut self, batch: &Scored<'_>) {
        if let Shape::Multiclass { classes } = self.shape {
            for (row, class) in batch.classified(classes) {
                row.iter().enumerate().for_each(|(label, &score)| self.add(label, score, label == class));
            }
        } else {
            batch.labelled(self.shape).for_each(|(label, score, target)| self.add(label, score, target > 0.5));
        }
    }

    fn state(&self) -> Vec<f64> {
        let mut state = vec![self.spoiled as f64];
        for scores in self.labels.iter().flat_map(|label| [&label.positive, &label.negative]) {
            state.push(scores.len() as f64);
            state.extend(scores);
        }
        state
    }

    fn merge(&mut self, state: &[f64]) -> Result<(), MergeError> {
        let mut reader = Reader::new(state);
        self.spoiled += reader.count()?;
        for scores in self.labels.iter_mut().flat_map(|label| [&mut label.positive, &mut label.negative]) {
            let n = reader.count()? as usize;
            scores.extend(reader.take(n)?);
        }
        reader.done()
    }

    fn value(&self) -> Option<f64> {
        if self.spoiled > 0 {
            return None;
        }
        match self.curve {
            Curve::Roc => macro_average(self.labels.iter().map(Scores::auc)),
            Curve::PrecisionRecall => macro_average(self.labels.iter().map(Scores::average_precision)),
        }
    }
}

impl Scores {
    /// Share of (positive, negative) pairs in the right order, ties counting half; counted in whole numbers.
    fn auc(&self) -> Option<f64> {
        let pairs = self.positive.len() as u128 * self.negative.len() as u128;
        let (mut twice_right, mut negative_above) = (0u128, 0u128);
        for tie in self.ties() {
            let below = self.negative.len() as u128 - negative_above - u128::from(tie.negative);
            twice_right += u128::from(tie.positive) * (2 * below + u128::from(tie.negative));
            negative_above += u128::from(tie.negative);
        }
        (pairs > 0).then(|| twice_right as f64 / (2 * pairs) as f64)
    }

    /// Sum over thresholds of recall gained times precision: scikit-learn's step rule, without interpolation.
    fn average_precision(&self) -> Option<f64> {
        let (mut sum, mut found, mut taken) = (0.0, 0, 0);
        for tie in self.ties() {
            found += tie.positive;
            taken += tie.positive + tie.negative;
            sum += tie.positive as f64 * (found as f64 / taken as f64);
        }
        (found > 0).then(|| sum / found as f64)
    }

    /// Groups of equal scores, the largest first.
    fn ties(&self) -> Vec<Tie> {
        // Adding zero makes -0.0 and 0.0, which are equal, the same for the sort as well.
        let labelled = |scores: &[f64], is_positive| scores.iter().map(move |&s| (s + 0.0, is_positive)).collect();
        let mut all: Vec<(f64, bool)> = labelled(&self.positive, true);
        let negative: Vec<(f64, bool)> = labelled(&self.negative, false);
        all.extend(negative);
        all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let tie = |group: &[(f64, bool)]| {
            let positive = group.iter().filter(|(_, is_positive)| *is_positive).count();
            Tie { positive: positive as u64, negative: (group.len() - positive) as u64 }
        };
        all.chunk_by(|a, b| a.0 == b.0).map(tie).collect()
    }
}
