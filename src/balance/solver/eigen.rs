//! Eigenvalues and eigenvectors of a small symmetric matrix, and its pseudo-inverse.
//!
//! Householder reflections make the matrix tridiagonal, then implicit QL iterations make it diagonal (Golub and Van Loan,
//! "Matrix Computations", sections 8.3.1 and 8.3.5). Eigenvectors are never written out: the reflections and rotations
//! that lead to them are kept, and applied to the few vectors that are asked for. That is `4/3 T^3` operations in all,
//! tens of microseconds for 40 tasks, and nothing depends on the processor, so every rank gets the same bits.

use super::super::gram::dot;

/// Eigenvalues below this share of the largest are those of null directions. Gradients in `f32` leave noise of about
/// `1e-14` in the smallest eigenvalues of their Gram matrix; a share of `1e-12` is a singular value of `1e-6`.
pub const NULL: f64 = 1e-12;

/// Iterations per eigenvalue; two are usual.
const MAX_ITERATIONS: usize = 60;

/// Eigenvalues and eigenvectors of a symmetric matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Eigen {
    /// Eigenvalues `[n]`, descending.
    pub values: Vec<f64>,
    /// Place of each of them among those of `turns`.
    places: Vec<usize>,
    /// `[n, n]`: row `k` holds, from entry `k + 1` on, the unit normal of the reflection that cleared column `k`; or zeros.
    normals: Vec<f64>,
    /// Rotations of entries `i` and `i + 1` by cosine and sine.
    turns: Vec<(usize, f64, f64)>,
}

impl Eigen {
    /// Of the symmetric `matrix` `[n, n]`, row-major and finite, whose upper triangle is read.
    ///
    /// # Panics
    /// If the number of values is not a square.
    pub fn of(matrix: &[f64]) -> Eigen {
        let n = matrix.len().isqrt();
        assert_eq!(n * n, matrix.len(), "a symmetric matrix is square");
        let scale = matrix.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let entry = |k: usize| matrix[(k / n).min(k % n) * n + (k / n).max(k % n)];
        let mut a: Vec<f64> = (0..n * n).map(|k| if scale > 0.0 { entry(k) / scale } else { 0.0 }).collect();
        let normals = tridiagonal(n, &mut a);
        let mut diagonal: Vec<f64> = (0..n).map(|k| a[k * n + k]).collect();
        let mut beside: Vec<f64> = (0..n).map(|k| if k + 1 < n { a[k * n + k + 1] } else { 0.0 }).collect();
        let turns = diagonalise(&mut diagonal, &mut beside);
        let mut places: Vec<usize> = (0..n).collect();
        places.sort_by(|&i, &j| diagonal[j].total_cmp(&diagonal[i]));
        Eigen { values: places.iter().map(|&k| diagonal[k] * scale).collect(), places, normals, turns }
    }

    /// How many eigenvalues are not those of null directions ([`NULL`]).
    pub fn rank(&self) -> usize {
        let largest = self.values.first().copied().unwrap_or(0.0);
        self.values.iter().take_while(|&&value| value > NULL * largest && value > 0.0).count()
    }

    /// `sum_k f(values[k]) v_k v_kᵀ b` over the directions that are not null.
    pub fn apply(&self, f: impl Fn(f64) -> f64, b: &[f64]) -> Vec<f64> {
        let n = self.values.len();
        let mut x = b.to_vec();
        for k in 0..n {
            self.reflect(k, &mut x);
        }
        for &(i, c, s) in &self.turns {
            (x[i], x[i + 1]) = (c * x[i] - s * x[i + 1], s * x[i] + c * x[i + 1]);
        }
        let (rank, size) = (self.rank(), dot(b, b));
        for (k, &place) in self.places.iter().enumerate() {
            let along = x[place];
            // A vector that is orthogonal but for rounding must not come back divided by a small eigenvalue.
            let counts = k < rank && along * along > 1e-24 * size;
            x[place] = if counts { f(self.values[k]) * along } else { 0.0 };
        }
        for &(i, c, s) in self.turns.iter().rev() {
            (x[i], x[i + 1]) = (c * x[i] + s * x[i + 1], c * x[i + 1] - s * x[i]);
        }
        for k in (0..n).rev() {
            self.reflect(k, &mut x);
        }
        x
    }

    /// The pseudo-inverse times `b`: the shortest of the vectors whose product with the matrix is nearest to `b`.
    pub fn pseudo_inverse_times(&self, b: &[f64]) -> Vec<f64> {
        self.apply(f64::recip, b)
    }

