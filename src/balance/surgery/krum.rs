//! Krum and Multi-Krum: the gradients with the closest neighbours.
//!
//! Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", 2017 (arXiv:1703.02757):
//! the score of a gradient is the sum of its **squared** distances to the `T - f - 2` others closest to it, where up to
//! `f` of the `T` may be arbitrarily wrong. The update is the mean of the `m` gradients of lowest score (`m = 1`: Krum); of
//! equal scores the first task wins. Distances are `G_ii + G_jj - 2 G_ij`.
//!
//! Departures: where fewer tasks are present than the options ask for, scores are over at least one neighbour (or all,
//! which is none for a single task), and at most all present tasks are chosen. (Libraries that add up distances that are
//! not squared can choose other gradients.)

use super::{GramSurgery, View};
use crate::balance::Gram;
use crate::config;
use crate::rng::ChaCha8Rng;

/// The method; it has no state.
#[derive(Debug, Clone, Copy)]
pub struct Krum {
    n_byzantine: usize,
    n_selected: usize,
}

impl Krum {
    /// The method with these options.
    pub fn new(config: &config::Krum) -> Self {
        Krum { n_byzantine: config.n_byzantine, n_selected: config.n_selected }
    }
}

impl GramSurgery for Krum {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        krum(at.gram, self.n_byzantine, self.n_selected)
    }
}

