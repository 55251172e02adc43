//! The gradients of this rank, before the reduction: one way per [`Plan`].

use super::engine::{Collector, Engine};
use super::{Learner, names};
use crate::balance::global::{GramSum, Sums};
use crate::balance::{Coefficients, Gram, Plan};
use crate::comm::{Collective, Number, agree_on_sum};
use crate::config::GramFrom;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::ffi::{self, TorchReal};
use crate::rng::{Stream, seed};
use crate::step::{
    Factors, Grads, LeafGrads, LossSums, Masks, Pass, SharedRows, add_leaf_gram, forward_cut, leaf_products, pass,
};
use crate::train::guard::{Judge, Refusal};
use crate::train::phases::{Phase, Phases};
use tch::{Device, Tensor};

/// What a rank brings to the reduction.
pub(super) struct Local {
    /// Rows that the engine has not taken; `None` if the step is refused already.
    pub grads: Option<Grads>,
    /// Losses that nobody has read yet.
    pub pending: LossSums,
    /// What the ranks agreed on so far, if they had to before the last backward.
    pub agreed: Option<Agreed>,
}

/// What the ranks agreed on about a step.
pub(super) struct Agreed {
    pub losses: Vec<Option<f64>>,
    pub counts: Counts,
    pub weights: Vec<f64>,
    /// Coefficients, if they had to be known before the last backward.
    pub coefficients: Option<Coefficients>,
    /// Gram matrix, if it is not that of the rows to be reduced.
    pub gram: Option<Gram>,
    /// By task, the rows of its own parameters are the gradient of its mean loss times this `[T]`.
    pub private_units: Vec<f64>,
    pub refused: Option<Refusal>,
    /// Whether the losses were assumed, and those of [`Local::pending`] are to replace them.
    pub losses_to_come: bool,
}

/// Global counts by which loss sums are divided.
pub(super) struct Counts {
    /// Of the whole step `[T]`.
    pub total: Vec<f64>,
    /// By independent batch, `[batches * T]`.
    pub by_batch: Vec<f64>,
}

/// A micro-batch where the model is, with what was counted on the host before it went there.
pub(super) struct Micro {
    pub batch: Batch,
    /// Local counts `[T]`.
    pub counts: Vec<f64>,
}

/// The place of a step: what every pass over its batches needs.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub step: u64,
    pub batches: &'a [Micro],
    pub active: &'a [bool],
    pub comm: &'a dyn Collective,
}

impl Place<'_> {
    /// The independent batch of a micro-batch, and whether it is the last one of it.
    fn group(&self, micro: usize, n_batches: usize) -> (usize, bool) {
        let n = self.batches.len();
        let group = |micro: usize| micro * n_batches / n;
        (group(micro), micro + 1 == n || group(micro + 1) != group(micro))
    }
}

impl<F: TorchReal + Number> Learner<F> {
    /// Gradients of this rank's part of a step, and what had to be agreed on for them.
    pub(super) fn local(&mut self, at: Place<'_>, phases: &mut Phases) -> Result<Local> {
        self.seed_torch(&at);
        match self.balancer.plan(at.step) {
            Plan::Weighted => self.weighted_gradient(at, phases),
            Plan::Tasks { batches } => match self.gram {
                GramFrom::Exact => self.task_gradients(at, batches, phases),
                GramFrom::Sketch(sketch) => self.sketched_gradients(at, sketch, phases),
            },
            Plan::Representation => self.representation_gradients(at, phases),
        }
    }

    /// Seeds libtorch's generators, so that dropout needs no state in checkpoints, and so that a second pass over the
    /// same batches draws the same masks.
    pub(super) fn seed_torch(&self, at: &Place<'_>) {
        ffi::seed_torch(self.torch_seed(at));
    }

    pub(super) fn torch_seed(&self, at: &Place<'_>) -> i64 {
        seed(self.seed, Stream::Model, at.step, at.comm.world().rank as u64)
    }

    /// `T` rows of local sums per independent batch.
    fn task_gradients(&mut self, at: Place<'_>, n_batches: usize, phases: &mut Phases) -> Result<Local> {
        let seed = self.torch_seed(&at);
        let Learner { model, losses, engine, .. } = self;
        let shared = SharedRows::Tasks { batches: n_batches };
        let mut grads = Grads::zero(shared, &model.params);
        let mut collector = Collector { engine, params: &model.params, comm: at.comm };
        collector.begin(shared);
        let mut pending = LossSums::default();
        for (micro, m) in at.batches.iter().enumerate() {
            let masks = Masks::new(seed, micro);
            let pass = phases.time(Phase::Forward, || pass(model, losses, &m.batch, at.active, masks));
            pending.add(pass.terms());
            let (batch, last) = at.group(micro, n_batches);
            phases.time(Phase::Backward, || -> Result<()> {
                let mut done = |grads: &mut Grads, task: usize| collector.task(grads, batch, task, last);
                pass.task_grads(model, batch, &mut grads, &mut done)?;
                collector.micro(&mut grads, batch, last, micro + 1 == at.batches.len())
            })?;
        }
        Ok(Local { grads: Some(grads), pending, agreed: None })
    }

