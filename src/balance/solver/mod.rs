//! Small convex problems in `f64`: deterministic, with a stated tolerance and a cap on iterations.
//!
//! All are free of scale: they work on cosines and on ratios of norms, so that multiplying all gradients, or one of
//! them, by a constant costs no digits, and there are no absolute epsilons.
//!
//! | problem | who asks | how |
//! |---|---|---|
//! | [`Nnqp`] least `xᵀHx/2 + qᵀx` over `x >= 0` | UPGrad, DualProj, and the next two | active set |
//! | [`min_norm`] shortest point of a convex hull | MGDA | closed form, [`Nnqp`] |
//! | [`worst_in_ball`] largest worst improvement near a point | CAGrad | closed form, path of [`Nnqp`] |
//! | [`Fair`] `G w = w^(-1/alpha)` | Nash-MTL, FairGrad | closed form, damped Newton |

mod ball;
mod min_norm;
mod newton;
mod nnqp;

pub use ball::worst_in_ball;
pub use min_norm::min_norm;
pub use newton::Fair;
pub use nnqp::Nnqp;

/// `out += a * x`; a loop that the compiler can vectorise, which a sum is not.
fn add_scaled(out: &mut [f64], a: f64, x: &[f64]) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o += a * x);
}

fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, f64::max)
}

/// Problems of the tests, hard ones included.
#[cfg(test)]
pub(crate) mod testing {
    use crate::balance::gram::dot;
    use proptest::prelude::*;

    /// `[T, P]` matrices of up to 8 rows with what makes problems hard: more rows than columns, and rows that are zero,
    /// equal to others, opposite, opposite but for something that counts or is rounding, combinations of others, or of
    /// another scale.
    pub fn hard_jacobian() -> impl Strategy<Value = Vec<Vec<f64>>> {
        let rows = (1usize..9, 1usize..9)
            .prop_flat_map(|(t, p)| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, p), t));
        (rows, prop::collection::vec((0usize..15, 0usize..8, 0usize..8), 0..4)).prop_map(|(mut j, changes)| {
            let n = j.len();
            for (kind, to, from) in changes {
                let (to, from) = (to % n, from % n);
                let source = j[from].clone();
                let other = j[(from + 1) % n].clone();
                j[to] = match kind {
                    0 => vec![0.0; source.len()],
                    1 | 2 => source,
                    3 | 4 => source.iter().map(|x| -x).collect(),
                    5 => source.iter().zip(&other).map(|(x, y)| -x + 1e-3 * y).collect(),
                    11 => source.iter().zip(&other).map(|(x, y)| -x + 1e-9 * y).collect(),
                    6 | 7 => source.iter().zip(&other).map(|(x, y)| 0.5 * x - 2.0 * y).collect(),
                    8 => source.iter().map(|x| x * 1e15).collect(),
                    9 => source.iter().map(|x| x * 1e-15).collect(),
                    10 => source.iter().map(|x| x * -1e6).collect(),
                    _ => j[to].clone(),
                };
            }
            j
        })
    }

    /// 40 rows of `p` columns that conflict in about half of all pairs.
    pub fn forty(p: usize) -> Vec<Vec<f64>> {
        let entry = |i: usize, k: usize| ((i * i + 17 * i * k + 3 * k) as f64).sin() + 0.02;
        (0..40).map(|i| (0..p).map(|k| entry(i, k)).collect()).collect()
    }

    /// Norms of the rows.
    pub fn norms(j: &[Vec<f64>]) -> Vec<f64> {
        j.iter().map(|g| dot(g, g).sqrt()).collect()
    }
}
