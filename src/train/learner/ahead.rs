//! One step ahead: how the losses of a second batch, after a step on the first, change with the task weights.
//!
//! Parameters are moved and put back; each move is made on shards and gathered, so every rank sees the same bits.

use super::Learner;
use super::engine::{Collector, Vector};
use super::gradients::{Place, global_losses, per_count};
use super::moves::{Shared, moves};
use crate::balance::global::Sums;
use crate::comm::{Collective, CommError, Number};
use crate::config::Reduction;
use crate::error::{Error, Result};
use crate::ffi::TorchReal;
use crate::step::{Factors, Grads, LossSums, Masks, SharedRows, pass};
use crate::train::phases::Phases;

/// Length of the finite difference, as in the paper.
const REACH: f64 = 0.01;

impl<F: TorchReal + Number> Learner<F> {
    /// Lets the weights learn, if they look ahead. `lr` is the length of the step ahead.
    pub(super) fn look_ahead(&mut self, at: Place<'_>, lr: f64, phases: &mut Phases) -> Result<()> {
        let Some(primary) = self.balancer.looks_ahead_for().map(<[bool]>::to_vec) else { return Ok(()) };
        let (first, second) = at.batches.split_at(at.batches.len() / 2);
        let (first, second) = (Place { batches: first, ..at }, Place { batches: second, ..at });
        let start = self.engine.shard(&self.model.params, &self.layout);

        // Which tasks are there is enough for these weights; their losses come with the gradient.
        let nothing = vec![0.0; self.tasks.len()];
        let (there, _) = global_losses(&nothing, 1, &first)?;
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
    fn gradient(&mut self, at: Place<'_>, weights: &[f64]) -> Result<Option<Vector<F>>> {
        let (_, counts) = global_losses(&vec![0.0; self.tasks.len()], 1, &at)?;
        let factors = Factors { shared: per_count(weights, &counts.total), serve_private: true };
        let mut grads = Grads::zero(SharedRows::Combined, &self.model.params);
        self.seed_torch(&at);
        let seed = self.torch_seed(&at);
        let Learner { model, engine, losses, layout, tasks, judge, .. } = self;
        let mut collector = Collector { engine, params: &model.params, comm: at.comm };
        collector.begin(SharedRows::Combined);
        let mut pending = LossSums::default();
        for (micro, m) in at.batches.iter().enumerate() {
            let pass = pass(model, losses, &m.batch, at.active, Masks::new(seed, micro));
            pending.add(pass.terms());
            pass.weighted_grads::<Error>(model, &factors, &mut grads, None)?;
            let end = micro + 1 == at.batches.len();
            collector.micro(&mut grads, 0, end, end)?;
        }
        let (losses, _) = global_losses(&pending.read(tasks.len()), 1, &at)?;
        // On all ranks: a row that is on its way must be met by those of the others.
        let mut reduced = engine.reduced(&grads, &model.params, at.comm)?;
        let rows = reduced.rows();
        if judge.not_finite(&losses).is_some() {
            return Ok(None);
        }
        if let Some(combined) = rows.combined(&model.params) {
            return Ok(Some(Vector::Tensor(combined)));
        }
        let ones = vec![1.0; weights.len()];
        let mut shard = vec![F::default(); layout.len()];
        for m in moves(&model.params.segments, layout, &rows.on_host(), &Shared::Combined, &ones) {
            if let Some(row) = m.grads.rows.first().filter(|row| !row.is_empty()) {
                shard[layout.local(&m.at)].copy_from_slice(row);
            }
        }
        Ok(Some(Vector::Host(shard)))
    }

    fn is_sharded(&self, comm: &dyn Collective) -> bool {
        self.reduction == Reduction::Sharded && comm.world().size > 1
    }

    /// Squared norm of a vector that is laid out as the shard.
    fn squared_norm(&self, shard: &Vector<F>, comm: &dyn Collective) -> Result<f64, CommError> {
        let mut sum = [shard.squared_norm()];
        Sums::new(comm, self.is_sharded(comm)).add_up(&mut sum)?;
        Ok(sum[0])
    }

    /// Parameters become `start + length * along`; exactly `start` for length 0.
    fn set_parameters(
        &mut self,
        start: &Vector<F>,
        length: f64,
        along: &Vector<F>,
        comm: &dyn Collective,
    ) -> Result<(), CommError> {
        self.engine.set_shard(&mut self.model.params, &self.layout, start, length, along);
        if self.is_sharded(comm) {
            self.engine.gather(&mut self.model.params, comm)?;
        }
        Ok(())
    }
}
