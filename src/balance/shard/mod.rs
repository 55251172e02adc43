//! Surgery on the task gradients themselves, a file per method: coordinate by coordinate, or with a state of the size
//! of `J`.
//!
//! Such methods are exact on shards: what they do at a coordinate depends on that coordinate and on a few sums over all
//! coordinates, which [`Sums`] adds up over ranks. State is sharded with the parameters and travels through checkpoints
//! like an optimizer's, so it fits any number of ranks.

mod db_mtl;
mod excess_mtl;
mod graddrop;
mod moco;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trimmed_mean;

pub use db_mtl::DbMtl;
pub use excess_mtl::ExcessMtl;
pub use graddrop::GradDrop;
pub use moco::MoCo;
pub use trimmed_mean::TrimmedMean;

use super::global::{CommError, Sums};
use super::{Gram, NotFinite};
use crate::config;
use crate::kernel::{self, Fragment, Real, Stretch};
use serde_json::Value;
use std::ops::Range;

/// A range of coordinates of this rank with the rows of `J` there.
#[derive(Debug)]
pub struct Part<'a, F> {
    /// Task of each row, ascending.
    pub scope: &'a [usize],
    /// Numbers of the coordinates: the same on any number of ranks.
    pub at: Range<usize>,
    /// Place in this rank's shard: where state and direction of these coordinates are kept.
    pub local: Range<usize>,
    /// Rows of **sums** over samples; an empty row is zero.
    pub rows: Fragment<'a, F>,
}

/// A step as such a method sees it.
#[derive(Debug)]
pub struct ShardView<'a, F> {
    /// The shared coordinates of this rank, ascending, without overlap.
    pub parts: &'a [Part<'a, F>],
    /// What turns row `t` into the gradient of the weighted mean loss: `w_t / n_t` `[T]`; 0 for tasks that are not there.
    pub scale: &'a [f64],
    /// Weighted global mean losses `[T]`; `None` for tasks that are not there.
    pub losses: &'a [Option<f64>],
    /// Inner products of the weighted gradients, `[T, T]`; 0 for tasks that are not there.
    pub gram: &'a Gram,
    /// The step; counts from 0.
    pub step: u64,
    /// Seed of the run.
    pub seed: u64,
}

/// A method that needs the gradients themselves.
pub trait ShardSurgery<F: Real> {
    /// Writes the update direction of the shared coordinates of this rank into `out` `[n]`, at their `local` places;
    /// `out` is zero before.
    ///
    /// Returns coefficients `[T]` of this step's **weighted** task gradients (those of [`ShardView::scale`]), if the
    /// direction is a combination of them.
    ///
    /// # Collective
    /// All ranks: sums over coordinates are taken over all ranks.
    ///
    /// # Errors
    /// If the collective fails.
    fn direction(
        &mut self,
        at: &ShardView<'_, F>,
        sums: &Sums<'_>,
        out: &mut [F],
    ) -> Result<Option<Vec<f64>>, CommError>;

    /// State of the size of the shard, `[n]` each, with names that are unique and stay the same, for example
    /// `("sum_of_squares.3", ..)` of task 3.
    fn state(&self) -> Vec<(String, &[F])> {
        Vec::new()
    }

    /// The same, to be overwritten when a run continues.
    fn state_mut(&mut self) -> Vec<(String, &mut Vec<F>)> {
        Vec::new()
    }

    /// Small state for a checkpoint; `null` if there is none.
    fn save(&self) -> Value {
        Value::Null
    }

    /// Takes over the state of [`Self::save`].
    ///
    /// # Errors
    /// What does not fit.
    fn load(&mut self, _state: &Value) -> Result<(), String> {
        Ok(())
    }
}

/// A step with its losses and gradients as they are before they are weighted.
#[derive(Debug)]
pub struct Unweighted<'a, F> {
    /// The shared coordinates of this rank, ascending, without overlap.
    pub parts: &'a [Part<'a, F>],
    /// Global counts `[T]` by which the rows are divided; 1 where they are gradients of means already.
    pub counts: &'a [f64],
    /// Weights `[T]`; 0 for tasks that are not there.
    pub weights: &'a [f64],
    /// Global mean losses `[T]`.
    pub losses: &'a [Option<f64>],
    /// Inner products of the gradients of the mean losses, `[T, T]`.
    pub gram: &'a Gram,
    /// The step; counts from 0.
    pub step: u64,
    /// Seed of the run.
    pub seed: u64,
}

