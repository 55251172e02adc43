//! The gradients of this rank, before the reduction: one way per [`Plan`].

use super::{Learner, names};
use crate::balance::global::{GramSum, Sums};
use crate::balance::{Coefficients, Gram, Plan};
use crate::comm::{Collective, Number, agree_on_sum};
use crate::data::Batch;
use crate::error::Result;
use crate::ffi::{self, TorchReal};
use crate::rng::{Stream, seed};
use crate::step::{
    Factors, Grads, LeafGrads, SharedRows, add_leaf_gram, counts, forward, forward_cut, task_grads, weighted_grads,
};
use crate::train::phases::{Phase, Phases};

/// What a rank brings to the reduction, with what the ranks agreed on so far.
pub(super) struct Local {
    /// `None` if the step is refused already.
    pub grads: Option<Grads>,
    pub losses: Vec<Option<f64>>,
    pub counts: Counts,
    pub weights: Vec<f64>,
    /// Coefficients, if they had to be known before the last backward.
    pub coefficients: Option<Coefficients>,
    /// Gram matrix, if it is not that of the rows to be reduced.
    pub gram: Option<Gram>,
    /// By task, the rows of its own parameters are the gradient of its mean loss times this `[T]`.
    pub private_units: Vec<f64>,
    pub refused: Option<String>,
}

/// Global counts by which loss sums are divided.
pub(super) struct Counts {
    /// Of the whole step `[T]`.
    pub total: Vec<f64>,
    /// By independent batch, `[batches * T]`.
    pub by_batch: Vec<f64>,
}

/// The place of a step: what every pass over its batches needs.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub step: u64,
    pub batches: &'a [Batch],
    pub active: &'a [bool],
    pub comm: &'a dyn Collective,
}

impl<F: TorchReal + Number> Learner<F> {
    /// Losses, weights and gradients of this rank's part of a step.
    pub(super) fn local(&mut self, at: Place<'_>, phases: &mut Phases) -> Result<Local> {
        self.seed_torch(&at);
        match self.balancer.plan(at.step) {
            Plan::Weighted => self.weighted_gradient(at, phases),
            Plan::Tasks { batches } => self.task_gradients(at, batches, phases),
            Plan::Representation => self.representation_gradients(at, phases),
        }
    }

    /// Seeds libtorch's generators, so that dropout needs no state in checkpoints, and so that a second pass over the
    /// same batches draws the same masks.
    pub(super) fn seed_torch(&self, at: &Place<'_>) {
        ffi::seed_torch(seed(self.seed, Stream::Model, at.step, at.comm.world().rank as u64));
    }

    /// `T` rows of local sums per independent batch; then the global losses.
    fn task_gradients(&self, at: Place<'_>, n_batches: usize, phases: &mut Phases) -> Result<Local> {
        let mut grads = Grads::zero(SharedRows::Tasks { batches: n_batches }, &self.model.params);
        let mut sums = vec![0.0; self.tasks.len()];
        for (micro, batch) in at.batches.iter().enumerate() {
            let pass = phases.time(Phase::Forward, || forward(&self.model, &self.losses, batch, at.active, true));
            add(&mut sums, &pass.sums);
            let group = micro * n_batches / at.batches.len();
            phases.time(Phase::Backward, || task_grads(&self.model.params, &pass.terms, group, &mut grads))?;
        }
        let (losses, counts) = phases.time(Phase::Losses, || self.global_losses(&sums, n_batches, &at))?;
        let weights = self.balancer.weights(&losses, at.step);
        Ok(Local { grads: Some(grads), ..self.agreed(losses, counts, weights) })
    }

