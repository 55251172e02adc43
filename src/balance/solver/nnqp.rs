//! Least `xᵀ H x / 2 + qᵀ x` over `x >= 0`, for `H` symmetric and positive semidefinite.
//!
//! The active-set method of Lawson and Hanson ("Solving Least Squares Problems", 1974, chapter 23), carried by a swept
//! tableau: while `S` is the support, the tableau holds `H_SS⁻¹`, `H_NS H_SS⁻¹` and the Schur complement of the rest, so
//! a change of the support is one rank-one update of half a matrix, the multipliers of all other variables are there to
//! read, and a second right-hand side on the same support is one product.
//!
//! The diagonal of `H` is scaled to 1 first, which leaves `x >= 0` what it is. A column that lies in the span of the
//! support to [`FLAT`] can only change places with others: `x` moves along the combination that vanishes until one of
//! them is 0. If none ever is, the combination is a [`Nnqp::ray`] along which there is no least value.
//!
//! The objective falls with every change of the support, so the method is finite; it stops after `20 n + 50` changes,
//! which rounding alone can bring about, with a feasible point. The last step improves `x` by the residual of the
//! problem as it was given, and goes on if that shows a multiplier below zero that the tableau did not.
//!
//! Tolerance: multipliers are at least `-16 n eps (|q_j| + sum x)`, all in units of the unit diagonal; that of a column
//! which was not let in, at least `-FLAT^(1/2)` of the residual.

use super::{add_scaled, largest};

/// Share of a column's square that must be outside the span of the support, about `eps^(2/3)`. With a share of `f`, rounding
/// of `H` moves the residual by `eps / f` of itself, and leaving the column out by up to `f^(1/2)`: this is where they meet.
const FLAT: f64 = 4e-11;
/// The same where the length of `x` does not matter, only its direction.
const FLAT_FOR_RAY: f64 = 1e-12;

/// The problem and its storage, which is used again from call to call.
#[derive(Debug, Clone, Default)]
pub struct Nnqp {
    n: usize,
    /// Unit diagonal, `[n, n]`.
    h: Vec<f64>,
    /// `H_ii^(-1/2)`; 0 where `H_ii` is 0, and such variables stay 0.
    inv: Vec<f64>,
    q: Vec<f64>,
    /// Scaled solution, feasible at all times.
    x: Vec<f64>,
    /// The swept matrix, `[n, n]`, of which the upper half is kept.
    tableau: Vec<f64>,
    /// Its diagonal again, side by side.
    diagonal: Vec<f64>,
    /// The swept `q`: minus the stationary point of the support, and the multipliers of the rest.
    column: Vec<f64>,
    support: Vec<bool>,
    /// In the span of the support.
    barred: Vec<bool>,
    buffer: Vec<f64>,
}

impl Nnqp {
    /// Sets `H`, `[n, n]`, by its entries.
    pub fn set(&mut self, n: usize, entry: impl Fn(usize, usize) -> f64) {
        self.n = n;
        self.inv.clear();
        self.inv.extend((0..n).map(|i| entry(i, i)).map(|d| if d > 0.0 { 1.0 / d.sqrt() } else { 0.0 }));
        self.h.clear();
        for i in 0..n {
            let inv = &self.inv;
            let scaled = |j: usize| (entry(i, j) * inv[i] * inv[j]).clamp(-1.0, 1.0);
            self.h.extend((0..n).map(|j| if i == j { 1.0 } else { scaled(j) }));
        }
        self.forget();
    }

    /// Forgets the last solution: the next [`Self::solve`] starts from 0.
    pub fn forget(&mut self) {
        let n = self.n;
        self.tableau.resize(n * n, 0.0);
        // Row by row: half as much, and short copies need no preparation.
        for (i, (to, from)) in self.tableau.chunks_exact_mut(n).zip(self.h.chunks_exact(n)).enumerate() {
            to[i..].copy_from_slice(&from[i..]);
        }
        self.diagonal.clear();
        self.diagonal.resize(n, 1.0);
        for values in [&mut self.x, &mut self.column] {
            values.clear();
            values.resize(self.n, 0.0);
        }
        for flags in [&mut self.support, &mut self.barred] {
            flags.clear();
            flags.resize(self.n, false);
        }
    }

    /// Solves for `q` `[n]` in the range of `H`, from the last solution. Read it with [`Self::x`].
    pub fn solve(&mut self, q: impl Fn(usize) -> f64) {
        self.run(q, false);
    }

