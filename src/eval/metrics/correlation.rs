//! Correlation of predictions and targets: Pearson, and Spearman with average ranks; the mean over outputs.

use super::moments::Moments;
use super::wire::{MergeError, Reader};
use super::{Meter, Scored, Shape, macro_average};

/// Pearson correlation; its state has a fixed length.
pub(super) struct Pearson {
    shape: Shape,
    outputs: Vec<Moments>,
}

impl Pearson {
    pub(super) fn new(shape: Shape) -> Self {
        Pearson { shape, outputs: vec![Moments::default(); shape.width()] }
    }
}

impl Meter for Pearson {
    fn update(&mut self, batch: &Scored<'_>) {
        batch.labelled(self.shape).for_each(|(column, score, target)| self.outputs[column].add(score, target));
    }

    fn state(&self) -> Vec<f64> {
        self.outputs.iter().flat_map(|moments| moments.state()).collect()
    }

    fn merge(&mut self, state: &[f64]) -> Result<(), MergeError> {
        let mut reader = Reader::new(state);
        for moments in &mut self.outputs {
            moments.merge(reader.array()?);
        }
        reader.done()
    }

    fn value(&self) -> Option<f64> {
        // A NaN score makes the moments of its output NaN, hence the mean, which is then not reported.
        macro_average(self.outputs.iter().map(|moments| {
            let [xx, xy, yy] = moments.centred();
            // Scores that are NaN must show, also where the targets are constant.
            let constant = (xx == 0.0 || yy == 0.0) && !xx.is_nan();
            (!constant).then(|| (xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
        }))
    }
}

/// Spearman rank correlation. All pairs are kept and sent: ranks need them.
pub(super) struct Spearman {
    shape: Shape,
    /// (score, target) by output.
    outputs: Vec<Vec<(f64, f64)>>,
    /// Labelled samples with a NaN score.
    spoiled: u64,
}

impl Spearman {
    pub(super) fn new(shape: Shape) -> Self {
        Spearman { shape, outputs: vec![Vec::new(); shape.width()], spoiled: 0 }
    }
}

impl Meter for Spearman {
    fn update(&mut self, batch: &Scored<'_>) {
        for (column, score, target) in batch.labelled(self.shape) {
            if score.is_nan() {
                self.spoiled += 1;
            } else {
                self.outputs[column].push((score, target));
            }
        }
    }

    fn state(&self) -> Vec<f64> {
        let mut state = vec![self.spoiled as f64];
        for pairs in &self.outputs {
            state.push(pairs.len() as f64);
            state.extend(pairs.iter().flat_map(|&(score, target)| [score, target]));
        }
        state
    }

    fn merge(&mut self, state: &[f64]) -> Result<(), MergeError> {
        let mut reader = Reader::new(state);
        self.spoiled += reader.count()?;
        for pairs in &mut self.outputs {
            let n = reader.count()? as usize;
            let (new, _) = reader.take(n.saturating_mul(2))?.as_chunks::<2>();
            pairs.extend(new.iter().map(|&[score, target]| (score, target)));
        }
        reader.done()
    }

    fn value(&self) -> Option<f64> {
        let values = self.outputs.iter().map(|pairs| rank_correlation(pairs));
        if self.spoiled > 0 { None } else { macro_average(values) }
    }
}

/// Pearson correlation of average ranks, in whole numbers, so that the order of the samples cannot matter.
fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let x = twice_ranks(pairs.iter().map(|pair| pair.0));
    let y = twice_ranks(pairs.iter().map(|pair| pair.1));
    // Twice the ranks 1..n sum up to n (n + 1), with ties as without.
    let n = pairs.len() as i128;
    let covariance =
        |a: &[i128], b: &[i128]| n * a.iter().zip(b).map(|(a, b)| a * b).sum::<i128>() - (n * (n + 1)).pow(2);
    let (xx, xy, yy) = (covariance(&x, &x), covariance(&x, &y), covariance(&y, &y));
    let constant = xx == 0 || yy == 0;
    (!constant).then(|| (xy as f64 / (xx as f64 * yy as f64).sqrt()).clamp(-1.0, 1.0))
}

/// Twice the rank (from 1) of each value; equal values share the mean of their ranks.
fn twice_ranks(values: impl Iterator<Item = f64>) -> Vec<i128> {
    // Adding zero makes -0.0 and 0.0, which are equal, the same for the sort as well.
    let mut order: Vec<(f64, usize)> = values.enumerate().map(|(i, value)| (value + 0.0, i)).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut ranks = vec![0; order.len()];
    let mut below = 0;
    for tie in order.chunk_by(|a, b| a.0 == b.0) {
        let twice_rank = (2 * below + tie.len() + 1) as i128;
        tie.iter().for_each(|&(_, i)| ranks[i] = twice_rank);
        below += tie.len();
    }
    ranks
}