    /// One row: the gradient of the weighted sum of the global mean losses.
    fn weighted_gradient(&mut self, at: Place<'_>, phases: &mut Phases) -> Result<Local> {
        let mut grads = Grads::zero(SharedRows::Combined, &self.model.params);
        if let [batch] = at.batches {
            let pass = phases.time(Phase::Forward, || forward(&self.model, &self.losses, batch, at.active, true));
            let (losses, counts) = phases.time(Phase::Losses, || self.global_losses(&pass.sums, 1, &at))?;
            let (mut local, factors) = self.weighted(losses, counts, at.step);
            if local.refused.is_none() {
                let params = &self.model.params;
                phases.time(Phase::Backward, || weighted_grads(params, &pass.terms, &factors, &mut grads))?;
                local.grads = Some(grads);
            }
            return Ok(local);
        }
        // Accumulation: the weights must be known before the first backward. Counts cost no forward pass; losses do.
        let mut sums = vec![0.0; self.tasks.len()];
        if self.balancer.needs_losses() {
            sums = self.sums_without_graph(&at, phases);
            self.seed_torch(&at);
        }
        let (losses, counts) = phases.time(Phase::Losses, || self.global_losses(&sums, 1, &at))?;
        let (mut local, factors) = self.weighted(losses, counts, at.step);
        if local.refused.is_some() {
            return Ok(local);
        }
        let params = &self.model.params;
        let mut sums = vec![0.0; self.tasks.len()];
        for batch in at.batches {
            let pass = phases.time(Phase::Forward, || forward(&self.model, &self.losses, batch, at.active, true));
            add(&mut sums, &pass.sums);
            phases.time(Phase::Backward, || weighted_grads(params, &pass.terms, &factors, &mut grads))?;
        }
        (local.losses, local.counts) = phases.time(Phase::Losses, || self.global_losses(&sums, 1, &at))?;
        local.refused = self.not_finite_losses(&local.losses);
        local.grads = Some(grads);
        Ok(local)
    }

    /// Weights, coefficients and factors of a weighted loss; gradients are still to come.
    fn weighted(&mut self, losses: Vec<Option<f64>>, counts: Counts, step: u64) -> (Local, Factors) {
        let weights = self.balancer.weights(&losses, step);
        let coefficients = self.balancer.of_weights(&weights);
        let c = coefficients.shared.as_ref().and_then(|groups| groups.first()).unwrap_or(&weights);
        let factors = Factors {
            shared: per_count(c, &counts.total),
            serve_private: coefficients.heads.iter().zip(c).all(|(&h, &c)| one_serves_the_other(h, c)),
        };
        let private_units = if factors.serve_private { c.clone() } else { counts.total.clone() };
        let coefficients = Some(coefficients);
        (Local { coefficients, private_units, ..self.agreed(losses, counts, weights) }, factors)
    }

    /// What the ranks agreed on; gradients of unweighted sums are still to come.
    fn agreed(&self, losses: Vec<Option<f64>>, counts: Counts, weights: Vec<f64>) -> Local {
        Local {
            grads: None,
            refused: self.not_finite_losses(&losses),
            losses,
            weights,
            coefficients: None,
            gram: None,
            private_units: counts.total.clone(),
            counts,
        }
    }

    /// `T` backwards through the heads to the representation, balancing there, and one backward through the encoder.
    fn representation_gradients(&mut self, at: Place<'_>, phases: &mut Phases) -> Result<Local> {
        let n_tasks = self.tasks.len();
        let mut grads = Grads::zero(SharedRows::Combined, &self.model.params);
        let (mut sums, mut products) = (vec![0.0; n_tasks], vec![0.0; n_tasks * n_tasks]);
        // One micro-batch keeps its graph until the coefficients are known; of several, only the leaves' gradients are kept.
        let keep = at.batches.len() == 1;
        let mut kept = None;
        let mut leaf_grads: Vec<LeafGrads> = Vec::with_capacity(at.batches.len());
        for batch in at.batches {
            let cut = phases.time(Phase::Forward, || forward_cut(&self.model, &self.losses, batch, at.active, keep));
            add(&mut sums, &cut.sums);
            let z = phases.time(Phase::Backward, || cut.head_grads(&self.model.params, &mut grads))?;
            phases.time(Phase::Gram, || add_leaf_gram::<F>(&z, &mut products));
            leaf_grads.push(z);
            kept = keep.then_some(cut);
        }
        let (losses, counts) = phases.time(Phase::Losses, || self.global_losses(&sums, 1, &at))?;
        let weights = self.balancer.weights(&losses, at.step);
        let mut local = self.agreed(losses, counts, weights);
        let all: Vec<usize> = (0..n_tasks).collect();
        let mut sum = GramSum::new(1, n_tasks, n_tasks);
        sum.add_products(0, &all, &products);
        // Whatever the reduction of parameters: each rank has samples of its own.
        let total = &local.counts.total;
        let gram =
            phases.time(Phase::Balance, || sum.finish(total, total, &Sums::new(at.comm, true)))?.shared.remove(0);
        if local.refused.is_some() {
            return Ok(local);
        }
        let chosen = Gram::new(gram).and_then(|gram| {
            let grams = std::slice::from_ref(&gram);
            let chosen = self.balancer.coefficients(grams, &local.losses, &local.weights, at.step)?;
            Ok((gram, chosen))
        });
        let (gram, coefficients) = match chosen {
            Ok(chosen) => chosen,
            Err(bad) => {
                local.refused = Some(format!("the gradient of {}", names(&self.tasks, &bad.0)));
                return Ok(local);
            }
        };
        let c = coefficients.shared.as_ref().and_then(|groups| groups.first()).unwrap_or(&local.weights);
        let factors = per_count(c, &local.counts.total);
        let params = &self.model.params;
        if !keep {
            self.seed_torch(&at);
        }
        for (batch, z) in at.batches.iter().zip(&leaf_grads) {
            let cut = match kept.take() {
                Some(cut) => cut,
                None => phases.time(Phase::Forward, || forward_cut(&self.model, &self.losses, batch, at.active, true)),
            };
            phases.time(Phase::Backward, || cut.encoder_grads(params, z, &factors, &mut grads))?;
        }
        local.grads = Some(grads);
        local.gram = Some(gram);
        local.coefficients = Some(coefficients);
        Ok(local)
    }

