//! From the gradients of all ranks to new parameters: reduction, balancing, update.

use super::gradients::{Counts, Local, per_count};
use super::moves::{Layout, Move, Shared, cut, moves, pieces};
use super::{Learner, StepReport, names};
use crate::balance::global::{GramSum, Sums};
use crate::balance::shard::{Part, Unweighted};
use crate::balance::{Balancer, Coefficients, Gram, NotFinite};
use crate::comm::reduce::{Reduced, SegmentRows};
use crate::comm::{Collective, Number, agree_on_sum};
use crate::config::NonFinite;
use crate::error::Result;
use crate::ffi::{self, TorchReal};
use crate::kernel::Fragment;
use crate::model::{Params, Rows, Segment};
use crate::optim::Optimizer;
use crate::step::{Grads, SharedRows};
use crate::train::phases::Phase;

impl<F: TorchReal + Number> Learner<F> {
    /// Reduces the gradients, balances them if that is still to be done, and moves the parameters.
    pub(super) fn descend(
        &mut self,
        step: u64,
        lr: f64,
        grads: &Grads,
        local: &Local,
        report: &mut StepReport,
        comm: &dyn Collective,
    ) -> Result<()> {
        let world = comm.world();
        let sharded = self.reducer.is_sharded() && world.size > 1;
        let sums = Sums::new(comm, sharded);
        let counts = &local.counts;
        let Learner { model, balancer, shard, direction, optimizer, reducer, layout, .. } = self;
        let segments = rows_of::<F>(&model.params, grads);
        let reduced = report.phases.time(Phase::Reduce, || reducer.reduce(segments, comm))?;
        let segments = &model.params.segments;

        let mut squared_norm = None;
        if let SharedRows::Tasks { batches } = grads.shared {
            let sum = report.phases.time(Phase::Gram, || add_up(segments, layout, &reduced, batches, counts));
            let global = report.phases.time(Phase::Balance, || sum.finish(&counts.by_batch, &counts.total, &sums))?;
            let products = Products { by_group: global.shared, batches, counts };
            let chosen = match (Gram::new(products.whole()), &mut *shard) {
                (Err(bad), _) => Err(bad),
                (Ok(gram), None) => choose(balancer, &products, report, step).map(|chosen| (gram, chosen)),
                (Ok(gram), Some(method)) => {
                    direction.clear();
                    direction.resize(layout.len(), F::default());
                    let unweighted = Unweighted {
                        parts: &shared_parts(&model.params, layout, &reduced),
                        counts: &counts.total,
                        weights: &report.weights,
                        losses: &report.losses,
                        gram: &gram,
                        step,
                        seed: self.seed,
                    };
                    let phases = &mut report.phases;
                    let shared =
                        phases.time(Phase::Balance, || unweighted.direct(method.as_mut(), &sums, direction))?;
                    shared.map(|shared| (gram, balancer.of_heads(&report.weights, shared)))
                }
            };
            match chosen {
                Err(bad) => report.refused = Some(format!("the gradient of {}", names(&self.tasks, &bad.0))),
                Ok((gram, coefficients)) => {
                    if let Some(c) = coefficients.shared.as_ref().filter(|_| shard.is_none()) {
                        let heads = coefficients.heads.iter().zip(&global.private).map(|(h, p)| h * h * p);
                        squared_norm = Some(products.squared_norm(c) + heads.sum::<f64>());
                    }
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
        let heads = head_factors(&report.coefficients.heads, &local.private_units);
        let coef = row_coefficients(&report.coefficients, grads.shared, counts);
        let shared = match grads.shared {
            SharedRows::Combined => Shared::Combined,
            SharedRows::Tasks { .. } if shard.is_some() => Shared::Direction(direction),
            SharedRows::Tasks { batches } => Shared::Rows { coef: &coef, batches },
        };
        let mut moves = moves(segments, layout, &reduced, &shared, &heads);
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

        let rule = optimizer.rule(lr);
        let flat = ffi::numbers_mut::<F>(&mut model.params.flat);
        let norm = report.phases.time(Phase::Update, || {
            let pieces = pieces(&moves, layout, flat, optimizer);
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
                segments.iter().try_for_each(|s| F::all_gather(comm, &mut flat[s.range.clone()]))
            })?;
        }
        Ok(())
    }
}

/// The gradients as the reduction takes them.
pub(super) fn rows_of<'a, F: TorchReal>(params: &Params, grads: &'a Grads) -> Vec<SegmentRows<'a, F>> {
    let segment_rows = |segment: &Segment| {
        let fragments = params.entries_in(segment).map(|e| {
            let rows = grads.rows[e].iter().map(|row| row.tensor().map_or(&[][..], ffi::numbers::<F>)).collect();
            (params.entries[e].range.clone(), rows)
        });
        let n_rows = match (&segment.rows, grads.shared) {
            (Rows::Shared(scope), SharedRows::Tasks { batches }) => batches * scope.len(),
            _ => 1,
        };
        SegmentRows { range: segment.range.clone(), fragments: fragments.collect(), n_rows }
    };
    params.segments.iter().map(segment_rows).collect()
}

/// This rank's part of the Gram matrices and of the private norms.
fn add_up<F: TorchReal>(
    segments: &[Segment],
    layout: &Layout,
    reduced: &Reduced<'_, F>,
    batches: usize,
    counts: &Counts,
) -> GramSum {
    let n_tasks = counts.total.len();
    let mut sum = GramSum::new(layout.n_groups, batches * n_tasks, n_tasks);
    for (segment, parts) in segments.iter().zip(reduced) {
        match &segment.rows {
            Rows::Shared(scope) => {
                let rows: Vec<usize> = (0..batches).flat_map(|b| scope.iter().map(move |t| b * n_tasks + t)).collect();
                let mut by_group: Vec<Vec<Fragment<'_, F>>> = vec![Vec::new(); layout.n_groups];
                layout.by_group(parts).into_iter().for_each(|(group, _, fragment)| by_group[group].push(fragment));
                for (group, fragments) in by_group.iter().enumerate() {
                    sum.add_shared(group, &rows, fragments);
                }
            }
            Rows::Private(owned) => {
                for (task, _, fragment) in cut(owned, parts) {
                    sum.add_private(task, fragment.rows[0]);
                }
            }
        }
    }
    sum
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
    report: &StepReport,
    step: u64,
) -> Result<Coefficients, NotFinite> {
    let (losses, weights) = (&report.losses, &report.weights);
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
        if let Rows::Shared(scope) = &segment.rows {
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
