//! Gradients of local loss sums, where libtorch left them: one tensor per parameter and row.
//!
//! No copy into one matrix is made here. On one rank the kernels read these tensors in place; between ranks, the
//! reduction lays them out (`comm::reduce`).

use super::Term;
use crate::ffi::send;
use crate::model::{Entry, Params};
use tch::{Kind, TchError, Tensor};

/// What the rows of a shared parameter are. A parameter of one task alone always has one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedRows {
    /// Row `b * n + k` is the gradient of the local loss sum, on independent batch `b`, of the `k`-th of the `n` tasks in
    /// the parameter's scope.
    Tasks {
        /// Number of independent batches.
        batches: usize,
    },
    /// One row: the gradient of the weighted sum of all tasks.
    Combined,
}

/// Gradients of all parameters on this rank.
#[derive(Debug)]
pub struct Grads {
    /// What the rows of shared parameters are.
    pub shared: SharedRows,
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
    pub fn zero(shared: SharedRows, params: &Params) -> Self {
        let n_rows = |entry: &Entry| match shared {
            SharedRows::Tasks { batches } if params.is_shared(entry) => batches * entry.scope.len(),
            _ => 1,
        };
        let rows = params.entries.iter().map(|e| (0..n_rows(e)).map(|_| Row::Zero).collect()).collect();
        Grads { shared, rows }
    }

    /// Takes a row of a parameter's gradient away; `None` is zero.
    pub fn take(&mut self, entry: usize, row: usize) -> Option<Tensor> {
        match std::mem::replace(&mut self.rows[entry][row], Row::Zero) {
            Row::Zero => None,
            Row::Given(t) | Row::Sum(t) => Some(t),
        }
    }

    /// Adds a gradient to a row of a parameter's.
    pub fn add(&mut self, entry: usize, row: usize, grad: Tensor) {
        if !grad.defined() {
            return;
        }
        let slot = &mut self.rows[entry][row];
        *slot = match std::mem::replace(slot, Row::Zero) {
            Row::Zero => Row::Given(grad.contiguous()),
            // Sums of halves are kept in 32 bits.
            Row::Given(first) if first.kind() == Kind::BFloat16 => {
                Row::Sum((first.to_kind(Kind::Float) + grad).contiguous())
            }
            Row::Given(first) => Row::Sum((first + grad).contiguous()),
            Row::Sum(mut sum) => Row::Sum(sum.g_add_(&grad)),
        };
    }

    /// Adds the gradient of a scalar to row 0 of these parameters.
    pub(super) fn add_backward(
        &mut self,
        params: &Params,
        of: &Tensor,
        entries: &[usize],
        keep_graph: bool,
    ) -> Result<(), TchError> {
        if entries.is_empty() {
            return Ok(());
        }
        let inputs: Vec<&Tensor> = entries.iter().map(|&e| &params.entries[e].tensor).collect();
        for (&entry, grad) in entries.iter().zip(Tensor::f_run_backward(&[of], &inputs, keep_graph, false)?) {
            self.add(entry, 0, grad);
        }
        Ok(())
    }
}

/// Adds, for every task, the gradient of its local loss sum on independent batch `batch` to its rows. One backward per
/// term; `done` is told the task after each, when its rows can be taken away already.
///
/// # Errors
/// If libtorch cannot run the backward pass, and those of `done`.
pub fn task_grads<E: From<TchError>>(
    params: &Params,
    terms: &[Term],
    batch: usize,
    grads: &mut Grads,
    done: &mut dyn FnMut(&mut Grads, usize) -> Result<(), E>,
) -> Result<(), E> {
    for (index, term) in terms.iter().enumerate() {
        let reached = rows_of_task(params, term.task, batch);
        let inputs: Vec<&Tensor> = reached.iter().map(|&(e, _)| &params.entries[e].tensor).collect();
        // The encoder's graph is shared by the terms of a part: it may go with the last of them.
        let keep = terms.get(index + 1).is_some_and(|next| next.part == term.part);
        for ((entry, row), grad) in reached.iter().zip(Tensor::f_run_backward(&[&term.sum], &inputs, keep, false)?) {
            grads.add(*entry, *row, grad);
        }
        done(grads, term.task)?;
    }
    Ok(())
}

/// Parameters that a task's loss reaches, and its row there on independent batch `batch`.
pub(super) fn rows_of_task(params: &Params, task: usize, batch: usize) -> Vec<(usize, usize)> {
    let row_of = |entry: &Entry| {
        let k = entry.scope.binary_search(&task).ok()?;
        Some(if params.is_shared(entry) { batch * entry.scope.len() + k } else { 0 })
    };
    params.entries.iter().enumerate().filter_map(|(e, entry)| row_of(entry).map(|row| (e, row))).collect()
}

/// How a weighted sum of the tasks' losses is to be formed.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// What multiplies the local loss sums for the shared parameters `[T]`.
    pub shared: Vec<f64>,
    /// Whether the same backward may serve the tasks' own parameters too. Otherwise they get one of their own, of
    /// unweighted sums: a factor may be 0 for the encoder while the head is to learn.
    pub serve_private: bool,
}

/// Adds the gradient of `sum_t factor[t] * (local loss sum of t)`: one backward for all tasks, and another one through
/// the heads alone if they are to be served by themselves.
///
/// # Errors
/// If libtorch cannot run the backward pass.
pub fn weighted_grads(params: &Params, terms: &[Term], factors: &Factors, grads: &mut Grads) -> Result<(), TchError> {
    let Some((sums, weighted)) = weighted_sum(terms, &factors.shared) else { return Ok(()) };
    let (shared, private): (Vec<usize>, Vec<usize>) =
        (0..params.entries.len()).partition(|&e| params.is_shared(&params.entries[e]));
    if factors.serve_private {
        let all: Vec<usize> = (0..params.entries.len()).collect();
        return grads.add_backward(params, &weighted, &all, false);
    }
    grads.add_backward(params, &sums.sum(sums.kind()), &private, true)?;
    grads.add_backward(params, &weighted, &shared, false)
}

/// All loss sums side by side, and `sum_t factor[t] * (local loss sum of t)`; `None` without terms.
pub(super) fn weighted_sum(terms: &[Term], factors: &[f64]) -> Option<(Tensor, Tensor)> {
    if terms.is_empty() {
        return None;
    }
    let sums = Tensor::stack(&terms.iter().map(|t| t.sum.shallow_clone()).collect::<Vec<_>>(), 0);
    let of: Vec<f64> = terms.iter().map(|t| factors[t.task]).collect();
    let weighted = sums.dot(&send(&Tensor::from_slice(&of).to_kind(sums.kind()), sums.device()));
    Some((sums, weighted))
}
