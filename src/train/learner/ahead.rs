//! One step ahead: how the losses of a second batch, after a step on the first, change with the task weights.
//!
//! Parameters are moved and put back; each move is made on shards and gathered, so every rank sees the same bits.

use super::Learner;
use super::descend::rows_of;
use super::gradients::{Place, add, per_count};
use super::moves::{Shared, moves};
use crate::balance::global::Sums;
use crate::comm::{Collective, CommError, Number};
use crate::error::Result;
use crate::ffi::{self, TorchReal};
use crate::kernel::dot;
use crate::step::{Factors, Grads, SharedRows, forward, weighted_grads};
use crate::train::phases::Phases;

/// Length of the finite difference, as in the paper.
const REACH: f64 = 0.01;

impl<F: TorchReal + Number> Learner<F> {
    /// Lets the weights learn, if they look ahead. `lr` is the length of the step ahead.
    pub(super) fn look_ahead(&mut self, at: Place<'_>, lr: f64, phases: &mut Phases) -> Result<()> {
        let Some(primary) = self.balancer.looks_ahead_for().map(<[bool]>::to_vec) else { return Ok(()) };
        let (first, second) = at.batches.split_at(at.batches.len() / 2);
        let (first, second) = (Place { batches: first, ..at }, Place { batches: second, ..at });
        let start = self.shard_of_parameters();

        // Which tasks are there is enough for these weights; their losses come with the gradient.
        let nothing = vec![0.0; self.tasks.len()];
        let (there, _) = self.global_losses(&nothing, 1, &first)?;
        let weights = self.balancer.weights(&there, at.step);
        let Some(descent) = self.gradient(first, &weights)? else { return Ok(()) };
        self.set_parameters(&start, -lr, &descent, at.comm)?;
        let wanted: Vec<f64> = primary.iter().map(|&p| f64::from(u8::from(p))).collect();
        let ahead = self.gradient(second, &wanted)?;
        let square = match &ahead {
            Some(v) => self.squared_norm(v, at.comm)?,
            None => 0.0,
        };
        let mut change = None;
        if let Some(v) = ahead.filter(|_| square > 0.0 && square.is_finite()) {
            let eps = REACH / square.sqrt();
            self.set_parameters(&start, eps, &v, at.comm)?;
            let above = self.losses_now(&first, phases)?;
            self.set_parameters(&start, -eps, &v, at.comm)?;
            let below = self.losses_now(&first, phases)?;
            let slope = |(a, b): (&Option<f64>, &Option<f64>)| Some(-lr * (a.as_ref()? - b.as_ref()?) / (2.0 * eps));
            change = Some(above.iter().zip(&below).map(slope).collect::<Vec<_>>());
        }
        self.set_parameters(&start, 0.0, &descent, at.comm)?;
        if let Some(change) = change {
            self.balancer.learn_ahead(&change);
        }
        Ok(())
    }

    /// This rank's shard of the gradient of a weighted sum of mean losses; `None` if a loss is not finite.
    fn gradient(&mut self, at: Place<'_>, weights: &[f64]) -> Result<Option<Vec<F>>> {
        let mut sums = vec![0.0; self.tasks.len()];
        let (_, counts) = self.global_losses(&sums, 1, &at)?;
        let factors = Factors { shared: per_count(weights, &counts.total), serve_private: true };
        let mut grads = Grads::zero(SharedRows::Combined, &self.model.params);
        self.seed_torch(&at);
        for batch in at.batches {
            let pass = forward(&self.model, &self.losses, batch, at.active, true);
            add(&mut sums, &pass.sums);
            weighted_grads(&self.model.params, &pass.terms, &factors, &mut grads)?;
        }
        let (losses, _) = self.global_losses(&sums, 1, &at)?;
        if self.not_finite_losses(&losses).is_some() {
            return Ok(None);
        }
        let segments = rows_of::<F>(&self.model.params, &grads);
        let reduced = self.reducer.reduce(segments, at.comm)?;
        let ones = vec![1.0; weights.len()];
        let mut shard = vec![F::default(); self.layout.len()];
        for m in moves(&self.model.params.segments, &self.layout, &reduced, &Shared::Combined, &ones) {
            if let Some(row) = m.grads.rows.first().filter(|row| !row.is_empty()) {
                shard[self.layout.local(&m.at)].copy_from_slice(row);
            }
        }
        Ok(Some(shard))
    }

    /// Squared norm of a vector that is laid out as the shard.
    fn squared_norm(&self, shard: &[F], comm: &dyn Collective) -> Result<f64, CommError> {
        let sharded = self.reducer.is_sharded() && comm.world().size > 1;
        let mut sum = [dot(shard, shard)];
        Sums::new(comm, sharded).add_up(&mut sum)?;
        Ok(sum[0])
    }

    fn shard_of_parameters(&self) -> Vec<F> {
        let flat = ffi::numbers::<F>(&self.model.params.flat);
        self.layout.blocks.iter().flat_map(|b| flat[b.clone()].iter().copied()).collect()
    }

    /// Parameters become `start + length * along`; exactly `start` for length 0.
    fn set_parameters(
        &mut self,
        start: &[F],
        length: f64,
        along: &[F],
        comm: &dyn Collective,
    ) -> Result<(), CommError> {
        let length = F::from_f64(length);
        let flat = ffi::numbers_mut::<F>(&mut self.model.params.flat);
        let mut at = 0;
        for block in &self.layout.blocks {
            let here = at..at + block.len();
            for ((p, s), v) in flat[block.clone()].iter_mut().zip(&start[here.clone()]).zip(&along[here]) {
                *p = if length == F::default() { *s } else { *s + length * *v };
            }
            at += block.len();
        }
        if self.reducer.is_sharded() && comm.world().size > 1 {
            self.model.params.segments.iter().try_for_each(|s| F::all_gather(comm, &mut flat[s.range.clone()]))?;
        }
        Ok(())
    }
}
