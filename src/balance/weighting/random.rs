//! Random loss weighting: new weights in every step.
//!
//! Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning",
//! 2021 (arXiv:2111.10603): `w = softmax(z)` with `z` from the standard normal distribution, drawn anew in each step.
//! The weights of a step sum to 1, so the update is about `T` times shorter than with equal weights.
//!
//! Departures: none. The paper has no ranks; here the draw is a function of seed and step alone, so that all ranks
//! weigh alike and a resumed run draws the same.

use super::{Moment, Weighting, of_present, softmax};
use crate::rng::{ChaCha8Rng, Stream, rng};
use rand::Rng;
use std::f64::consts::TAU;

/// The method; it has no options and no state.
#[derive(Debug, Clone, Copy)]
pub struct Random;

impl Weighting for Random {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        let mut rng = rng(at.seed, Stream::Weighting, at.step, 0);
        // Drawn for all tasks, so that a task's number does not depend on which others have labels.
        let z: Vec<f64> = at.losses.iter().map(|_| normal(&mut rng)).collect();
        of_present(at, |tasks, _| softmax(&tasks.iter().map(|&t| z[t]).collect::<Vec<f64>>()))
    }
}

/// A draw from the standard normal distribution (Box and Muller, 1958).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    // In (0, 1]: the logarithm is finite.
    let mut uniform = || ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    (-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos()
}

#[cfg(test)]
mod tests {
    use super::super::at_step;
    use super::*;

    #[test]
    fn weights_of_a_step_sum_to_one_and_are_always_the_same() {
        let losses = [Some(1.0), Some(2.0), Some(3.0)];
        for step in 0..50 {
            let w = Random.weights(&at_step(&losses, step));
            assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-15 && w.iter().all(|w| *w > 0.0), "{w:?}");
            assert_eq!(w, Random.weights(&at_step(&[Some(9.0), Some(0.0), Some(-1.0)], step)), "losses are not used");
            assert_ne!(w, Random.weights(&at_step(&losses, step + 1)));
            assert_ne!(w, Random.weights(&Moment { seed: 2, ..at_step(&losses, step) }));
        }
    }

    #[test]
    fn ratios_do_not_depend_on_absent_tasks() {
        let all = Random.weights(&at_step(&[Some(1.0); 3], 4));
        let two = Random.weights(&at_step(&[Some(1.0), None, Some(1.0)], 4));
        assert!((two[0] + two[2] - 1.0).abs() < 1e-15 && two[1] == 0.0);
        assert!((two[0] / two[2] - all[0] / all[2]).abs() < 1e-12);
    }

    #[test]
    fn draws_have_the_moments_of_the_normal_distribution() {
        let mut rng = rng(3, Stream::Weighting, 0, 0);
        let draws: Vec<f64> = (0..20_000).map(|_| normal(&mut rng)).collect();
        let moment = |k: i32| draws.iter().map(|z| z.powi(k)).sum::<f64>() / draws.len() as f64;
        let errors = [moment(1), moment(2) - 1.0, moment(3), moment(4) - 3.0];
        // Standard errors of the four: 0.007, 0.010, 0.027, 0.069.
        assert!(errors.iter().zip([0.03, 0.04, 0.11, 0.28]).all(|(e, most)| e.abs() < most), "{errors:?}");
    }
}
