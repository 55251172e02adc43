//! Combine rows with coefficients and optimize, in one pass: the combined gradient never goes to memory.

use super::simd::dispatch;
use super::{CHUNK, Fragment, Real, parallel};

/// Columns whose combined gradient stays in the first-level cache.
const BLOCK: usize = 2048;

/// How a parameter follows its gradient. Constants are those of the current step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule<F> {
    /// `b <- momentum * b + u` (first step: `b <- u`), `p <- p - lr * b` (Nesterov: `u + momentum * b`), where `u`
    /// holds the L2 term.
    Sgd {
        /// Learning rate.
        lr: F,
        /// Momentum; 0 leaves the buffer alone.
        momentum: F,
        /// Nesterov's form.
        nesterov: bool,
        /// L2 regularisation.
        weight_decay: F,
        /// Whether the momentum buffer is still empty.
        first: bool,
    },
    /// Adam and AdamW, as in PyTorch.
    Adam {
        /// `lr / (1 - beta1^t)`.
        step_size: F,
        /// `1 / sqrt(1 - beta2^t)`.
        inv_sqrt_bias2: F,
        /// First decay rate.
        beta1: F,
        /// Second decay rate.
        beta2: F,
        /// `1 - beta1`, rounded once from `f64`.
        one_minus_beta1: F,
        /// `1 - beta2`, rounded once from `f64`.
        one_minus_beta2: F,
        /// Added to the root.
        eps: F,
        /// L2 regularisation in the gradient (Adam).
        l2: F,
        /// Factor `1 - lr * weight_decay` of the parameter (AdamW).
        keep: F,
    },
}

/// A range of parameters with the rows of gradients that move it.
#[derive(Debug)]
pub struct Piece<'a, F> {
    /// Rows; a row's coefficient is the entry of `coef` with its index.
    pub grads: Fragment<'a, F>,
    /// Coefficients of the rows.
    pub coef: &'a [F],
    /// Parameters, changed in place.
    pub param: &'a mut [F],
    /// First state (momentum or first moment), changed in place.
    pub first: &'a mut [F],
    /// Second state (second moment; empty for SGD), changed in place.
    pub second: &'a mut [F],
}

/// Moves the parameters of all pieces by `rule`; returns the squared norm of the combined gradient.
///
/// A NaN or infinity in the gradient shows in the result, after the parameters took it.
pub fn update<F: Real>(rule: Rule<F>, pieces: Vec<Piece<'_, F>>) -> f64 {
    let chunks: Vec<Piece<'_, F>> = pieces.into_iter().flat_map(cut).collect();
    let norms = parallel::consume(chunks, |piece| run_piece(rule, piece));
    norms.iter().sum()
}

