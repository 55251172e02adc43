//! Gradients with respect to the representation: where encoder and heads meet, the graph is cut in two.
//!
//! ```text
//! inputs -> encoder -> stages | leaves -> heads -> losses
//! ```
//!
//! A backward per task runs through the heads alone and ends at the leaves, as `Z_t`, a gradient per **sample**. Samples lie on
//! disjoint ranks, so the Gram matrix of the whole batch is the sum of the ranks' own. One backward of
//! `sum_t c_t Z_t` through the encoder then gives the update.

use super::forward::{is_wanted, terms_of};
use super::losses::TaskLoss;
use super::products::row_products;
use super::{Grads, Term};
use crate::data::Batch;
use crate::ffi::{TorchReal, numbers};
use crate::kernel::{Fragment, add_gram};
use crate::model::{Model, Params};
use tch::{Device, Kind, TchError, Tensor};

/// Losses of one micro-batch, with a cut between encoder and heads.
#[derive(Debug)]
pub struct Cut {
    /// By part of the batch: the encoder's stages, with the graph alive unless the encoder ran without one.
    stages: Vec<Vec<Tensor>>,
    /// The same values as leaves of the heads' graphs.
    leaves: Vec<Vec<Tensor>>,
    /// Terms with at least one label; their graphs end at the leaves.
    pub terms: Vec<Term>,
}

/// `z[part][task][stage]`: gradients of local loss sums with respect to the leaves; `None` is zero.
pub type LeafGrads = Vec<Vec<Vec<Option<Tensor>>>>;

/// Runs the model on a micro-batch, for the tasks that are active `[T]`. With `encoder_graph` false the encoder keeps no
/// graph: enough for the heads' gradients.
pub fn forward_cut(
    model: &Model,
    losses: &[Box<dyn TaskLoss>],
    batch: &Batch,
    active: &[bool],
    encoder_graph: bool,
) -> Cut {
    let mut cut = Cut { stages: Vec::new(), leaves: Vec::new(), terms: Vec::new() };
    for part in &batch.parts {
        if !part.targets.iter().any(|t| is_wanted(t, active)) {
            continue;
        }
        let stages = if encoder_graph {
            model.represent(&part.inputs, true)
        } else {
            tch::no_grad(|| model.represent(&part.inputs, true))
        };
        let leaves: Vec<Tensor> = stages.iter().map(|s| s.detach().set_requires_grad(true)).collect();
        let index = cut.leaves.len();
        cut.terms.extend(terms_of(model, losses, index, part, &leaves, active, true));
        cut.stages.push(stages);
        cut.leaves.push(leaves);
    }
    cut
}

impl Cut {
    /// One backward per term through its head: adds to the rows of the tasks' own parameters, and returns the gradients at
    /// the leaves.
    ///
    /// # Errors
    /// If libtorch cannot run the backward pass.
    pub fn head_grads(&self, params: &Params, grads: &mut Grads) -> Result<LeafGrads, TchError> {
        let mut z: LeafGrads = self.leaves.iter().map(|_| (0..params.n_tasks).map(|_| Vec::new()).collect()).collect();
        for term in &self.terms {
            let own = |e: &usize| !params.is_shared(&params.entries[*e]) && params.entries[*e].scope == [term.task];
            let own: Vec<usize> = (0..params.entries.len()).filter(own).collect();
            let leaves = &self.leaves[term.part];
            let inputs: Vec<&Tensor> = leaves.iter().chain(own.iter().map(|&e| &params.entries[e].tensor)).collect();
            let mut found = Tensor::f_run_backward(&[&term.sum], &inputs, false, false)?;
            let of_params = found.split_off(leaves.len());
            own.iter().zip(of_params).for_each(|(&e, grad)| grads.add(e, 0, grad));
            let defined = |g: Tensor| g.defined().then(|| g.contiguous());
            z[term.part][term.task] = found.into_iter().map(defined).collect();
        }
        Ok(z)
    }