    /// Solves for any `q` `[n]`, from the last solution; whether there is one. If not, read [`Self::ray`].
    pub fn solve_or_ray(&mut self, q: impl Fn(usize) -> f64) -> bool {
        self.run(q, true)
    }

    fn run(&mut self, q: impl Fn(usize) -> f64, seek_ray: bool) -> bool {
        self.q.clear();
        self.q.extend(self.inv.iter().enumerate().map(|(i, inv)| if *inv > 0.0 { q(i) * inv } else { 0.0 }));
        self.read_column();
        let flat = if seek_ray { FLAT_FOR_RAY } else { FLAT };
        let cap = 20 * self.n + 50;
        let mut changes = 0;
        loop {
            changes += self.make_feasible();
            match self.entering() {
                Some(j) if changes < cap => {
                    changes += 1;
                    // Most columns are far from the span.
                    if self.diagonal[j] > 1e-3 {
                        self.sweep(j, 1.0);
                        self.support[j] = true;
                    } else if !self.enter(j, flat, seek_ray) {
                        return false;
                    }
                }
                found => {
                    self.improve();
                    changes += self.n;
                    if found.is_some() || changes >= cap || self.entering().is_none() {
                        return true;
                    }
                }
            }
        }
    }

    /// Entry `i` of the solution.
    pub fn x(&self, i: usize) -> f64 {
        self.x[i] * self.inv[i]
    }

    /// Entry `i` of the nonnegative combination that [`Self::solve_or_ray`] found to vanish, of any length.
    pub fn ray(&self, i: usize) -> f64 {
        self.buffer[i] * self.inv[i]
    }

    /// `H_SS⁻¹ b` on the support `S`, 0 elsewhere: how the solution moves as `q` moves along `-b`.
    pub fn on_support(&mut self, b: impl Fn(usize) -> f64, out: &mut [f64]) {
        out.fill(0.0);
        for k in (0..self.n).filter(|&k| self.support[k]) {
            read_row(&self.tableau, k, self.n, &mut self.buffer);
            add_scaled(out, -b(k) * self.inv[k], &self.buffer);
        }
        for (i, out) in out.iter_mut().enumerate() {
            *out = if self.support[i] { *out * self.inv[i] } else { 0.0 };
        }
    }

    /// The swept `q` for the support as it is.
    fn read_column(&mut self) {
        for i in 0..self.n {
            self.column[i] = if self.support[i] { 0.0 } else { self.q[i] };
        }
        for k in (0..self.n).filter(|&k| self.support[k]) {
            // H_NS H_SS⁻¹ beside the support, and -H_SS⁻¹ on it.
            read_row(&self.tableau, k, self.n, &mut self.buffer);
            add_scaled(&mut self.column, -self.q[k], &self.buffer);
        }
    }

    /// Moves from the feasible point to the stationary point of the support, leaving those variables behind that
    /// would become negative on the way. Returns their number.
    fn make_feasible(&mut self) -> usize {
        let mut left = 0;
        loop {
            let infeasible = |(&s, &c): (&bool, &f64)| s & (c >= 0.0);
            if !self.support.iter().zip(&self.column).fold(false, |any, at| any | infeasible(at)) {
                break;
            }
            let mut first: Option<(usize, f64)> = None;
            for (k, ((&s, &c), &x)) in self.support.iter().zip(&self.column).zip(&self.x).enumerate() {
                if s && c >= 0.0 {
                    let share = if x > 0.0 { x / (x + c) } else { 0.0 };
                    if first.is_none_or(|(_, least)| share < least) {
                        first = Some((k, share));
                    }
                }
            }
            let Some((leaving, share)) = first else { break };
            for ((x, &c), &s) in self.x.iter_mut().zip(&self.column).zip(&self.support) {
                if s {
                    *x = (*x + share * (-c - *x)).max(0.0);
                }
            }
            self.x[leaving] = 0.0;
            self.support[leaving] = false;
            self.sweep(leaving, -1.0);
            self.barred.fill(false);
            left += 1;
        }
        for ((x, &c), &s) in self.x.iter_mut().zip(&self.column).zip(&self.support) {
            *x = if s { -c } else { 0.0 };
        }
        left
    }

    /// What rounding of `H` may make of the share of the column in the buffer that is outside the span of the support.
    fn noise(&self) -> f64 {
        let parts = self.buffer.iter().zip(&self.support).map(|(t, s)| if *s { t.abs() } else { 0.0 });
        64.0 * f64::EPSILON * (1.0 + parts.sum::<f64>()).powi(2)
    }