    /// One row: the gradient of the weighted sum of the global mean losses.
    fn weighted_gradient(&mut self, at: Place<'_>, phases: &mut Phases) -> Result<Local> {
        let needs_losses = self.balancer.needs_losses();
        let mut kept = None;
        // The weights must be known before the backward. Counts cost no forward pass; losses do, and a wait for the device.
        let mut sums = vec![0.0; self.tasks.len()];
        match at.batches {
            [_] if needs_losses || self.engine.reads_for_free() => {
                let pass = phases.time(Phase::Forward, || self.forward(0, &at));
                let mut pending = LossSums::default();
                pending.add(pass.terms());
                sums = phases.time(Phase::Losses, || pending.read(sums.len()));
                kept = Some(pass);
            }
            _ if needs_losses => {
                sums = self.sums_without_graph(&at, phases);
                self.seed_torch(&at);
            }
            _ => {}
        }
        let (losses, counts) = phases.time(Phase::Losses, || global_losses(&sums, 1, &at))?;
        let known = kept.is_some() || needs_losses;
        let (mut agreed, factors) = self.weighted(losses, counts, at.step, known);
        let Some(factors) = factors else { return Ok(Local::refused(agreed)) };
        agreed.losses_to_come = kept.is_none();
        let mut pending = LossSums::default();
        let mut grads = Grads::zero(SharedRows::Combined, &self.model.params);
        self.collector(at.comm).begin(SharedRows::Combined);
        for micro in 0..at.batches.len() {
            let pass = match kept.take() {
                Some(pass) => pass,
                None => phases.time(Phase::Forward, || self.forward(micro, &at)),
            };
            pending.add(pass.terms());
            let end = micro + 1 == at.batches.len();
            phases.time(Phase::Backward, || self.weighted_backward(pass, &factors, end, &mut grads, at.comm))?;
        }
        Ok(Local { grads: Some(grads), pending, agreed: Some(agreed) })
    }

    /// The backward pass of a weighted loss; in pieces at the end of a step, where the pieces can travel meanwhile.
    fn weighted_backward(
        &mut self,
        pass: Pass<'_>,
        factors: &Factors,
        end: bool,
        grads: &mut Grads,
        comm: &dyn Collective,
    ) -> Result<()> {
        let Learner { model, engine, .. } = self;
        let mut collector = Collector { engine, params: &model.params, comm };
        if end && collector.wants_pieces() {
            let mut done = |grads: &mut Grads, first: usize| collector.stages(grads, first);
            pass.weighted_grads(model, factors, grads, Some(&mut done))?;
        } else {
            pass.weighted_grads::<Error>(model, factors, grads, None)?;
        }
        collector.micro(grads, 0, end, end)
    }

    fn collector<'a>(&'a mut self, comm: &'a dyn Collective) -> Collector<'a, F> {
        Collector { engine: &mut self.engine, params: &self.model.params, comm }
    }