impl<F: Real> Unweighted<'_, F> {
    /// Weighs the step and runs a method on it: see [`ShardSurgery::direction`]. The coefficients that are returned are
    /// those of the unweighted gradients.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If the collective fails; inside, [`NotFinite`] if a weighted inner product overflows, on all ranks alike.
    #[allow(clippy::type_complexity)]
    pub fn direct(
        &self,
        method: &mut dyn ShardSurgery<F>,
        sums: &Sums<'_>,
        out: &mut [F],
    ) -> Result<Result<Option<Vec<f64>>, NotFinite>, CommError> {
        let (weights, n_tasks) = (self.weights, self.weights.len());
        // All ranks see the same numbers here, so they leave together.
        let gram = match self.gram.scaled(weights) {
            Ok(gram) => gram,
            Err(bad) => return Ok(Err(bad)),
        };
        let per_count = |t: usize| if self.counts[t] > 0.0 { weights[t] / self.counts[t] } else { 0.0 };
        let scale: Vec<f64> = (0..n_tasks).map(per_count).collect();
        let loss = |t: usize| self.losses[t].filter(|_| weights[t] != 0.0).map(|loss| weights[t] * loss);
        let losses: Vec<Option<f64>> = (0..n_tasks).map(loss).collect();
        let (step, seed) = (self.step, self.seed);
        let view = ShardView { parts: self.parts, scale: &scale, losses: &losses, gram: &gram, step, seed };
        let chosen = method.direction(&view, sums, out)?;
        Ok(Ok(chosen.map(|c| c.iter().zip(weights).map(|(c, w)| c * w).collect())))
    }
}

/// The configured method for `n_tasks` tasks and a shard of `n` coordinates; `None` for methods of another kind.
pub fn build<F: Real>(config: &config::Surgery, n_tasks: usize, n: usize) -> Option<Box<dyn ShardSurgery<F>>> {
    Some(match config {
        config::Surgery::Graddrop(o) => Box::new(GradDrop::new(o)),
        config::Surgery::TrimmedMean(o) => Box::new(TrimmedMean::new(o)),
        config::Surgery::ExcessMtl(o) => Box::new(ExcessMtl::new(o, n_tasks, n)),
        config::Surgery::Moco(o) => Box::new(MoCo::new(o, n_tasks, n)),
        config::Surgery::DbMtl(o) => Box::new(DbMtl::new(o, n_tasks, n)),
        _ => return None,
    })
}

impl<F> ShardView<'_, F> {
    /// Tasks that take part in this step, ascending.
    fn present(&self) -> Vec<usize> {
        (0..self.scale.len()).filter(|&t| self.scale[t] != 0.0).collect()
    }
}

/// The rows of the parts, for a pass of the kernel.
fn stretches<'a, F>(parts: &'a [Part<'a, F>]) -> Vec<Stretch<'a, F>> {
    parts.iter().map(|part| Stretch { rows: &part.rows.rows, local: part.local.clone() }).collect()
}

/// Writes `sum_t coef[t] * g_t` into `out`, with the rows of the step.
fn combine_rows<F: Real>(parts: &[Part<'_, F>], coef: &[f64], out: &mut [F]) {
    let coef: Vec<Vec<F>> =
        parts.iter().map(|part| part.scope.iter().map(|&t| F::from_f64(coef[t])).collect()).collect();
    kernel::combine(&stretches(parts), &coef, out);
}

/// Writes `sum_t coef[t] * state[t]` into `out`, at the coordinates of the parts.
fn combine_state<F: Real>(parts: &[Part<'_, F>], state: &[Vec<F>], coef: &[f64], out: &mut [F]) {
    let tasks = |part: &Part<'_, F>| -> Vec<usize> { part.scope.iter().copied().filter(|&t| coef[t] != 0.0).collect() };
    let rows: Vec<Vec<&[F]>> =
        parts.iter().map(|part| tasks(part).iter().map(|&t| &state[t][part.local.clone()]).collect()).collect();
    let stretches: Vec<Stretch<'_, F>> =
        parts.iter().zip(&rows).map(|(part, rows)| Stretch { rows, local: part.local.clone() }).collect();
    let coef: Vec<Vec<F>> =
        parts.iter().map(|part| tasks(part).iter().map(|&t| F::from_f64(coef[t])).collect()).collect();
    kernel::combine(&stretches, &coef, out);
}

/// `state <- keep * state + add * row`.
#[inline(always)]
fn blend<F: Real>(state: &mut [F], keep: F, row: Option<&[F]>, add: F) {
    match row {
        Some(row) => state.iter_mut().zip(row).for_each(|(s, &g)| *s = keep * *s + add * g),
        None => state.iter_mut().for_each(|s| *s = keep * *s),
    }
}

/// Rows of a state with their names: `name.0`, `name.1`, ..
fn named<'a, F>(name: &str, rows: &'a [Vec<F>]) -> Vec<(String, &'a [F])> {
    rows.iter().enumerate().map(|(t, row)| (format!("{name}.{t}"), row.as_slice())).collect()
}

/// As [`named`], to be overwritten.
fn named_mut<'a, F>(name: &str, rows: &'a mut [Vec<F>]) -> Vec<(String, &'a mut Vec<F>)> {
    rows.iter_mut().enumerate().map(|(t, row)| (format!("{name}.{t}"), row)).collect()
}

/// Takes a small state by task from a checkpoint.
fn restore<S: serde::de::DeserializeOwned>(
    method: &str,
    state: &Value,
    n_tasks: usize,
    lengths: impl Fn(&S) -> Vec<usize>,
) -> Result<S, String> {
    let loaded: S = serde::Deserialize::deserialize(state).map_err(|e| format!("{method}: {e}"))?;
    match lengths(&loaded).into_iter().find(|&n| n != n_tasks) {
        Some(n) => Err(format!("{method}: {n} tasks in the checkpoint, {n_tasks} here")),
        None => Ok(loaded),
    }
}
