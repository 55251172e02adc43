//! ConFIG: conflict-free inverse gradients, the direction with equal cosines to all gradients.
//!
//! Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", 2024
//! (arXiv:2408.11104): the direction is `U⁺ 1` with the unit gradients as rows of `U`, and the length of the update is the
//! sum of the projections of all gradients on it.
//!
//! On the Gram matrix, with `U Uᵀ` the cosines: `v = (U Uᵀ)⁺ 1`, direction `Uᵀ v`, its squared norm `vᵀ U Uᵀ v`. For two
//! tasks the coefficients are `(|g_1| + |g_2|) / (2 |g_t|)`.
//!
//! Departures: none for gradients that are linearly independent; dependent ones are solved by the pseudo-inverse, in
//! which singular values of `U` below `1e-6` of the largest are null. Gradients that cancel give no update. A task whose
//! gradient is zero has coefficient 0.

use super::equiangular::{Equiangular, pair};
use super::{GramSurgery, View};
use crate::balance::Gram;
use crate::balance::gram::dot;
use crate::rng::ChaCha8Rng;

/// The method; it has no options and no state.
#[derive(Debug, Clone, Copy)]
pub struct ConFig;

impl GramSurgery for ConFig {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        con_fig(at.gram)
    }
}

/// Coefficients `[T]` whose combination has equal cosines to all gradients.
pub fn con_fig(gram: &Gram) -> Vec<f64> {
    match pair(gram) {
        Some([a, b]) => vec![0.5 * (1.0 + b / a), 0.5 * (1.0 + a / b)],
        None => general(gram),
    }
}

fn general(gram: &Gram) -> Vec<f64> {
    let all = Equiangular::of(gram);
    let mut coef = vec![0.0; gram.n_tasks()];
    let square = dot(&all.v, &all.projections);
    if square > 0.0 {
        let length = dot(&all.norms, &all.projections);
        for (k, &t) in all.tasks.iter().enumerate() {
            coef[t] = all.v[k] / all.norms[k] * (length / square);
        }
    }
    coef
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, gram_of, independent, jacobian, relative};
    use super::*;
    use proptest::prelude::*;

    /// `U⁺ 1` by normal equations of the unit rows, for independent rows: Gaussian elimination on `U Uᵀ v = 1`.
    fn explicit(j: &[Vec<f64>]) -> Vec<f64> {
        let unit = |g: &Vec<f64>| -> Vec<f64> {
            let norm = dot(g, g).sqrt();
            g.iter().map(|x| x / norm).collect()
        };
        let u: Vec<Vec<f64>> = j.iter().map(unit).collect();
        let n = u.len();
        let mut rows: Vec<Vec<f64>> = u.iter().map(|a| u.iter().map(|b| dot(a, b)).chain([1.0]).collect()).collect();
        for k in 0..n {
            let pivot = (k..n).max_by(|&a, &b| rows[a][k].abs().total_cmp(&rows[b][k].abs())).unwrap();
            rows.swap(k, pivot);
            for i in (0..n).filter(|&i| i != k) {
                let factor = rows[i][k] / rows[k][k];
                let row = rows[k].clone();
                rows[i].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
            }
        }
        let v: Vec<f64> = (0..n).map(|k| rows[k][n] / rows[k][k]).collect();
        let direction = combine(&u, &v);
        let norm = dot(&direction, &direction).sqrt();
        let length: f64 = j.iter().map(|g| dot(g, &direction) / norm).sum();
        direction.iter().map(|x| x / norm * length).collect()
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, ConFIG()(tensor([[-4, 1, 1], [6, 1, 1]])).
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let d = combine(&j, &con_fig(&gram_of(&j)));
        assert!(relative(&d, &[0.1588, 2.0706, 2.0706]) < 1e-4, "{d:?}");
    }

    #[test]
    fn special_gradients() {
        let of = |j: &[&[f64]]| con_fig(&gram_of(&j.iter().map(|g| g.to_vec()).collect::<Vec<_>>()));
        assert_eq!(of(&[&[3.0, 4.0]]), [1.0]);
        assert_eq!(of(&[&[0.0], &[0.0]]), [0.0, 0.0]);
        assert_eq!(of(&[&[0.0, 0.0], &[1.0, 2.0]]), [0.0, 1.0]);
        assert_eq!(of(&[&[1.0, 2.0], &[1.0, 2.0]]), [1.0, 1.0]);
        let opposite = of(&[&[2.0, 0.0], &[-1.0, 0.0]]);
        assert_eq!(combine(&[vec![2.0, 0.0], vec![-1.0, 0.0]], &opposite), [0.0, 0.0]);
        assert_eq!(of(&[&[2.0, 0.0], &[-1.0, 0.0], &[0.0, 0.0]]), [0.0, 0.0, 0.0]);
        // Orthogonal unit gradients: their sum.
        assert_eq!(of(&[&[1.0, 0.0, 0.0], &[0.0, 1.0, 0.0], &[0.0, 0.0, 1.0]]), [1.0; 3]);
    }

    proptest! {
        #[test]
        fn equals_unit_row_least_squares(j in independent(6)) {
            let d = combine(&j, &con_fig(&gram_of(&j)));
            prop_assert!(relative(&d, &explicit(&j)) < 1e-6);
        }

        #[test]
        fn cosines_are_equal_and_the_length_is_that_of_the_paper(
            j in independent(6),
            exponents in prop::collection::vec(-15i32..16, 6),
        ) {
            let scaled: Vec<Vec<f64>> = j
                .iter()
                .zip(&exponents)
                .map(|(g, e)| g.iter().map(|x| x * 10f64.powi(*e)).collect())
                .collect();
            let d = combine(&scaled, &con_fig(&gram_of(&scaled)));
            let norm = dot(&d, &d).sqrt();
            let cosines: Vec<f64> = scaled.iter().map(|g| dot(g, &d) / dot(g, g).sqrt() / norm).collect();
            prop_assert!(cosines[0] > 0.0 && relative(&cosines, &vec![cosines[0]; j.len()]) < 1e-6, "{:?}", cosines);
            let projections: f64 = scaled.iter().map(|g| dot(g, &d) / norm).sum();
            prop_assert!((projections / norm - 1.0).abs() < 1e-6);
        }

        #[test]
        fn closed_form_is_the_general_one(j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 2)) {
            let gram = gram_of(&j);
            prop_assert!(relative(&con_fig(&gram), &general(&gram)) < 1e-9);
        }

        #[test]
        fn it_is_finite_and_scale_free(j in jacobian(), exponent in -150i32..150) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            let c = con_fig(&gram_of(&j));
            prop_assert!(c.iter().all(|c| c.is_finite()));
            prop_assert_eq!(con_fig(&gram_of(&scaled)), c);
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(j in independent(5)) {
            let mut reversed = j.clone();
            reversed.reverse();
            let mut c = con_fig(&gram_of(&reversed));
            c.reverse();
            prop_assert!(relative(&c, &con_fig(&gram_of(&j))) < 1e-6);
        }
    }
}
