//! From the gradients of all ranks to new parameters: reduction, balancing, update.

use super::engine::{Measured, Rows, Update};
use super::gradients::{Agreed, Counts, Local, Place, global_losses, per_count};
use super::moves::{Layout, Shared};
use super::{Learner, StepReport};
use crate::balance::global::{GramSum, Sums};
use crate::balance::shard::{Part, ShardSurgery, Unweighted};
use crate::balance::{Balancer, Coefficients, Gram, NotFinite};
use crate::comm::reduce::Reduced;
use crate::comm::{Number, agree_on_sum};
use crate::config::Reduction;
use crate::error::Result;
use crate::ffi::TorchReal;
use crate::model::{Params, Rows as SegmentKind};
use crate::step::{Grads, LossSums, SharedRows};
use crate::train::check_replicas;
use crate::train::guard::Judge;
use crate::train::phases::{Phase, Phases};

impl<F: TorchReal + Number> Learner<F> {
    /// Takes the step for which the gradients are there, or refuses it.
    pub(super) fn descend(&mut self, at: &Place<'_>, lr: f64, local: Local, phases: Phases) -> Result<StepReport> {
        match local {
            Local { grads: Some(grads), pending, agreed } => {
                self.reduce_and_move(at, lr, &grads, &pending, agreed, phases)
            }
            Local { agreed: Some(agreed), .. } => Ok(self.report(&agreed, phases)),
            Local { .. } => unreachable!("without gradients, the ranks have agreed to refuse the step"),
        }
    }

    /// Reduces the gradients, balances them if that is still to be done, and moves the parameters.
    fn reduce_and_move(
        &mut self,
        at: &Place<'_>,
        lr: f64,
        grads: &Grads,
        pending: &LossSums,
        agreed: Option<Agreed>,
        mut phases: Phases,
    ) -> Result<StepReport> {
        let (comm, world) = (at.comm, at.comm.world());
        let sharded = self.reduction == Reduction::Sharded && world.size > 1;
        let sums = Sums::new(comm, sharded);
        let Learner { model, balancer, engine, layout, optimizer, shard, direction, tasks, seed, judge, .. } = self;
        let params = &mut model.params;
        let mut reduced = phases.time(Phase::Reduce, || engine.reduced(grads, params, comm))?;
        let rows = reduced.rows();
        let measured = phases.time(Phase::Gram, || rows.measure(params, layout, tasks.len(), pending));
        let mut agreed = agree(agreed, &measured, grads.shared, at, balancer, judge, &mut phases)?;
        let mut squared_norm = None;
        if let (Some(sum), None) = (measured.gram, &agreed.refused) {
            let mut surgery =
                Surgery { balancer, shard: shard.as_deref_mut(), direction, layout, tasks, sums, at: (*seed, at.step) };
            squared_norm = phases.time(Phase::Balance, || surgery.run(sum, rows, params, grads.shared, &mut agreed))?;
        }
        let mut report = StepReport::of(&agreed, balancer, phases);
        if report.refused.is_some() {
            return Ok(report);
        }

        // What one rank adds to a sum over ranks: its shard, or everything on rank 0 and nothing elsewhere.
        let mine = |x: f64| if sharded || world.is_main() { x } else { 0.0 };
        let heads = head_factors(&report.coefficients.heads, &agreed.private_units);
        let coef = row_coefficients(&report.coefficients, grads.shared, &agreed.counts);
        let shared = match grads.shared {
            SharedRows::Combined => Shared::Combined,
            SharedRows::Tasks { .. } if shard.is_some() => Shared::Direction(direction),
            SharedRows::Tasks { batches } => Shared::Rows { coef: &coef, batches },
        };
        let known_early = rows.knows_norms() || self.clip_norm.is_some() || judge.needs_norm;
        if squared_norm.is_none() && known_early {
            let mut sum = [mine(rows.squared_norm(params, layout, &shared, &heads))];
            report.phases.time(Phase::Balance, || agree_on_sum(comm, &mut sum))?;
            squared_norm = Some(sum[0]);
        }
        let mut scale = 1.0;
        if let Some(norm) = squared_norm.map(f64::sqrt) {
            report.update_norm = norm;
            report.refused = judge.norm(norm, false);
            if report.refused.is_some() {
                return Ok(report);
            }
            scale = self.clip_norm.map_or(1.0, |max| (max / norm.max(f64::MIN_POSITIVE)).min(1.0));
        }
        if self.compares_replicas {
            check_replicas(params, at.step + 1, comm)?;
        }
        let how = Update { layout, shared, heads: &heads, scale, lr };
        let norm = report.phases.time(Phase::Update, || rows.update(how, params, optimizer))?;
        if let (None, Some(norm)) = (squared_norm, norm) {
            // Nobody needed the norm before the update, so it came with it for free. Now the ranks agree on it.
            let mut sum = [mine(norm)];
            agree_on_sum(comm, &mut sum)?;
            report.update_norm = sum[0].sqrt();
            report.refused = judge.norm(report.update_norm, true);
            if report.refused.is_some() {
                return Ok(report);
            }
        }
        drop(reduced);
        if sharded {
            report.phases.time(Phase::Gather, || engine.gather(params, comm))?;
        }
        Ok(report)
    }

