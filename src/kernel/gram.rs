//! Inner products of rows: `J` is read once, whatever the number of rows.

use super::simd::dispatch;
use super::{CHUNK, Fragment, Real, parallel};

/// Lanes of one accumulator: two AVX registers of `f32`, which hides the latency of a fused multiply-add.
const LANES: usize = 16;
/// Rows against which one row is multiplied at a time: as many accumulators as the registers hold.
const GROUP: usize = 4;
/// Columns that stay in the first-level cache while all pairs of rows are formed.
const BLOCK: usize = 1024;

/// Adds the inner products of all pairs of rows to `gram`, `[T, T]` row-major and symmetric.
///
/// Products are summed in `F` over at most 64 terms per lane and in `f64` beyond, in an order that depends on the
/// lengths alone.
///
/// # Panics
/// If `gram` is not `T * T` for every fragment.
pub fn add_gram<F: Real>(fragments: &[Fragment<'_, F>], gram: &mut [f64]) {
    let chunks = chunks(fragments);
    let partial: Vec<Vec<f64>> = parallel::map(chunks.len(), |k| {
        let (fragment, start, end) = chunks[k];
        let rows: Vec<&[F]> =
            fragment.rows.iter().map(|row| if row.is_empty() { *row } else { &row[start..end] }).collect();
        let mut local = vec![0.0; rows.len() * rows.len()];
        gram_chunk(&rows, &mut local);
        local
    });
    for local in partial {
        assert_eq!(local.len(), gram.len(), "a fragment has another number of rows than the Gram matrix");
        for (sum, x) in gram.iter_mut().zip(local) {
            *sum += x;
        }
    }
    let n = gram.len().isqrt();
    for i in 0..n {
        for j in 0..i {
            gram[j * n + i] = gram[i * n + j];
        }
    }
}

/// Inner product of two slices of one length, summed as in [`add_gram`].
pub fn dot<F: Real>(a: &[F], b: &[F]) -> f64 {
    let parts: Vec<f64> = parallel::map(a.len().div_ceil(CHUNK), |k| {
        let range = k * CHUNK..((k + 1) * CHUNK).min(a.len());
        dot_chunk(&a[range.clone()], &b[range])
    });
    parts.iter().sum()
}

fn chunks<'a, 'b, F>(fragments: &'b [Fragment<'a, F>]) -> Vec<(&'b Fragment<'a, F>, usize, usize)> {
    fragments
        .iter()
        .flat_map(|f| (0..f.len).step_by(CHUNK).map(move |start| (f, start, (start + CHUNK).min(f.len))))
        .collect()
}

dispatch!(gram_chunk, gram_chunk_body, (rows: &[&[F]], out: &mut [f64]));
dispatch!(dot_chunk, dot_chunk_body, (a: &[F], b: &[F]) -> f64);

/// The lower triangle of the Gram matrix of some columns, block by block.
#[inline(always)]
fn gram_chunk_body<F: Real, const FMA: bool>(rows: &[&[F]], out: &mut [f64]) {
    let n = rows.len();
    let len = rows.iter().map(|r| r.len()).max().unwrap_or(0);
    for start in (0..len).step_by(BLOCK) {
        let end = (start + BLOCK).min(len);
        for i in (0..n).filter(|&i| !rows[i].is_empty()) {
            let a = &rows[i][start..end];
            let mut j = 0;
            while j + GROUP <= i + 1 {
                let group: [&[F]; GROUP] = std::array::from_fn(|k| column_block(rows[j + k], a, start, end));
                for (k, x) in dots::<F, GROUP, FMA>(a, group).into_iter().enumerate() {
                    if !rows[j + k].is_empty() {
                        out[i * n + j + k] += x;
                    }
                }
                j += GROUP;
            }
            for j in (j..=i).filter(|&j| !rows[j].is_empty()) {
                out[i * n + j] += dots::<F, 1, FMA>(a, [&rows[j][start..end]])[0];
            }
        }
    }
}