    fn forward<'a>(&self, micro: usize, at: &Place<'a>) -> Pass<'a> {
        let masks = Masks::new(self.torch_seed(at), micro);
        pass(&self.model, &self.losses, &at.batches[micro].batch, at.active, masks)
    }

    /// Weights, coefficients and factors of a weighted loss; gradients are still to come. Losses that are not `known` yet
    /// are not judged. No factors: the step is refused.
    fn weighted(
        &mut self,
        losses: Vec<Option<f64>>,
        counts: Counts,
        step: u64,
        known: bool,
    ) -> (Agreed, Option<Factors>) {
        let weights = self.balancer.weights(&losses, step);
        let agreed = Agreed::new(losses, counts, weights, known.then_some(&self.judge));
        if agreed.refused.is_some() {
            // Smoothed coefficients would remember it.
            return (agreed, None);
        }
        let coefficients = self.balancer.of_weights(&agreed.weights);
        let c = coefficients.shared.as_ref().and_then(|groups| groups.first()).unwrap_or(&agreed.weights);
        let factors = Factors {
            shared: per_count(c, &agreed.counts.total),
            serve_private: coefficients.heads.iter().zip(c).all(|(&h, &c)| one_serves_the_other(h, c)),
        };
        let private_units = if factors.serve_private { c.clone() } else { agreed.counts.total.clone() };
        (Agreed { coefficients: Some(coefficients), private_units, ..agreed }, Some(factors))
    }

    /// `T` backwards through the heads to the representation, balancing there, and one backward through the encoder.
    fn representation_gradients(&mut self, at: Place<'_>, phases: &mut Phases) -> Result<Local> {
        let n_tasks = self.tasks.len();
        let mut grads = Grads::zero(SharedRows::Combined, &self.model.params);
        // One micro-batch keeps its graph until the coefficients are known; of several, only the leaves' gradients are kept.
        let keep = at.batches.len() == 1;
        let mut kept = None;
        let (mut pending, mut products) = (LossSums::default(), LeafProducts::new(n_tasks));
        let mut leaf_grads: Vec<LeafGrads> = Vec::with_capacity(at.batches.len());
        for m in at.batches {
            let cut = phases.time(Phase::Forward, || forward_cut(&self.model, &self.losses, &m.batch, at.active, keep));
            pending.add(&cut.terms);
            let z = phases.time(Phase::Backward, || cut.head_grads(&self.model.params, &mut grads))?;
            phases.time(Phase::Gram, || products.add(&z, &self.engine, self.model.device()));
            leaf_grads.push(z);
            kept = keep.then_some(cut);
        }
        let (sums, products) = phases.time(Phase::Gram, || products.read(&pending));
        let (losses, counts) = phases.time(Phase::Losses, || global_losses(&sums, 1, &at))?;
        let weights = self.balancer.weights(&losses, at.step);
        let mut agreed = Agreed::new(losses, counts, weights, Some(&self.judge));
        // Whatever the reduction of parameters: each rank has samples of its own.
        let Some(factors) = self.balance_early(&products, true, &mut agreed, &at, phases)? else {
            return Ok(Local::refused(agreed));
        };
        if !keep {
            self.seed_torch(&at);
        }
        self.collector(at.comm).begin(SharedRows::Combined);
        for (micro, (m, z)) in at.batches.iter().zip(&leaf_grads).enumerate() {
            let cut = match kept.take() {
                Some(cut) => cut,
                None => {
                    phases.time(Phase::Forward, || forward_cut(&self.model, &self.losses, &m.batch, at.active, true))
                }
            };
            let end = micro + 1 == at.batches.len();
            phases.time(Phase::Backward, || -> Result<()> {
                cut.encoder_grads(&self.model.params, z, &factors, &mut grads)?;
                self.collector(at.comm).micro(&mut grads, 0, end, end)
            })?;
        }
        Ok(Local { grads: Some(grads), pending: LossSums::default(), agreed: Some(agreed) })
    }

    /// Surgery on inner products `[T, T]` of local sums before there is a combined row: what multiplies each task's local loss
    /// sum `[T]`, with Gram matrix and coefficients in `agreed`; `None` if the step is refused there. `spread`: the
    /// products of the ranks are to be added up; otherwise every rank has those of all.
    pub(super) fn balance_early(
        &mut self,
        products: &[f64],
        spread: bool,
        agreed: &mut Agreed,
        at: &Place<'_>,
        phases: &mut Phases,
    ) -> Result<Option<Vec<f64>>> {
        let n_tasks = self.tasks.len();
        let all: Vec<usize> = (0..n_tasks).collect();
        let mut sum = GramSum::new(1, n_tasks, n_tasks);
        sum.add_products(0, &all, products);
        let total = &agreed.counts.total;
        let sums = Sums::new(at.comm, spread);
        let gram = phases.time(Phase::Balance, || sum.finish(total, total, &sums))?.shared.remove(0);
        if agreed.refused.is_some() {
            return Ok(None);
        }
        let chosen = Gram::new(gram).and_then(|gram| {
            let grams = std::slice::from_ref(&gram);
            let chosen = self.balancer.coefficients(grams, &agreed.losses, &agreed.weights, at.step)?;
            Ok((gram, chosen))
        });
        let (gram, coefficients) = match chosen {
            Ok(chosen) => chosen,
            Err(bad) => {
                agreed.refuse_gradient(&self.tasks, &bad.0);
                return Ok(None);
            }
        };
        let c = coefficients.shared.as_ref().and_then(|groups| groups.first()).unwrap_or(&agreed.weights);
        let factors = per_count(c, &agreed.counts.total);
        agreed.gram = Some(gram);
        agreed.coefficients = Some(coefficients);
        Ok(Some(factors))
    }

    /// Global losses of the same batches under the present parameters, for methods that learn from the change.
    pub(super) fn losses_now(&self, at: &Place<'_>, phases: &mut Phases) -> Result<Vec<Option<f64>>> {
        self.seed_torch(at);
        let sums = self.sums_without_graph(at, phases);
        Ok(phases.time(Phase::Losses, || global_losses(&sums, 1, at))?.0)
    }

    fn sums_without_graph(&self, at: &Place<'_>, phases: &mut Phases) -> Vec<f64> {
        let mut pending = LossSums::default();
        for micro in 0..at.batches.len() {
            let pass = || tch::no_grad(|| self.forward(micro, at));
            pending.add(phases.time(Phase::Forward, pass).terms());
        }
        pending.read(self.tasks.len())
    }
}