    fn report(&self, agreed: &Agreed, phases: Phases) -> StepReport {
        StepReport::of(agreed, &self.balancer, phases)
    }
}

impl StepReport {
    /// Of a step on which the ranks have agreed; the norm is still to come.
    fn of(agreed: &Agreed, balancer: &Balancer, phases: Phases) -> StepReport {
        let coefficients = agreed.coefficients.clone();
        StepReport {
            losses: agreed.losses.clone(),
            weights: agreed.weights.clone(),
            coefficients: coefficients.unwrap_or_else(|| balancer.of_heads(&agreed.weights, None)),
            gram: agreed.gram.clone(),
            update_norm: f64::NAN,
            refused: agreed.refused.clone(),
            warning: None,
            phases,
        }
    }
}

/// Completes what the ranks agree on before surgery: losses, counts, weights.
fn agree(
    agreed: Option<Agreed>,
    measured: &Measured,
    shared: SharedRows,
    at: &Place<'_>,
    balancer: &mut Balancer,
    judge: &Judge,
    phases: &mut Phases,
) -> Result<Agreed> {
    let n_batches = if let SharedRows::Tasks { batches } = shared { batches } else { 1 };
    let mut losses = || phases.time(Phase::Losses, || global_losses(&measured.losses, n_batches, at));
    match agreed {
        None => {
            let (losses, counts) = losses()?;
            let weights = balancer.weights(&losses, at.step);
            Ok(Agreed::new(losses, counts, weights, Some(judge)))
        }
        Some(mut agreed) if agreed.losses_to_come => {
            agreed.with_losses(losses()?.0, judge);
            Ok(agreed)
        }
        Some(agreed) => Ok(agreed),
    }
}

/// Surgery on the global gradients, with all that it works on.
struct Surgery<'a, F> {
    balancer: &'a mut Balancer,
    shard: Option<&'a mut (dyn ShardSurgery<F> + 'static)>,
    direction: &'a mut Vec<F>,
    layout: &'a Layout,
    tasks: &'a [String],
    sums: Sums<'a>,
    /// Seed and step.
    at: (u64, u64),
}

impl<F: TorchReal + Number> Surgery<'_, F> {
    /// Finds the coefficients, or the direction; returns the squared norm of the update, where the products tell it.
    fn run(
        &mut self,
        sum: GramSum,
        rows: &mut dyn Rows<F>,
        params: &Params,
        shared: SharedRows,
        agreed: &mut Agreed,
    ) -> Result<Option<f64>> {
        let SharedRows::Tasks { batches } = shared else { return Ok(None) };
        let global = sum.finish(&agreed.counts.by_batch, &agreed.counts.total, &self.sums)?;
        let products = Products { by_group: global.shared, batches, counts: &agreed.counts };
        let by_products = self.shard.is_none();
        let chosen = match Gram::new(products.whole()) {
            Err(bad) => Err(bad),
            Ok(gram) if by_products => choose(self.balancer, &products, agreed, self.at.1).map(|chosen| (gram, chosen)),
            Ok(gram) => self.direct(&gram, rows, params, agreed)?.map(|chosen| (gram, chosen)),
        };
        let mut squared_norm = None;
        match chosen {
            Err(bad) => agreed.refuse_gradient(self.tasks, &bad.0),
            Ok((gram, coefficients)) => {
                if let Some(c) = coefficients.shared.as_ref().filter(|_| by_products) {
                    let heads = coefficients.heads.iter().zip(&global.private).map(|(h, p)| h * h * p);
                    squared_norm = Some(products.squared_norm(c) + heads.sum::<f64>());
                }
                agreed.coefficients = Some(coefficients);
                agreed.gram = Some(gram);
            }
        }
        Ok(squared_norm)
    }

    /// The direction of a method that works on the gradients themselves.
    fn direct(
        &mut self,
        gram: &Gram,
        rows: &mut dyn Rows<F>,
        params: &Params,
        agreed: &Agreed,
    ) -> Result<Result<Coefficients, NotFinite>> {
        let Some(method) = self.shard.as_deref_mut() else { return Ok(Err(NotFinite(Vec::new()))) };
        self.direction.clear();
        self.direction.resize(self.layout.len(), F::default());
        rows.fetch(params);
        let (seed, step) = self.at;
        let unweighted = Unweighted {
            parts: &shared_parts(params, self.layout, &rows.on_host()),
            counts: &agreed.counts.total,
            weights: &agreed.weights,
            losses: &agreed.losses,
            gram,
            step,
            seed,
        };
        let chosen = unweighted.direct(method, &self.sums, self.direction)?;
        Ok(chosen.map(|shared| self.balancer.of_heads(&agreed.weights, shared)))
    }
}

