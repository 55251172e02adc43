//! One optimizer step over all ranks: the only place where a step's stages meet.
//!
//! ```text
//! forward      local loss sums, graphs alive                                   step/
//! losses       all-reduce of 2 T numbers, divided by the global counts         comm/
//! backward     T rows of local sums, or one row of the weighted sum            step/
//! reduce       rows summed over ranks, cut into shards                         comm/reduce
//! balance      G by one all-reduce of T * T numbers, coefficients c            balance/
//! update       c^T J and the optimizer in one pass over the shard              kernel/, optim/
//! gather       parameters of all shards                                        comm/
//! ```

use super::phases::{Phase, Phases};
use crate::balance::global::{GramSum, Sums};
use crate::balance::{Balancer, Coefficients, Gram, Plan};
use crate::comm::reduce::{Reduced, Reducer, SegmentRows};
use crate::comm::{Collective, Number, agree_on_sum};
use crate::config::{Balance, Config, NonFinite, Optim, Reduction};
use crate::data::Batch;
use crate::error::Result;
use crate::ffi::{self, TorchReal};
use crate::kernel::{Fragment, Piece, dot};
use crate::model::{Model, Params, Rows, Segment};
use crate::optim::Optimizer;
use crate::step::losses::TaskLoss;
use crate::step::{Grads, GradsOf, counts, forward, task_grads, weighted_grads};
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
    reducer: Reducer<F>,
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
    /// Seed of the draws of surgery.
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
    /// Gram matrix of the unweighted task gradients; `None` for loss-only balancing.
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
        let n = model.params.segments.iter().map(|s| reducer.block(&s.range, comm).len()).sum();
        Learner {
            balancer: Balancer::build(&recipe.balance, &recipe.tasks, 1, recipe.seed, recipe.steps_per_epoch),
            optimizer: Optimizer::new(&recipe.optim, n),
            clip_norm: recipe.optim.clip_norm(),
            non_finite: recipe.non_finite,
            model,
            losses,
            reducer,
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
        let mut phases = Phases::default();
        let (grads, losses, counts) = if self.balancer.plan(step) != Plan::Weighted {
            self.task_gradients(batches, comm, &mut phases)?
        } else {
            self.weighted_gradient(step, batches, comm, &mut phases)?
        };
        let weights = self.balancer.weights(&losses, step);
        let mut report = StepReport {
            coefficients: self.balancer.of_weights(&weights),
            gram: None,
            update_norm: f64::NAN,
            refused: self.not_finite_losses(&losses),
            losses,
            weights,
            phases,
        };
        let Some(grads) = grads.filter(|_| report.refused.is_none()) else { return Ok(report) };
        self.descend(step, lr, &grads, &counts, &mut report, comm)?;
        if report.refused.is_none() {
            self.balancer.observe(&report.losses, step);
            self.optimizer.updates += 1;
        }
        Ok(report)
    }

    /// The part of a segment of the flat buffer that this rank optimizes.
    pub fn block(&self, segment: &Range<usize>, comm: &dyn Collective) -> Range<usize> {
        self.reducer.block(segment, comm)
    }

    /// `T` rows of local sums; then the global losses.
    #[allow(clippy::type_complexity)]
    fn task_gradients(
        &self,
        batches: &[Batch],
        comm: &dyn Collective,
        phases: &mut Phases,
    ) -> Result<(Option<Grads>, Vec<Option<f64>>, Vec<f64>)> {
        let mut grads = Grads::zero(GradsOf::Tasks, &self.model.params);
        let mut sums = vec![0.0; self.tasks.len()];
        for batch in batches {
            let pass = phases.time(Phase::Forward, || forward(&self.model, &self.losses, batch, true));
            add(&mut sums, &pass.sums);
            phases.time(Phase::Backward, || task_grads(&self.model.params, &pass.terms, &mut grads))?;
        }
        let (losses, counts) = phases.time(Phase::Losses, || self.global_losses(&sums, batches, comm))?;
        Ok((Some(grads), losses, counts))
    }

    /// One row: the gradient of the weighted sum of the global mean losses. `None` if a loss is not finite.
    #[allow(clippy::type_complexity)]
    fn weighted_gradient(
        &self,
        step: u64,
        batches: &[Batch],
        comm: &dyn Collective,
        phases: &mut Phases,
    ) -> Result<(Option<Grads>, Vec<Option<f64>>, Vec<f64>)> {
        let mut grads = Grads::zero(GradsOf::Sum, &self.model.params);
        let params = &self.model.params;
        if let [batch] = batches {
            let pass = phases.time(Phase::Forward, || forward(&self.model, &self.losses, batch, true));
            let (losses, counts) = phases.time(Phase::Losses, || self.global_losses(&pass.sums, batches, comm))?;
            if self.not_finite_losses(&losses).is_some() {
                return Ok((None, losses, counts));
            }
            let factors = factors(&self.balancer.weights(&losses, step), &counts);
            phases.time(Phase::Backward, || weighted_grads(params, &pass.terms, &factors, &mut grads))?;
            return Ok((Some(grads), losses, counts));
        }
        // Accumulation: the weights must be known before the first backward. Counts cost no forward pass; losses do.
        let mut sums = vec![0.0; self.tasks.len()];
        if self.balancer.needs_losses() {
            for batch in batches {
                let pass =
                    phases.time(Phase::Forward, || tch::no_grad(|| forward(&self.model, &self.losses, batch, true)));
                add(&mut sums, &pass.sums);
            }
        }
        let (losses, counts) = phases.time(Phase::Losses, || self.global_losses(&sums, batches, comm))?;
        let factors = factors(&self.balancer.weights(&losses, step), &counts);
        let mut sums = vec![0.0; self.tasks.len()];
        for batch in batches {
            let pass = phases.time(Phase::Forward, || forward(&self.model, &self.losses, batch, true));
            add(&mut sums, &pass.sums);
            phases.time(Phase::Backward, || weighted_grads(params, &pass.terms, &factors, &mut grads))?;
        }
        let (losses, counts) = phases.time(Phase::Losses, || self.global_losses(&sums, batches, comm))?;
        Ok((Some(grads), losses, counts))
    }

    /// Global mean losses and counts from local sums.
    fn global_losses(
        &self,
        sums: &[f64],
        batches: &[Batch],
        comm: &dyn Collective,
    ) -> Result<(Vec<Option<f64>>, Vec<f64>)> {
        let mut both = sums.to_vec();
        both.extend(counts(&self.losses, batches));
        agree_on_sum(comm, &mut both)?;
        let counts = both.split_off(sums.len());
        let losses = both.iter().zip(&counts).map(|(&sum, &n)| (n > 0.0).then(|| sum / n)).collect();
        Ok((losses, counts))
    }

    fn not_finite_losses(&self, losses: &[Option<f64>]) -> Option<String> {
        let bad: Vec<usize> = (0..losses.len()).filter(|&t| losses[t].is_some_and(|l| !l.is_finite())).collect();
        (!bad.is_empty()).then(|| format!("the loss of {}", names(&self.tasks, &bad)))
    }

    /// Reduces the gradients, balances them, and moves the parameters.
    fn descend(
        &mut self,
        step: u64,
        lr: f64,
        grads: &Grads,
        counts: &[f64],
        report: &mut StepReport,
        comm: &dyn Collective,
    ) -> Result<()> {
        let world = comm.world();
        let sharded = self.reducer.is_sharded() && world.size > 1;
        let blocks: Vec<Range<usize>> =
            self.model.params.segments.iter().map(|s| self.reducer.block(&s.range, comm)).collect();
        let segments = rows_of::<F>(&self.model.params, grads);
        let reduced = report.phases.time(Phase::Reduce, || self.reducer.reduce(segments, comm))?;

        let mut squared_norm = None;
        if grads.of == GradsOf::Tasks {
            let sum = report.phases.time(Phase::Gram, || add_up(&self.model.params.segments, &reduced, counts.len()));
            let sums = Sums::new(comm, sharded);
            let global = report.phases.time(Phase::Balance, || sum.finish(counts, counts, &sums))?;
            let private = global.private;
            let chosen = Gram::new(global.shared).and_then(|gram| {
                let grams = std::slice::from_ref(&gram);
                let coefficients = self.balancer.coefficients(grams, &report.losses, &report.weights, step)?;
                Ok((gram, coefficients))
            });
            match chosen {
                Err(bad) => report.refused = Some(format!("the gradient of {}", names(&self.tasks, &bad.0))),
                Ok((gram, coefficients)) => {
                    let heads: f64 = coefficients.heads.iter().zip(&private).map(|(h, p)| h * h * p).sum();
                    squared_norm = Some(gram.quadratic(&coefficients.shared.as_ref().unwrap()[0]) + heads);
                    report.coefficients = coefficients;
                    report.gram = Some(gram);
                }
            }
        }
        if report.refused.is_some() {
            return Ok(());
        }
        // What one rank adds to a sum over ranks: its shard, or everything on rank 0 and nothing elsewhere.
        let mine = |x: f64| if sharded || world.is_main() { x } else { 0.0 };
        let mut moves = moves(&self.model.params.segments, &reduced, grads.of, counts, report);
        if squared_norm.is_none() && (self.clip_norm.is_some() || self.non_finite == NonFinite::Skip) {
            let mut sum = [mine(moves.iter().map(Move::squared_norm).sum::<f64>())];
            report.phases.time(Phase::Balance, || agree_on_sum(comm, &mut sum))?;
            squared_norm = Some(sum[0]);
        }
        if let Some(norm) = squared_norm.map(f64::sqrt) {
            report.update_norm = norm;
            if !norm.is_finite() {
                report.refused = Some("the update".into());
                return Ok(());
            }
            let scale = self.clip_norm.map_or(1.0, |max| (max / norm.max(f64::MIN_POSITIVE)).min(1.0));
            moves.iter_mut().flat_map(|m| &mut m.coef).for_each(|c| *c *= F::from_f64(scale));
        }

        let rule = self.optimizer.rule(lr);
        let flat = ffi::numbers_mut::<F>(&mut self.model.params.flat);
        let norm = report.phases.time(Phase::Update, || {
            let pieces = pieces(&moves, &blocks, flat, &mut self.optimizer);
            Optimizer::apply(rule, pieces)
        });
        if squared_norm.is_none() {
            // Nobody needed the norm before the update, so it came with it for free. Now the ranks agree on it.
            let mut sum = [mine(norm)];
            agree_on_sum(comm, &mut sum)?;
            report.update_norm = sum[0].sqrt();
            if !sum[0].is_finite() {
                report.refused = Some("the update (already applied: these parameters are lost)".into());
                return Ok(());
            }
        }
        if sharded {
            report.phases.time(Phase::Gather, || {
                self.model.params.segments.iter().try_for_each(|s| F::all_gather(comm, &mut flat[s.range.clone()]))
            })?;
        }
        Ok(())
    }
}