    fn reflect(&self, k: usize, x: &mut [f64]) {
        let n = x.len();
        let normal = &self.normals[k * n + k + 1..(k + 1) * n];
        let x = &mut x[k + 1..];
        let twice = 2.0 * dot(normal, x);
        x.iter_mut().zip(normal).for_each(|(x, v)| *x -= twice * v);
    }
}

/// Reflects `a` `[n, n]` until only the diagonal and its neighbours are left; the normals as in [`Eigen`].
fn tridiagonal(n: usize, a: &mut [f64]) -> Vec<f64> {
    let mut normals = vec![0.0; n * n];
    let mut product = vec![0.0; n];
    for k in 0..n.saturating_sub(2) {
        let row = &a[k * n + k + 1..(k + 1) * n];
        if row[1..].iter().all(|x| *x == 0.0) {
            continue;
        }
        // The reflection takes the row to a multiple of its first axis, away from where it points, so nothing cancels.
        let length = dot(row, row).sqrt().copysign(row[0]);
        let normal = &mut normals[k * n + k + 1..(k + 1) * n];
        normal.copy_from_slice(row);
        normal[0] += length;
        let norm = dot(normal, normal).sqrt();
        normal.iter_mut().for_each(|v| *v /= norm);
        a[k * n + k + 1] = -length;
        // A <- (I - 2 v vᵀ) A (I - 2 v vᵀ) = A - v wᵀ - w vᵀ with w = 2 (A v - (vᵀ A v) v).
        let product = &mut product[..n - k - 1];
        let block = a[(k + 1) * n..].chunks(n).map(|row| &row[k + 1..]);
        product.iter_mut().zip(block).for_each(|(p, row)| *p = dot(row, normal));
        let middle = dot(product, normal);
        product.iter_mut().zip(&*normal).for_each(|(p, v)| *p = 2.0 * (*p - middle * v));
        for (i, row) in a[(k + 1) * n..].chunks_mut(n).enumerate() {
            let (v, w) = (normal[i], product[i]);
            row[k + 1..].iter_mut().zip(&*product).zip(&*normal).for_each(|((x, wj), vj)| *x -= v * wj + w * vj);
        }
    }
    normals
}