    /// Lets `j` in, if need be in the place of another; `false` for a ray.
    fn enter(&mut self, j: usize, flat: f64, seek_ray: bool) -> bool {
        read_row(&self.tableau, j, self.n, &mut self.buffer);
        let noise = self.noise();
        if self.buffer[j] <= noise.max(flat) {
            return self.exchange(j, noise, flat, seek_ray);
        }
        self.sweep(j, 1.0);
        self.support[j] = true;
        true
    }

    /// Lets `j`, which lies in the span of the support, take the place of another variable, or bars it if that would not
    /// lower the objective. `false` if nothing stands in its way, and rays are sought.
    fn exchange(&mut self, j: usize, noise: f64, flat: f64, seek_ray: bool) -> bool {
        let n = self.n;
        let (slope, share) = (-self.column[j], self.buffer[j].max(noise));
        let mut first: Option<(usize, f64)> = None;
        for k in (0..n).filter(|&k| self.support[k] && self.buffer[k] > FLAT.sqrt()) {
            let t = self.x[k] / self.buffer[k];
            if first.is_none_or(|(_, least)| t < least) {
                first = Some((k, t));
            }
        }
        let Some((leaving, t)) = first else {
            let h = &self.h[j * n..(j + 1) * n];
            let sum: f64 = h.iter().zip(&self.x).map(|(h, x)| h.abs() * x).sum();
            // |Jᵀ x|, as x is stationary.
            let length = self.q.iter().zip(&self.x).map(|(q, x)| -q * x).sum::<f64>().max(0.0).sqrt();
            let slack = FLAT.sqrt() * (self.q[j].abs() + length) + 64.0 * f64::EPSILON * sum;
            if seek_ray && slope > slack {
                for k in 0..n {
                    self.buffer[k] = if self.support[k] { (-self.buffer[k]).max(0.0) } else { 0.0 };
                }
                self.buffer[j] = 1.0;
                return false;
            }
            self.barred[j] = true;
            return true;
        };
        // What of j is outside the span of the others.
        let beside = self.buffer[j] - self.buffer[leaving].powi(2) / self.diagonal[leaving];
        if t * share > slope || beside <= flat {
            self.barred[j] = true;
            return true;
        }
        for k in (0..n).filter(|&k| self.support[k]) {
            self.x[k] = (self.x[k] - t * self.buffer[k]).max(0.0);
        }
        (self.x[leaving], self.x[j]) = (0.0, t);
        (self.support[leaving], self.support[j]) = (false, true);
        self.sweep(leaving, -1.0);
        self.sweep(j, 1.0);
        self.barred.fill(false);
        true
    }

    /// The variable whose coming in lowers the objective most.
    fn entering(&mut self) -> Option<usize> {
        let unit = 16.0 * f64::EPSILON * self.n as f64;
        let sum: f64 = self.x.iter().sum();
        // Without branches, of which half would be guessed wrong: first what each would gain, then the largest.
        let gains = self.column.iter().zip(&self.q).zip(&self.diagonal).map(|((&c, &q), &share)| {
            let slope = (c + unit * (q.abs() + sum)).min(0.0);
            slope * slope / share.max(FLAT)
        });
        self.buffer.clear();
        self.buffer.extend(gains);
        let (mut best, mut most) = (None, 0.0);
        for (j, &gain) in self.buffer.iter().enumerate() {
            if gain > most && !self.support[j] && !self.barred[j] {
                (best, most) = (Some(j), gain);
            }
        }
        best
    }

    /// Sweeps variable `k` into the support (`sign` 1) or out of it (-1).
    fn sweep(&mut self, k: usize, sign: f64) {
        let n = self.n;
        read_row(&self.tableau, k, n, &mut self.buffer);
        let (pivot, swept) = (self.buffer[k], self.column[k]);
        for (i, row) in self.tableau.chunks_exact_mut(n).enumerate() {
            let factor = self.buffer[i] / pivot;
            if i != k && factor != 0.0 {
                add_scaled(&mut row[i..], -factor, &self.buffer[i..]);
                self.column[i] -= factor * swept;
                self.diagonal[i] = row[i];
            }
            if i < k {
                row[k] = sign * factor;
            }
        }
        let row = &mut self.tableau[k * n..(k + 1) * n];
        row[k..].iter_mut().zip(&self.buffer[k..]).for_each(|(x, b)| *x = sign * b / pivot);
        row[k] = -1.0 / pivot;
        self.diagonal[k] = row[k];
        self.column[k] = sign * swept / pivot;
    }

