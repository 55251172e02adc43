//! The trimmed mean: per coordinate the mean of the tasks, without the largest and the smallest values.
//!
//! Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", 2018 (arXiv:1803.01498),
//! with tasks in the place of workers, as in torchjd: `d_p = mean of g_1p .. g_Tp without the b largest and b smallest`,
//! `b = trim`.
//!
//! Departures: the paper trims a share of the values, this and torchjd a number. Values are those of the tasks that are
//! there and share the coordinate. Where these are fewer than `2 b + 1`, as many are trimmed as leave one or two: the
//! median of what there is. A direction is a mean here, not a sum as in most methods.
//!
//! Extremes are moved to the ends by comparisons of whole rows of some columns, about `2 b T` of them. No state.

use super::{CommError, Part, ShardSurgery, ShardView, Sums, stretches};
use crate::config;
use crate::kernel::{Block, Pass, Real, sweep};
use std::ops::Range;

/// Columns that are sorted at a time: those of all tasks stay in the first-level cache.
const WIDTH: usize = 128;

/// The trimmed mean.
#[derive(Debug, Clone, PartialEq)]
pub struct TrimmedMean {
    trim: usize,
}

impl TrimmedMean {
    /// With these options.
    pub fn new(config: &config::TrimmedMean) -> Self {
        TrimmedMean { trim: config.trim }
    }
}

impl<F: Real> ShardSurgery<F> for TrimmedMean {
    fn direction(&mut self, at: &ShardView<'_, F>, _: &Sums<'_>, out: &mut [F]) -> Result<Option<Vec<f64>>, CommError> {
        let scale = at.scale.iter().map(|&x| F::from_f64(x)).collect();
        sweep(&Trim { parts: at.parts, scale, trim: self.trim }, &stretches(at.parts), &mut [], out);
        Ok(None)
    }
}

struct Trim<'a, F> {
    parts: &'a [Part<'a, F>],
    scale: Vec<F>,
    trim: usize,
}

impl<F: Real> Pass<F> for Trim<'_, F> {
    #[inline(always)]
    fn block(&self, block: &mut Block<'_, '_, F>, _: &mut [f64]) {
        let mut values = std::mem::take(block.scratch);
        for start in (0..block.len()).step_by(WIDTH) {
            self.columns(block, start..(start + WIDTH).min(block.len()), &mut values);
        }
        *block.scratch = values;
    }
}

impl<F: Real> Trim<'_, F> {
    /// Some columns of a block.
    #[inline(always)]
    fn columns(&self, block: &mut Block<'_, '_, F>, columns: Range<usize>, values: &mut Vec<F>) {
        let (zero, len) = (F::default(), columns.len());
        values.clear();
        values.resize(2 * len, zero);
        for (k, &t) in self.parts[block.stretch].scope.iter().enumerate().filter(|&(_, &t)| self.scale[t] != zero) {
            match block.row(k) {
                Some(row) => values.extend(row[columns.clone()].iter().map(|&g| self.scale[t] * g)),
                None => values.resize(values.len() + len, zero),
            }
        }
        let (carried, values) = values.split_at_mut(2 * len);
        let n = values.len() / len;
        let trim = self.trim.min(n.saturating_sub(1) / 2);
        for done in 0..trim {
            let values = &mut values[done * len..(n - done) * len];
            largest_to_end(values, carried);
            smallest_to_start(&mut values[..(n - 2 * done - 1) * len], carried);
        }
        let out = &mut block.out[columns];
        out.fill(zero);
        let kept = n - 2 * trim;
        for row in values.chunks_exact(len).skip(trim).take(kept) {
            out.iter_mut().zip(row).for_each(|(out, &x)| *out += x);
        }
        if kept > 1 {
            let n = F::from_f64(kept as f64);
            out.iter_mut().for_each(|out| *out = *out / n);
        }
    }
}

// A number is never written where one of the two that were compared came from: compilers make masked stores of that,
// which are slow. So the extreme value travels through two more rows, in turn.

/// Moves the largest of the rows to the last one. `carried` is scratch memory of two rows.
#[inline(always)]
fn largest_to_end<F: Real>(rows: &mut [F], carried: &mut [F]) {
    let (mut now, mut next) = carried.split_at_mut(carried.len() / 2);
    let (len, last) = (now.len(), rows.len() - now.len());
    now.copy_from_slice(&rows[..len]);
    for at in (0..last).step_by(len) {
        let (here, above) = rows[at..at + 2 * len].split_at_mut(len);
        compare(now, above, here, next);
        std::mem::swap(&mut now, &mut next);
    }
    rows[last..].copy_from_slice(now);
}

