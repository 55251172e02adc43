//! Penalty-based boundary intersection: distance along a preferred direction, plus distance from it.
//!
//! Zhang and Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", 2007 (IEEE TEVC 11:6).
//! With `v = L - ideal` and the preferences as a unit vector `r`: `d_1 = v·r`, `d_2 = |v - d_1 r|` and
//! `phi = d_1 + theta d_2`, so `w = r + theta (v - d_1 r) / d_2`.
//!
//! The weight of a loss that is small for its preference may be **negative**: with `theta` as large as the paper's 5,
//! getting onto the line comes first, along it second.
//!
//! Departures: on the line itself (`d_2 = 0` but for rounding) `d_2` has no slope; there `w = r`. Tasks without a label
//! in a step are left out of `v` and `r`.

use super::{Moment, Weighting, by_task, norm, of_present, preferences};
use crate::balance::gram::dot;
use crate::config;

/// What rounding leaves of `d_2` on the line, as a share of `|v|`.
const ROUNDING: f64 = 1e-14;

/// The method; it has no state.
#[derive(Debug, Clone, PartialEq)]
pub struct Pbi {
    theta: f64,
    preferences: Vec<f64>,
    ideal: Vec<f64>,
}

impl Pbi {
    /// With the configured preferences and ideal losses.
    pub fn new(config: &config::Pbi, tasks: &[String]) -> Self {
        let ideal = by_task(tasks, &config.ideal, 0.0);
        Pbi { theta: config.theta, preferences: preferences(tasks, &config.preferences), ideal }
    }
}

impl Weighting for Pbi {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        of_present(at, |tasks, losses| {
            let given: Vec<f64> = tasks.iter().map(|&t| self.preferences[t]).collect();
            let length = norm(&given);
            if length == 0.0 {
                return given;
            }
            let r: Vec<f64> = given.iter().map(|p| p / length).collect();
            let v: Vec<f64> = tasks.iter().zip(losses).map(|(&t, loss)| loss - self.ideal[t]).collect();
            let along = dot(&v, &r);
            let across: Vec<f64> = v.iter().zip(&r).map(|(v, r)| v - along * r).collect();
            let distance = norm(&across);
            if distance <= ROUNDING * norm(&v) {
                return r;
            }
            r.iter().zip(&across).map(|(r, across)| r + self.theta * (across / distance)).collect()
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

    fn pbi() -> Pbi {
        let preferences = Named::from([("a".into(), 2.0)]);
        let ideal = Named::from([("b".into(), -0.5)]);
        Pbi::new(&config::Pbi { preferences, ideal, ..config::Pbi::default() }, &names(3))
    }

    #[test]
    fn is_the_slope_of_the_two_distances() {
        let r = [2.0, 1.0, 1.0].map(|p| p / 6f64.sqrt());
        let phi = |l: &[f64]| {
            let v = [l[0], l[1] + 0.5, l[2]];
            let d1 = dot(&v, &r);
            // Pythagoras, instead of the difference.
            d1 + 5.0 * (dot(&v, &v) - d1 * d1).sqrt()
        };
        for losses in [[0.3, 2.0, 0.7], [5.0, 0.1, 0.1], [1e-3, 0.5, 2.0]] {
            close(&pbi().weights(&at(&some(&losses))), &slope(phi, &losses), 1e-7);
        }
    }

    #[test]
    fn on_the_line_only_the_way_along_it_counts() {
        let r = [2.0, 1.0, 1.0].map(|p| p / 6f64.sqrt());
        for scale in [1e-12, 0.37, 1e12] {
            let ideal = Pbi { ideal: vec![0.0; 3], ..pbi() };
            close(&ideal.weights(&at(&some(&[2.0 * scale, scale, scale]))), &r, 1e-15);
        }
        assert_eq!(pbi().weights(&at(&[None, Some(3.0), None])), [0.0, 1.0, 0.0], "one task has no other direction");
    }

    #[test]
    fn the_scale_of_all_losses_does_not_matter() {
        let ideal = Pbi { ideal: vec![0.0; 3], ..pbi() };
        let at_scale = |s: f64| ideal.weights(&at(&some(&[0.3 * s, 2.0 * s, 0.7 * s])));
        close(&at_scale(1e15), &at_scale(1.0), 1e-12);
        close(&at_scale(1e-15), &at_scale(1.0), 1e-12);
    }
}