    /// One backward of `sum_t factors[t] * Z_t` through the encoder, added to the combined rows of the shared
    /// parameters; parameters of the encoder that belong to one task get that task's unweighted gradient.
    ///
    /// # Errors
    /// If libtorch cannot run the backward pass.
    pub fn encoder_grads(
        &self,
        params: &Params,
        z: &LeafGrads,
        factors: &[f64],
        grads: &mut Grads,
    ) -> Result<(), TchError> {
        let (shared, private): (Vec<usize>, Vec<usize>) =
            (0..params.entries.len()).partition(|&e| params.is_shared(&params.entries[e]));
        for (stages, z) in self.stages.iter().zip(z) {
            // Heads are behind the cut: what is private here are stages that a single task uses.
            if let Some(surrogate) = surrogate(stages, z, &vec![1.0; factors.len()]) {
                grads.add_backward(params, &surrogate, &private, true)?;
            }
            if let Some(surrogate) = surrogate(stages, z, factors) {
                grads.add_backward(params, &surrogate, &shared, false)?;
            }
        }
        Ok(())
    }
}

/// A scalar whose gradient with respect to the stages is `sum_t factors[t] * z[t]`.
fn surrogate(stages: &[Tensor], z: &[Vec<Option<Tensor>>], factors: &[f64]) -> Option<Tensor> {
    let mut total: Option<Tensor> = None;
    for (k, stage) in stages.iter().enumerate() {
        let grads = z.iter().zip(factors).filter_map(|(z, &f)| Some((z.get(k)?.as_ref()?, f)));
        let combined = grads.fold(None, |sum: Option<Tensor>, (z, f)| {
            let scaled = z * f;
            Some(sum.map_or_else(|| scaled.shallow_clone(), |s| s + &scaled))
        });
        if let Some(combined) = combined.filter(|_| stage.requires_grad()) {
            let term = (stage * combined).sum(stage.kind());
            total = Some(total.map_or_else(|| term.shallow_clone(), |t| t + &term));
        }
    }
    total
}

/// Adds this rank's inner products of the tasks' gradients at the leaves to `gram` `[T, T]`.
pub fn add_leaf_gram<F: TorchReal>(z: &LeafGrads, gram: &mut [f64]) {
    for part in z {
        let n_stages = part.iter().map(Vec::len).max().unwrap_or(0);
        for k in 0..n_stages {
            let of = |z: &'_ Vec<Option<Tensor>>| z.get(k).and_then(|z| z.as_ref().map(Tensor::shallow_clone));
            let tensors: Vec<Option<Tensor>> = part.iter().map(of).collect();
            let rows: Vec<&[F]> = tensors.iter().map(|t| t.as_ref().map_or(&[][..], numbers::<F>)).collect();
            let len = rows.iter().map(|r| r.len()).max().unwrap_or(0);
            let mut local = vec![0.0; gram.len()];
            add_gram(&[Fragment { len, rows }], &mut local);
            gram.iter_mut().zip(local).for_each(|(sum, x)| *sum += x);
        }
    }
}

/// As [`add_leaf_gram`], wherever the gradients are: `[T, T]` in 64 bits, enqueued.
pub fn leaf_products(z: &LeafGrads, n_tasks: usize, device: Device) -> Tensor {
    let total = Tensor::zeros([n_tasks as i64; 2], (Kind::Double, device));
    for part in z {
        let n_stages = part.iter().map(Vec::len).max().unwrap_or(0);
        for k in 0..n_stages {
            let tensors: Vec<Option<&Tensor>> = part.iter().map(|z| z.get(k).and_then(Option::as_ref)).collect();
            let Some(like) = tensors.iter().find_map(|t| *t) else { continue };
            let wide = if like.kind() == Kind::Double { Kind::Double } else { Kind::Float };
            let row = |t: &Option<&Tensor>| t.map_or_else(|| like.zeros_like(), Tensor::shallow_clone).reshape([-1]);
            let rows = Tensor::stack(&tensors.iter().map(row).collect::<Vec<_>>(), 0).to_kind(wide);
            let _ = total.shallow_clone().g_add_(&row_products(&rows));
        }
    }
    total
}
