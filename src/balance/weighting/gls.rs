//! Geometric loss strategy: the objective is the geometric mean of the losses.
//!
//! Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
//! Learning", 2019 (arXiv:1904.08492): `phi = (prod_t L_t)^(1/T)`, so `w_t = phi / (T L_t)`.
//!
//! Departures: none. A loss that is not positive counts as a 10^-8th of the least positive loss of the step. `T` is
//! the number of tasks with a label in the step.

use super::{Moment, Weighting, of_present, positive};

/// The method; it has no options and no state.
#[derive(Debug, Clone, Copy)]
pub struct Gls;

impl Weighting for Gls {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        of_present(at, |_, losses| {
            let logs: Vec<f64> = positive(losses).iter().map(|loss| loss.ln()).collect();
            let n = logs.len() as f64;
            let mean = logs.iter().sum::<f64>() / n;
            logs.iter().map(|log| (mean - log).exp() / n).collect()
        })
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
    fn is_the_slope_of_the_geometric_mean() {
        let losses = [0.3, 2.0, 7.0];
        let phi = |l: &[f64]| l.iter().product::<f64>().powf(1.0 / l.len() as f64);
        close(&Gls.weights(&at(&some(&losses))), &slope(phi, &losses), 1e-8);
        let two = Gls.weights(&at(&[Some(0.3), None, Some(7.0)]));
        close(&[two[0], two[2]], &slope(phi, &[0.3, 7.0]), 1e-8);
        assert_eq!(Gls.weights(&at(&[Some(5.0)])), [1.0], "one task is itself");
    }

    #[test]
    fn rescaling_a_loss_rescales_all_weighted_losses_alike() {
        let weighted =
            |l: &[f64]| -> Vec<f64> { Gls.weights(&at(&some(l))).iter().zip(l).map(|(w, l)| w * l).collect() };
        let (one, other) = (weighted(&[0.3, 2.0]), weighted(&[0.3e6, 2.0]));
        assert!((one[0] / one[1] - 1.0).abs() < 1e-12 && (other[0] / one[0] - 1e3).abs() < 1e-9, "{one:?} {other:?}");
    }
}
