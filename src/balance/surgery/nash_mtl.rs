//! Nash-MTL: the update as a bargain between the tasks.
//!
//! Navon et al., "Multi-Task Learning as a Bargaining Game", 2022 (arXiv:2202.01017): the direction `d` of a ball that
//! maximises `sum_t log <g_t, d>` is `sum_t a_t g_t` with `G a = 1 / a`. Then `|d|^2 = T`, and `d` does not change when a
//! task's gradient is multiplied by a number. As in the authors' code, `d` is then cut to the length `max_norm`.
//!
//! Departures: the equation is solved to rounding (see [`Fair`]), not by 20 rounds of a convex program; so the last
//! solution, from which the next starts, decides only how fast. Tasks with a zero gradient do not take part (no
//! direction helps them): their coefficient is 0. Where a combination of gradients with positive coefficients vanishes,
//! as for two opposite ones, there is no bargain and no bounded solution; the diagonal of the cosines then counts
//! `1e-12` more than 1, and coefficients of up to `1e6 / |g_t|` cancel in the direction.
//!
//! Remembers the last solution by task, for gradients of length 1; saved in checkpoints.

use super::{GramSurgery, View};
use crate::balance::solver::Fair;
use crate::config;
use crate::rng::ChaCha8Rng;
use serde::Deserialize;
use serde_json::Value;

/// The method and its last solution.
#[derive(Debug, Clone)]
pub struct NashMtl {
    max_norm: Option<f64>,
    solver: Fair,
    /// `a_t |g_t|` `[T]`; 0 before the first.
    last: Vec<f64>,
    start: Vec<f64>,
}

impl NashMtl {
    /// The method with these options, for so many tasks.
    pub fn new(config: &config::NashMtl, n_tasks: usize) -> Self {
        let max_norm = config.max_norm.filter(|norm| *norm > 0.0);
        NashMtl { max_norm, solver: Fair::default(), last: vec![0.0; n_tasks], start: Vec::new() }
    }
}

