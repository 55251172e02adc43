//! The direction in a ball around the mean gradient whose worst inner product with the gradients is largest.
//!
//! With `g_0` the mean of the `n` gradients: the largest `min_i <g_i, d>` over `|d - g_0| <= c |g_0|`. The solution is
//! `d = g_0 + Jᵀ v` with `v >= 0`, and `v / sum v` is CAGrad's `w`.
//!
//! The shortest correction `Jᵀ v` that lifts the worst inner product to `mu` solves `G v + G 1/n >= mu`, `v >= 0`,
//! complementary: the cone problem of [`Nnqp`] with a right-hand side linear in `mu`. It grows with `mu` from 0 at the
//! worst inner product of `g_0`; wanted is where its length is `c |g_0|`. On each support `v` is linear and `|Jᵀ v|^2`
//! quadratic in `mu`, so a step is the root of a quadratic, kept between bounds; it is exact once the support is right.
//! Two gradients have a closed form.
//!
//! Where a combination of gradients vanishes (a Pareto-stationary point) or a gradient is zero, `mu` cannot be above 0, the
//! length may never reach `c |g_0|`, and CAGrad's `g_w / |g_w|` is 0/0. Then `v` is that of `mu = 0`: the direction is the
//! projection of `g_0` on the cone of directions in which no task gets worse. A combination counts as vanishing when
//! `1e-5` of the lengths that went into it is left: see [`Nnqp`] on what rounding of `G` leaves.
//!
//! Tolerance: `|Jᵀ v|^2` is `(c |g_0|)^2` to `n` units of rounding of what goes into it, or the step of `mu` is below rounding; at most 100 steps.

use super::{Nnqp, largest, min_norm};
use crate::balance::Gram;
use crate::balance::gram::dot;

/// What is left of lengths that cancel, squared.
const VANISHING: f64 = 1e-10;

/// `v` `[n]`, so that `sum_i (1/n + v_i) g_i` is the direction. `c >= 0`.
pub fn worst_in_ball(solver: &mut Nnqp, gram: &Gram, c: f64) -> Vec<f64> {
    let n = gram.n_tasks();
    let size = largest((0..n).map(|i| gram.row(i)[i]));
    if size <= 0.0 || c <= 0.0 {
        return vec![0.0; n];
    }
    match n {
        1 => vec![c],
        2 => {
            let at = |i: usize, j: usize| gram.row(i)[j] / size;
            two(at(0, 0), at(0, 1), at(1, 1), c).unwrap_or_else(|| path(solver, gram, size, c))
        }
        _ => path(solver, gram, size, c),
    }
}

/// On the line through both points, at `u` from its shortest point, the square of which is `short`, the dual objective is
/// `slope u + radius sqrt(length u^2 + short)`.
fn two(aa: f64, ab: f64, bb: f64, c: f64) -> Option<Vec<f64>> {
    let radius = c * ((aa + 2.0 * ab + bb).max(0.0) / 4.0).sqrt();
    let length = (aa - ab) + (bb - ab);
    // Both weights by themselves: the smaller one is not what rounding leaves of 1 - w.
    let (a, b) = if length <= 0.0 {
        (0.5, 0.5)
    } else {
        let norms = (aa * bb).sqrt();
        let short = ((norms - ab) * (norms + ab)).max(0.0) / length;
        let slope = (aa - bb) / 2.0;
        let rest = radius * radius * length - slope * slope;
        let u = if rest > 0.0 { -slope * (short / (length * rest)).sqrt() } else { -slope.signum() * f64::INFINITY };
        (((bb - ab) / length + u).clamp(0.0, 1.0), ((aa - ab) / length - u).clamp(0.0, 1.0))
    };
    let square = a * a * aa + 2.0 * a * b * ab + b * b * bb;
    let lengths = a * aa.sqrt() + b * bb.sqrt();
    let factor = radius / square.max(0.0).sqrt();
    (square > VANISHING * lengths * lengths).then(|| vec![factor * a, factor * b])
}

