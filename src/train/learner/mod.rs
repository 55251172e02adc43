//! One optimizer step over all ranks: the only place where a step's stages meet.
//!
//! ```text
//! engine.rs     the two ways to compute what follows the backward: host.rs on slices, tensors/ on devices
//! sketched.rs   only where surgery works on random projections of the rows
//! ahead.rs      only for weights that look one step ahead
//! gradients.rs  forward      local loss sums, graphs alive                              step/
//!               losses       all-reduce of 2 T numbers, divided by the global counts    comm/
//!               backward     T rows of local sums, or one row of the weighted sum       step/
//! descend.rs    reduce       rows summed over ranks, cut into shards                    comm/reduce
//!               balance      G by one all-reduce of T * T numbers, coefficients c       balance/
//!               update       c^T J and the optimizer in one pass over the shard         moves.rs, kernel/, optim/
//!               gather       parameters of all shards                                   comm/
//! ```

mod ahead;
mod descend;
mod engine;
mod gradients;
mod host;
mod moves;
mod sketched;
mod tensors;

use super::guard::{Judge, Refusal};
use super::phases::Phases;
use super::replicas::check_replicas;
use crate::balance::shard::{self, ShardSurgery};
use crate::balance::{Balancer, Coefficients, Gram};
use crate::comm::tensors::TensorCollective;
use crate::comm::{Collective, CommError, Number};
use crate::config::{self, Balance, Config, GramFrom, NonFinite, Optim, Precision, Reduction, Scope, Spike, Wire};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::ffi::{self, TorchReal};
use crate::model::{Model, Params, Rows};
use crate::optim::Optimizer;
use crate::step::counts;
use crate::step::losses::TaskLoss;
use crate::world::World;
use engine::Engine;
use gradients::{Micro, Place};
use host::Host;
use moves::Layout;
use std::ops::Range;
use tch::{Device, Kind};
use tensors::Tensors;

/// Model, balancing and optimizer with their states: what learns.
pub struct Learner<F> {
    /// Encoder, heads, parameters.
    pub model: Model,
    /// A loss per task.
    pub losses: Vec<Box<dyn TaskLoss>>,
    /// Weighting and surgery.
    pub balancer: Balancer,
    /// Optimizer of this rank's shard. Its states are with the tensors, where gradients are.
    pub optimizer: Optimizer<F>,
    /// Surgery that needs the gradients themselves, with its state.
    pub(super) shard: Option<Box<dyn ShardSurgery<F>>>,
    /// Its direction, laid out as the shard.
    direction: Vec<F>,
    engine: Engine<F>,
    reduction: Reduction,
    gram: GramFrom,
    layout: Layout,
    /// Independent batches into which a step is divided.
    independent: usize,
    seed: u64,
    /// Whether the next step compares the parameters over ranks before it moves them: with shards, the update of each is
    /// what all ranks hold afterwards, right or wrong.
    pub(super) compares_replicas: bool,
    /// Task names, for messages.
    tasks: Vec<String>,
    clip_norm: Option<f64>,
    /// Which steps are refused, with what it remembers of the steps before.
    pub(super) judge: Judge,
}

/// Where and with what numbers a learner computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compute {
    /// Where the model is.
    pub device: Device,
    /// In 16 bits, or in those of the learner's own floats.
    pub precision: Precision,
    /// Who computes what follows the backward passes.
    pub engine: config::Engine,
    /// In which floats gradients travel.
    pub wire: Wire,
}

impl Default for Compute {
    /// On the CPU, with our own kernels.
    fn default() -> Self {
        let engine = config::Engine::Auto;
        Compute { device: Device::Cpu, precision: Precision::F32, engine, wire: Wire::F32 }
    }
}

impl Compute {
    /// What a configuration says, on this device.
    pub fn of(config: &Config, device: Device) -> Self {
        Compute { device, precision: config.train.precision, engine: config.train.engine, wire: config.comm.wire }
    }

    /// Whether the step computes with tensors rather than with numbers on the host.
    pub fn uses_tensors(&self) -> bool {
        match self.engine {
            config::Engine::Tensors => true,
            config::Engine::Auto => self.device != Device::Cpu || self.precision == Precision::Bf16,
        }
    }
}

