//! Numbers to exchange, and what must come of them.

use half::bf16;
use tch::{Kind, Tensor};

pub const KINDS: [Kind; 3] = [Kind::Float, Kind::Double, Kind::BFloat16];

/// What rank `rank` holds: fractions that do not add up exactly in `f32`.
pub fn numbers(rank: usize, len: usize, kind: Kind) -> Vec<f64> {
    let fraction = |i: usize| ((rank * 7919 + i * 104_729 + 13) % 1000) as f64 / 37.0 - 11.0;
    (0..len).map(|i| rounded(fraction(i), kind)).collect()
}

/// As a number of this kind is stored.
fn rounded(x: f64, kind: Kind) -> f64 {
    match kind {
        Kind::Float => f64::from(x as f32),
        Kind::BFloat16 => bf16::from_f32(x as f32).to_f64(),
        _ => x,
    }
}

/// The sum over ranks, in their order, as the stand-in makes it.
pub fn sum(ranks: usize, len: usize, kind: Kind) -> Vec<f64> {
    let parts: Vec<Vec<f64>> = (0..ranks).map(|rank| numbers(rank, len, kind)).collect();
    let column = |i: usize| parts.iter().map(move |part| part[i]);
    (0..len)
        .map(|i| match kind {
            Kind::Double => column(i).sum(),
            _ => rounded(f64::from(column(i).map(|x| x as f32).sum::<f32>()), kind),
        })
        .collect()
}

/// A tensor within a larger one: (all, the part), with `PAD` numbers of `-1` on both sides.
pub fn embedded(data: &[f64], kind: Kind) -> (Tensor, Tensor) {
    let padded = [&[-1.0; PAD], data, &[-1.0; PAD]].concat();
    let all = Tensor::from_slice(&padded).to_kind(kind);
    let part = all.narrow(0, PAD as i64, data.len() as i64);
    (all, part)
}

const PAD: usize = 3;

/// The part of what [`embedded`] made, whose surroundings must be untouched.
#[track_caller]
pub fn part(all: &Tensor) -> Vec<f64> {
    let all = values(all);
    let (len, edge) = (all.len(), [-1.0; PAD]);
    assert_eq!((&all[..PAD], &all[len - PAD..]), (&edge[..], &edge[..]), "written outside of the tensor");
    all[PAD..len - PAD].to_vec()
}

pub fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
}
