//! Losses of a micro-batch, with the graphs alive.

use super::losses::TaskLoss;
use crate::data::{Batch, Part, Target};
use crate::model::Model;
use tch::Tensor;

/// The loss of one task on one part of a batch.
#[derive(Debug)]
pub struct Term {
    /// Task.
    pub task: usize,
    /// Part of the batch; terms of one part share the encoder's graph.
    pub part: usize,
    /// Sum of the loss over the part's labels, with the graph alive.
    pub sum: Tensor,
}

/// Losses of one micro-batch.
#[derive(Debug)]
pub struct Forward {
    /// Terms with at least one label, by part, then task.
    pub terms: Vec<Term>,
    /// Local sum of each task's loss `[T]`.
    pub sums: Vec<f64>,
}

/// Runs the model on a micro-batch, for the tasks that are active `[T]`.
///
/// Each part has its own encoder graph: a backward of one task then touches only samples of that task's source.
pub fn forward(model: &Model, losses: &[Box<dyn TaskLoss>], batch: &Batch, active: &[bool], train: bool) -> Forward {
    let mut terms = Vec::new();
    for (index, part) in batch.parts.iter().enumerate() {
        if part.targets.iter().any(|t| is_wanted(t, active)) {
            let stages = model.represent(&part.inputs, train);
            terms.extend(terms_of(model, losses, index, part, &stages, active, train));
        }
    }
    let sums = sums(&terms, losses.len());
    Forward { terms, sums }
}

/// Whether a target contributes to the loss of its task.
pub(super) fn is_wanted(target: &Target, active: &[bool]) -> bool {
    target.n_labelled > 0 && active[target.task]
}

/// The terms of one part, from the encoder's stages.
pub(super) fn terms_of(
    model: &Model,
    losses: &[Box<dyn TaskLoss>],
    index: usize,
    part: &Part,
    stages: &[Tensor],
    active: &[bool],
    train: bool,
) -> Vec<Term> {
    let term = |target: &Target| {
        let output = model.output(target.task, stages, train);
        Term { task: target.task, part: index, sum: losses[target.task].sum(&output, target) }
    };
    part.targets.iter().filter(|t| is_wanted(t, active)).map(term).collect()
}

/// Local sum of each task's loss `[T]`, in one transfer for all tasks.
pub(super) fn sums(terms: &[Term], n_tasks: usize) -> Vec<f64> {
    let mut sums = vec![0.0; n_tasks];
    if !terms.is_empty() {
        let values = Tensor::stack(&terms.iter().map(|t| t.sum.detach()).collect::<Vec<_>>(), 0);
        let values: Vec<f64> = Vec::try_from(values.to_kind(tch::Kind::Double)).unwrap_or_default();
        for (term, value) in terms.iter().zip(values) {
            sums[term.task] += value;
        }
    }
    sums
}

/// Local counts `[T]` by which the loss sums of the active tasks are to be divided, over some micro-batches.
pub fn counts(losses: &[Box<dyn TaskLoss>], batches: &[Batch], active: &[bool]) -> Vec<f64> {
    let mut counts = vec![0.0; losses.len()];
    for target in batches.iter().flat_map(|b| &b.parts).flat_map(|p| &p.targets).filter(|t| active[t.task]) {
        counts[target.task] += losses[target.task].count(target);
    }
    counts
}