impl Local {
    /// A step that the ranks have agreed to refuse.
    pub fn refused(agreed: Agreed) -> Local {
        Local { grads: None, pending: LossSums::default(), agreed: Some(agreed) }
    }
}

impl Agreed {
    /// Gradients of unweighted sums are still to come. No judge: so are the losses.
    pub fn new(losses: Vec<Option<f64>>, counts: Counts, weights: Vec<f64>, judge: Option<&Judge>) -> Agreed {
        Agreed {
            refused: judge.and_then(|judge| judge.losses(&losses)),
            losses,
            weights,
            coefficients: None,
            gram: None,
            private_units: counts.total.clone(),
            counts,
            losses_to_come: false,
        }
    }

    /// The losses, now that they are there.
    pub fn with_losses(&mut self, losses: Vec<Option<f64>>, judge: &Judge) {
        self.refused = judge.losses(&losses);
        self.losses = losses;
    }

    /// The gradients of these tasks are not finite.
    pub fn refuse_gradient(&mut self, tasks: &[String], bad: &[usize]) {
        self.refused = Some(Refusal::NotFinite(format!("the gradient of {}", names(tasks, bad))));
    }
}

/// Inner products of gradients at the leaves, wherever these are.
enum LeafProducts {
    Host { sums: Vec<f64> },
    Device { sums: Vec<f64>, enqueued: Tensor },
}

impl LeafProducts {
    fn new(n_tasks: usize) -> Self {
        LeafProducts::Host { sums: vec![0.0; n_tasks * n_tasks] }
    }

    fn add<F: TorchReal + Number>(&mut self, z: &LeafGrads, engine: &Engine<F>, device: Device) {
        if matches!(engine, Engine::Host(_)) {
            let (LeafProducts::Host { sums } | LeafProducts::Device { sums, .. }) = self;
            return add_leaf_gram::<F>(z, sums);
        }
        let (LeafProducts::Host { sums } | LeafProducts::Device { sums, .. }) = &*self;
        let more = leaf_products(z, sums.len().isqrt(), device);
        *self = match std::mem::replace(self, LeafProducts::Host { sums: Vec::new() }) {
            LeafProducts::Host { sums } => LeafProducts::Device { sums, enqueued: more },
            LeafProducts::Device { sums, enqueued } => LeafProducts::Device { sums, enqueued: enqueued + more },
        };
    }

    /// Local loss sums `[T]` and products `[T * T]`, with one wait for the device.
    fn read(self, pending: &LossSums) -> (Vec<f64>, Vec<f64>) {
        match self {
            LeafProducts::Host { sums } => (pending.read(sums.len().isqrt()), sums),
            LeafProducts::Device { sums, enqueued } => {
                let wanted: Vec<Tensor> = std::iter::once(enqueued).chain(pending.tensor()).collect();
                let mut values = ffi::read(&wanted);
                let losses = values.split_off(sums.len());
                (pending.by_task(&losses, sums.len().isqrt()), values)
            }
        }
    }
}

/// Global mean losses and counts from local sums.
pub(super) fn global_losses(sums: &[f64], n_batches: usize, at: &Place<'_>) -> Result<(Vec<Option<f64>>, Counts)> {
    let n_tasks = sums.len();
    let mut all = sums.to_vec();
    all.resize(n_tasks * (1 + n_batches), 0.0);
    for (micro, m) in at.batches.iter().enumerate() {
        let (batch, _) = at.group(micro, n_batches);
        add(&mut all[n_tasks * (1 + batch)..][..n_tasks], &m.counts);
    }
    agree_on_sum(at.comm, &mut all)?;
    let by_batch = all.split_off(n_tasks);
    let total: Vec<f64> = (0..n_tasks).map(|t| by_batch[t..].iter().step_by(n_tasks).sum()).collect();
    let losses = all.iter().zip(&total).map(|(&sum, &n)| (n > 0.0).then(|| sum / n)).collect();
    Ok((losses, Counts { total, by_batch }))
}

fn add(sums: &mut [f64], more: &[f64]) {
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