fn names(all: &[String], tasks: &[usize]) -> String {
    let names: Vec<String> = tasks.iter().map(|&t| format!("`{}`", all[t])).collect();
    names.join(", ")
}

fn add(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
}

/// `w_t / n_t`, 0 without samples: turns local sums into parts of the weighted sum of global means.
fn factors(weights: &[f64], counts: &[f64]) -> Vec<f64> {
    weights.iter().zip(counts).map(|(&w, &n)| if n > 0.0 { w / n } else { 0.0 }).collect()
}

/// The gradients as the reduction takes them.
fn rows_of<'a, F: TorchReal>(params: &Params, grads: &'a Grads) -> Vec<SegmentRows<'a, F>> {
    let segment_rows = |segment: &Segment| {
        let fragments = params.entries_in(segment).map(|e| {
            let rows = grads.rows[e].iter().map(|row| row.tensor().map_or(&[][..], ffi::numbers::<F>)).collect();
            (params.entries[e].range.clone(), rows)
        });
        let n_rows = match (&segment.rows, grads.of) {
            (Rows::Shared(scope), GradsOf::Tasks) => scope.len(),
            _ => 1,
        };
        SegmentRows { range: segment.range.clone(), fragments: fragments.collect(), n_rows }
    };
    params.segments.iter().map(segment_rows).collect()
}

