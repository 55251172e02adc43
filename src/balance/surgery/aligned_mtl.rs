//! Aligned-MTL: task gradients turned and stretched until they are orthogonal and of one length, then added.
//!
//! Senushkin et al., "Independent Component Alignment for Multi-Task Learning", 2023 (arXiv:2305.19000), Algorithm 1: with
//! `G = V S Vᵀ`, the aligned gradients are `B J` with `B = sqrt(s) V S^{-1/2} Vᵀ`, whose singular values are all `sqrt(s)`
//! on the span of the gradients; the update is their sum, so the coefficients are `B 1`. `s` is the smallest eigenvalue
//! that is not null; the authors' code offers the median and the mean of the eigenvalues too. Where the number of
//! eigenvalues is even, the median is the lower one of the middle, as in that code.
//!
//! Departures: the sum is over tasks, each with weight 1 (`balance.weighting` scales gradients beforehand); libraries
//! that take the mean have coefficients smaller by the factor `T`. Eigenvalues below `1e-12` of the largest are null, so a
//! gradient that is a million times shorter than another one and is not along it moves nothing.

use super::{GramSurgery, View};
use crate::balance::Gram;
use crate::balance::solver::eigen::{Eigen, NULL};
use crate::config::{self, AlignedScale};
use crate::rng::ChaCha8Rng;

/// The method; it has no state.
#[derive(Debug, Clone, Copy)]
pub struct AlignedMtl {
    scale: AlignedScale,
}

impl AlignedMtl {
    /// The method with these options.
    pub fn new(config: &config::AlignedMtl) -> Self {
        AlignedMtl { scale: config.scale }
    }
}

impl GramSurgery for AlignedMtl {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        aligned_mtl(at.gram, self.scale)
    }
}

/// Coefficients `[T]` of the sum of aligned gradients.
pub fn aligned_mtl(gram: &Gram, scale: AlignedScale) -> Vec<f64> {
    match gram.values() {
        &[a, b, _, d] => two(a, b, d, scale).unwrap_or_else(|| general(gram, scale, &[1.0; 2])),
        _ => general(gram, scale, &vec![1.0; gram.n_tasks()]),
    }
}

/// `B x`.
fn general(gram: &Gram, scale: AlignedScale, x: &[f64]) -> Vec<f64> {
    let eigen = Eigen::of(gram.values());
    let kept = &eigen.values[..eigen.rank()];
    let Some(&least) = kept.last() else { return vec![0.0; gram.n_tasks()] };
    let square = match scale {
        AlignedScale::Min => least,
        AlignedScale::Median => kept[kept.len() / 2],
        AlignedScale::Rmse => kept.iter().sum::<f64>() / kept.len() as f64,
    };
    eigen.apply(|value| (square / value).sqrt(), x)
}