/// Moves the smallest of the rows to the first one.
#[inline(always)]
fn smallest_to_start<F: Real>(rows: &mut [F], carried: &mut [F]) {
    let (mut now, mut next) = carried.split_at_mut(carried.len() / 2);
    let (len, last) = (now.len(), rows.len() - now.len());
    now.copy_from_slice(&rows[last..]);
    for at in (0..last).step_by(len).rev() {
        let (below, here) = rows[at..at + 2 * len].split_at_mut(len);
        compare(now, below, next, here);
        std::mem::swap(&mut now, &mut next);
    }
    rows[..len].copy_from_slice(now);
}

/// The smaller and the larger ones of `a` and `b`.
#[inline(always)]
fn compare<F: Real>(a: &[F], b: &[F], small: &mut [F], large: &mut [F]) {
    for (((&a, &b), small), large) in a.iter().zip(b).zip(small).zip(large) {
        *small = if a < b { a } else { b };
        *large = if a < b { b } else { a };
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{COLUMNS, Step, by_explicit, close, in_scope, run, some_steps};
    use super::*;

    fn surgery(trim: usize) -> config::Surgery {
        config::Surgery::TrimmedMean(config::TrimmedMean { trim })
    }

    /// By sorting; `shared` says whether a task shares a column.
    fn reference(step: &Step, trim: usize, shared: impl Fn(usize, usize) -> bool) -> Vec<f64> {
        let (g, present) = (step.weighted(), step.present());
        let column = |c: usize| {
            let mut values: Vec<f64> = present.iter().filter(|&&t| shared(t, c)).map(|&t| g[t][c]).collect();
            values.sort_by(f64::total_cmp);
            let trim = trim.min(values.len().saturating_sub(1) / 2);
            let kept = &values[trim..values.len() - trim];
            if kept.is_empty() { 0.0 } else { kept.iter().sum::<f64>() / kept.len() as f64 }
        };
        (0..g[0].len()).map(column).collect()
    }

    #[test]
    fn equals_the_formula() {
        for (n_tasks, trim) in [(1, 1), (2, 1), (3, 1), (5, 1), (5, 2), (8, 0), (8, 2), (8, 3), (9, 9)] {
            let steps = some_steps(n_tasks, 4);
            let found = run::<f64>(&surgery(trim), &steps, 1);
            for (step, direction) in steps.iter().zip(&found.directions) {
                close(direction, &reference(step, trim, |t, c| in_scope(n_tasks, COLUMNS, t, c)), 1e-14);
            }
        }
    }

    #[test]
    fn gives_the_reference_values() {
        // The example of torchjd's documentation of TrimmedMean(1).
        let j = vec![vec![1e11, 3.0], vec![1.0, 1e11], vec![-1e10, 1e10], vec![2.0, 2.0]];
        let step = Step { losses: vec![Some(1.0); 4], scale: vec![1.0; 4], j, step: 0 };
        close(&by_explicit(&surgery(1), &[step])[0], &[1.5, 5_000_000_001.5], 1e-15);
    }

    #[test]
    fn of_three_it_is_the_median() {
        let step = some_steps(3, 1)[0].plain();
        let found = run::<f64>(&surgery(1), std::slice::from_ref(&step), 1);
        for (c, &d) in found.directions[0].iter().enumerate().filter(|&(c, _)| in_scope(3, COLUMNS, 0, c)) {
            let mut values = [step.j[0][c], step.j[1][c], step.j[2][c]];
            values.sort_by(f64::total_cmp);
            assert_eq!(d, values[1]);
        }
    }

    #[test]
    fn how_far_out_one_task_is_does_not_matter() {
        let mut steps = vec![some_steps(5, 1)[0].plain()];
        let mut directions = [1e3, 1e15].map(|far| {
            let signs = [far, -far].into_iter().cycle();
            steps[0].j[2].iter_mut().zip(signs).for_each(|(x, far)| *x = far);
            run::<f64>(&surgery(1), &steps, 1).directions.remove(0)
        });
        assert_eq!(directions[0], directions[1]);
        // Two outliers are one too many.
        let far = steps[0].j[2].clone();
        steps[0].j[3] = far;
        directions[0] = run::<f64>(&surgery(1), &steps, 1).directions.remove(0);
        assert!(directions[0].iter().all(|x| x.abs() > 1e14));
    }
}
