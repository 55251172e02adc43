//! The shortest point of a convex hull: least `aᵀ G a` over `a >= 0`, `sum a = 1`.
//!
//! Two points have a closed form. For more, `x` least in `xᵀ G x / 2 - sum x` over `x >= 0` ([`Nnqp`], which see for
//! tolerance and cap) is a multiple of `a`: its optimality conditions, divided by `sum x`, are those of the hull. If there
//! is no least value, a combination of the points vanishes, and that is the answer.

use super::{Nnqp, largest};

/// Coefficients `[n]` of the shortest point of the hull of points with inner products `entry(i, j)`.
///
/// Points that are zero are shortest, and share the weight equally.
pub fn min_norm(solver: &mut Nnqp, n: usize, entry: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let zeros = (0..n).filter(|&i| entry(i, i) <= 0.0).count();
    if zeros > 0 {
        return (0..n).map(|i| if entry(i, i) <= 0.0 { 1.0 / zeros as f64 } else { 0.0 }).collect();
    }
    let size = largest((0..n).map(|i| entry(i, i)));
    match n {
        1 => vec![1.0],
        2 => two(entry(0, 0) / size, entry(0, 1) / size, entry(1, 1) / size).to_vec(),
        _ => {
            solver.set(n, |i, j| entry(i, j) / size);
            let found = solver.solve_or_ray(|_| -1.0);
            let x: Vec<f64> = (0..n).map(|i| if found { solver.x(i) } else { solver.ray(i) }).collect();
            let sum: f64 = x.iter().sum();
            x.iter().map(|x| x / sum).collect()
        }
    }
}

fn two(aa: f64, ab: f64, bb: f64) -> [f64; 2] {
    match (ab >= aa, ab >= bb) {
        (true, true) => [0.5, 0.5],
        (true, false) => [1.0, 0.0],
        (false, true) => [0.0, 1.0],
        (false, false) => {
            let length = (aa - ab) + (bb - ab);
            [(bb - ab) / length, (aa - ab) / length]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forty, hard_jacobian, norms};
    use super::*;
    use crate::balance::gram::dot;
    use proptest::prelude::*;

    fn of(j: &[Vec<f64>]) -> Vec<f64> {
        min_norm(&mut Nnqp::default(), j.len(), |a, b| dot(&j[a], &j[b]))
    }

    fn combine(j: &[Vec<f64>], c: &[f64]) -> Vec<f64> {
        (0..j[0].len()).map(|k| j.iter().zip(c).map(|(g, c)| c * g[k]).sum()).collect()
    }

    #[test]
    fn simple_hulls() {
        assert_eq!(of(&[vec![3.0]]), [1.0]);
        assert_eq!(of(&[vec![1.0, 0.0], vec![0.0, 1.0]]), [0.5, 0.5]);
        assert_eq!(of(&[vec![1.0, 0.0], vec![2.0, 0.0]]), [1.0, 0.0]);
        assert_eq!(of(&[vec![1.0, 0.0], vec![-3.0, 0.0]]), [0.75, 0.25]);
        assert_eq!(of(&[vec![1.0], vec![0.0], vec![1.0], vec![0.0]]), [0.0, 0.5, 0.0, 0.5]);
        let triangle = of(&[vec![1.0, 0.0], vec![-0.5, 0.75f64.sqrt()], vec![-0.5, -(0.75f64.sqrt())]]);
        assert!(triangle.iter().all(|a| (a - 1.0 / 3.0).abs() < 1e-14), "{triangle:?}");
    }

    #[test]
    fn norms_many_orders_apart_keep_their_digits() {
        // Orthogonal points: a_i is proportional to 1 / |g_i|^2.
        let j = vec![vec![1e12, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1e3]];
        let a = of(&j);
        assert!((a[0] / a[1] * 1e24 - 1.0).abs() < 1e-12 && (a[2] / a[1] * 1e6 - 1.0).abs() < 1e-12, "{a:?}");
    }

    #[test]
    fn forty_points_around_zero_or_beside_it() {
        for p in [8, 60] {
            let j = forty(p);
            let d = combine(&j, &of(&j));
            assert_eq!(dot(&d, &d) < 1e-20, p == 8, "{}", dot(&d, &d));
            for g in &j {
                assert!(dot(g, &d) >= dot(&d, &d) - 1e-12 * dot(g, g).sqrt(), "{}", dot(g, &d));
            }
        }
    }

    #[test]
    fn between_dependent_and_not_it_is_still_a_point_of_the_hull() {
        for exponent in -60..-20 {
            let small = 2f64.powi(exponent);
            let j = vec![vec![0.4, 0.3], vec![1.5, small], vec![-0.6, 0.0], vec![0.4, 0.3 - small]];
            let a = of(&j);
            let d = combine(&j, &a);
            assert!(a.iter().all(|a| *a >= 0.0) && (a.iter().sum::<f64>() - 1.0).abs() < 1e-14, "{a:?}");
            assert!(dot(&d, &d) <= 0.25, "no longer than the shortest: {a:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn no_point_of_the_hull_is_nearer(j in hard_jacobian()) {
            let a = of(&j);
            prop_assert!(a.iter().all(|a| *a >= 0.0) && (a.iter().sum::<f64>() - 1.0).abs() < 1e-14, "{:?}", a);
            let d = combine(&j, &a);
            let norms = norms(&j);
            let size: f64 = a.iter().zip(&norms).map(|(a, n)| a * n).sum();
            // The hull lies beyond the plane through d that is orthogonal to d.
            for (i, g) in j.iter().enumerate() {
                prop_assert!(dot(g, &d) - dot(&d, &d) >= -1e-4 * (norms[i] + size) * size, "{} {:?} {:?}", i, a, d);
            }
        }

        #[test]
        fn two_points_by_closed_form_and_by_the_general_method(j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 2)) {
            // A third point that is the first one again changes nothing.
            let three = vec![j[0].clone(), j[1].clone(), j[0].clone()];
            let (a, b) = (combine(&j, &of(&j)), combine(&three, &of(&three)));
            prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-12), "{:?} {:?}", a, b);
        }
    }
}