    /// Iterative refinement on the support, and multipliers from the problem itself.
    fn improve(&mut self) {
        let n = self.n;
        let mut r = self.residual(&self.x);
        let mut x = self.x.clone();
        for _ in 0..3 {
            let off = self.on_support_largest(&r);
            if off <= f64::EPSILON * (self.on_support_largest(&self.q) + self.x.iter().sum::<f64>()) {
                break;
            }
            for k in (0..n).filter(|&k| self.support[k]) {
                read_row(&self.tableau, k, n, &mut self.buffer);
                let terms = self.buffer.iter().zip(&r).zip(&self.support);
                x[k] = self.x[k] + terms.map(|((t, r), s)| if *s { t * r } else { 0.0 }).sum::<f64>();
            }
            let better = self.residual(&x);
            if x.iter().any(|x| *x < 0.0) || self.on_support_largest(&better) >= off {
                break;
            }
            self.x.copy_from_slice(&x);
            r = better;
        }
        for (i, r) in r.into_iter().enumerate() {
            self.column[i] = if self.support[i] { -self.x[i] } else { r };
        }
    }

    /// `H x + q`.
    fn residual(&self, x: &[f64]) -> Vec<f64> {
        let mut r = self.q.clone();
        for (k, &x) in x.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            add_scaled(&mut r, x, &self.h[k * self.n..(k + 1) * self.n]);
        }
        r
    }

    fn on_support_largest(&self, r: &[f64]) -> f64 {
        largest(r.iter().zip(&self.support).map(|(r, s)| if *s { r.abs() } else { 0.0 }))
    }
}

