//! Losses of a micro-batch, with the graphs alive.

use super::losses::TaskLoss;
use crate::data::Batch;
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

/// Runs the model on a micro-batch.
///
/// Each part has its own encoder graph: a backward of one task then touches only samples of that task's source.
pub fn forward(model: &Model, losses: &[Box<dyn TaskLoss>], batch: &Batch, train: bool) -> Forward {
    let mut terms = Vec::new();
    for (index, part) in batch.parts.iter().enumerate() {
        if part.targets.iter().all(|t| t.n_labelled == 0) {
            continue;
        }
        let stages = model.represent(&part.inputs, train);
        for target in part.targets.iter().filter(|t| t.n_labelled > 0) {
            let output = model.output(target.task, &stages, train);
            terms.push(Term { task: target.task, part: index, sum: losses[target.task].sum(&output, target) });
        }
    }
    let mut sums = vec![0.0; losses.len()];
    if !terms.is_empty() {
        // One transfer for all tasks.
        let values = Tensor::stack(&terms.iter().map(|t| t.sum.detach()).collect::<Vec<_>>(), 0);
        let values: Vec<f64> = Vec::try_from(values.to_kind(tch::Kind::Double)).unwrap_or_default();
        for (term, value) in terms.iter().zip(values) {
            sums[term.task] += value;
        }
    }
    Forward { terms, sums }
}

/// Local counts `[T]` by which the tasks' loss sums are to be divided, over all micro-batches of a step.
pub fn counts(losses: &[Box<dyn TaskLoss>], batches: &[Batch]) -> Vec<f64> {
    let mut counts = vec![0.0; losses.len()];
    for target in batches.iter().flat_map(|b| &b.parts).flat_map(|p| &p.targets) {
        counts[target.task] += losses[target.task].count(target);
    }
    counts
}