/// `B 1` for two independent gradients, from the inverse square root of a 2 by 2 matrix in closed form.
fn two(a: f64, b: f64, d: f64, scale: AlignedScale) -> Option<Vec<f64>> {
    let trace = a + d;
    if trace == 0.0 {
        return None;
    }
    let [a, b, d] = [a / trace, b / trace, d / trace];
    let det = (a * d - b * b).max(0.0);
    let largest = 0.5 + (0.25 * (a - d) * (a - d) + b * b).sqrt();
    // The product of the eigenvalues is `det`; near the cut the general way decides.
    if det <= 2.0 * NULL * largest * largest {
        return None;
    }
    let root = det.sqrt();
    // Square root of the matrix: (M + root I) / sqrt(trace + 2 root), and trace is 1 here.
    let square = match scale {
        AlignedScale::Min | AlignedScale::Median => det / largest,
        AlignedScale::Rmse => 0.5,
    };
    let factor = square.sqrt() / (root * (1.0 + 2.0 * root).sqrt());
    Some(vec![factor * (d + root - b), factor * (a + root - b)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, gram_of, independent, jacobian, relative};
    use super::*;
    use crate::balance::gram::dot;
    use proptest::prelude::*;

    const SCALES: [AlignedScale; 3] = [AlignedScale::Min, AlignedScale::Median, AlignedScale::Rmse];

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, AlignedMTL()(tensor([[-4, 1, 1], [6, 1, 1]])), which takes the mean.
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let c = aligned_mtl(&gram_of(&j), AlignedScale::Min);
        assert!((c[0] / 2.0 - 0.5591).abs() < 1e-4 && (c[1] / 2.0 - 0.4083).abs() < 1e-4, "{c:?}");
        assert!(relative(&combine(&j, &c), &[0.4266, 1.9346, 1.9346]) < 1e-4);
    }

    #[test]
    fn scales_are_the_smallest_the_median_and_the_mean_square() {
        // Orthogonal gradients of lengths 1, 2 and 4: each is brought to the common length.
        let j = vec![vec![1.0, 0.0, 0.0], vec![0.0, 2.0, 0.0], vec![0.0, 0.0, 4.0]];
        for (scale, length) in SCALES.into_iter().zip([1.0, 2.0, 7f64.sqrt()]) {
            let d = combine(&j, &aligned_mtl(&gram_of(&j), scale));
            assert!(relative(&d, &[length; 3]) < 1e-15, "{scale:?} {d:?}");
        }
        // Of two eigenvalues, the lower is the median.
        let j = vec![vec![1.0, 0.0], vec![0.0, 2.0]];
        assert!(relative(&combine(&j, &aligned_mtl(&gram_of(&j), AlignedScale::Median)), &[1.0, 1.0]) < 1e-15);
    }

    #[test]
    fn special_gradients() {
        let of = |j: &[&[f64]], scale| aligned_mtl(&gram_of(&j.iter().map(|g| g.to_vec()).collect::<Vec<_>>()), scale);
        for scale in SCALES {
            assert_eq!(of(&[&[3.0, 4.0]], scale), [1.0]);
            assert_eq!(of(&[&[0.0], &[0.0]], scale), [0.0, 0.0]);
            assert_eq!(of(&[&[0.0, 0.0], &[1.0, 2.0]], scale), [0.0, 1.0]);
            assert!(relative(&of(&[&[1.0, 2.0], &[1.0, 2.0]], scale), &[1.0, 1.0]) < 1e-15);
            // Opposite gradients span one direction: the longer one wins.
            let opposite = combine(&[vec![1.0], vec![-3.0]], &of(&[&[1.0], &[-3.0]], scale));
            let want = -2.0;
            assert!(relative(&opposite, &[want]) < 1e-12, "{opposite:?}");
            // Orthogonal gradients of one length stay as they are.
            let unit: &[&[f64]] = &[&[0.0, 5.0, 0.0], &[5.0, 0.0, 0.0], &[0.0, 0.0, -5.0]];
            assert!(relative(&of(unit, scale), &[1.0; 3]) < 1e-15);
            let c = of(&[&[1e15, 0.0], &[0.0, 1.0]], scale);
            assert_eq!(c, [1.0, 0.0], "a gradient a million times shorter is a null direction");
        }
    }

    proptest! {
        /// Rows of `B J` have the Gram matrix `s I` where gradients are independent: condition number 1.
        #[test]
        fn aligned_gradients_are_orthogonal_and_of_one_length(j in independent(6)) {
            let gram = gram_of(&j);
            for scale in SCALES {
                let n = j.len();
                let unit = |k: usize| -> Vec<f64> { (0..n).map(|i| if i == k { 1.0 } else { 0.0 }).collect() };
                let aligned: Vec<Vec<f64>> =
                    (0..n).map(|k| combine(&j, &general(&gram, scale, &unit(k)))).collect();
                let square = dot(&aligned[0], &aligned[0]);
                for (i, a) in aligned.iter().enumerate() {
                    for (k, b) in aligned.iter().enumerate() {
                        let want = if i == k { square } else { 0.0 };
                        prop_assert!((dot(a, b) - want).abs() <= 1e-6 * square);
                    }
                }
                let sum = (0..j[0].len()).map(|p| aligned.iter().map(|a| a[p]).sum()).collect::<Vec<f64>>();
                prop_assert!(relative(&combine(&j, &aligned_mtl(&gram, scale)), &sum) < 1e-6);
            }
        }

        #[test]
        fn closed_form_is_the_general_one(j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 2)) {
            let gram = gram_of(&j);
            for scale in SCALES {
                prop_assert!(relative(&aligned_mtl(&gram, scale), &general(&gram, scale, &[1.0; 2])) < 1e-8);
            }
        }

        #[test]
        fn it_is_finite_and_scale_free(j in jacobian(), exponent in -150i32..150) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            for scale in SCALES {
                let c = aligned_mtl(&gram_of(&j), scale);
                prop_assert!(c.iter().all(|c| c.is_finite()));
                prop_assert_eq!(aligned_mtl(&gram_of(&scaled), scale), c);
            }
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(j in independent(5)) {
            let mut reversed = j.clone();
            reversed.reverse();
            for scale in SCALES {
                let mut c = aligned_mtl(&gram_of(&reversed), scale);
                c.reverse();
                prop_assert!(relative(&c, &aligned_mtl(&gram_of(&j), scale)) < 1e-6);
            }
        }
    }
}