/// What a learner needs to know besides model and losses.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Task names in the order of the losses.
    pub tasks: Vec<String>,
    /// Seed of all draws of a step: surgery, weighting, dropout.
    pub seed: u64,
    /// Steps per epoch, for balancing methods that are defined by epochs.
    pub steps_per_epoch: u64,
    /// Weighting and surgery.
    pub balance: Balance,
    /// Optimizer. Its learning rate is a matter of whoever calls [`Learner::step`].
    pub optim: Optim,
    /// How gradients are reduced.
    pub reduction: Reduction,
    /// From what surgery's inner products are computed.
    pub gram: GramFrom,
    /// Where and with what numbers it computes.
    pub compute: Compute,
    /// What becomes of values that are not finite. With `Skip`, no parameter is moved before the update is known to be
    /// finite.
    pub non_finite: NonFinite,
    /// What becomes of values that stand out.
    pub spike: Option<Spike>,
}

impl Recipe {
    /// What a configuration says. `steps_per_epoch` is the sampler's.
    pub fn of(config: &Config, steps_per_epoch: u64) -> Self {
        Recipe {
            tasks: config.tasks.iter().map(|(name, _)| name.clone()).collect(),
            seed: config.run.seed,
            steps_per_epoch,
            balance: config.balance.clone(),
            optim: config.optim.clone(),
            reduction: config.comm.reduction,
            gram: config.comm.gram,
            compute: Compute::of(config, Device::Cpu),
            non_finite: config.train.non_finite,
            spike: config.train.spike,
        }
    }
}

/// What a step did; the same on every rank, times excepted.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// Global mean loss per task `[T]`; `None`: no label in this step.
    pub losses: Vec<Option<f64>>,
    /// Weights `w` `[T]`.
    pub weights: Vec<f64>,
    /// Coefficients of the task gradients.
    pub coefficients: Coefficients,
    /// Gram matrix of the unweighted task gradients, of all groups of layers together; `None` if the step needed none.
    pub gram: Option<Gram>,
    /// Norm of the whole update before clipping.
    pub update_norm: f64,
    /// Why the step was not taken.
    pub refused: Option<Refusal>,
    /// What stood out, if the step was taken all the same.
    pub warning: Option<String>,
    /// Times of this rank.
    pub phases: Phases,
}

impl<F: TorchReal + Number> Learner<F> {
    /// A learner around a freshly built model.
    pub fn new(
        config: &Config,
        steps_per_epoch: u64,
        model: Model,
        losses: Vec<Box<dyn TaskLoss>>,
        comm: &dyn Collective,
    ) -> Self {
        Learner::assemble(Recipe::of(config, steps_per_epoch), model, losses, comm)
    }

    /// As [`Learner::new`], without a configuration of a whole run. The model's parameters are in `F`, on any device; they
    /// move to the recipe's.
    pub fn assemble(recipe: Recipe, mut model: Model, losses: Vec<Box<dyn TaskLoss>>, comm: &dyn Collective) -> Self {
        let blocks: Vec<_> =
            model.params.segments.iter().map(|s| block(recipe.reduction, &s.range, comm.world())).collect();
        let groups = match recipe.balance.scope {
            Scope::All => Vec::new(),
            Scope::PerLayerGroup => layer_groups(&model.params),
        };
        let layout = Layout::new(blocks.clone(), groups);
        let (n_tasks, n) = (recipe.tasks.len(), layout.len());
        let (balance, steps_per_epoch) = (&recipe.balance, recipe.steps_per_epoch);
        let computes = recipe.compute;
        let engine = if computes.uses_tensors() {
            model.place(F::KIND, computes.device);
            let wire = if computes.wire == Wire::Bf16 { Kind::BFloat16 } else { F::KIND };
            let compute = if computes.precision == Precision::Bf16 { Kind::BFloat16 } else { F::KIND };
            let tensors = Tensors::new(&mut model.params, compute, wire, recipe.reduction, blocks, &recipe.optim);
            Engine::Tensors(Box::new(tensors))
        } else {
            Engine::Host(Host::new(recipe.reduction))
        };
        let n_states = if computes.uses_tensors() { 0 } else { n };
        Learner {
            balancer: Balancer::build(balance, &recipe.tasks, layout.n_groups, recipe.seed, steps_per_epoch),
            shard: shard::build(&balance.surgery, n_tasks, n),
            direction: Vec::new(),
            optimizer: Optimizer::new(&recipe.optim, n_states),
            clip_norm: recipe.optim.clip_norm(),
            judge: Judge::new(&recipe.tasks, recipe.non_finite, recipe.spike),
            model,
            losses,
            engine,
            reduction: recipe.reduction,
            gram: recipe.gram,
            layout,
            independent: recipe.balance.independent_batches(),
            seed: recipe.seed,
            compares_replicas: false,
            tasks: recipe.tasks,
        }
    }