/// This rank's part of the Gram matrix and of the private norms.
fn add_up<F: TorchReal>(segments: &[Segment], reduced: &Reduced<'_, F>, n_tasks: usize) -> GramSum {
    let mut sum = GramSum::new(n_tasks, n_tasks);
    for (segment, parts) in segments.iter().zip(reduced) {
        match &segment.rows {
            Rows::Shared(scope) => {
                let fragments: Vec<Fragment<'_, F>> = parts.iter().map(|(_, f)| f.clone()).collect();
                sum.add_shared(scope, &fragments);
            }
            Rows::Private(owned) => {
                for (task, _, fragment) in owned_parts(owned, parts) {
                    sum.add_private(task, fragment.rows[0]);
                }
            }
        }
    }
    sum
}

/// The parts of a private segment by owner: (task, place, rows).
fn owned_parts<'a, F>(
    owned: &[(usize, Range<usize>)],
    parts: &[(Range<usize>, Fragment<'a, F>)],
) -> Vec<(usize, Range<usize>, Fragment<'a, F>)> {
    let mut found = Vec::new();
    for (task, range) in owned {
        for (at, fragment) in parts {
            let (start, end) = (range.start.max(at.start), range.end.min(at.end));
            if start < end {
                let cut = |row: &&'a [F]| {
                    if row.is_empty() { &[][..] } else { &row[start - at.start..end - at.start] }
                };
                let rows = fragment.rows.iter().map(cut).collect();
                found.push((*task, start..end, Fragment { len: end - start, rows }));
            }
        }
    }
    found
}

