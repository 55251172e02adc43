//! One optimizer step over all ranks: the only place where a step's stages meet.
//!
//! ```text
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
mod gradients;
mod moves;

use super::phases::Phases;
use crate::balance::shard::{self, ShardSurgery};
use crate::balance::{Balancer, Coefficients, Gram};
use crate::comm::reduce::Reducer;
use crate::comm::{Collective, Number};
use crate::config::{Balance, Config, NonFinite, Optim, Reduction, Scope};
use crate::data::Batch;
use crate::error::Result;
use crate::ffi::TorchReal;
use crate::model::{Model, Params, Rows};
use crate::optim::Optimizer;
use crate::step::losses::TaskLoss;
use gradients::Place;
use moves::Layout;
use std::ops::Range;

/// Model, balancing and optimizer with their states: what learns.
pub struct Learner<F> {
    /// Encoder, heads, parameters.
    pub model: Model,
    /// A loss per task.
    pub losses: Vec<Box<dyn TaskLoss>>,
    /// Weighting and surgery.
    pub balancer: Balancer,
    /// Optimizer of this rank's shard.
    pub optimizer: Optimizer<F>,
    /// Surgery that needs the gradients themselves, with its state.
    pub(super) shard: Option<Box<dyn ShardSurgery<F>>>,
    /// Its direction, laid out as the shard.
    direction: Vec<F>,
    reducer: Reducer<F>,
    layout: Layout,
    seed: u64,
    /// Task names, for messages.
    tasks: Vec<String>,
    clip_norm: Option<f64>,
    non_finite: NonFinite,
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
    /// What becomes of values that are not finite. With `Skip`, no parameter is moved before the update is known to be
    /// finite.
    pub non_finite: NonFinite,
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
            non_finite: config.train.non_finite,
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
    /// Why the step was not taken: what is not finite.
    pub refused: Option<String>,
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

    /// As [`Learner::new`], without a configuration of a whole run.
    pub fn assemble(recipe: Recipe, model: Model, losses: Vec<Box<dyn TaskLoss>>, comm: &dyn Collective) -> Self {
        let reducer = Reducer::new(recipe.reduction);
        let blocks = model.params.segments.iter().map(|s| reducer.block(&s.range, comm)).collect();
        let groups = match recipe.balance.scope {
            Scope::All => Vec::new(),
            Scope::PerLayerGroup => layer_groups(&model.params),
        };
        let layout = Layout::new(blocks, groups);
        let (n_tasks, n) = (recipe.tasks.len(), layout.len());
        let (balance, steps_per_epoch) = (&recipe.balance, recipe.steps_per_epoch);
        Learner {
            balancer: Balancer::build(balance, &recipe.tasks, layout.n_groups, recipe.seed, steps_per_epoch),
            shard: shard::build(&balance.surgery, n_tasks, n),
            direction: Vec::new(),
            optimizer: Optimizer::new(&recipe.optim, n),
            clip_norm: recipe.optim.clip_norm(),
            non_finite: recipe.non_finite,
            model,
            losses,
            reducer,
            layout,
            seed: recipe.seed,
            tasks: recipe.tasks,
        }
    }

    /// Takes one step. `step` counts from 0; `batches` are this rank's micro-batches.
    ///
    /// # Collective
    /// All ranks, with the slices of the same global batch.
    ///
    /// # Errors
    /// If a collective or libtorch fails. A loss or gradient that is not finite is no error: the step is refused on
    /// all ranks alike, and the report says what it was.
    pub fn step(&mut self, step: u64, lr: f64, batches: &[Batch], comm: &dyn Collective) -> Result<StepReport> {
        let active = self.balancer.active(step);
        let at = Place { step, batches, active: &active, comm };
        let mut phases = Phases::default();
        self.look_ahead(at, lr, &mut phases)?;
        let mut local = self.local(at, &mut phases)?;
        let coefficients = match local.coefficients.take() {
            Some(chosen) => chosen,
            None => self.balancer.of_heads(&local.weights, None),
        };
        let mut report = StepReport {
            losses: local.losses.clone(),
            weights: local.weights.clone(),
            coefficients,
            gram: local.gram.take(),
            update_norm: f64::NAN,
            refused: local.refused.take(),
            phases,
        };
        let Some(grads) = local.grads.take().filter(|_| report.refused.is_none()) else { return Ok(report) };
        self.descend(step, lr, &grads, &local, &mut report, comm)?;
        if report.refused.is_some() {
            return Ok(report);
        }
        drop(grads);
        self.optimizer.updates += 1;
        self.balancer.observe(&report.losses, step);
        if self.balancer.needs_losses_after() {
            let after = self.losses_now(&at, &mut report.phases)?;
            self.balancer.observe_after(&report.losses, &after, step);
        }
        Ok(report)
    }

    /// The part of a segment of the flat buffer that this rank optimizes.
    pub fn block(&self, segment: &Range<usize>, comm: &dyn Collective) -> Range<usize> {
        self.reducer.block(segment, comm)
    }
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

fn names(all: &[String], tasks: &[usize]) -> String {
    let names: Vec<String> = tasks.iter().map(|&t| format!("`{}`", all[t])).collect();
    names.join(", ")
}
