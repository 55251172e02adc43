//! Surgery on the task gradients themselves, a file per method: coordinate by coordinate, or with a state of the size
//! of `J`.
//!
//! Such methods are exact on shards: what they do at a coordinate depends on that coordinate and on a few sums over all
//! coordinates, which [`Sums`] adds up over ranks. State is sharded with the parameters and travels through checkpoints
//! like an optimizer's, so it fits any number of ranks.

use super::Gram;
use super::global::{CommError, Sums};
use crate::config;
use crate::kernel::{Fragment, Real};
use serde_json::Value;
use std::ops::Range;

/// A range of coordinates of this rank with the rows of `J` there.
#[derive(Debug)]
pub struct Part<'a, F> {
    /// Task of each row, ascending.
    pub scope: &'a [usize],
    /// Place in the flat parameters: the same for a coordinate on any number of ranks.
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
    /// Returns coefficients `[T]`, if the direction is a combination of this step's task gradients.
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

/// The configured method for `n_tasks` tasks and a shard of `n` coordinates; `None` for methods of another kind.
pub fn build<F: Real>(config: &config::Surgery, n_tasks: usize, n: usize) -> Option<Box<dyn ShardSurgery<F>>> {
    let _ = (n_tasks, n);
    match config {
        config::Surgery::None | config::Surgery::Pcgrad => None,
        config::Surgery::Mgda(_) | config::Surgery::Cagrad(_) | config::Surgery::NashMtl(_) => None,
        config::Surgery::Fairgrad(_) | config::Surgery::Upgrad(_) | config::Surgery::Dualproj(_) => None,
    }
}