    /// Global losses of the same batches under the present parameters, for methods that learn from the change.
    pub(super) fn losses_now(&self, at: &Place<'_>, phases: &mut Phases) -> Result<Vec<Option<f64>>> {
        self.seed_torch(at);
        let sums = self.sums_without_graph(at, phases);
        Ok(phases.time(Phase::Losses, || self.global_losses(&sums, 1, at))?.0)
    }

    fn sums_without_graph(&self, at: &Place<'_>, phases: &mut Phases) -> Vec<f64> {
        let mut sums = vec![0.0; self.tasks.len()];
        for batch in at.batches {
            let pass = || tch::no_grad(|| forward(&self.model, &self.losses, batch, at.active, true));
            add(&mut sums, &phases.time(Phase::Forward, pass).sums);
        }
        sums
    }

    /// Global mean losses and counts from local sums.
    pub(super) fn global_losses(
        &self,
        sums: &[f64],
        n_batches: usize,
        at: &Place<'_>,
    ) -> Result<(Vec<Option<f64>>, Counts)> {
        let n_tasks = sums.len();
        let mut all = sums.to_vec();
        for batch in 0..n_batches {
            let n = at.batches.len();
            let mine = (0..n).filter(|micro| micro * n_batches / n == batch);
            let mut here = vec![0.0; n_tasks];
            mine.for_each(|micro| add(&mut here, &counts(&self.losses, &at.batches[micro..=micro], at.active)));
            all.extend(here);
        }
        agree_on_sum(at.comm, &mut all)?;
        let by_batch = all.split_off(n_tasks);
        let total: Vec<f64> = (0..n_tasks).map(|t| by_batch[t..].iter().step_by(n_tasks).sum()).collect();
        let losses = all.iter().zip(&total).map(|(&sum, &n)| (n > 0.0).then(|| sum / n)).collect();
        Ok((losses, Counts { total, by_batch }))
    }

    pub(super) fn not_finite_losses(&self, losses: &[Option<f64>]) -> Option<String> {
        let bad: Vec<usize> = (0..losses.len()).filter(|&t| losses[t].is_some_and(|l| !l.is_finite())).collect();
        (!bad.is_empty()).then(|| format!("the loss of {}", names(&self.tasks, &bad)))
    }
}

pub(super) fn add(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
}

/// `c_t / n_t`, 0 without samples: turns local sums into parts of the weighted sum of global means.
pub(super) fn per_count(c: &[f64], counts: &[f64]) -> Vec<f64> {
    c.iter().zip(counts).map(|(&c, &n)| if n > 0.0 { c / n } else { 0.0 }).collect()
}

/// Whether a gradient that was multiplied with `c` can be brought to the factor `h` without loss: the ratio is moderate.
fn one_serves_the_other(h: f64, c: f64) -> bool {
    h == 0.0 || (c != 0.0 && (1e-6..=1e6).contains(&(h / c).abs()))
}
