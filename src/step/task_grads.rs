//! Gradients of local loss sums, where libtorch left them: one tensor per parameter and row.
//!
//! No copy into one matrix is made here. On one rank the kernels read these tensors in place; between ranks, the
//! reduction lays them out (`comm::reduce`).

use super::Term;
use crate::model::{Entry, Params};
use tch::Tensor;

/// What the rows of [`Grads`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GradsOf {
    /// Row `k` of a parameter belongs to the `k`-th task of its scope.
    Tasks,
    /// One row: the gradient of the weighted sum of all tasks.
    Sum,
}

/// Gradients of all parameters on this rank.
#[derive(Debug)]
pub struct Grads {
    /// What the rows are.
    pub of: GradsOf,
    /// `rows[entry][row]`, in the parameter's shape.
    pub rows: Vec<Vec<Row>>,
}

/// One row of the gradient of one parameter.
#[derive(Debug)]
pub enum Row {
    /// No loss has reached it.
    Zero,
    /// As libtorch returned it, made contiguous. Two parameters may share it: never change it in place.
    Given(Tensor),
    /// A sum of our own.
    Sum(Tensor),
}

impl Row {
    /// The gradient, contiguous; `None` is zero.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Row::Zero => None,
            Row::Given(t) | Row::Sum(t) => Some(t),
        }
    }
}

impl Grads {
    /// All zero.
    pub fn zero(of: GradsOf, params: &Params) -> Self {
        let n_rows = |entry: &Entry| if of == GradsOf::Tasks { entry.scope.len() } else { 1 };
        Grads { of, rows: params.entries.iter().map(|e| (0..n_rows(e)).map(|_| Row::Zero).collect()).collect() }
    }

    fn add(&mut self, entry: usize, row: usize, grad: Tensor) {
        if !grad.defined() {
            return;
        }
        let slot = &mut self.rows[entry][row];
        *slot = match std::mem::replace(slot, Row::Zero) {
            Row::Zero => Row::Given(grad.contiguous()),
            Row::Given(first) => Row::Sum((first + grad).contiguous()),
            Row::Sum(mut sum) => Row::Sum(sum.g_add_(&grad)),
        };
    }
}

/// Adds, for every task, the gradient of its local loss sum to its rows. One backward per term.
///
/// # Errors
/// If libtorch cannot run the backward pass.
pub fn task_grads(params: &Params, terms: &[Term], grads: &mut Grads) -> Result<(), tch::TchError> {
    for (index, term) in terms.iter().enumerate() {
        let reached: Vec<(usize, usize)> = params
            .entries
            .iter()
            .enumerate()
            .filter_map(|(e, entry)| entry.scope.binary_search(&term.task).ok().map(|row| (e, row)))
            .collect();
        let inputs: Vec<&Tensor> = reached.iter().map(|&(e, _)| &params.entries[e].tensor).collect();
        // The encoder's graph is shared by the terms of a part: it may go with the last of them.
        let keep = terms.get(index + 1).is_some_and(|next| next.part == term.part);
        for ((entry, row), grad) in reached.iter().zip(Tensor::f_run_backward(&[&term.sum], &inputs, keep, false)?) {
            grads.add(*entry, *row, grad);
        }
    }
    Ok(())
}

/// Adds the gradient of `sum_t factor[t] * (local loss sum of t)`: one backward for all tasks.
///
/// # Errors
/// If libtorch cannot run the backward pass.
pub fn weighted_grads(
    params: &Params,
    terms: &[Term],
    factors: &[f64],
    grads: &mut Grads,
) -> Result<(), tch::TchError> {
    let sums: Vec<Tensor> = terms.iter().map(|t| t.sum.shallow_clone()).collect();
    if sums.is_empty() {
        return Ok(());
    }
    let factors: Vec<f64> = terms.iter().map(|t| factors[t.task]).collect();
    let sums = Tensor::stack(&sums, 0);
    let factors = Tensor::from_slice(&factors).to_kind(sums.kind()).to_device(sums.device());
    let inputs: Vec<&Tensor> = params.entries.iter().map(|e| &e.tensor).collect();
    for (entry, grad) in Tensor::f_run_backward(&[sums.dot(&factors)], &inputs, false, false)?.into_iter().enumerate() {
        grads.add(entry, 0, grad);
    }
    Ok(())
}
