//! Passes over columns of rows that are not a mere combination: what methods do coordinate by coordinate, or with a
//! state of the size of the rows.
//!
//! A pass sees the columns block by block, every block while it is in cache, on libtorch's threads. What it writes lies
//! in the same columns of other vectors, so no two threads share a number; what it sums up is added in the order of the
//! columns. The result has the same bits for any number of threads.

use super::gram::gram_chunk;
use super::simd::dispatch;
use super::update::combine as combine_block;
use super::{CHUNK, Real, parallel};
use std::ops::Range;

/// Columns that a pass sees at a time: those of a few rows stay in the first-level cache.
const BLOCK: usize = 1024;

/// A range of columns of several rows.
#[derive(Debug, Clone)]
pub struct Stretch<'a, F> {
    /// The rows: each has as many entries as `local` is long, or none (zeros).
    pub rows: &'a [&'a [F]],
    /// Where these columns are in the vectors that a pass keeps or writes.
    pub local: Range<usize>,
}

/// Some columns of a stretch, as a pass sees them.
#[derive(Debug)]
pub struct Block<'a, 'b, F> {
    /// Index of the stretch.
    pub stretch: usize,
    /// Place of the first column in the stretch.
    pub at: usize,
    /// Place of the columns in each of `state`.
    pub columns: Range<usize>,
    /// Kept vectors, one per row of the state; `state[t][columns]` belongs to this block.
    pub state: &'b mut [&'a mut [F]],
    /// The columns of the output; empty if the sweep has none.
    pub out: &'b mut [F],
    /// Memory for numbers between loops, with what the last block left there.
    pub scratch: &'b mut Vec<F>,
    rows: &'b [&'a [F]],
}

impl<'a, F> Block<'a, '_, F> {
    /// Number of columns.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there are no columns: never, in a pass.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The columns of row `k`; `None` if it is zero.
    #[inline(always)]
    pub fn row(&self, k: usize) -> Option<&'a [F]> {
        let row = self.rows[k];
        if row.is_empty() { None } else { Some(&row[self.columns.clone()]) }
    }
}

/// What is done to each block of columns. Mark `block` as `#[inline(always)]`, then it is compiled for wide registers.
pub trait Pass<F: Real>: Sync {
    /// Length of the sums.
    fn n_sums(&self) -> usize {
        0
    }

    /// Does it to one block, and adds what is to be summed over all columns to `sums` `[n_sums]`.
    fn block(&self, block: &mut Block<'_, '_, F>, sums: &mut [f64]);
}

/// Runs a pass over the columns of all stretches and returns its sums.
///
/// `state` (any number of vectors) and `out` (may be empty) are changed at the `local` places of the stretches alone.
///
/// # Panics
/// If the `local` ranges are not ascending, overlap, or reach beyond a vector.
pub fn sweep<F: Real, P: Pass<F>>(
    pass: &P,
    stretches: &[Stretch<'_, F>],
    state: &mut [Vec<F>],
    out: &mut [F],
) -> Vec<f64> {
    let partial = parallel::consume(cut(stretches, state, out), |job| run_job(pass, job));
    let mut sums = vec![0.0; pass.n_sums()];
    for local in partial {
        sums.iter_mut().zip(local).for_each(|(sum, x)| *sum += x);
    }
    sums
}

/// Writes `sum_k coef[s][k] * row k` of every stretch `s` into `out`.
///
/// # Panics
/// As [`sweep`], and if there are fewer coefficients than rows.
pub fn combine<F: Real>(stretches: &[Stretch<'_, F>], coef: &[Vec<F>], out: &mut [F]) {
    struct Combine<'a, F>(&'a [Vec<F>]);
    impl<F: Real> Pass<F> for Combine<'_, F> {
        #[inline(always)]
        fn block(&self, block: &mut Block<'_, '_, F>, _: &mut [f64]) {
            combine_block(block.rows, &self.0[block.stretch], block.columns.start, block.out);
        }
    }
    let fits = stretches.len() == coef.len() && stretches.iter().zip(coef).all(|(s, c)| s.rows.len() <= c.len());
    assert!(fits, "a coefficient per row");
    sweep(&Combine(coef), stretches, &mut [], out);
}

/// Adds the inner products of some rows of one block to the **lower triangle** of `gram` `[R, R]`. Empty rows are zero.
pub fn add_block_gram<F: Real>(rows: &[&[F]], gram: &mut [f64]) {
    gram_chunk(rows, gram);
}

/// Consecutive columns of one stretch: a unit of parallel work.
struct Job<'a, F> {
    stretch: usize,
    at: usize,
    len: usize,
    rows: Vec<&'a [F]>,
    state: Vec<&'a mut [F]>,
    out: &'a mut [F],
}

/// Hands out disjoint ranges of a vector, in ascending order.
struct Dealer<'a, F> {
    rest: &'a mut [F],
    at: usize,
}

impl<'a, F> Dealer<'a, F> {
    fn take(&mut self, range: Range<usize>) -> &'a mut [F] {
        let (_, rest) = std::mem::take(&mut self.rest).split_at_mut(range.start - self.at);
        let (taken, rest) = rest.split_at_mut(range.len());
        (self.rest, self.at) = (rest, range.end);
        taken
    }
}