    /// Exchanges tensors between devices over this from now on.
    pub fn exchange_over(&mut self, exchange: Box<dyn TensorCollective>) {
        if let Engine::Tensors(tensors) = &mut self.engine {
            tensors.exchange_over(exchange);
        }
    }

    /// Whether a step can be made of these micro-batches: the same answer on all ranks that were given as many.
    fn fits(&self, batches: &[Batch]) -> Result<()> {
        let refuse = |words: String| Err(Error::Usage(words));
        if batches.is_empty() || !batches.len().is_multiple_of(self.independent) {
            let (n, of) = (batches.len(), self.independent);
            return refuse(format!("a step of {n} micro-batches: this balancing needs a multiple of {of}, above 0"));
        }
        for batch in batches {
            let mut tasks: Vec<usize> = batch.parts.iter().flat_map(|p| &p.targets).map(|t| t.task).collect();
            tasks.sort_unstable();
            if let Some(twice) = tasks.windows(2).find(|pair| pair[0] == pair[1]) {
                return refuse(format!("task `{}` has targets in two parts of a micro-batch", self.tasks[twice[0]]));
            }
        }
        Ok(())
    }

    /// Waits for parameters that are on their way from other ranks since the last step: the next one computes with those
    /// that have arrived, everybody else needs all. Whoever reads [`Params::flat`] waits, too; this also tells what has gone
    /// wrong so far. The host does not wait for a device.
    ///
    /// # Errors
    /// If an exchange has failed.
    pub fn settle(&self) -> Result<(), CommError> {
        self.engine.settle(&self.model.params)
    }

    /// Ends the exchange between devices in order. Without this it is left as it is, which is right on the way out after an
    /// error that other ranks do not share: ending it would wait for them.
    ///
    /// # Collective
    /// All ranks.
    pub fn close_exchange(&mut self) {
        if let Engine::Tensors(tensors) = &mut self.engine {
            tensors.close_exchange();
        }
    }

    /// Milliseconds that exchanges between devices have taken so far; `None` without such.
    pub fn exchange_ms(&self) -> Option<f64> {
        if let Engine::Tensors(tensors) = &self.engine { tensors.exchange_ms() } else { None }
    }

    /// Bytes this rank has sent so far, over all ways.
    pub fn bytes_sent(&self, comm: &dyn Collective) -> u64 {
        let beside = if let Engine::Tensors(tensors) = &self.engine { tensors.bytes_sent() } else { 0 };
        comm.bytes_sent() + beside
    }

    /// Takes one step. `step` counts from 0; `batches` are this rank's micro-batches. Between GPUs the parameters of other
    /// ranks are still on their way when this returns, see [`Self::settle`].
    ///
    /// # Collective
    /// All ranks, with the slices of the same global batch.
    ///
    /// # Errors
    /// If a collective or libtorch fails. A loss or gradient that is not finite, or stands out, is no error: the step is
    /// refused on all ranks alike, and the report says what it was.
    pub fn step(&mut self, step: u64, lr: f64, batches: &[Batch], comm: &dyn Collective) -> Result<StepReport> {
        self.fits(batches)?;
        let active = self.balancer.active(step);
        let device = self.model.device();
        let micro = |batch: &Batch| Micro { counts: counts(&self.losses, batch, &active), batch: batch.to(device) };
        let batches: Vec<Micro> = batches.iter().map(micro).collect();
        let at = Place { step, batches: &batches, active: &active, comm };
        let (mut phases, before) = (Phases::default(), self.balancer.last_coefficients());
        if self.compares_replicas && self.balancer.looks_ahead_for().is_some() {
            // Looking ahead moves parameters, and brings them back from the ranks that own them.
            self.settle()?;
            check_replicas(&self.model.params, step + 1, comm)?;
        }
        self.look_ahead(at, lr, &mut phases)?;
        let local = self.local(at, &mut phases)?;
        let mut report = self.descend(&at, lr, local, phases)?;
        report.phases.collect();
        if report.refused.is_some() {
            self.balancer.forget_since(before);
            return Ok(report);
        }
        self.optimizer.updates += 1;
        report.warning = self.judge.took(&report.losses, report.update_norm);
        self.balancer.observe(&report.losses, step);
        if self.balancer.needs_losses_after() {
            let after = self.losses_now(&at, &mut report.phases)?;
            self.balancer.observe_after(&report.losses, &after, step);
        }
        Ok(report)
    }

