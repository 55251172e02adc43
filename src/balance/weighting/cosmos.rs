//! COSMOS: a weighted sum that also pulls the vector of losses towards a preferred direction.
//!
//! Ruchte and Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning", 2021
//! (arXiv:2103.13392): `phi = r·L - lambda cos(r, L)`, so
//! `w_t = r_t - lambda / |L| (r_t / |r| - cos(r, L) L_t / |L|)`.
//!
//! Where a loss is small for its preference its weight may be **negative**: the objective then gives some of it up to
//! straighten the vector of losses. Preferences that follow the inverse of the losses' scales avoid that.
//!
//! Departures: the preferences are fixed and scaled to the sum 1; the paper draws them anew in each step, from a
//! Dirichlet distribution, and feeds them to the network too, which then holds a whole front. Without losses other than
//! 0 there is no direction, and the weights are `r`. Tasks without a label in a step are left out of `r` and `L`.

use super::{Moment, Weighting, norm, of_present, preferences};
use crate::balance::gram::dot;
use crate::config;

/// The method; it has no state.
#[derive(Debug, Clone, PartialEq)]
pub struct Cosmos {
    lambda: f64,
    preferences: Vec<f64>,
}

impl Cosmos {
    /// With the configured preferences.
    pub fn new(config: &config::Cosmos, tasks: &[String]) -> Self {
        Cosmos { lambda: config.lambda, preferences: preferences(tasks, &config.preferences) }
    }
}

impl Weighting for Cosmos {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        of_present(at, |tasks, losses| {
            let r: Vec<f64> = tasks.iter().map(|&t| self.preferences[t]).collect();
            let (norm_r, norm_l) = (norm(&r), norm(losses));
            let pull = self.lambda / norm_l;
            if norm_r == 0.0 || !pull.is_finite() {
                return r;
            }
            let preferred: Vec<f64> = r.iter().map(|r| r / norm_r).collect();
            let found: Vec<f64> = losses.iter().map(|loss| loss / norm_l).collect();
            let cosine = dot(&preferred, &found);
            let slope = preferred.iter().zip(&found).map(|(preferred, found)| pull * (preferred - cosine * found));
            r.iter().zip(slope).map(|(r, slope)| r - slope).collect()
        })
    }

    fn needs_losses(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::super::testing::{close, names, slope, some};
    use super::*;
    use crate::config::Named;

    fn cosmos(lambda: f64) -> Cosmos {
        let preferences = Named::from([("a".into(), 2.0), ("c".into(), 0.0)]);
        Cosmos::new(&config::Cosmos { lambda, preferences }, &names(3))
    }

    #[test]
    fn is_the_slope_of_the_penalised_sum() {
        let r = [2.0 / 3.0, 1.0 / 3.0, 0.0];
        let phi = |l: &[f64]| dot(&r, l) - 1.5 * dot(&r, l) / (dot(&r, &r) * dot(l, l)).sqrt();
        for losses in [[0.3, 2.0, 0.7], [5.0, 0.1, 0.1], [-1.0, 0.5, 2.0]] {
            close(&cosmos(1.5).weights(&at(&some(&losses))), &slope(phi, &losses), 1e-7);
        }
    }

    #[test]
    fn without_penalty_or_without_losses_it_is_the_preferences() {
        close(&cosmos(0.0).weights(&at(&some(&[1.0, 2.0, 3.0]))), &[2.0 / 3.0, 1.0 / 3.0, 0.0], 1e-15);
        close(&cosmos(2.0).weights(&at(&some(&[0.0, 0.0, 0.0]))), &[2.0 / 3.0, 1.0 / 3.0, 0.0], 1e-15);
        // Losses in the preferred direction are not pulled.
        close(&cosmos(2.0).weights(&at(&some(&[4.0, 2.0, 0.0]))), &[2.0 / 3.0, 1.0 / 3.0, 0.0], 1e-15);
    }

    #[test]
    fn a_loss_that_is_small_for_its_preference_may_be_given_up() {
        let w = cosmos(5.0).weights(&at(&[Some(0.1), Some(1.0), None]));
        assert!(w[0] < 0.0 && w[1] > 0.0 && w[2] == 0.0, "{w:?}");
    }
}