fn cut<'a, F>(stretches: &[Stretch<'a, F>], state: &'a mut [Vec<F>], out: &'a mut [F]) -> Vec<Job<'a, F>> {
    let mut state: Vec<Dealer<'a, F>> = state.iter_mut().map(|rest| Dealer { rest, at: 0 }).collect();
    let mut out = (!out.is_empty()).then_some(Dealer { rest: out, at: 0 });
    let mut jobs = Vec::with_capacity(stretches.len());
    for (stretch, Stretch { rows, local }) in stretches.iter().enumerate() {
        for at in (0..local.len()).step_by(CHUNK) {
            let end = (at + CHUNK).min(local.len());
            let place = local.start + at..local.start + end;
            jobs.push(Job {
                stretch,
                at,
                len: end - at,
                rows: rows.iter().map(|row| if row.is_empty() { *row } else { &row[at..end] }).collect(),
                state: state.iter_mut().map(|dealer| dealer.take(place.clone())).collect(),
                out: out.as_mut().map(|dealer| dealer.take(place)).unwrap_or_default(),
            });
        }
    }
    jobs
}

dispatch!(run_job<P: Pass<F>>, run_job_body, (pass: &P, job: Job<'_, F>) -> Vec<f64>);

#[inline(always)]
fn run_job_body<F: Real, P: Pass<F>>(pass: &P, mut job: Job<'_, F>) -> Vec<f64> {
    let mut sums = vec![0.0; pass.n_sums()];
    let mut scratch = Vec::new();
    for start in (0..job.len).step_by(BLOCK) {
        let columns = start..(start + BLOCK).min(job.len);
        let out = if job.out.is_empty() { &mut [] } else { &mut job.out[columns.clone()] };
        let mut block = Block {
            stretch: job.stretch,
            at: job.at + start,
            columns,
            state: &mut job.state,
            out,
            scratch: &mut scratch,
            rows: &job.rows,
        };
        pass.block(&mut block, &mut sums);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps running sums of the rows, writes the place of each column, sums the entries.
    struct Trace;
    impl<F: Real> Pass<F> for Trace {
        fn n_sums(&self) -> usize {
            2
        }
        #[inline(always)]
        fn block(&self, block: &mut Block<'_, '_, F>, sums: &mut [f64]) {
            for (k, sum) in sums.iter_mut().enumerate() {
                let Some(row) = block.row(k) else { continue };
                for (s, &g) in block.state[k][block.columns.clone()].iter_mut().zip(row) {
                    *s += g;
                    *sum += g.to_f64();
                }
            }
            for (i, x) in block.out.iter_mut().enumerate() {
                *x = F::from_f64((1_000_000 * block.stretch + block.at + i) as f64);
            }
        }
    }

    #[test]
    fn every_column_is_seen_once_at_its_place() {
        let n = 2 * CHUNK + 77;
        let (a, b): (Vec<f64>, Vec<f64>) = (0..n).map(|i| (i as f64, -1.0)).unzip();
        let (short, rows) = ([&b[..5], &[][..]], [&a[..], &b[..]]);
        let stretches = [Stretch { rows: &short, local: 3..8 }, Stretch { rows: &rows, local: 10..10 + n }];
        let mut state = vec![vec![0.0; n + 12]; 2];
        let mut out = vec![-7.0; n + 12];
        let sums = sweep(&Trace, &stretches, &mut state, &mut out);
        assert_eq!(sums, [(n * (n - 1) / 2) as f64 - 5.0, -(n as f64)]);
        assert_eq!(out[..10], [-7.0, -7.0, -7.0, 0.0, 1.0, 2.0, 3.0, 4.0, -7.0, -7.0]);
        assert!((0..n).all(|i| out[10 + i] == (1_000_000 + i) as f64 && state[0][10 + i] == i as f64));
        assert_eq!((out[10 + n], state[0][4], state[1][4], state[1][12]), (-7.0, -1.0, 0.0, -1.0));

        sweep(&Trace, &stretches, &mut state, &mut []);
        assert_eq!((state[0][4], state[0][10 + n - 1]), (-2.0, 2.0 * (n - 1) as f64));
    }

    #[test]
    fn combines_rows_at_their_places() {
        let (a, b) = ([1.0f32, 2.0, 3.0], [10.0f32, 20.0, 30.0]);
        let (rows, one) = ([&a[..], &b[..], &[][..]], [&b[..2]]);
        let stretches = [Stretch { rows: &rows, local: 1..4 }, Stretch { rows: &one, local: 4..6 }];
        let mut out = [9.0f32; 7];
        combine(&stretches, &[vec![2.0, 0.5, 8.0], vec![-1.0]], &mut out);
        assert_eq!(out, [9.0, 7.0, 14.0, 21.0, -10.0, -20.0, 9.0]);
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_bits() {
        let a: Vec<f32> = (0..300_000).map(|i| (i as f32 * 0.37).sin()).collect();
        let rows = [&a[..], &a[..]];
        let run = |threads| {
            tch::set_num_threads(threads);
            let mut state = vec![vec![0.5f32; a.len()]; 2];
            let mut out = vec![0.0; a.len()];
            let sums = sweep(&Trace, &[Stretch { rows: &rows, local: 0..a.len() }], &mut state, &mut out);
            (sums, state, out)
        };
        assert_eq!(run(1), run(3));
    }
}