/// Turns the tridiagonal matrix of `d` `[n]` and `e` `[n - 1]` beside it (and one entry more) until `e` is zero.
fn diagonalise(d: &mut [f64], e: &mut [f64]) -> Vec<(usize, f64, f64)> {
    let n = d.len();
    let mut turns = Vec::with_capacity(n * n);
    for l in 0..n {
        for _ in 0..MAX_ITERATIONS {
            // The entries of the matrix are at most 1: far below the cut of null directions, noise is nothing.
            let nothing = |m: usize| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs()) + 1e-20;
            let m = (l..n - 1).find(|&m| nothing(m)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            // Shift by the eigenvalue of the leading 2 by 2 block that is nearer to d[l].
            let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (g + (g * g + 1.0).sqrt().copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut i = m;
            while i > l {
                i -= 1;
                let (f, b) = (s * e[i], c * e[i]);
                let r = (f * f + g * g).sqrt();
                e[i + 1] = r;
                if r == 0.0 {
                    // Fell apart by itself: go on with the parts.
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let t = (d[i] - g) * s + 2.0 * c * b;
                p = s * t;
                d[i + 1] = g + p;
                g = c * t - b;
                turns.push((i, c, s));
                if i == l {
                    d[l] -= p;
                    e[l] = g;
                    e[m] = 0.0;
                }
            }
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::super::super::surgery::testing::{gram_of, jacobian, relative};
    use super::*;
    use proptest::prelude::*;

    impl Eigen {
        /// The eigenvector of `values[k]`.
        fn vector(&self, k: usize) -> Vec<f64> {
            let n = self.values.len();
            let mut x: Vec<f64> = (0..n).map(|i| if i == self.places[k] { 1.0 } else { 0.0 }).collect();
            self.turns.iter().rev().for_each(|&(i, c, s)| {
                (x[i], x[i + 1]) = (c * x[i] + s * x[i + 1], c * x[i + 1] - s * x[i]);
            });
            (0..n).rev().for_each(|k| self.reflect(k, &mut x));
            x
        }
    }

    fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
        matrix.chunks(x.len()).map(|row| dot(row, x)).collect()
    }

    #[test]
    fn two_by_two_is_exact() {
        // Eigenvalues of [[18, -22], [-22, 38]]: 28 +- sqrt(584).
        let eigen = Eigen::of(&[18.0, -22.0, -22.0, 38.0]);
        let root = 584f64.sqrt();
        assert!(relative(&eigen.values, &[28.0 + root, 28.0 - root]) < 1e-15, "{eigen:?}");
        assert_eq!(eigen.rank(), 2);
    }

    #[test]
    fn null_directions_are_found() {
        assert_eq!(Eigen::of(&[0.0; 9]).rank(), 0);
        assert_eq!(Eigen::of(&[1.0; 16]).rank(), 1);
        assert_eq!(Eigen::of(&[1e-300, -1e-300, -1e-300, 1e-300]).rank(), 1);
        let eigen = Eigen::of(&[4.0, 4.0, 4.0, 4.0]);
        assert!(relative(&eigen.pseudo_inverse_times(&[1.0, 3.0]), &[0.25, 0.25]) < 1e-15);
        assert_eq!(eigen.pseudo_inverse_times(&[1.0, -1.0]), [0.0, 0.0]);
        assert_eq!(Eigen::of(&[0.0]).pseudo_inverse_times(&[1.0]), [0.0]);
    }

    #[test]
    fn eigenvalues_far_apart_keep_their_digits() {
        // Orthogonal gradients of lengths 1, 1e-2, 1e-4, turned among themselves.
        let (c, s) = (0.6, 0.8);
        let rows = [[c, s * 1e-2, 0.0], [-s * c, c * c * 1e-2, s * 1e-4], [s * s, -c * s * 1e-2, c * 1e-4]];
        let eigen = Eigen::of(gram_of(&rows.map(Vec::from)).values());
        assert!(eigen.values.iter().zip([1.0, 1e-4, 1e-8]).all(|(x, y)| (x / y - 1.0).abs() < 1e-7), "{eigen:?}");
    }

    #[test]
    fn forty_tasks() {
        // Twenty pairs of twins: half of the directions are null.
        let j: Vec<Vec<f64>> = (0..40).map(|t| (0..50).map(|p| f64::sin((1 + t / 2 * p) as f64)).collect()).collect();
        let gram = gram_of(&j);
        let eigen = Eigen::of(gram.values());
        assert_eq!(eigen.rank(), 20);
        let trace: f64 = eigen.values.iter().sum();
        assert!((trace / gram.trace() - 1.0).abs() < 1e-13);
        let b = gram.times(&[1.0; 40]);
        assert!(relative(&gram.times(&eigen.pseudo_inverse_times(&b)), &b) < 1e-10);
    }

    proptest! {
        #[test]
        fn vectors_are_orthonormal_and_belong_to_their_values(j in jacobian(), exponent in -150i32..150) {
            let s = 2f64.powi(exponent);
            let a: Vec<f64> = gram_of(&j).values().iter().map(|x| x * s).collect();
            let n = j.len();
            let eigen = Eigen::of(&a);
            let largest = eigen.values[0];
            prop_assert!(eigen.values.is_sorted_by(|x, y| x >= y));
            let vectors: Vec<Vec<f64>> = (0..n).map(|k| eigen.vector(k)).collect();
            for (k, v) in vectors.iter().enumerate() {
                for (i, u) in vectors.iter().enumerate() {
                    let want = if i == k { 1.0 } else { 0.0 };
                    prop_assert!((dot(u, v) - want).abs() < 1e-13);
                }
                let av = times(&a, v);
                for (x, y) in av.iter().zip(v) {
                    prop_assert!((x - eigen.values[k] * y).abs() <= 1e-13 * largest);
                }
                let squares = |value: f64| value * value;
                if k < eigen.rank() {
                    let got = eigen.apply(squares, v);
                    let want: Vec<f64> = v.iter().map(|x| squares(eigen.values[k]) * x).collect();
                    let size = squares(largest).max(f64::MIN_POSITIVE);
                    prop_assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-13 * size));
                }
            }
        }

        #[test]
        fn pseudo_inverse_solves_what_can_be_solved(j in jacobian()) {
            let a = gram_of(&j);
            let eigen = Eigen::of(a.values());
            // Well inside the range, and not near the cut between range and null space.
            let gap = eigen.values.get(eigen.rank()).is_none_or(|next| next.abs() < 1e-14 * eigen.values[0]);
            let least = eigen.values[eigen.rank().max(1) - 1];
            prop_assume!(gap && least > 1e-6 * eigen.values[0]);
            let b = a.times(&vec![1.0; j.len()]);
            let back = a.times(&eigen.pseudo_inverse_times(&b));
            prop_assert!(relative(&back, &b) < 1e-8, "{back:?} {b:?}");
        }
    }
}
