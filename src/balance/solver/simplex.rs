//! Onto the simplex `{w >= 0, sum w = 1}`: the Euclidean projection, and the softmax.
//!
//! The projection is that of Michelot, "A Finite Algorithm for Finding the Projection of a Point onto the Canonical Simplex of R^n", 1986: take the
//! same number off every entry so that they sum to 1, drop the negative ones, repeat. At most `n` rounds, no sorting.

/// Replaces `v` by the nearest point of the simplex; by NaN, if an entry is not finite.
pub fn project(v: &mut [f64]) {
    if v.iter().any(|x| !x.is_finite()) {
        v.fill(f64::NAN);
        return;
    }
    if let [a, b] = v {
        // The same, for two.
        *a = (0.5 * (1.0 + (*a - *b))).clamp(0.0, 1.0);
        *b = 1.0 - *a;
        return;
    }
    let largest = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Only differences matter; measured from the largest entry, those that stay keep their digits. Entries that are 1
    // or more below it are 0 in the projection.
    v.iter_mut().for_each(|x| *x -= largest);
    let mut threshold = -1.0;
    loop {
        let above = || v.iter().filter(|&&x| x > threshold);
        let next = (above().sum::<f64>() - 1.0) / above().count() as f64;
        // The threshold only rises until rounding stops it.
        if next <= threshold {
            break;
        }
        threshold = next;
    }
    v.iter_mut().for_each(|x| *x = (*x - threshold).max(0.0));
    let sum: f64 = v.iter().sum();
    if sum > 0.0 {
        v.iter_mut().for_each(|x| *x /= sum);
    }
}

/// `exp(x) / sum exp(x)`.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut shares: Vec<f64> = x.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn projected(v: &[f64]) -> Vec<f64> {
        let mut w = v.to_vec();
        project(&mut w);
        w
    }

    #[test]
    fn known_points() {
        assert_eq!(projected(&[5.0]), [1.0]);
        assert_eq!(projected(&[0.25, 0.75]), [0.25, 0.75]);
        assert_eq!(projected(&[3.0, 1.0]), [1.0, 0.0]);
        assert_eq!(projected(&[0.0, 0.0, 0.0, 0.0]), [0.25; 4]);
        assert_eq!(projected(&[1.0, 0.5, -7.0]), [0.75, 0.25, 0.0]);
        assert_eq!(projected(&[]), [0.0; 0]);
        assert!(projected(&[0.0, f64::INFINITY, 1.0]).iter().all(|x| x.is_nan()));
        assert!(projected(&[0.0, f64::NAN]).iter().all(|x| x.is_nan()));
    }

    #[test]
    fn huge_entries_keep_the_sum() {
        for v in [[1e30, 1e30, -1e30], [1e300, 0.0, 1.0], [-1e300, -1e300, -1e300]] {
            let w = projected(&v);
            assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-15 && w.iter().all(|x| *x >= 0.0), "{w:?}");
        }
        assert_eq!(projected(&[1e30, 1e30, -1e30]), [0.5, 0.5, 0.0]);
        assert_eq!(projected(&[1e300, 0.0]), [1.0, 0.0]);
    }

    proptest! {
        /// The projection is the only point `w` of the simplex with `(v - w)·(u - w) <= 0` for all corners `u`.
        #[test]
        fn it_is_the_nearest_point(v in prop::collection::vec(-3.0f64..3.0, 1..40)) {
            let w = projected(&v);
            prop_assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(w.iter().all(|x| *x >= 0.0));
            let inner: f64 = v.iter().zip(&w).map(|(v, w)| (v - w) * w).sum();
            for (v, w) in v.iter().zip(&w) {
                prop_assert!((v - w) - inner <= 1e-12);
            }
        }

        #[test]
        fn points_of_the_simplex_stay(v in prop::collection::vec(0.01f64..1.0, 1..20)) {
            let sum: f64 = v.iter().sum();
            let on: Vec<f64> = v.iter().map(|x| x / sum).collect();
            prop_assert!(projected(&on).iter().zip(&on).all(|(a, b)| (a - b).abs() < 1e-14));
        }
    }
}