fn path(solver: &mut Nnqp, gram: &Gram, size: f64, c: f64) -> Vec<f64> {
    let n = gram.n_tasks();
    let g = |i: usize, j: usize| gram.row(i)[j] / size;
    let toward_mean: Vec<f64> = (0..n).map(|i| gram.row(i).iter().map(|x| x / size).sum::<f64>() / n as f64).collect();
    let radius2 = c * c * toward_mean.iter().sum::<f64>().max(0.0) / n as f64;
    if radius2 <= 0.0 {
        return vec![0.0; n];
    }
    let norms: Vec<f64> = (0..n).map(|i| g(i, i).max(0.0).sqrt()).collect();
    let times = |x: &[f64]| -> Vec<f64> { (0..n).map(|i| dot(gram.row(i), x) / size).collect() };
    let read = |solver: &Nnqp, v: &mut [f64]| v.iter_mut().enumerate().for_each(|(i, v)| *v = solver.x(i));

    // First mu = 0, which a direction always reaches: is the ball large enough?
    let (mut v, mut along) = (vec![0.0; n], vec![0.0; n]);
    solver.set(n, g);
    solver.solve(|i| toward_mean[i]);
    read(solver, &mut v);
    let mut high = 0.0;
    let mut low = toward_mean.iter().copied().fold(0.0, f64::min);
    if dot(&v, &times(&v)) <= radius2 {
        let shortest = norms.iter().copied().fold(1.0, f64::min);
        let a = min_norm(solver, n, g);
        if dot(&a, &times(&a)) <= VANISHING * dot(&a, &norms).powi(2) {
            return v;
        }
        (low, high) = (0.0, shortest * (1.0 + c) * (radius2.sqrt() / c) * (1.0 + 1e-9));
        solver.set(n, g);
        solver.solve(|i| toward_mean[i]);
    }
    let mut at = 0.0;
    let mut found = true;
    for _ in 0..100 {
        let mut next = f64::NAN;
        if found {
            read(solver, &mut v);
            solver.on_support(|_| 1.0, &mut along);
            let (gv, gd) = (times(&v), times(&along));
            // |Jᵀ (v + t along)|^2 - radius^2 = a t^2 + 2 b t + rest
            let (a, b, rest) = (dot(&along, &gd), dot(&v, &gd), dot(&v, &gv) - radius2);
            if rest.abs() <= n as f64 * f64::EPSILON * radius2.max(dot(&v, &norms).powi(2)) {
                break;
            }
            if rest < 0.0 {
                low = at
            } else {
                high = at
            }
            next = at - rest / (b + (b * b - a * rest).sqrt());
        } else {
            high = at;
        }
        if !(next > low && next < high) {
            next = 0.5 * (low + high);
        }
        if (next - at).abs() <= f64::EPSILON * at.abs() || next <= low || next >= high {
            break;
        }
        at = next;
        found = solver.solve_or_ray(|i| toward_mean[i] - at);
    }
    // Whatever rounding did, the direction is in the ball.
    let over = dot(&v, &times(&v)) / radius2;
    if over > 1.0 {
        v.iter_mut().for_each(|v| *v /= over.sqrt());
    }
    v
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forty, hard_jacobian, norms};
    use super::*;
    use proptest::prelude::*;

    fn gram_of(j: &[Vec<f64>]) -> Gram {
        Gram::new(j.iter().flat_map(|a| j.iter().map(|b| dot(a, b))).collect()).unwrap()
    }

    fn combine(j: &[Vec<f64>], c: &[f64]) -> Vec<f64> {
        (0..j[0].len()).map(|k| j.iter().zip(c).map(|(g, c)| c * g[k]).sum()).collect()
    }

    fn of(j: &[Vec<f64>], c: f64) -> Vec<f64> {
        worst_in_ball(&mut Nnqp::default(), &gram_of(j), c)
    }

    /// `g_w . g_0 + c |g_0| |g_w|`: an upper bound of the worst inner product of any direction of the ball.
    fn bound(j: &[Vec<f64>], w: &[f64], c: f64) -> f64 {
        let (mean, g) = (combine(j, &vec![1.0 / j.len() as f64; j.len()]), combine(j, w));
        dot(&g, &mean) + c * (dot(&mean, &mean) * dot(&g, &g)).sqrt()
    }

    #[test]
    fn opposite_gradients_do_not_divide_by_zero() {
        // The mean is a third of the first gradient, and no direction helps both: what is left is 0, if the ball has it.
        let j = vec![vec![3.0, 0.0], vec![-1.0, 0.0]];
        let inside = of(&j, 1.5);
        let d = combine(&j, &inside.iter().map(|v| v + 0.5).collect::<Vec<_>>());
        assert!(d.iter().all(|d| d.abs() < 1e-12), "{d:?}");
        // Otherwise it goes as far as it may towards 0.
        let d = combine(&j, &of(&j, 0.5).iter().map(|v| v + 0.5).collect::<Vec<_>>());
        assert!((d[0] - 0.5).abs() < 1e-12, "{d:?}");
        // A zero gradient and one that the mean improves: nothing to do.
        assert_eq!(of(&[vec![0.0, 0.0], vec![1.0, 2.0]], 0.5), [0.0, 0.0]);
        assert_eq!(of(&[vec![0.0; 2], vec![1.0, 2.0], vec![0.0; 2]], 0.5), [0.0; 3]);
    }

    #[test]
    fn forty_gradients() {
        for (p, c) in [(20, 0.5), (60, 0.1), (60, 0.5), (60, 0.9)] {
            let j = forty(p);
            let v = of(&j, c);
            let mean = combine(&j, &[1.0 / 40.0; 40]);
            let z = combine(&j, &v);
            let d: Vec<f64> = mean.iter().zip(&z).map(|(m, z)| m + z).collect();
            let (length, radius) = (dot(&z, &z).sqrt(), c * dot(&mean, &mean).sqrt());
            let sum: f64 = v.iter().sum();
            let w: Vec<f64> = v.iter().map(|v| v / sum).collect();
            let full = length > radius * (1.0 - 1e-9);
            let wanted = if full { bound(&j, &w, c) } else { 0.0 };
            assert!(length <= radius * (1.0 + 1e-9), "{p} {c}");
            let worst = j.iter().map(|g| dot(g, &d)).fold(f64::INFINITY, f64::min);
            assert!((worst - wanted).abs() < 1e-9, "{p} {c} {full} {worst} {wanted}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn reaches_the_bound_of_its_own_weights(j in hard_jacobian(), c in 0.01f64..1.5) {
            let v = of(&j, c);
            prop_assert!(v.iter().all(|v| v.is_finite() && *v >= 0.0), "{:?}", v);
            let n = j.len() as f64;
            let mean = combine(&j, &vec![1.0 / n; j.len()]);
            let z = combine(&j, &v);
            let d: Vec<f64> = mean.iter().zip(&z).map(|(m, z)| m + z).collect();
            let norms = norms(&j);
            let largest = norms.iter().copied().fold(0.0, f64::max);
            let radius = c * dot(&mean, &mean).sqrt();
            let length = dot(&z, &z).sqrt();
            // Gradients that are opposite to five digits are taken to be opposite.
            let size: f64 = v.iter().zip(&norms).map(|(v, n)| v * n).sum();
            prop_assert!(length <= radius * (1.0 + 1e-9) + 1e-6 * (size + largest), "{} {}", length, radius);
            let sum: f64 = v.iter().sum();
            if sum > 0.0 {
                // Weak duality: min_i <g_i, d> <= bound(w) for any w and any d of the ball; equal at the solution.
                let w: Vec<f64> = v.iter().map(|v| v / sum).collect();
                // Tasks a billion times apart share no scale on which a worst one could be told.
                prop_assume!(norms.iter().all(|n| norms.iter().all(|m| *m == 0.0 || *n == 0.0 || n / m < 1e9)));
                let scale: f64 = w.iter().zip(&norms).map(|(w, n)| w * n).sum::<f64>();
                for (i, g) in j.iter().enumerate() {
                    let slack = 1e-4 * (norms[i] + scale) * (size + largest);
                    // At a stationary point no direction improves all, and the ball need not be exhausted.
                    let bound = if length < radius * (1.0 - 1e-6) { 0.0 } else { bound(&j, &w, c) };
                    prop_assert!(dot(g, &d) >= bound - slack, "{} {} {}", i, dot(g, &d), bound);
                }
            }
        }

        #[test]
        fn two_gradients_by_closed_form_and_by_the_path(
            j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 2), c in 0.0f64..1.2,
        ) {
            let size = norms(&j).into_iter().fold(0.0, f64::max).powi(2);
            let (a, b) = (combine(&j, &of(&j, c)), combine(&j, &path(&mut Nnqp::default(), &gram_of(&j), size, c)));
            prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-9), "{:?} {:?}", a, b);
        }

        #[test]
        fn no_weights_give_a_lower_bound(
            j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 4), 3), c in 0.01f64..1.0,
        ) {
            let v = of(&j, c);
            let sum: f64 = v.iter().sum();
            let w: Vec<f64> = v.iter().map(|v| v / sum).collect();
            let found = bound(&j, &w, c);
            for a in 0..=40 {
                for b in 0..=40 - a {
                    let w = [f64::from(a) / 40.0, f64::from(b) / 40.0, f64::from(40 - a - b) / 40.0];
                    prop_assert!(found <= bound(&j, &w, c) + 1e-12, "{:?} {:?}", v, w);
                }
            }
        }
    }
}