impl GramSurgery for NashMtl {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        self.start.clear();
        self.start.extend(at.tasks.iter().map(|&t| self.last[t]));
        let mut a = self.solver.solve(at.gram, 1.0, &mut self.start);
        at.tasks.iter().zip(&self.start).for_each(|(&t, z)| self.last[t] = *z);
        if let Some(max_norm) = self.max_norm {
            let norm = at.gram.quadratic(&a).sqrt();
            if norm > max_norm {
                a.iter_mut().for_each(|a| *a *= max_norm / norm);
            }
        }
        a
    }

    fn save(&self) -> Value {
        serde_json::json!(self.last)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let loaded: Vec<f64> = Deserialize::deserialize(state).map_err(|e| format!("nash_mtl: {e}"))?;
        if loaded.len() != self.last.len() {
            return Err(format!("nash_mtl: {} tasks in the checkpoint, {} here", loaded.len(), self.last.len()));
        }
        self.last = loaded;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, gram_of, relative, run};
    use super::*;
    use crate::balance::gram::dot;
    use crate::balance::solver::testing::hard_jacobian;
    use crate::rng::{Stream, rng};
    use proptest::prelude::*;

    fn nash(max_norm: Option<f64>, n_tasks: usize) -> NashMtl {
        NashMtl::new(&config::NashMtl { max_norm }, n_tasks)
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, NashMTL(n_tasks=2)(tensor([[-4, 1, 1], [6, 1, 1]])).
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let d = combine(&j, &run(&mut nash(Some(1.0), 2), &j));
        assert!(relative(&d, &[0.0542, 0.7061, 0.7061]) < 1e-4, "{d:?}");
    }

    #[test]
    fn two_tasks_have_a_closed_form() {
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        for unclipped in [nash(None, 2), nash(Some(0.0), 2)] {
            let a = run(&mut unclipped.clone(), &j);
            let (n1, n2) = (18f64.sqrt(), 38f64.sqrt());
            let root = (1.0 - 22.0 / (n1 * n2)).sqrt();
            assert!(relative(&a, &[1.0 / (n1 * root), 1.0 / (n2 * root)]) < 1e-9, "{a:?}");
        }
    }

    #[test]
    fn a_zero_gradient_does_not_take_part() {
        let j = vec![vec![3.0, 0.0], vec![0.0, 0.0], vec![0.0, 4.0]];
        let a = run(&mut nash(None, 3), &j);
        assert!(relative(&a, &[1.0 / 3.0, 0.0, 0.25]) < 1e-9 && a[1] == 0.0, "{a:?}");
        assert_eq!(run(&mut nash(Some(1.0), 2), &[vec![0.0], vec![0.0]]), [0.0, 0.0]);
    }

    #[test]
    fn opposite_gradients_cancel() {
        let j = vec![vec![3.0, 1.0], vec![-6.0, -2.0]];
        let a = run(&mut nash(Some(1.0), 2), &j);
        let d = combine(&j, &a);
        assert!(a.iter().all(|a| a.is_finite()) && d.iter().all(|d| d.abs() < 1e-6), "{a:?} {d:?}");
    }

    /// Coefficients of some steps in which tasks come and go.
    fn steps(method: &mut NashMtl, range: std::ops::Range<u64>) -> Vec<Vec<f64>> {
        range
            .map(|step| {
                let tasks: Vec<usize> = (0..5).filter(|t| !(t + step as usize).is_multiple_of(4)).collect();
                let j: Vec<Vec<f64>> = tasks
                    .iter()
                    .map(|t| (0..7).map(|k| ((7 * t + 3 * k) as f64 + 0.2 * step as f64).sin()).collect())
                    .collect();
                let view = View { gram: &gram_of(&j), losses: &vec![1.0; tasks.len()], tasks: &tasks, step };
                method.coefficients(&view, &mut rng(1, Stream::Surgery, step, 0))
            })
            .collect()
    }

    #[test]
    fn state_survives_a_checkpoint_exactly() {
        let mut whole = nash(Some(1.0), 5);
        steps(&mut whole, 0..10);
        let text = serde_json::to_string(&whole.save()).unwrap();
        let mut restored = nash(Some(1.0), 5);
        restored.load(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(steps(&mut restored, 10..20), steps(&mut whole, 10..20));
        assert_eq!(restored.save(), whole.save());
        let error = nash(None, 3).load(&whole.save()).unwrap_err();
        assert_eq!(error, "nash_mtl: 5 tasks in the checkpoint, 3 here");
    }

    proptest! {
        #[test]
        fn every_task_gains_and_the_length_is_known(
            j in (1usize..7).prop_flat_map(|t| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 12), t)),
        ) {
            let a = run(&mut nash(None, j.len()), &j);
            let d = combine(&j, &a);
            prop_assert!((dot(&d, &d) / j.len() as f64 - 1.0).abs() < 1e-6);
            prop_assert!(j.iter().zip(&a).all(|(g, a)| (dot(g, &d) * a - 1.0).abs() < 1e-6));
        }

        #[test]
        fn the_scale_of_a_gradient_does_not_matter(j in hard_jacobian(), exponent in -45i32..45) {
            let mut scaled = j.clone();
            scaled[0].iter_mut().for_each(|x| *x *= 2f64.powi(exponent));
            let (a, b) = (run(&mut nash(None, j.len()), &scaled), run(&mut nash(None, j.len()), &j));
            // Where gradients cancel, rounding decides the digits.
            prop_assert!((a[0] * 2f64.powi(exponent) - b[0]).abs() <= 1e-4 * b[0], "{:?} {:?}", a, b);
            prop_assert!(a[1..].iter().zip(&b[1..]).all(|(a, b)| (a - b).abs() <= 1e-4 * b), "{:?} {:?}", a, b);
        }

        #[test]
        fn is_cut_to_its_length(j in hard_jacobian()) {
            let d = combine(&j, &run(&mut nash(Some(0.3), j.len()), &j));
            prop_assert!(dot(&d, &d).sqrt() <= 0.3 * (1.0 + 1e-2), "{:?}", d);
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(
            j in (1usize..7).prop_flat_map(|t| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 12), t)),
        ) {
            let at = |j: &[Vec<f64>]| combine(j, &run(&mut nash(Some(1.0), j.len()), j));
            let reversed: Vec<Vec<f64>> = j.iter().rev().cloned().collect();
            let (a, b) = (at(&reversed), at(&j));
            prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{:?} {:?}", a, b);
        }
    }
}