/// Row `k` of a symmetric matrix `[n, n]` whose upper half is kept.
fn read_row(upper: &[f64], k: usize, n: usize, out: &mut Vec<f64>) {
    out.clear();
    out.extend((0..k).map(|i| upper[i * n + k]));
    out.extend_from_slice(&upper[k * n + k..(k + 1) * n]);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hard_jacobian, norms};
    use super::*;
    use crate::balance::gram::dot;
    use proptest::prelude::*;

    /// `H = J Jᵀ`, `q = J target`.
    fn solve(j: &[Vec<f64>], target: &[f64]) -> Vec<f64> {
        let mut solver = Nnqp::default();
        solver.set(j.len(), |a, b| dot(&j[a], &j[b]));
        solver.solve(|i| dot(&j[i], target));
        (0..j.len()).map(|i| solver.x(i)).collect()
    }

    /// `target + Jᵀ x`.
    fn residual(j: &[Vec<f64>], target: &[f64], x: &[f64]) -> Vec<f64> {
        (0..target.len()).map(|k| target[k] + j.iter().zip(x).map(|(g, x)| g[k] * x).sum::<f64>()).collect()
    }

    /// Squared distance of the target from the span of some rows, by orthogonalising twice; `None` if the coefficients
    /// are not positive.
    fn brute(j: &[Vec<f64>], target: &[f64]) -> f64 {
        let n = j.len();
        let mut best = dot(target, target);
        for mask in 1usize..1 << n {
            let rows: Vec<&Vec<f64>> = (0..n).filter(|i| mask >> i & 1 == 1).map(|i| &j[i]).collect();
            if let Some(x) = least_squares(&rows, target)
                && x.iter().all(|x| *x >= 0.0)
            {
                let r: Vec<f64> = (0..target.len())
                    .map(|k| target[k] + rows.iter().zip(&x).map(|(g, x)| g[k] * x).sum::<f64>())
                    .collect();
                best = best.min(dot(&r, &r));
            }
        }
        best
    }

    /// `x` with `target + sum x_k row_k` orthogonal to all rows; `None` for dependent rows.
    fn least_squares(rows: &[&Vec<f64>], target: &[f64]) -> Option<Vec<f64>> {
        let n = rows.len();
        let mut a: Vec<Vec<f64>> =
            rows.iter().map(|r| rows.iter().map(|s| dot(r, s)).chain([-dot(r, target)]).collect()).collect();
        for k in 0..n {
            let p = (k..n).max_by(|&x, &y| a[x][k].abs().total_cmp(&a[y][k].abs()))?;
            a.swap(k, p);
            if a[k][k].abs() < 1e-9 {
                return None;
            }
            let pivot = a[k].clone();
            for row in a.iter_mut().skip(k + 1) {
                let f = row[k] / pivot[k];
                row.iter_mut().zip(&pivot).for_each(|(x, p)| *x -= f * p);
            }
        }
        let mut x = vec![0.0; n];
        for k in (0..n).rev() {
            x[k] = (a[k][n] - (k + 1..n).map(|l| a[k][l] * x[l]).sum::<f64>()) / a[k][k];
        }
        Some(x)
    }

    #[test]
    fn takes_what_is_in_the_cone_away_and_leaves_the_rest() {
        let j = vec![vec![1.0, 0.0, 0.0], vec![0.0, 2.0, 0.0], vec![0.0, 4.0, 0.0], vec![0.0; 3]];
        let x = solve(&j, &[-3.0, -2.0, 5.0]);
        assert_eq!(residual(&j, &[-3.0, -2.0, 5.0], &x), [0.0, 0.0, 5.0]);
        assert_eq!(x[3], 0.0);
        assert_eq!(solve(&j, &[1.0, 1.0, 1.0]), [0.0; 4]);
    }

    #[test]
    fn without_a_least_value_there_is_a_ray() {
        // 0 is in the hull of the rows, so x may grow along the combination that vanishes.
        let j = [vec![2.0, 0.0], vec![-1.0, 1.0], vec![-1.0, -3.0], vec![0.0, 1.0]];
        let mut solver = Nnqp::default();
        solver.set(4, |a, b| dot(&j[a], &j[b]));
        assert!(!solver.solve_or_ray(|_| -1.0));
        let ray: Vec<f64> = (0..4).map(|i| solver.ray(i)).collect();
        let sum: Vec<f64> = (0..2).map(|k| j.iter().zip(&ray).map(|(g, r)| g[k] * r).sum()).collect();
        assert!(ray.iter().all(|r| *r >= 0.0) && ray.iter().sum::<f64>() > 0.1, "{ray:?}");
        assert!(sum.iter().all(|x| x.abs() < 1e-14), "{ray:?}");
        // Without the first, it is not; and there are more rows than columns.
        solver.set(3, |a, b| dot(&j[a + 1], &j[b + 1]));
        assert!(solver.solve_or_ray(|i| [-1.0, -1.0, 1.0][i]));
    }

    #[test]
    fn a_second_right_hand_side_starts_from_the_first() {
        let j: Vec<Vec<f64>> = (0..6).map(|i| (0..5).map(|k| ((7 * i + 3 * k) as f64).sin()).collect()).collect();
        let mut solver = Nnqp::default();
        solver.set(6, |a, b| dot(&j[a], &j[b]));
        for step in 0..50 {
            let target: Vec<f64> = (0..5).map(|k| (0.3 * step as f64 + k as f64).cos()).collect();
            solver.solve(|i| dot(&j[i], &target));
            let warm: Vec<f64> = (0..6).map(|i| solver.x(i)).collect();
            let (a, b) = (residual(&j, &target, &warm), residual(&j, &target, &solve(&j, &target)));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-12), "{step} {a:?} {b:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn meets_its_optimality_conditions(j in hard_jacobian(), seed in 0u32..1000) {
            let target: Vec<f64> = (0..j[0].len()).map(|k| f64::from(seed * 8 + k as u32).sin()).collect();
            let x = solve(&j, &target);
            prop_assert!(x.iter().all(|x| x.is_finite() && *x >= 0.0), "{:?}", x);
            let r = residual(&j, &target, &x);
            // Nearly opposite rows have large coefficients, whose rounding the residual cannot be rid of; rows that are
            // dependent to five digits are taken to be dependent.
            let norms = norms(&j);
            let size = 1.0 + x.iter().zip(&norms).map(|(x, n)| x * n).sum::<f64>();
            for (i, g) in j.iter().enumerate() {
                let multiplier = dot(g, &r);
                let least = -(1e-11 * size + 1e-4 * dot(&target, &target).sqrt()) * norms[i];
                prop_assert!(multiplier >= least, "{} {:?} {:?}", i, x, r);
                prop_assert!(x[i] * multiplier <= -x[i] * least, "{} {:?} {:?}", i, x, r);
            }
        }

        #[test]
        fn is_no_worse_than_trying_every_support(
            j in (1usize..7, 1usize..6).prop_flat_map(|(t, p)| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, p), t)),
        ) {
            let target: Vec<f64> = (0..j[0].len()).map(|k| 1.0 - 0.3 * k as f64).collect();
            let r = residual(&j, &target, &solve(&j, &target));
            prop_assert!(dot(&r, &r) <= brute(&j, &target) + 1e-12, "{} {}", dot(&r, &r), brute(&j, &target));
        }
    }
}
