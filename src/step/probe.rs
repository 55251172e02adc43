//! Proves the declared scopes: which task's loss reaches which parameter.

use super::Term;
use crate::model::Params;
use tch::Tensor;

/// A scope that a backward pass contradicts.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// A gradient flows where none was declared: it would be lost.
    #[error(
        "parameter `{name}` is declared for tasks {declared:?}, but the loss of task {task} reaches it\n  hint: call \
         `ParamBuilder::stage` or `ParamBuilder::tasks` before creating it"
    )]
    Undeclared {
        /// The parameter.
        name: String,
        /// Its declared scope.
        declared: Vec<usize>,
        /// A task outside of it.
        task: usize,
    },
    /// No task of the scope reaches the parameter: it would never learn.
    #[error("parameter `{name}` is declared for tasks {declared:?}, but no loss reaches it")]
    Unreached {
        /// The parameter.
        name: String,
        /// Its declared scope.
        declared: Vec<usize>,
    },
    /// libtorch could not run the backward pass.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// Runs one backward per term over **all** parameters and compares what it reaches with the declared scopes.
///
/// `terms` should hold every task; parameters of tasks that are absent are not judged as unreached.
///
/// # Errors
/// The first scope that is wrong.
pub fn probe_scopes(params: &Params, terms: &[Term]) -> Result<(), ScopeError> {
    let inputs: Vec<&Tensor> = params.entries.iter().map(|e| &e.tensor).collect();
    let mut reached = vec![false; params.entries.len()];
    for (index, term) in terms.iter().enumerate() {
        let keep = terms.get(index + 1).is_some_and(|next| next.part == term.part);
        let grads = Tensor::f_run_backward(&[&term.sum], &inputs, keep, false)?;
        for ((entry, grad), reached) in params.entries.iter().zip(grads).zip(&mut reached) {
            if !grad.defined() {
                continue;
            }
            *reached = true;
            if !entry.scope.contains(&term.task) {
                let (name, declared) = (entry.name.clone(), entry.scope.clone());
                return Err(ScopeError::Undeclared { name, declared, task: term.task });
            }
        }
    }
    for (entry, reached) in params.entries.iter().zip(reached) {
        if !reached && entry.scope.iter().all(|t| terms.iter().any(|term| term.task == *t)) {
            return Err(ScopeError::Unreached { name: entry.name.clone(), declared: entry.scope.clone() });
        }
    }
    Ok(())
}