/// Inner products of all rows of all groups of layers.
struct Products<'a> {
    /// `[R * R]` each, with `R = batches * T`.
    by_group: Vec<Vec<f64>>,
    batches: usize,
    counts: &'a Counts,
}

impl Products<'_> {
    fn n_tasks(&self) -> usize {
        self.counts.total.len()
    }

    /// `[T * T]` products of the rows of two batches in one group.
    fn block(&self, group: usize, a: usize, b: usize) -> Vec<f64> {
        let n = self.n_tasks();
        let entry = |i: usize, j: usize| self.by_group[group][(a * n + i) * self.batches * n + b * n + j];
        (0..n * n).map(|k| entry(k / n, k % n)).collect()
    }

    /// `[T * T]` products of the gradients of the mean losses over all batches, of all groups together.
    fn whole(&self) -> Vec<f64> {
        let n = self.n_tasks();
        let Counts { total, by_batch } = self.counts;
        let share = |b: usize, t: usize| if total[t] > 0.0 { by_batch[b * n + t] / total[t] } else { 0.0 };
        let mut whole = vec![0.0; n * n];
        for group in 0..self.by_group.len() {
            for (a, b) in (0..self.batches).flat_map(|a| (0..self.batches).map(move |b| (a, b))) {
                for (k, x) in self.block(group, a, b).into_iter().enumerate() {
                    // One batch: the share is 1, and nothing is rounded.
                    whole[k] += share(a, k / n) * share(b, k % n) * x;
                }
            }
        }
        whole
    }

    /// Squared norm of the combination of the last batch's gradients.
    fn squared_norm(&self, c: &[Vec<f64>]) -> f64 {
        let last = self.batches - 1;
        let n = self.n_tasks();
        let of_group = |(group, c): (usize, &Vec<f64>)| -> f64 {
            self.block(group, last, last).iter().enumerate().map(|(k, x)| c[k / n] * x * c[k % n]).sum()
        };
        let square: f64 = c.iter().enumerate().map(of_group).sum();
        // Rounding may leave a tiny negative number; NaN must stay NaN.
        if square < 0.0 { 0.0 } else { square }
    }
}

/// Coefficients of the task gradients, by a method on inner products.
fn choose(
    balancer: &mut Balancer,
    products: &Products<'_>,
    agreed: &Agreed,
    step: u64,
) -> Result<Coefficients, NotFinite> {
    let (losses, weights) = (&agreed.losses, &agreed.weights);
    if products.batches == 1 {
        let grams: Vec<Gram> =
            (0..products.by_group.len()).map(|g| Gram::new(products.block(g, 0, 0))).collect::<Result<_, _>>()?;
        balancer.coefficients(&grams, losses, weights, step)
    } else {
        let n = weights.len();
        let has = |t: usize| products.counts.by_batch[t..].iter().step_by(n).all(|&count| count > 0.0);
        let everywhere: Vec<bool> = (0..n).map(has).collect();
        balancer.cross_coefficients(&products.block(0, 0, 1), &everywhere, weights, step)
    }
}

/// The shared coordinates of this rank, as methods on shards see them.
fn shared_parts<'a, F: TorchReal>(params: &'a Params, layout: &Layout, reduced: &Reduced<'a, F>) -> Vec<Part<'a, F>> {
    let mut found = Vec::new();
    // Segments are padded for the ranks; counted without padding, a coordinate has the same number on any number of them.
    let mut before = 0;
    for (segment, parts) in params.segments.iter().zip(reduced) {
        let start = segment.range.start;
        if let SegmentKind::Shared(scope) = &segment.rows {
            found.extend(parts.iter().map(|(at, rows)| Part {
                scope,
                at: before + at.start - start..before + at.end - start,
                local: layout.local(at),
                rows: rows.clone(),
            }));
        }
        before += params.entries_in(segment).map(|e| params.entries[e].range.end - start).max().unwrap_or(0);
    }
    found
}

/// What multiplies the rows of the tasks' own parameters, `[T]`.
fn head_factors(heads: &[f64], units: &[f64]) -> Vec<f64> {
    heads.iter().zip(units).map(|(&h, &unit)| if h == 0.0 || unit == 0.0 { 0.0 } else { h / unit }).collect()
}

/// What multiplies the rows of sums, `[R]` by group of layers: the last batch's alone move the parameters.
fn row_coefficients(coefficients: &Coefficients, rows: SharedRows, counts: &Counts) -> Vec<Vec<f64>> {
    let (SharedRows::Tasks { batches }, Some(groups)) = (rows, &coefficients.shared) else { return Vec::new() };
    let n = counts.total.len();
    let row = |c: &Vec<f64>| {
        let mut all = vec![0.0; (batches - 1) * n];
        all.extend(per_count(c, &counts.by_batch[(batches - 1) * n..]));
        all
    };
    groups.iter().map(row).collect()
}
