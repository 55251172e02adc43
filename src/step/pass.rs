//! A forward pass in training and the backward passes that follow it: with the whole graph kept, or recomputed in pieces.

use super::losses::TaskLoss;
use super::recompute::forward_pieces;
use super::{Factors, Forward, Grads, Masks, Pieces, Term, forward, staged_grads, task_grads, weighted_grads};
use crate::data::Batch;
use crate::model::Model;
use tch::TchError;

/// Losses of one micro-batch, and what their backward passes need.
#[derive(Debug)]
pub enum Pass<'a> {
    /// All graphs are alive.
    Whole(Forward),
    /// The encoder runs again, piece by piece.
    Pieces(Pieces<'a>),
}

/// Is told of gradients that are complete.
pub type Done<'d, E> = &'d mut dyn FnMut(&mut Grads, usize) -> Result<(), E>;

/// Runs the model on a micro-batch for training, for the tasks that are active `[T]`. `masks` count only for a model that
/// is [recomputed](Model::recomputed): others draw from libtorch's generators as they are.
pub fn pass<'a>(
    model: &Model,
    losses: &[Box<dyn TaskLoss>],
    batch: &'a Batch,
    active: &[bool],
    masks: Masks,
) -> Pass<'a> {
    if model.pieces().is_empty() {
        return Pass::Whole(forward(model, losses, batch, active, true));
    }
    Pass::Pieces(forward_pieces(model, losses, batch, active, masks))
}

impl Pass<'_> {
    /// Terms with at least one label, by part, then task.
    pub fn terms(&self) -> &[Term] {
        match self {
            Pass::Whole(pass) => &pass.terms,
            Pass::Pieces(pass) => &pass.terms,
        }
    }

    /// Adds, for every task, the gradient of its local loss sum on independent batch `batch` to its rows; `done` is told
    /// each task whose rows are complete.
    ///
    /// # Errors
    /// If libtorch cannot run the backward pass, and those of `done`.
    pub fn task_grads<E: From<TchError>>(
        self,
        model: &Model,
        batch: usize,
        grads: &mut Grads,
        done: Done<'_, E>,
    ) -> Result<(), E> {
        match self {
            Pass::Whole(pass) => task_grads(&model.params, &pass.terms, batch, grads, done),
            Pass::Pieces(pass) => pass.task_grads(model, batch, grads, done),
        }
    }

    /// Adds the gradient of the weighted sum of the losses. With `done` the backward goes in pieces, and `done` is told the
    /// first stage whose gradients are complete after each.
    ///
    /// # Errors
    /// If libtorch cannot run the backward pass, and those of `done`.
    pub fn weighted_grads<E: From<TchError>>(
        self,
        model: &Model,
        factors: &Factors,
        grads: &mut Grads,
        done: Option<Done<'_, E>>,
    ) -> Result<(), E> {
        let params = &model.params;
        match (self, done) {
            (Pass::Whole(pass), None) => Ok(weighted_grads(params, &pass.terms, factors, grads)?),
            (Pass::Whole(pass), Some(done)) => staged_grads(params, &pass, factors, &model.cuts(), grads, done),
            (Pass::Pieces(pass), None) => pass.weighted_grads(model, factors, grads, &mut |_, _| Ok::<_, E>(())),
            (Pass::Pieces(pass), Some(done)) => pass.weighted_grads(model, factors, grads, done),
        }
    }
}
