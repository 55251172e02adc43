//! IMTL-G: an update with equal projections on all gradients.
//!
//! Liu et al., "Towards Impartial Multi-task Learning", 2021 (ICLR): coefficients `w` with `sum w = 1` such that
//! `g_t / |g_t| · sum_s w_s g_s` is the same for all tasks. That is `w_t = v_t / |g_t|`, normalised, where `v` solves
//! `U Uᵀ v = 1` for the unit gradients `U`; for two tasks `w = (|g_2|, |g_1|) / (|g_1| + |g_2|)`.
//!
//! Departures:
//! - Linearly dependent gradients, for which the paper's matrix has no inverse: `v` is the shortest least-squares
//!   solution. (A pseudo-inverse of `G` itself would prefer tasks with long gradients.) Gradients that cancel give 0.
//! - `w` may have negative entries, and where they outweigh the others, dividing by their sum turns the update
//!   **against** every task (in torchjd too, on one of the 40 Jacobians of `tests/oracles`). Here `w` is divided by the size of its sum, so that all projections stay positive.
//! - Near a sum of 0 the length of the update would grow without bound. The divisor is at least `sum |w| / 1000`.
//! - A task whose gradient is zero has coefficient 0; the others are balanced among themselves.

use super::equiangular::{Equiangular, pair};
use super::{GramSurgery, View};
use crate::balance::Gram;
use crate::rng::ChaCha8Rng;

/// Smallest divisor, as a share of `sum |w|`.
const LEAST: f64 = 1e-3;

/// The method; it has no options and no state.
#[derive(Debug, Clone, Copy)]
pub struct ImtlG;

impl GramSurgery for ImtlG {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        imtl_g(at.gram)
    }
}

/// Coefficients `[T]` whose combination has equal projections on all gradients.
pub fn imtl_g(gram: &Gram) -> Vec<f64> {
    match pair(gram) {
        Some([a, b]) => vec![b / (a + b), a / (a + b)],
        None => general(gram),
    }
}

