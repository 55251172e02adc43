//! Surgery on a sketch of the gradients: the rows themselves never travel.
//!
//! Each rank projects its local rows to `dim` numbers; the sketches of all ranks add up to those of the global rows, since
//! the map is linear and the same everywhere, and their inner products estimate `G` without bias. With the coefficients from
//! there, each rank combines its own rows, and one row is reduced instead of `T`: about `1 / T` of the traffic.
//!
//! The update is exact for the coefficients used; these are those of the estimate. `docs/sketch.md` has measured errors.

use super::Learner;
use super::gradients::{Agreed, Local, Place, global_losses};
use crate::comm::Number;
use crate::config;
use crate::error::Result;
use crate::ffi::{TorchReal, numbers};
use crate::kernel::{Sketch, Span};
use crate::model::Params;
use crate::rng::{Stream, seed};
use crate::step::{Grads, LossSums, Masks, SharedRows, pass};
use crate::train::phases::{Phase, Phases};
use tch::{TchError, Tensor};

impl<F: TorchReal + Number> Learner<F> {
    /// `T` local rows, coefficients from their sketches, and one combined row.
    pub(super) fn sketched_gradients(
        &mut self,
        at: Place<'_>,
        sketch: config::Sketch,
        phases: &mut Phases,
    ) -> Result<Local> {
        let n_tasks = self.tasks.len();
        let mut rows = Grads::zero(SharedRows::Tasks { batches: 1 }, &self.model.params);
        let mut pending = LossSums::default();
        for (micro, m) in at.batches.iter().enumerate() {
            let masks = Masks::new(self.torch_seed(&at), micro);
            let pass = phases.time(Phase::Forward, || pass(&self.model, &self.losses, &m.batch, at.active, masks));
            pending.add(pass.terms());
            let mut done = |_: &mut Grads, _| Ok::<_, TchError>(());
            phases.time(Phase::Backward, || pass.task_grads(&self.model, 0, &mut rows, &mut done))?;
        }
        let (losses, counts) = phases.time(Phase::Losses, || global_losses(&pending.read(n_tasks), 1, &at))?;
        let weights = self.balancer.weights(&losses, at.step);
        let mut agreed = Agreed::new(losses, counts, weights, Some(&self.judge));

        let map = Sketch::new(seed(self.seed, Stream::Sketch, at.step, 0) as u64, at.step, sketch.dim);
        let mut sketches = vec![F::default(); n_tasks * map.dim()];
        phases.time(Phase::Gram, || map.add(&spans(&self.model.params, &rows), &mut sketches));
        phases.time(Phase::Reduce, || F::all_reduce(at.comm, &mut sketches))?;
        let products = phases.time(Phase::Gram, || map.products(&sketches));
        // Every rank has the products of all.
        let Some(factors) = self.balance_early(&products, false, &mut agreed, &at, phases)? else {
            return Ok(Local::refused(agreed));
        };
        let grads = phases.time(Phase::Update, || combined(&self.model.params, rows, &factors));
        Ok(Local { grads: Some(grads), pending: LossSums::default(), agreed: Some(agreed) })
    }
}

/// The rows of the shared parameters, each coordinate with its number among them, without padding.
fn spans<'a, F: TorchReal>(params: &Params, rows: &'a Grads) -> Vec<Span<'a, F>> {
    let (mut spans, mut place) = (Vec::new(), 0);
    for (entry, rows) in params.entries.iter().zip(&rows.rows).filter(|(e, _)| params.is_shared(e)) {
        for (&row, tensor) in entry.scope.iter().zip(rows) {
            if let Some(tensor) = tensor.tensor() {
                spans.push(Span { row, place, values: numbers::<F>(tensor) });
            }
        }
        place += entry.range.len() as u64;
    }
    spans
}

/// One row: `sum_t factors[t] * row t` for shared parameters, and the tasks' own rows as they are.
fn combined(params: &Params, mut rows: Grads, factors: &[f64]) -> Grads {
    let _no_grad = tch::no_grad_guard();
    let mut grads = Grads::zero(SharedRows::Combined, params);
    for (e, entry) in params.entries.iter().enumerate() {
        let shared = params.is_shared(entry);
        let taken: Vec<(f64, Tensor)> = (0..rows.rows[e].len())
            .filter_map(|row| Some((if shared { factors[entry.scope[row]] } else { 1.0 }, rows.take(e, row)?)))
            .collect();
        for (factor, row) in taken {
            grads.add(e, 0, if factor == 1.0 { row } else { row * factor });
        }
    }
    grads
}