/// A range of parameters, the global gradient sums that move it, and what they are multiplied with.
struct Move<'a, F> {
    at: Range<usize>,
    grads: Fragment<'a, F>,
    coef: Vec<F>,
}

impl<F: TorchReal> Move<'_, F> {
    /// Squared norm of the combined gradient; for the single row of loss-only balancing.
    fn squared_norm(&self) -> f64 {
        let rows = self.grads.rows.iter().zip(&self.coef);
        rows.map(|(row, c)| c.to_f64() * c.to_f64() * dot(row, row)).sum()
    }
}

/// All moves of this rank, by place.
fn moves<'a, F: TorchReal>(
    segments: &[Segment],
    reduced: &Reduced<'a, F>,
    of: GradsOf,
    counts: &[f64],
    report: &StepReport,
) -> Vec<Move<'a, F>> {
    let per_count = |c: f64, t: usize| if counts[t] > 0.0 { c / counts[t] } else { 0.0 };
    let shared = |t: usize| per_count(report.coefficients.shared.as_ref().unwrap()[0][t], t);
    let head = |t: usize| match of {
        GradsOf::Tasks => per_count(report.coefficients.heads[t], t),
        // The row holds w_t / n_t already.
        GradsOf::Sum if report.weights[t] == 0.0 => 0.0,
        GradsOf::Sum => report.coefficients.heads[t] / report.weights[t],
    };
    let mut moves = Vec::new();
    for (segment, parts) in segments.iter().zip(reduced) {
        match &segment.rows {
            Rows::Shared(scope) => {
                let coef: Vec<F> = match of {
                    GradsOf::Tasks => scope.iter().map(|&t| F::from_f64(shared(t))).collect(),
                    GradsOf::Sum => vec![F::from_f64(1.0)],
                };
                let all = parts.iter();
                moves.extend(all.map(|(at, f)| Move { at: at.clone(), grads: f.clone(), coef: coef.clone() }));
            }
            Rows::Private(owned) => {
                let all = owned_parts(owned, parts).into_iter();
                moves.extend(all.map(|(t, at, grads)| Move { at, grads, coef: vec![F::from_f64(head(t))] }));
            }
        }
    }
    moves.sort_by_key(|m| m.at.start);
    moves
}

/// Moves with the parameters and optimizer states they change: disjoint borrows, cut off from left to right.
fn pieces<'a, F: TorchReal>(
    moves: &'a [Move<'a, F>],
    blocks: &[Range<usize>],
    flat: &'a mut [F],
    optimizer: &'a mut Optimizer<F>,
) -> Vec<Piece<'a, F>> {
    let (has_first, has_second) = (!optimizer.first.is_empty(), !optimizer.second.is_empty());
    let mut param = Cutter { rest: flat, at: 0 };
    let mut first = Cutter { rest: &mut optimizer.first, at: 0 };
    let mut second = Cutter { rest: &mut optimizer.second, at: 0 };
    // Where each block of the flat buffer starts in the shard.
    let shard: Vec<usize> = blocks.iter().scan(0, |at, b| Some(std::mem::replace(at, *at + b.len()))).collect();
    moves
        .iter()
        .map(|m| {
            let block = blocks.partition_point(|b| b.end <= m.at.start);
            let start = shard[block] + m.at.start - blocks[block].start;
            let local = start..start + m.at.len();
            Piece {
                grads: m.grads.clone(),
                coef: &m.coef,
                param: param.cut(m.at.clone()),
                first: if has_first { first.cut(local.clone()) } else { &mut [] },
                second: if has_second { second.cut(local) } else { &mut [] },
            }
        })
        .collect()
}

/// Hands out disjoint ranges of a slice in ascending order.
struct Cutter<'a, F> {
    rest: &'a mut [F],
    at: usize,
}

impl<'a, F> Cutter<'a, F> {
    fn cut(&mut self, range: Range<usize>) -> &'a mut [F] {
        let rest = std::mem::take(&mut self.rest);
        let (_, rest) = rest.split_at_mut(range.start - self.at);
        let (wanted, rest) = rest.split_at_mut(range.len());
        self.rest = rest;
        self.at = range.end;
        wanted
    }
}
