//! Metrics of decisions: accuracy, F1, Matthews correlation. All follow from three counts per class.
//!
//! A binary or multi-label score decides for 1 when it is above 0.5; class probabilities decide for the largest, the
//! first of equal ones. Accuracy is the share of right decisions among all labels that are there. F1 is that of class
//! 1 (binary), the mean over labels (multi-label) or over classes. MCC of several classes is Gorodkin's R_K, which for
//! two is the usual one; it is 0, as in scikit-learn, when all decisions are the same.

use super::wire::{MergeError, Reader};
use super::{Meter, Scored, Shape, macro_average};

/// Which of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rate {
    Accuracy,
    F1,
    Mcc,
}

/// Decisions of one task, or of one label.
#[derive(Debug, Clone)]
struct Group {
    /// Right decisions for each class.
    hits: Vec<u64>,
    /// Samples of each class.
    truth: Vec<u64>,
    /// Decisions for each class.
    decided: Vec<u64>,
}

/// Counts of decisions; their state has a fixed length.
pub(super) struct Counts {
    rate: Rate,
    shape: Shape,
    groups: Vec<Group>,
    /// Labelled samples with a NaN score.
    spoiled: u64,
}

impl Counts {
    pub(super) fn new(rate: Rate, shape: Shape) -> Self {
        let (n_groups, classes) = match shape {
            Shape::Multiclass { classes } => (1, classes),
            other => (other.width(), 2),
        };
        let zeros = || vec![0; classes];
        let group = Group { hits: zeros(), truth: zeros(), decided: zeros() };
        Counts { rate, shape, groups: vec![group; n_groups], spoiled: 0 }
    }
}

impl Meter for Counts {
    fn update(&mut self, batch: &Scored<'_>) {
        if let Shape::Multiclass { classes } = self.shape {
            for (row, class) in batch.classified(classes) {
                match argmax(row) {
                    Some(decided) => self.groups[0].add(class, decided),
                    None => self.spoiled += 1,
                }
            }
        } else {
            for (column, score, target) in batch.labelled(self.shape) {
                if score.is_nan() {
                    self.spoiled += 1;
                } else {
                    self.groups[column].add(usize::from(target > 0.5), usize::from(score > 0.5));
                }
            }
        }
    }

    fn state(&self) -> Vec<f64> {
        let counts = self.groups.iter().flat_map(|group| [&group.hits, &group.truth, &group.decided]).flatten();
        std::iter::once(&self.spoiled).chain(counts).map(|&n| n as f64).collect()
    }

    fn merge(&mut self, state: &[f64]) -> Result<(), MergeError> {
        let mut reader = Reader::new(state);
        self.spoiled += reader.count()?;
        for group in &mut self.groups {
            for count in [&mut group.hits, &mut group.truth, &mut group.decided].into_iter().flatten() {
                *count += reader.count()?;
            }
        }
        reader.done()
    }

    fn value(&self) -> Option<f64> {
        if self.spoiled > 0 {
            return None;
        }
        let groups = self.groups.iter();
        match (self.rate, self.shape) {
            (Rate::Accuracy, _) => {
                let hits: u64 = groups.clone().flat_map(|group| &group.hits).sum();
                let samples: u64 = groups.flat_map(|group| &group.truth).sum();
                (samples > 0).then(|| hits as f64 / samples as f64)
            }
            (Rate::F1, Shape::Multiclass { classes }) => macro_average((0..classes).map(|c| self.groups[0].f1(c))),
            (Rate::F1, _) => macro_average(groups.map(|group| group.f1(1))),
            (Rate::Mcc, _) => macro_average(groups.map(Group::mcc)),
        }
    }
}

impl Group {
    fn add(&mut self, class: usize, decided: usize) {
        self.truth[class] += 1;
        self.decided[decided] += 1;
        self.hits[class] += u64::from(class == decided);
    }

    /// `2 TP / (2 TP + FP + FN)`.
    fn f1(&self, class: usize) -> Option<f64> {
        let both = self.truth[class] + self.decided[class];
        (both > 0).then(|| 2.0 * self.hits[class] as f64 / both as f64)
    }

    /// Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004, in the form
    /// of covariances of indicator vectors. The integers are exact.
    fn mcc(&self) -> Option<f64> {
        let total = |counts: &[u64]| i128::from(counts.iter().sum::<u64>());
        let dot = |a: &[u64], b: &[u64]| a.iter().zip(b).map(|(&a, &b)| i128::from(a) * i128::from(b)).sum::<i128>();
        let samples = total(&self.truth);
        let covariance = total(&self.hits) * samples - dot(&self.truth, &self.decided);
        let truth = samples * samples - dot(&self.truth, &self.truth);
        let decided = samples * samples - dot(&self.decided, &self.decided);
        match (truth, decided) {
            (0, _) => None,
            (_, 0) => Some(0.0),
            _ => Some(covariance as f64 / (truth as f64 * decided as f64).sqrt()),
        }
    }
}

/// The first of the largest; `None` if one is NaN.
fn argmax(row: &[f64]) -> Option<usize> {
    let mut best = 0;
    for (i, &score) in row.iter().enumerate() {
        if score.is_nan() {
            return None;
        }
        if score > row[best] {
            best = i;
        }
    }
    Some(best)
}
