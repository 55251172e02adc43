//! Scale-invariant weighting: the objective is the sum of the log losses.
//!
//! Used as a baseline by Navon et al., "Multi-Task Learning as a Bargaining Game", 2022 (arXiv:2202.01017):
//! `phi = sum_t log L_t`, so `w_t = 1 / L_t`. The scale of a task's loss does not matter.
//!
//! Departures: none. A loss that is not positive counts as a 10^-8th of the least positive loss of the step. The
//! losses are the global ones: with losses 0.2 and 2.0 on two ranks, averaging the ranks' own gradients would weigh
//! the task by 2.75, where the log of the mean loss has the slope 1 / 1.1.

use super::{Moment, Weighting, of_present, positive};

/// The method; it has no options and no state.
#[derive(Debug, Clone, Copy)]
pub struct ScaleInvariant;

impl Weighting for ScaleInvariant {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        of_present(at, |_, losses| positive(losses).iter().map(|loss| 1.0 / loss).collect())
    }

    fn needs_losses(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::super::testing::{close, slope, some};
    use super::*;

    #[test]
    fn is_the_slope_of_the_sum_of_logs() {
        let losses = [0.3, 2.0, 1e-3];
        let phi = |l: &[f64]| l.iter().map(|l| l.ln()).sum::<f64>();
        let expected = slope(phi, &losses[..2]);
        close(&ScaleInvariant.weights(&at(&some(&losses[..2]))), &expected, 1e-8);
        assert_eq!(ScaleInvariant.weights(&at(&[Some(0.5), None, Some(1e-3)])), [2.0, 0.0, 1000.0]);
    }

    #[test]
    fn the_scale_of_a_loss_does_not_matter() {
        for scale in [1e-12, 1.0, 1e9] {
            // The weighted loss, and with it the weighted gradient, is the same.
            let w = ScaleInvariant.weights(&at(&[Some(0.7 * scale), Some(3.0)]));
            assert!((w[0] * 0.7 * scale - 1.0).abs() < 1e-15 && w[1] == 1.0 / 3.0, "{w:?}");
        }
    }

    #[test]
    fn takes_the_log_of_the_global_loss() {
        // Two ranks with as many labels each. What each would weigh by its own loss, averaged, is another number.
        let ranks = [0.2, 2.0];
        let global = ScaleInvariant.weights(&at(&[Some((ranks[0] + ranks[1]) / 2.0)]))[0];
        let averaged = ranks.iter().map(|&l| ScaleInvariant.weights(&at(&[Some(l)]))[0]).sum::<f64>() / 2.0;
        assert!((global - 0.909).abs() < 1e-3 && (averaged - 2.75).abs() < 1e-12, "{global} {averaged}");
    }
}