/// The block of a row, or of a stand-in of the right length where the row is zero (its result is dropped).
#[inline(always)]
fn column_block<'a, F>(row: &'a [F], stand_in: &'a [F], start: usize, end: usize) -> &'a [F] {
    if row.is_empty() { stand_in } else { &row[start..end] }
}

#[inline(always)]
fn dot_chunk_body<F: Real, const FMA: bool>(a: &[F], b: &[F]) -> f64 {
    a.chunks(BLOCK).zip(b.chunks(BLOCK)).map(|(a, b)| dots::<F, 1, FMA>(a, [b])[0]).sum()
}

/// Inner products of one block with `N` others of the same length.
#[inline(always)]
fn dots<F: Real, const N: usize, const FMA: bool>(a: &[F], b: [&[F]; N]) -> [f64; N] {
    let mut acc = [[F::default(); LANES]; N];
    let whole = a.len() / LANES * LANES;
    let b = b.map(|row| &row[..a.len()]);
    let mut k = 0;
    while k < whole {
        for (acc, row) in acc.iter_mut().zip(&b) {
            for lane in 0..LANES {
                acc[lane] = fused::<F, FMA>(a[k + lane], row[k + lane], acc[lane]);
            }
        }
        k += LANES;
    }
    std::array::from_fn(|i| {
        let tail: f64 = (whole..a.len()).map(|k| a[k].to_f64() * b[i][k].to_f64()).sum();
        acc[i].iter().map(|x| x.to_f64()).sum::<f64>() + tail
    })
}

/// `a * b + c`, in one rounding where that is one instruction.
#[inline(always)]
fn fused<F: Real, const FMA: bool>(a: F, b: F, c: F) -> F {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(rows: &[Vec<f64>]) -> Vec<f64> {
        let get = |i: usize, k: usize| rows[i].get(k).copied().unwrap_or(0.0);
        let len = rows.iter().map(Vec::len).max().unwrap_or(0);
        let n = rows.len();
        (0..n * n).map(|ij| (0..len).map(|k| get(ij / n, k) * get(ij % n, k)).sum()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn equals_the_plain_sum(n in 1usize..9, len in 0usize..5000, zero in 0usize..9, seed in 0u64..1000) {
            use rand::RngExt;
            let mut rng = crate::rng::rng(seed, crate::rng::Stream::Init, 0, 0);
            let mut rows: Vec<Vec<f64>> =
                (0..n).map(|_| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
            if zero < n {
                rows[zero].clear();
            }
            let expected = naive(&rows);
            let fragment = Fragment { len, rows: rows.iter().map(Vec::as_slice).collect() };
            let mut gram = vec![0.0; n * n];
            add_gram(&[fragment], &mut gram);
            for (got, want) in gram.iter().zip(&expected) {
                prop_assert!((got - want).abs() <= 1e-9 * (1.0 + want.abs()), "{got} {want}");
            }
            let single: Vec<Vec<f32>> = rows.iter().map(|r| r.iter().map(|&x| x as f32).collect()).collect();
            let fragment = Fragment { len, rows: single.iter().map(Vec::as_slice).collect() };
            let mut gram = vec![0.0; n * n];
            add_gram(&[fragment], &mut gram);
            for (got, want) in gram.iter().zip(&expected) {
                prop_assert!((got - want).abs() <= 2e-4 * (1.0 + want.abs()), "{got} {want}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_bits() {
        let a: Vec<f32> = (0..300_000).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..300_000).map(|i| (i as f32 * 0.11).cos()).collect();
        let run = |threads| {
            tch::set_num_threads(threads);
            let mut gram = vec![0.0; 4];
            add_gram(&[Fragment { len: a.len(), rows: vec![&a, &b] }], &mut gram);
            (gram, dot(&a, &b))
        };
        let (one, three) = (run(1), run(3));
        assert_eq!(one, three);
        assert_eq!(one.0[1], one.0[2]);
    }
}
