//! Projecting conflicting gradients, worked out on the Gram matrix alone.
//!
//! Yu et al., "Gradient Surgery for Multi-Task Learning", 2020 (arXiv:2001.06782), Algorithm 1.
//! Departures: none. The result is a sum over tasks, as in the paper, not a mean; a task is never projected on
//! itself, and always on the **original** gradients of the others.

use super::{GramSurgery, View};
use crate::balance::Gram;
use crate::balance::gram::dot;
use crate::rng::ChaCha8Rng;
use rand::seq::SliceRandom;

/// The method; it has no options and no state.
#[derive(Debug, Clone, Copy)]
pub struct PcGrad;

impl GramSurgery for PcGrad {
    fn coefficients(&mut self, at: &View<'_>, rng: &mut ChaCha8Rng) -> Vec<f64> {
        pcgrad(at.gram, rng)
    }
}

/// Coefficients `[T]` such that the update direction is `sum_t coef[t] * grad_t`.
///
/// `rng` must be the same on every rank: the order of projections changes the result for three tasks or more.
pub fn pcgrad(gram: &Gram, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let n_tasks = gram.n_tasks();
    let mut total = vec![0.0; n_tasks];
    let mut order: Vec<usize> = (0..n_tasks).collect();
    for i in 0..n_tasks {
        // grad_i after projection, written in the basis of the original gradients.
        let mut coef = vec![0.0; n_tasks];
        coef[i] = 1.0;
        order.shuffle(rng);
        for &j in order.iter().filter(|&&j| j != i) {
            let overlap = dot(gram.row(j), &coef);
            // A negative overlap implies grad_j != 0, so no epsilon is needed; a norm that underflows is no conflict.
            if overlap < 0.0 && gram.row(j)[j] > 0.0 {
                coef[j] -= overlap / gram.row(j)[j];
            }
        }
        for (sum, c) in total.iter_mut().zip(&coef) {
            *sum += c;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, gram_of, jacobian};
    use super::*;
    use crate::rng::{Stream, rng};
    use proptest::prelude::*;

    /// Algorithm 1 on the gradients themselves.
    fn explicit(j: &[Vec<f64>], rng: &mut ChaCha8Rng) -> Vec<f64> {
        let mut sum = vec![0.0; j[0].len()];
        let mut order: Vec<usize> = (0..j.len()).collect();
        for i in 0..j.len() {
            let mut g = j[i].clone();
            order.shuffle(rng);
            for &k in order.iter().filter(|&&k| k != i) {
                let overlap = dot(&g, &j[k]);
                if overlap < 0.0 {
                    let scale = overlap / dot(&j[k], &j[k]);
                    g.iter_mut().zip(&j[k]).for_each(|(x, y)| *x -= scale * y);
                }
            }
            sum.iter_mut().zip(&g).for_each(|(s, x)| *s += x);
        }
        sum
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, PCGrad()(tensor([[-4, 1, 1], [6, 1, 1]])); its test_values.py holds the same numbers.
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let c = pcgrad(&gram_of(&j), &mut rng(0, Stream::Surgery, 0, 0));
        assert!((c[0] - 2.2222).abs() < 1e-4 && (c[1] - 1.5789).abs() < 1e-4, "{c:?}");
        let d = combine(&j, &c);
        assert!(d.iter().zip([0.5848, 3.8012, 3.8012]).all(|(d, e)| (d - e).abs() < 1e-4), "{d:?}");
    }

    #[test]
    fn zero_gradients_and_one_task_are_no_conflict() {
        let mut rng = rng(0, Stream::Surgery, 0, 0);
        assert_eq!(pcgrad(&gram_of(&[vec![0.0, 0.0], vec![1.0, -1.0]]), &mut rng), [1.0, 1.0]);
        assert_eq!(pcgrad(&gram_of(&[vec![3.0]]), &mut rng), [1.0]);
    }

    proptest! {
        #[test]
        fn equals_explicit_projection(j in jacobian(), seed in 0u64..100) {
            let c = pcgrad(&gram_of(&j), &mut rng(seed, Stream::Surgery, 0, 0));
            let (got, want) = (combine(&j, &c), explicit(&j, &mut rng(seed, Stream::Surgery, 0, 0)));
            // The projected gradients may be far longer than their sum: compare on that scale.
            let scale = 1.0 + c.iter().map(|c| c.abs()).sum::<f64>();
            for (a, b) in got.iter().zip(&want) {
                prop_assert!((a - b).abs() <= 1e-9 * scale, "{a} {b}");
            }
        }

        #[test]
        fn without_conflict_it_is_the_sum(j in prop::collection::vec(prop::collection::vec(0.0f64..1.0, 4), 1..6)) {
            prop_assert_eq!(pcgrad(&gram_of(&j), &mut rng(1, Stream::Surgery, 0, 0)), vec![1.0; j.len()]);
        }

        #[test]
        fn the_scale_of_all_gradients_does_not_matter(j in jacobian(), exponent in -30i32..30) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            let at = |j: &[Vec<f64>]| pcgrad(&gram_of(j), &mut rng(3, Stream::Surgery, 0, 0));
            prop_assert_eq!(at(&scaled), at(&j));
        }

        #[test]
        fn two_tasks_never_conflict_afterwards(j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 2)) {
            let d = combine(&j, &pcgrad(&gram_of(&j), &mut rng(0, Stream::Surgery, 0, 0)));
            let tolerance = 1e-9 * (1.0 + dot(&d, &d).sqrt());
            prop_assert!(j.iter().all(|g| dot(g, &d) >= -tolerance));
        }
    }
}
