//! Encoders that can be computed in pieces, and where to cut them.

use crate::data::Inputs;
use std::ops::Range;
use tch::Tensor;

/// An encoder of which any run of stages can be computed by itself.
///
/// A stage may use parameters of its own and of earlier stages alone (as [`crate::model::ParamBuilder::stage`] was told):
/// those of later ones may still be on their way from other ranks when it is computed.
pub trait Chain {
    /// The outputs of `stages`, `[n, widths[k]]` each. They start from the inputs if the first of them is stage 0, and
    /// otherwise from the output of the stage before. Where the stages are cut changes no bit, and no random draw.
    fn run(&self, stages: Range<usize>, start: Start<'_>, train: bool) -> Vec<Tensor>;
}

/// What a run of stages starts from.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// The encoder's inputs.
    Inputs(&'a Inputs),
    /// The output of the stage before the first one, `[n, width]`.
    Output(&'a Tensor),
}

/// Cuts stages of these widths into about the root of their number, two pieces at least: the outputs at the cuts and the
/// activations of one piece are then about as much. Pieces hold about equal shares of all numbers, which in a pyramid are
/// few early stages and many late ones.
pub(super) fn pieces(widths: &[usize]) -> Vec<Range<usize>> {
    let n_pieces = ((widths.len() as f64).sqrt().round() as usize).clamp(widths.len().min(2), widths.len());
    let total: usize = widths.iter().sum();
    let (mut pieces, mut start, mut sum) = (Vec::with_capacity(n_pieces), 0, 0);
    for (k, width) in widths.iter().enumerate() {
        sum += width;
        let (done, after) = (pieces.len() + 1, widths.len() - (k + 1));
        // Nearer to an even share than with the next stage; and every piece that is still to come needs a stage.
        let next = widths.get(k + 1).unwrap_or(&0);
        let is_full = (2 * sum + next) * n_pieces > 2 * total * done || after == n_pieces - done;
        if after == 0 || (done < n_pieces && is_full) {
            pieces.push(start..k + 1);
            start = k + 1;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn pieces_are_even_shares_of_all_stages() {
        assert_eq!(pieces(&[8]), vec![std::ops::Range { start: 0, end: 1 }]);
        assert_eq!(pieces(&[8, 5]), [0..1, 1..2]);
        assert_eq!(pieces(&[5, 800]), [0..1, 1..2]);
        assert_eq!(pieces(&[8, 8, 8]), [0..2, 2..3]);
        assert_eq!(pieces(&[8, 6, 7, 5, 6, 7, 5]), [0..2, 2..5, 5..7]);
        assert_eq!(pieces(&[8; 9]), [0..3, 3..6, 6..9]);
        // A pyramid: the first stage alone is more than all others.
        assert_eq!(pieces(&[3136, 1568, 128, 64, 64]), [0..1, 1..5]);
        assert_eq!(pieces(&[1, 1, 1, 1, 1, 1, 900]), [0..5, 5..6, 6..7]);
        for n in 1..200 {
            let cut = pieces(&vec![64; n]);
            let longest = cut.iter().map(|p| p.len()).max().unwrap_or(0);
            assert!(cut.iter().cloned().flatten().eq(0..n), "{n}: {cut:?}");
            assert!(n < 4 || cut.len() + longest <= 2 * n.isqrt() + 3, "{n}: {cut:?}");
        }
    }
}