/// Coefficients `[T]`: `1 / m` for the `m` chosen gradients, 0 for the others.
pub fn krum(gram: &Gram, n_byzantine: usize, n_selected: usize) -> Vec<f64> {
    let n = gram.n_tasks();
    let n_closest = n.saturating_sub(n_byzantine.saturating_add(2)).max(1);
    let n_selected = n_selected.clamp(1, n.max(1));
    // Relative to the largest, so that sums of squares cannot overflow.
    let largest = (0..n).map(|i| gram.row(i)[i]).fold(f64::MIN_POSITIVE, f64::max);
    let score = |i: usize| -> f64 {
        let distance = |j: usize| {
            let [ii, jj, ij] = [gram.row(i)[i], gram.row(j)[j], gram.row(i)[j]].map(|x| x / largest);
            (ii + jj - 2.0 * ij).max(0.0)
        };
        let mut distances: Vec<f64> = (0..n).filter(|&j| j != i).map(distance).collect();
        distances.sort_by(f64::total_cmp);
        distances.iter().take(n_closest).sum()
    };
    let scores: Vec<f64> = (0..n).map(score).collect();
    let mut order: Vec<usize> = (0..n).collect();
    // A stable sort: of equal scores the first task stays first.
    order.sort_by(|&i, &j| scores[i].total_cmp(&scores[j]));
    let mut coef = vec![0.0; n];
    for &t in order.iter().take(n_selected) {
        coef[t] = 1.0 / n_selected as f64;
    }
    coef
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, gram_of, jacobian};
    use super::*;
    use proptest::prelude::*;

    /// Scores from the vectors.
    fn explicit(j: &[Vec<f64>], n_byzantine: usize) -> Vec<f64> {
        let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let score = |i: usize| {
            let mut all: Vec<f64> =
                j.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, g)| distance(&j[i], g)).collect();
            all.sort_by(f64::total_cmp);
            all[..j.len() - n_byzantine - 2].iter().sum()
        };
        (0..j.len()).map(score).collect()
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, Krum(n_byzantine=1, n_selected=4): the third row is an outlier.
        let rows = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [75.0, -666.0, 23.0], [1.0, 2.0, 3.0], [2.0, 0.0, 1.0]];
        let j: Vec<Vec<f64>> = rows.iter().map(|row| row.to_vec()).collect();
        let c = krum(&gram_of(&j), 1, 4);
        assert_eq!(c, [0.25, 0.25, 0.0, 0.25, 0.25]);
        assert_eq!(combine(&j, &c), [1.25, 0.75, 1.5]);
    }

    #[test]
    fn squared_distances_decide() {
        // On a line, with three neighbours each: two of those of 9.9 are near, but the third is farther than any of 5.5.
        let j: Vec<Vec<f64>> = [0.0, 5.0, 5.5, 9.9, 10.0, 14.7].iter().map(|x| vec![*x]).collect();
        let sums = |power: i32| -> Vec<f64> {
            let near = |x: f64| {
                let mut d: Vec<f64> = j.iter().map(|y| (x - y[0]).abs()).collect();
                d.sort_by(f64::total_cmp);
                d[1..4].iter().map(|d| d.powi(power)).sum()
            };
            j.iter().map(|x| near(x[0])).collect()
        };
        let best = |scores: &[f64]| (0..6).min_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        assert_ne!(best(&sums(1)), best(&sums(2)), "the example tells the two apart");
        assert_eq!(krum(&gram_of(&j), 1, 1)[best(&sums(2))], 1.0);
    }

    #[test]
    fn special_gradients_and_few_tasks() {
        let of = |j: &[&[f64]], f, m| krum(&gram_of(&j.iter().map(|g| g.to_vec()).collect::<Vec<_>>()), f, m);
        assert_eq!(of(&[&[3.0]], 1, 1), [1.0]);
        assert_eq!(of(&[&[3.0]], 5, 5), [1.0]);
        assert_eq!(of(&[&[3.0], &[4.0]], 1, 1), [1.0, 0.0], "a tie goes to the first");
        assert_eq!(of(&[&[3.0], &[4.0]], 1, 4), [0.5, 0.5]);
        assert_eq!(of(&[&[0.0], &[0.0], &[0.0], &[0.0]], 1, 2), [0.5, 0.5, 0.0, 0.0]);
        // Three present of more: one neighbour each.
        assert_eq!(of(&[&[0.0], &[5.0], &[5.5]], 4, 1), [0.0, 1.0, 0.0]);
        assert_eq!(of(&[&[1e15], &[1.0], &[1.5], &[-1e-15]], 1, 2), [0.0, 0.5, 0.5, 0.0]);
        assert_eq!(
            krum(&gram_of(&[vec![1e153], vec![-1e153], vec![1e153], vec![1e153]]), 1, 3),
            [1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0]
        );
    }

    proptest! {
        #[test]
        fn chooses_the_lowest_scores(
            j in (3usize..9, 1usize..7)
                .prop_flat_map(|(t, p)| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, p), t)),
            f in 0usize..6,
            m in 1usize..9,
        ) {
            let (f, m) = (f.min(j.len() - 3), m.min(j.len()));
            let scores = explicit(&j, f);
            let c = krum(&gram_of(&j), f, m);
            let highest = (0..j.len()).filter(|&t| c[t] > 0.0).map(|t| scores[t]).fold(0.0, f64::max);
            let lowest = (0..j.len()).filter(|&t| c[t] == 0.0).map(|t| scores[t]).fold(f64::INFINITY, f64::min);
            prop_assert!(highest <= lowest + 1e-12);
            prop_assert_eq!(c.iter().filter(|&&c| c == 1.0 / m as f64).count(), m);
        }

        #[test]
        fn the_scale_of_all_gradients_does_not_matter(j in jacobian(), exponent in -150i32..150) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            prop_assert_eq!(krum(&gram_of(&scaled), 1, 2), krum(&gram_of(&j), 1, 2));
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(
            j in (4usize..8, 2usize..6)
                .prop_flat_map(|(t, p)| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, p), t)),
        ) {
            let mut reversed = j.clone();
            reversed.reverse();
            let mut sorted = explicit(&j, 0);
            sorted.sort_by(f64::total_cmp);
            prop_assume!(sorted[1] - sorted[0] > 1e-9);
            let mut c = krum(&gram_of(&reversed), 0, 1);
            c.reverse();
            prop_assert_eq!(c, krum(&gram_of(&j), 0, 1));
        }
    }
}
