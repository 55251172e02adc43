//! Losses of a micro-batch, with the graphs alive.

use super::losses::TaskLoss;
use crate::data::{Batch, Part, Target};
use crate::ffi::read;
use crate::model::Model;
use tch::{Kind, Tensor};

/// The loss of one task on one part of a batch.
#[derive(Debug)]
pub struct Term {
    /// Task.
    pub task: usize,
    /// Which of the parts with terms; those of one part share the encoder's graph.
    pub part: usize,
    /// Sum of the loss over the part's labels, with the graph alive.
    pub sum: Tensor,
}

/// Losses of one micro-batch.
#[derive(Debug)]
pub struct Forward {
    /// Terms with at least one label, by part, then task.
    pub terms: Vec<Term>,
    /// By part that has terms: the outputs of the encoder's stages, with the graph alive.
    pub stages: Vec<Vec<Tensor>>,
}

/// Local loss sums of several passes. They stay where they were computed until somebody reads them, which waits for a
/// device.
#[derive(Debug, Default)]
pub struct LossSums(Vec<(usize, Tensor)>);

impl LossSums {
    /// Adds the losses of a pass.
    pub fn add(&mut self, terms: &[Term]) {
        self.0.extend(terms.iter().map(|term| (term.task, term.sum.detach())));
    }

    /// What is to be read: as many numbers as there are terms; `None` without any.
    pub fn tensor(&self) -> Option<Tensor> {
        let sums: Vec<Tensor> = self.0.iter().map(|(_, sum)| sum.to_kind(Kind::Double)).collect();
        (!sums.is_empty()).then(|| Tensor::stack(&sums, 0))
    }

    /// Local sum of each task's loss `[T]`, from the values of [`Self::tensor`].
    pub fn by_task(&self, values: &[f64], n_tasks: usize) -> Vec<f64> {
        let mut sums = vec![0.0; n_tasks];
        self.0.iter().zip(values).for_each(|((task, _), value)| sums[*task] += value);
        sums
    }

    /// Local sum of each task's loss `[T]`: waits for the device.
    pub fn read(&self, n_tasks: usize) -> Vec<f64> {
        let values = read(self.tensor().as_slice());
        self.by_task(&values, n_tasks)
    }
}

/// Runs the model on a micro-batch, for the tasks that are active `[T]`.
///
/// Each part has its own encoder graph: a backward of one task then touches only samples of that task's source.
pub fn forward(model: &Model, losses: &[Box<dyn TaskLoss>], batch: &Batch, active: &[bool], train: bool) -> Forward {
    let mut pass = Forward { terms: Vec::new(), stages: Vec::new() };
    for part in batch.parts.iter().filter(|part| part.targets.iter().any(|t| is_wanted(t, active))) {
        let stages = model.represent(&part.inputs, train);
        pass.terms.extend(terms_of(model, losses, pass.stages.len(), part, &stages, active, train));
        pass.stages.push(stages);
    }
    pass
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

/// Local counts `[T]` by which the loss sums of the active tasks are to be divided, for a micro-batch on the host.
pub fn counts(losses: &[Box<dyn TaskLoss>], batch: &Batch, active: &[bool]) -> Vec<f64> {
    let mut counts = vec![0.0; losses.len()];
    for target in batch.parts.iter().flat_map(|p| &p.targets).filter(|t| active[t.task]) {
        counts[target.task] += losses[target.task].count(target);
    }
    counts
}
