//! Surgery on a sketch of the gradients: the rows themselves never travel.
//!
//! Each rank projects its local rows to `dim` numbers; the sketches of all ranks add up to those of the global rows, since
//! the map is linear and the same everywhere, and their inner products estimate `G` without bias. With the coefficients from
//! there, each rank combines its own rows, and one row is reduced instead of `T`: about `1 / T` of the traffic.
//!
//! The update is exact for the coefficients used; these are those of the estimate. `docs/sketch.md` has measured errors.

use super::Learner;
use super::engine::{Collector, Engine, exchange};
use super::gradients::{Agreed, Local, Place, global_losses};
use crate::comm::{Collective, CommError, Number};
use crate::config;
use crate::error::Result;
use crate::ffi::{self, TorchReal, numbers};
use crate::kernel::{Sketch, Span};
use crate::model::Params;
use crate::rng::{Stream, seed};
use crate::step::{Grads, LossSums, Masks, SharedRows, pass, row_products, sketches};
use crate::train::phases::{Phase, Phases};
use tch::{Kind, TchError, Tensor};

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
        let map = Sketch::new(seed(self.seed, Stream::Sketch, at.step, 0) as u64, at.step, sketch.dim);
        let (sums, products) = match &self.engine {
            Engine::Host(_) => self.products_on_host(map, &rows, &pending, at.comm, phases)?,
            Engine::Tensors(_) => self.products_on_device(map, &rows, &pending, at.comm, phases)?,
        };
        let (losses, counts) = phases.time(Phase::Losses, || global_losses(&sums, 1, &at))?;
        let weights = self.balancer.weights(&losses, at.step);
        let mut agreed = Agreed::new(losses, counts, weights, Some(&self.judge));
        debug_assert_eq!(products.len(), n_tasks * n_tasks);
        // Every rank has the products of all.
        let Some(factors) = self.balance_early(&products, false, &mut agreed, &at, phases)? else {
            return Ok(Local::refused(agreed));
        };
        let Learner { model, engine, .. } = self;
        let mut grads = phases.time(Phase::Update, || combined::<F>(&model.params, rows, &factors));
        let mut collector = Collector { engine, params: &model.params, comm: at.comm };
        collector.begin(SharedRows::Combined);
        phases.time(Phase::Reduce, || collector.micro(&mut grads, 0, true, true))?;
        Ok(Local { grads: Some(grads), pending: LossSums::default(), agreed: Some(agreed) })
    }

    /// Local loss sums `[T]`, and products `[T, T]` of the sketches of all ranks.
    fn products_on_host(
        &self,
        map: Sketch,
        rows: &Grads,
        pending: &LossSums,
        comm: &dyn Collective,
        phases: &mut Phases,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let n_tasks = self.tasks.len();
        let mut sketches = vec![F::default(); n_tasks * map.dim()];
        phases.time(Phase::Gram, || map.add(&spans(&self.model.params, rows), &mut sketches));
        phases.time(Phase::Reduce, || F::all_reduce(comm, &mut sketches))?;
        let products = phases.time(Phase::Gram, || map.products(&sketches));
        Ok((phases.time(Phase::Losses, || pending.read(n_tasks)), products))
    }

    /// The same where the rows are, with one wait for the device.
    fn products_on_device(
        &self,
        map: Sketch,
        rows: &Grads,
        pending: &LossSums,
        comm: &dyn Collective,
        phases: &mut Phases,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let (params, n_tasks) = (&self.model.params, self.tasks.len());
        let sketches =
            phases.time(Phase::Gram, || sketches(map, params, rows, F::KIND, self.model.device()).reshape([-1]));
        phases.time(Phase::Reduce, || {
            if comm.world().size == 1 {
                return Ok::<_, CommError>(());
            }
            exchange(self.engine.own_exchange(), comm, |over| {
                over.fork()?;
                over.all_reduce(&sketches)?;
                over.join()
            })
        })?;
        let mut values = phases.time(Phase::Gram, || {
            let products = row_products(&sketches.reshape([n_tasks as i64, -1]));
            ffi::read(&std::iter::once(products).chain(pending.tensor()).collect::<Vec<_>>())
        });
        let losses = values.split_off(n_tasks * n_tasks);
        Ok((pending.by_task(&losses, n_tasks), values))
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
fn combined<F: TorchReal>(params: &Params, mut rows: Grads, factors: &[f64]) -> Grads {
    let _no_grad = tch::no_grad_guard();
    let mut grads = Grads::zero(SharedRows::Combined, params);
    for (e, entry) in params.entries.iter().enumerate() {
        let shared = params.is_shared(entry);
        let taken: Vec<(f64, Tensor)> = (0..rows.rows[e].len())
            .filter_map(|row| Some((if shared { factors[entry.scope[row]] } else { 1.0 }, rows.take(e, row)?)))
            .collect();
        for (factor, row) in taken {
            // Halves are multiplied and added up in the learner's own floats.
            let row = if shared && row.kind() == Kind::BFloat16 { row.to_kind(F::KIND) } else { row };
            grads.add(e, 0, if factor == 1.0 { row } else { row * factor });
        }
    }
    grads
}