    /// The report of a step that is left out: nothing is computed, nothing is changed.
    pub fn leave_out(&self) -> StepReport {
        let nothing = vec![f64::NAN; self.tasks.len()];
        StepReport {
            losses: vec![None; self.tasks.len()],
            coefficients: self.balancer.of_heads(&nothing, None),
            weights: nothing,
            gram: None,
            update_norm: f64::NAN,
            refused: Some(Refusal::LeftOut),
            warning: None,
            phases: Phases::default(),
        }
    }

    /// The optimizer's states of this rank's shard, if they are with the tensors.
    pub(super) fn tensor_states(&self) -> Option<Vec<Vec<F>>> {
        match &self.engine {
            Engine::Host(_) => None,
            Engine::Tensors(tensors) => Some(tensors.states()),
        }
    }

    /// This rank's shard of the parameters in full precision, if the model's are rounded.
    pub(super) fn masters(&self) -> Option<Vec<F>> {
        match &self.engine {
            Engine::Tensors(tensors) if tensors.has_masters(&self.model.params) => Some(ffi::values(&tensors.shard())),
            _ => None,
        }
    }

    /// Takes over the flat parameters, and the optimizer's states of this rank's shard.
    pub(super) fn take_over(&mut self, flat: &[F], states: Vec<Vec<F>>) {
        match &mut self.engine {
            Engine::Host(_) => {
                ffi::write(self.model.params.flat(), flat);
                let mut states = states.into_iter();
                for place in [&mut self.optimizer.first, &mut self.optimizer.second] {
                    *place = states.next().unwrap_or_default();
                }
            }
            Engine::Tensors(tensors) => {
                tensors.set_parameters(&self.model.params, flat);
                tensors.set_states(&states);
            }
        }
    }

    /// The part of a segment of the flat buffer that this rank optimizes.
    pub fn block(&self, segment: &Range<usize>, comm: &dyn Collective) -> Range<usize> {
        block(self.reduction, segment, comm.world())
    }
}

/// The part of a segment that a rank owns after the reduction.
fn block(reduction: Reduction, segment: &Range<usize>, world: World) -> Range<usize> {
    if reduction == Reduction::AllReduce {
        return segment.clone();
    }
    let len = segment.len() / world.size;
    segment.start + world.rank * len..segment.start + (world.rank + 1) * len
}

/// The shared parameters by layer: those whose names differ in the last part only, such as `layers.0.weight` and
/// `layers.0.bias`. (group, place in the flat parameters), by place.
fn layer_groups(params: &Params) -> Vec<(usize, Range<usize>)> {
    let mut layers: Vec<&str> = Vec::new();
    let mut groups = Vec::new();
    for segment in params.segments.iter().filter(|s| matches!(s.rows, Rows::Shared(_))) {
        for entry in params.entries_in(segment).map(|e| &params.entries[e]) {
            let layer = entry.name.rsplit_once('.').map_or(entry.name.as_str(), |(layer, _)| layer);
            let group = layers.iter().position(|known| *known == layer).unwrap_or_else(|| {
                layers.push(layer);
                layers.len() - 1
            });
            groups.push((group, entry.range.clone()));
        }
    }
    groups
}

pub(super) fn names(all: &[String], tasks: &[usize]) -> String {
    let names: Vec<String> = tasks.iter().map(|&t| format!("`{}`", all[t])).collect();
    names.join(", ")
}