/// Cuts a piece into chunks.
fn cut<F: Real>(piece: Piece<'_, F>) -> Vec<Piece<'_, F>> {
    let Piece { grads, coef, param, first, second } = piece;
    let mut parts = Vec::with_capacity(grads.len.div_ceil(CHUNK));
    let firsts = first.chunks_mut(CHUNK).map(Some).chain(std::iter::repeat_with(|| None));
    let seconds = second.chunks_mut(CHUNK).map(Some).chain(std::iter::repeat_with(|| None));
    for (((k, param), first), second) in param[..grads.len].chunks_mut(CHUNK).enumerate().zip(firsts).zip(seconds) {
        let range = k * CHUNK..k * CHUNK + param.len();
        let rows = grads.rows.iter().map(|row| if row.is_empty() { *row } else { &row[range.clone()] }).collect();
        parts.push(Piece {
            grads: Fragment { len: param.len(), rows },
            coef,
            param,
            first: first.unwrap_or_default(),
            second: second.unwrap_or_default(),
        });
    }
    parts
}

dispatch!(run_piece, run_piece_body, (rule: Rule<F>, piece: Piece<'_, F>) -> f64);

#[inline(always)]
fn run_piece_body<F: Real>(rule: Rule<F>, piece: Piece<'_, F>) -> f64 {
    let Piece { grads, coef, param, first, second } = piece;
    let mut buffer = [F::default(); BLOCK];
    let mut norm = 0.0;
    for start in (0..grads.len).step_by(BLOCK) {
        let end = (start + BLOCK).min(grads.len);
        let u = &mut buffer[..end - start];
        combine(&grads.rows, coef, start, u);
        norm += squared_norm(u);
        match rule {
            Rule::Sgd { lr, momentum, nesterov, weight_decay, first: fresh } => {
                let p = &mut param[start..end];
                if momentum == F::default() {
                    for (p, u) in p.iter_mut().zip(u) {
                        *p -= lr * (*u + weight_decay * *p);
                    }
                    continue;
                }
                for ((p, b), u) in p.iter_mut().zip(&mut first[start..end]).zip(u) {
                    let g = *u + weight_decay * *p;
                    *b = if fresh { g } else { momentum * *b + g };
                    *p -= lr * if nesterov { g + momentum * *b } else { *b };
                }
            }
            Rule::Adam { step_size, inv_sqrt_bias2, beta1, beta2, one_minus_beta1, one_minus_beta2, eps, l2, keep } => {
                let states = first[start..end].iter_mut().zip(&mut second[start..end]);
                for ((p, (m, v)), u) in param[start..end].iter_mut().zip(states).zip(u) {
                    let g = *u + l2 * *p;
                    *m = beta1 * *m + one_minus_beta1 * g;
                    *v = beta2 * *v + one_minus_beta2 * g * g;
                    *p = *p * keep - step_size * *m / ((*v).sqrt() * inv_sqrt_bias2 + eps);
                }
            }
        }
    }
    norm
}

/// `u = sum_t coef[t] * rows[t][start ..]`.
#[inline(always)]
pub(super) fn combine<F: Real>(rows: &[&[F]], coef: &[F], start: usize, u: &mut [F]) {
    let mut fresh = true;
    for (row, &c) in rows.iter().zip(coef).filter(|(row, _)| !row.is_empty()) {
        let row = &row[start..start + u.len()];
        if fresh {
            for (u, &g) in u.iter_mut().zip(row) {
                *u = c * g;
            }
        } else {
            for (u, &g) in u.iter_mut().zip(row) {
                *u += c * g;
            }
        }
        fresh = false;
    }
    if fresh {
        u.fill(F::default());
    }
}

#[inline(always)]
fn squared_norm<F: Real>(u: &[F]) -> f64 {
    let mut acc = [F::default(); 16];
    let (whole, tail) = u.as_chunks::<16>();
    for block in whole {
        for (a, &x) in acc.iter_mut().zip(block) {
            *a += x * x;
        }
    }
    acc.iter().map(|x| x.to_f64()).sum::<f64>() + tail.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combines_rows_and_skips_zero_ones() {
        let n = CHUNK + 77;
        let a: Vec<f64> = (0..n).map(|i| i as f64).collect();
        let b: Vec<f64> = (0..n).map(|i| 1.0 - i as f64).collect();
        let mut p = vec![0.0; n];
        let rule = Rule::Sgd { lr: 1.0, momentum: 0.0, nesterov: false, weight_decay: 0.0, first: true };
        let piece = Piece {
            grads: Fragment { len: n, rows: vec![&a, &[], &b] },
            coef: &[2.0, 5.0, 1.0],
            param: &mut p,
            first: &mut [],
            second: &mut [],
        };
        let norm = update(rule, vec![piece]);
        assert!(p.iter().enumerate().all(|(i, &p)| p == -(1.0 + i as f64)));
        assert_eq!(norm, p.iter().map(|p| p * p).sum::<f64>());
    }

    #[test]
    fn rows_that_are_all_empty_move_nothing_but_the_decay() {
        let mut p = vec![2.0f32; 5];
        let rule = Rule::Sgd { lr: 0.5, momentum: 0.0, nesterov: false, weight_decay: 0.1, first: true };
        let piece = Piece {
            grads: Fragment { len: 5, rows: vec![&[]] },
            coef: &[1.0],
            param: &mut p,
            first: &mut [],
            second: &mut [],
        };
        assert_eq!(update(rule, vec![piece]), 0.0);
        assert_eq!(p, [1.9; 5]);
    }
}
