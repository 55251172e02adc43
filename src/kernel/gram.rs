//! Inner products of rows: `J` is read once, whatever the number of rows.

use super::{CHUNK, Fragment, Real, parallel};

/// Lanes of one accumulator: two AVX registers of `f32`, so that one multiply-add need not wait for the last.
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

/// The lower triangle of the Gram matrix of some columns, block by block.
pub(super) fn gram_chunk<F: Real>(rows: &[&[F]], out: &mut [f64]) {
    let n = rows.len();
    let len = rows.iter().map(|r| r.len()).max().unwrap_or(0);
    for start in (0..len).step_by(BLOCK) {
        let end = (start + BLOCK).min(len);
        for i in (0..n).filter(|&i| !rows[i].is_empty()) {
            let a = &rows[i][start..end];
            for j in (0..=i).step_by(GROUP) {
                let out = &mut out[i * n + j..=i * n + i];
                let others = &rows[j..=i];
                match others.len() {
                    1 => add_group::<F, 1>(a, others, start, end, out),
                    2 => add_group::<F, 2>(a, others, start, end, out),
                    3 => add_group::<F, 3>(a, others, start, end, out),
                    _ => add_group::<F, GROUP>(a, others, start, end, out),
                }
            }
        }
    }
}

/// Adds the inner products of one block of a row with the first `N` of some rows.
fn add_group<F: Real, const N: usize>(a: &[F], rows: &[&[F]], start: usize, end: usize, out: &mut [f64]) {
    let group: [&[F]; N] = std::array::from_fn(|k| column_block(rows[k], a, start, end));
    for ((x, row), out) in F::dots(a, group).into_iter().zip(rows).zip(out) {
        if !row.is_empty() {
            *out += x;
        }
    }
}

/// The block of a row, or of a stand-in of the right length where the row is zero (its result is dropped).
fn column_block<'a, F>(row: &'a [F], stand_in: &'a [F], start: usize, end: usize) -> &'a [F] {
    if row.is_empty() { stand_in } else { &row[start..end] }
}

fn dot_chunk<F: Real>(a: &[F], b: &[F]) -> f64 {
    a.chunks(BLOCK).zip(b.chunks(BLOCK)).map(|(a, b)| F::dots(a, [b])[0]).sum()
}

/// Inner products of one block with `N` others of the same length.
pub(super) fn plain_dots<F: Real, const N: usize>(a: &[F], b: [&[F]; N]) -> [f64; N] {
    let (x, tail) = a.as_chunks::<LANES>();
    let rows = b.map(|row| &row.as_chunks::<LANES>().0[..x.len()]);
    let mut acc = [[F::default(); LANES]; N];
    for (k, x) in x.iter().enumerate() {
        for (acc, row) in acc.iter_mut().zip(&rows) {
            acc.iter_mut().zip(x).zip(&row[k]).for_each(|((acc, &x), &y)| *acc += x * y);
        }
    }
    let at = a.len() - tail.len();
    std::array::from_fn(|i| acc[i].iter().map(|x| x.to_f64()).sum::<f64>() + rest(tail, &b[i][at..]))
}

/// As [`plain_dots`], with AVX2 and FMA where the machine has them: written out, because the compiler makes scalar code
/// of it as soon as it is inlined.
pub(super) fn dots_f32<const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f64; N] {
    #[cfg(target_arch = "x86_64")]
    if super::simd::wide() {
        // SAFETY: the features were just found on this machine; that is all that `wide_dots` asks for.
        return unsafe { wide_dots(a, b) };
    }
    plain_dots(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn wide_dots<const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f64; N] {
    use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    const HALF: usize = LANES / 2;
    // SAFETY: a reference to eight floats is a readable place of 32 bytes, and the load needs no alignment.
    let load = |x: &[f32; HALF]| unsafe { _mm256_loadu_ps(x.as_ptr()) };
    let (x, tail) = a.as_chunks::<HALF>();
    // Two accumulators per row, so that one addition need not wait for the last.
    let (pairs, odd) = x.as_chunks::<2>();
    let rows = b.map(|row| &row.as_chunks::<HALF>().0[..x.len()]);
    let mut acc: [[__m256; 2]; N] = [[_mm256_setzero_ps(); 2]; N];
    for (k, [low, high]) in pairs.iter().enumerate() {
        let (low, high) = (load(low), load(high));
        for i in 0..N {
            let row = &rows[i][2 * k..2 * k + 2];
            acc[i][0] = _mm256_fmadd_ps(low, load(&row[0]), acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(high, load(&row[1]), acc[i][1]);
        }
    }
    if let [last] = odd {
        let last = load(last);
        for i in 0..N {
            acc[i][0] = _mm256_fmadd_ps(last, load(&rows[i][x.len() - 1]), acc[i][0]);
        }
    }
    let at = a.len() - tail.len();
    std::array::from_fn(|i| {
        let mut lanes = [0f32; LANES];
        for (half, acc) in lanes.as_chunks_mut::<HALF>().0.iter_mut().zip(acc[i]) {
            // SAFETY: a reference to eight floats is a writable place of 32 bytes; no alignment is needed.
            unsafe { _mm256_storeu_ps(half.as_mut_ptr(), acc) };
        }
        lanes.iter().map(|&x| f64::from(x)).sum::<f64>() + rest(tail, &b[i][at..])
    })
}

/// The last few products.
fn rest<F: Real>(a: &[F], b: &[F]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x.to_f64() * y.to_f64()).sum()
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