fn general(gram: &Gram) -> Vec<f64> {
    let all = Equiangular::of(gram);
    let mut coef = vec![0.0; gram.n_tasks()];
    let (mut sum, mut size) = (0.0f64, 0.0f64);
    for (k, &t) in all.tasks.iter().enumerate() {
        coef[t] = all.v[k] / all.norms[k];
        sum += coef[t];
        size += coef[t].abs();
    }
    let divisor = sum.abs().max(LEAST * size);
    if divisor > 0.0 {
        coef.iter_mut().for_each(|c| *c /= divisor);
    }
    coef
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, gram_of, independent, jacobian, relative};
    use super::*;
    use crate::balance::gram::dot;
    use proptest::prelude::*;

    /// Projections on the unit gradients.
    fn projections(j: &[Vec<f64>], d: &[f64]) -> Vec<f64> {
        j.iter().map(|g| dot(g, d) / dot(g, g).sqrt()).collect()
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, IMTLG()(tensor([[-4, 1, 1], [6, 1, 1]])).
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let c = imtl_g(&gram_of(&j));
        assert!((c[0] - 0.5923).abs() < 1e-4 && (c[1] - 0.4077).abs() < 1e-4, "{c:?}");
        assert!(relative(&combine(&j, &c), &[0.0767, 1.0, 1.0]) < 1e-4);
    }

    #[test]
    fn special_gradients() {
        let of = |j: &[&[f64]]| imtl_g(&gram_of(&j.iter().map(|g| g.to_vec()).collect::<Vec<_>>()));
        assert_eq!(of(&[&[3.0, 4.0]]), [1.0]);
        assert_eq!(of(&[&[0.0], &[0.0]]), [0.0, 0.0]);
        assert_eq!(of(&[&[0.0, 0.0], &[1.0, 2.0]]), [0.0, 1.0]);
        assert_eq!(of(&[&[1.0, 2.0], &[1.0, 2.0]]), [0.5, 0.5]);
        let opposite = of(&[&[1.0, 0.0], &[-3.0, 0.0]]);
        assert_eq!(combine(&[vec![1.0, 0.0], vec![-3.0, 0.0]], &opposite), [0.0, 0.0]);
        // Two tasks of three are the same: they share what one of them would have.
        let twins = of(&[&[1.0, 0.0], &[1.0, 0.0], &[0.0, 1.0]]);
        assert!(relative(&twins, &[0.25, 0.25, 0.5]) < 1e-15, "{twins:?}");
        // Three that cancel: no direction is better than none.
        let star = [vec![1.0, 0.0], vec![-0.5, 0.75f64.sqrt()], vec![-0.5, -0.75f64.sqrt()]];
        assert!(combine(&star, &imtl_g(&gram_of(&star))).iter().all(|d| d.abs() < 1e-12));
    }

    #[test]
    fn a_negative_sum_does_not_turn_the_update() {
        // The short second gradient is nearer to the others' middle than equal projections allow: its weight is
        // negative, and large because it is short.
        let j = vec![vec![1.0, 0.0, 0.0], vec![0.01, 0.01, 0.001], vec![0.0, 1.0, 0.0]];
        let c = imtl_g(&gram_of(&j));
        assert!(c.iter().sum::<f64>() < 0.0 && c[1] < 0.0, "{c:?}");
        let p = projections(&j, &combine(&j, &c));
        assert!(p[0] > 0.0 && relative(&p, &[p[0]; 3]) < 1e-9, "{p:?}");
    }

    #[test]
    fn the_update_stays_bounded_where_weights_cancel() {
        // Between the signs of the sum, as the norm of the middle gradient shrinks, there is a sum of 0.
        let sums = (0..2000).map(|k| {
            let s = 0.001 * 1.005f64.powi(k);
            let c = imtl_g(&gram_of(&[vec![1.0, 0.0, 0.0], vec![s, s, 0.1 * s], vec![0.0, 1.0, 0.0]]));
            (c.iter().sum::<f64>(), c.iter().map(|c| c.abs()).sum::<f64>())
        });
        let sums: Vec<(f64, f64)> = sums.collect();
        assert!(sums.iter().any(|(sum, _)| *sum < 0.0) && sums.iter().any(|(sum, _)| *sum > 0.0));
        assert!(sums.iter().all(|(_, size)| *size <= 1.0 / LEAST + 1e-9));
    }

    proptest! {
        #[test]
        fn projections_are_equal(j in independent(6), exponents in prop::collection::vec(-15i32..16, 6)) {
            let scaled: Vec<Vec<f64>> = j
                .iter()
                .zip(&exponents)
                .map(|(g, e)| g.iter().map(|x| x * 10f64.powi(*e)).collect())
                .collect();
            let all = Equiangular::of(&gram_of(&scaled));
            prop_assert!(relative(&all.projections, &vec![1.0; j.len()]) < 1e-6);
            let c = imtl_g(&gram_of(&scaled));
            let p = projections(&scaled, &combine(&scaled, &c));
            prop_assert!(p[0] > 0.0 && relative(&p, &vec![p[0]; j.len()]) < 1e-6, "{:?}", p);
            // But for the bound, they sum to 1 or -1.
            let (sum, size) = (c.iter().sum::<f64>(), c.iter().map(|c| c.abs()).sum::<f64>());
            prop_assert!((sum.abs() - 1.0).abs() < 1e-9 || size > 0.9 / LEAST);
        }

        #[test]
        fn two_tasks_move_along_the_bisector(a in prop::collection::vec(-1.0f64..1.0, 4), b in prop::collection::vec(-1.0f64..1.0, 4)) {
            let (na, nb) = (dot(&a, &a).sqrt(), dot(&b, &b).sqrt());
            prop_assume!(na > 1e-3 && nb > 1e-3);
            let bisector: Vec<f64> = a.iter().zip(&b).map(|(x, y)| x / na + y / nb).collect();
            let d = combine(&[a.clone(), b.clone()], &imtl_g(&gram_of(&[a, b])));
            let length = dot(&bisector, &bisector).sqrt() * dot(&d, &d).sqrt();
            prop_assert!((dot(&bisector, &d) - length).abs() <= 1e-9 * (na + nb));
        }

        #[test]
        fn closed_form_is_the_general_one(j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 2)) {
            let gram = gram_of(&j);
            prop_assert!(relative(&imtl_g(&gram), &general(&gram)) < 1e-9);
        }

        #[test]
        fn it_is_finite_and_scale_free(j in jacobian(), exponent in -150i32..150) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            let c = imtl_g(&gram_of(&j));
            prop_assert!(c.iter().all(|c| c.is_finite()));
            prop_assert_eq!(imtl_g(&gram_of(&scaled)), c);
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(j in independent(5)) {
            let mut reversed = j.clone();
            reversed.reverse();
            let mut c = imtl_g(&gram_of(&reversed));
            c.reverse();
            prop_assert!(relative(&c, &imtl_g(&gram_of(&j))) < 1e-6);
        }
    }
}
