//! One backward in several pieces, from the heads to the first stage, so that the gradients of the last stages can travel
//! while those of the first are still being computed.
//!
//! ```text
//! inputs -> stage 0 .. a | stage a+1 .. b | stage b+1 .. -> heads -> weighted loss
//!                 3rd           2nd                1st piece
//! ```
//!
//! A piece ends at the output `x` of a stage with the gradient `z` there; the next one starts from the scalar `sum(x * z)`,
//! whose gradient with respect to `x` is `z`. The numbers are those of one backward, and so is their order.

use super::task_grads::weighted_sum;
use super::{Factors, Forward, Grads};
use crate::model::Params;
use tch::{TchError, Tensor};

/// As [`super::weighted_grads`], in pieces: `cuts`, ascending, are the stages at whose outputs the graph is cut. After each
/// piece, `done` is told the first stage whose gradients are complete. All heads must be attached behind the last cut.
///
/// # Errors
/// If libtorch cannot run the backward pass, and those of `done`.
pub fn staged_grads<E: From<TchError>>(
    params: &Params,
    pass: &Forward,
    factors: &Factors,
    cuts: &[usize],
    grads: &mut Grads,
    done: &mut dyn FnMut(&mut Grads, usize) -> Result<(), E>,
) -> Result<(), E> {
    let first_of = |piece: usize| piece.checked_sub(1).map_or(0, |k: usize| cuts[k] + 1);
    // Where nothing is left to compute, the pieces are complete in the same order.
    let Some((sums, weighted)) = weighted_sum(&pass.terms, &factors.shared) else {
        return (0..=cuts.len()).rev().try_for_each(|piece| done(grads, first_of(piece)));
    };
    let (shared, private): (Vec<usize>, Vec<usize>) =
        (0..params.entries.len()).partition(|&e| params.is_shared(&params.entries[e]));
    if !factors.serve_private {
        grads.add_backward(params, &sums.sum(sums.kind()), &private, true)?;
    }
    let mut from = weighted;
    for piece in (0..=cuts.len()).rev() {
        let (first, end) = (first_of(piece), cuts.get(piece).map_or(usize::MAX, |c| c + 1));
        let within = |e: &usize| params.entries[*e].stage.is_some_and(|stage| (first..end).contains(&stage));
        let mut entries: Vec<usize> = shared.iter().copied().filter(within).collect();
        if piece == cuts.len() {
            let rest = |e: &usize| params.entries[*e].stage.is_none();
            entries.extend(shared.iter().copied().filter(rest));
            if factors.serve_private {
                entries.extend(&private);
            }
        }
        let ends: Vec<&Tensor> = match piece.checked_sub(1) {
            Some(k) => pass.stages.iter().map(|stages| &stages[cuts[k]]).collect(),
            None => Vec::new(),
        };
        let inputs: Vec<&Tensor> =
            entries.iter().map(|&e| &params.entries[e].tensor).chain(ends.iter().copied()).collect();
        let mut found = Tensor::f_run_backward(&[&from], &inputs, piece > 0, false)?;
        let at_ends = found.split_off(entries.len());
        entries.iter().zip(found).for_each(|(&e, grad)| grads.add(e, 0, grad));
        done(grads, first)?;
        if piece == 0 {
            break;
        }
        let surrogates = ends.iter().zip(&at_ends).filter(|(_, z)| z.defined()).map(|(x, z)| (*x * z).sum(x.kind()));
        match surrogates.reduce(|a, b| a + b) {
            Some(next) => from = next,
            None => return (0..piece).rev().try_for_each(|piece| done(grads, first_of(piece))),
        }
    }
    Ok(())
}
