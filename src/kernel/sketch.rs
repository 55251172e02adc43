//! Random sketches of rows: `dim` numbers instead of `P`, whose inner products estimate those of the rows.
//!
//! A sketch is linear, so that sketches of what the ranks hold add up to the sketch of the global rows: `T * dim` numbers
//! travel instead of `T * P`. It is a count sketch in a form that runs at memory speed (Charikar, Chen, Farach-Colton,
//! "Finding frequent items in data streams", 2002): the row is cut into blocks of `dim`; each block, with random signs
//! and turned by a random amount, is added to the `dim` numbers.
//!
//! Coordinate `i` goes to bucket `(i + shift(i / dim)) % dim` with sign `sign(i)`. Two coordinates of one block never
//! meet, two of different blocks meet with probability `1 / dim`, and signs are independent; so for any rows `a`, `b`
//! the inner product of their sketches has mean `<a, b>` and variance `(|a|² |b|² + <a, b>²) / dim` at most. The random
//! turns are what makes this hold for gradients whose entries repeat with the width of a layer: without them, all
//! coordinates of a column of a weight matrix would meet as soon as the width divides `dim`.
//!
//! Signs and shifts are functions of (seed, step) and of the coordinate's place among the unpadded parameters. Neither
//! the number of ranks nor the way a row comes in pieces changes anything, not even a bit if the pieces come in order.

use super::simd::dispatch;
use super::{Fragment, Real, add_gram, parallel};

/// Buckets that one thread fills: they stay in the cache nearest to the core while a row streams past.
const TILE: usize = 4096;
/// Coordinates whose signs come from one draw.
const WORD: usize = 64;
/// The odd number nearest to `2^64` over the golden ratio: steps of a counter that visits every value.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A random linear map from rows of any length to `dim` numbers; the same on all ranks, another one at every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sketch {
    signs: u64,
    shifts: u64,
    dim: usize,
}

/// Consecutive coordinates of one row.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a, F> {
    /// Index of the row (task).
    pub row: usize,
    /// Place of the first coordinate among the **unpadded** parameters that rows have.
    pub place: u64,
    /// The coordinates. Those of which a row has no span are zero: tasks need not reach the same parameters.
    pub values: &'a [F],
}

impl Sketch {
    /// The map of a step.
    ///
    /// # Panics
    /// If `dim` is 0.
    pub fn new(seed: u64, step: u64, dim: usize) -> Self {
        assert_ne!(dim, 0, "a sketch has at least one number");
        let key = mix(mix(seed).wrapping_add(step.wrapping_mul(GOLDEN)));
        Sketch { signs: key, shifts: mix(key ^ GOLDEN), dim }
    }

    /// Numbers of a sketch.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Adds the sketches of pieces of rows to `sketches` `[T, dim]`, row-major. Each piece is read once.
    ///
    /// # Panics
    /// If `sketches` is no whole number of sketches, or lacks the row of a span.
    pub fn add<F: Real>(&self, spans: &[Span<'_, F>], sketches: &mut [F]) {
        assert!(sketches.len().is_multiple_of(self.dim), "sketches of {} numbers each", self.dim);
        let n_rows = sketches.len() / self.dim;
        assert!(spans.iter().all(|span| span.row < n_rows), "a span's row is none of {n_rows}");
        let rows = sketches.chunks_mut(self.dim).enumerate();
        let jobs = rows
            .flat_map(|(row, sketch)| sketch.chunks_mut(TILE).enumerate().map(move |(k, tile)| (row, k * TILE, tile)));
        parallel::consume(jobs.collect(), |(row, start, tile)| {
            spans.iter().filter(|span| span.row == row).for_each(|span| self.fill(span, start, tile));
        });
    }

    /// Inner products of all pairs of sketches, `[T, T]`: an unbiased estimate of the Gram matrix.
    ///
    /// # Panics
    /// If `sketches` is no whole number of sketches.
    pub fn products<F: Real>(&self, sketches: &[F]) -> Vec<f64> {
        assert!(sketches.len().is_multiple_of(self.dim), "sketches of {} numbers each", self.dim);
        let rows: Vec<&[F]> = sketches.chunks(self.dim).collect();
        let mut gram = vec![0.0; rows.len() * rows.len()];
        add_gram(&[Fragment { len: self.dim, rows }], &mut gram);
        gram
    }

    /// The 64 random bits that are the signs of coordinates `64 k .. 64 (k + 1)`: coordinate `i` of each half has bit `31 - i`
    /// of that half, the lower half comes first, and a set bit is a minus.
    pub fn sign_bits(&self, k: u64) -> u64 {
        let [low, high] = sign_words(self.signs, k);
        u64::from(low) | u64::from(high) << 32
    }

    /// Adds what a span brings to the buckets from `start` on.
    fn fill<F: Real>(&self, span: &Span<'_, F>, start: usize, tile: &mut [F]) {
        let dim = self.dim as u64;
        let (first, end) = (span.place, span.place + span.values.len() as u64);
        if first == end {
            return;
        }
        for block in first / dim..=(end - 1) / dim {
            let shift = self.shift(block);
            // In this block the tile's buckets are one run of coordinates, or two where the turn wraps around.
            let from = (start + self.dim - shift) % self.dim;
            let before_wrap = tile.len().min(self.dim - from);
            for (coordinates, at) in [(from..from + before_wrap, 0), (0..tile.len() - before_wrap, before_wrap)] {
                let low = (block * dim + coordinates.start as u64).max(first);
                let high = (block * dim + coordinates.end as u64).min(end);
                if low < high {
                    let at = at + (low - block * dim) as usize - coordinates.start;
                    let values = &span.values[(low - first) as usize..(high - first) as usize];
                    add_run(self.signs, low, values, &mut tile[at..at + values.len()]);
                }
            }
        }
    }

    /// By how much block `block` of `dim` coordinates is turned, uniform in `0..dim`: for those who compute the map by
    /// themselves, elsewhere than in the memory of the host.
    pub fn shift(&self, block: u64) -> usize {
        let draw = mix(self.shifts.wrapping_add(block.wrapping_mul(GOLDEN)));
        ((u128::from(draw) * self.dim as u128) >> 64) as usize
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): turns a counter into independent-looking bits.
#[inline(always)]
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Signs of the coordinates `64 k .. 64 (k + 1)`: of the `j`-th in each half, the highest bit of the half shifted by `j`.
#[inline(always)]
fn sign_words(signs: u64, k: u64) -> [u32; 2] {
    let draw = mix(signs.wrapping_add(k.wrapping_mul(GOLDEN)));
    [draw as u32, (draw >> 32) as u32]
}

// `sums += sign(i) * values` for the coordinates from `first` on.
dispatch!(add_run, add_run_body, (signs: u64, first: u64, values: &[F], sums: &mut [F]));

#[inline(always)]
fn add_run_body<F: Real>(signs: u64, first: u64, values: &[F], sums: &mut [F]) {
    let head = (first.next_multiple_of(WORD as u64) - first).min(values.len() as u64) as usize;
    let (head_values, values) = values.split_at(head);
    let (head_sums, sums) = sums.split_at_mut(head);
    add_part(signs, first, head_values, head_sums);
    let first = first + head as u64;
    let (words, tail) = values.as_chunks::<WORD>();
    let (sum_words, sum_tail) = sums.as_chunks_mut::<WORD>();
    for (k, (values, sums)) in words.iter().zip(sum_words).enumerate() {
        let halves = sign_words(signs, first / WORD as u64 + k as u64);
        for (half, word) in halves.into_iter().enumerate() {
            for j in 0..WORD / 2 {
                let i = half * (WORD / 2) + j;
                sums[i] += values[i].flip(word << j);
            }
        }
    }
    add_part(signs, first + (values.len() - tail.len()) as u64, tail, sum_tail);
}

/// As `add_run`, for coordinates of one word.
#[inline(always)]
fn add_part<F: Real>(signs: u64, first: u64, values: &[F], sums: &mut [F]) {
    let halves = sign_words(signs, first / WORD as u64);
    for (i, (sum, &x)) in (first as usize % WORD..).zip(sums.iter_mut().zip(values)) {
        *sum += x.flip(halves[i / (WORD / 2)] << (i % (WORD / 2)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, rng};
    use proptest::prelude::*;
    use rand::RngExt;

    fn draw(seed: u64, n: usize) -> Vec<f64> {
        let mut rng = rng(seed, Stream::Init, 0, 0);
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn whole<F: Real>(sketch: Sketch, row: &[F]) -> Vec<F> {
        let mut out = vec![F::default(); sketch.dim()];
        sketch.add(&[Span { row: 0, place: 0, values: row }], &mut out);
        out
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// The definition, coordinate by coordinate.
    fn plain(sketch: Sketch, row: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; sketch.dim()];
        for (i, x) in row.iter().enumerate() {
            let word = mix(sketch.signs.wrapping_add((i as u64 / 64).wrapping_mul(GOLDEN)));
            let bit = if i % 64 < 32 { 31 - i % 32 } else { 63 - i % 32 };
            let sign = if (word >> bit) & 1 == 1 { -1.0 } else { 1.0 };
            out[(i + sketch.shift((i / sketch.dim()) as u64)) % sketch.dim()] += sign * x;
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn is_what_its_definition_says(n in 0usize..30_000, dim in 1usize..9000, seed: u64, step in 0u64..50) {
            let sketch = Sketch::new(seed, step, dim);
            let row = draw(seed, n);
            prop_assert_eq!(whole(sketch, &row), plain(sketch, &row));
        }

        #[test]
        fn pieces_give_the_bits_of_the_whole(n in 1usize..20_000, dim in 1usize..6000, seed: u64, cuts in 1usize..9) {
            let sketch = Sketch::new(seed, 3, dim);
            let row: Vec<f32> = draw(seed, n).iter().map(|&x| x as f32).collect();
            let mut edges: Vec<usize> = draw(seed ^ 1, cuts).iter().map(|x| ((x + 1.0) / 2.0 * n as f64) as usize).collect();
            edges.extend([0, n]);
            edges.sort_unstable();
            let span = |w: &[usize]| Span { row: 0, place: w[0] as u64, values: &row[w[0]..w[1]] };
            let spans: Vec<Span<'_, f32>> = edges.windows(2).map(span).collect();
            let mut at_once = vec![0.0; dim];
            sketch.add(&spans, &mut at_once);
            let mut one_by_one = vec![0.0; dim];
            spans.iter().for_each(|span| sketch.add(std::slice::from_ref(span), &mut one_by_one));
            prop_assert_eq!(&at_once, &whole(sketch, &row));
            prop_assert_eq!(&one_by_one, &at_once);
        }

        #[test]
        fn is_linear(n in 1usize..5000, dim in 1usize..600, seed: u64) {
            let sketch = Sketch::new(seed, 0, dim);
            let (a, b) = (draw(seed, n), draw(seed ^ 7, n));
            let sum: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 2.0 * a - 0.5 * b).collect();
            for ((a, b), sum) in whole(sketch, &a).iter().zip(whole(sketch, &b)).zip(whole(sketch, &sum)) {
                prop_assert!((2.0 * a - 0.5 * b - sum).abs() < 1e-9, "{a} {b} {sum}");
            }
        }
    }

    /// Mean and variance over many maps of the estimate of `<a, b>`, in units of the bound's square root and the bound.
    #[track_caller]
    fn check_moments(a: &[f64], b: &[f64], dim: usize) {
        const MAPS: usize = 4000;
        let errors: Vec<f64> = (0..MAPS as u64)
            .map(|step| {
                let sketch = Sketch::new(11, step, dim);
                dot(&whole(sketch, a), &whole(sketch, b)) - dot(a, b)
            })
            .collect();
        let mean = errors.iter().sum::<f64>() / MAPS as f64;
        let variance = errors.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (MAPS - 1) as f64;
        let standard_error = (variance / MAPS as f64).sqrt();
        assert!(mean.abs() <= 4.0 * standard_error + 1e-12, "mean {mean}, standard error {standard_error}");
        let sharp = (dot(a, a) * dot(b, b) + dot(a, b) * dot(a, b)) / dim as f64;
        // The variance of a variance: a tenth is four standard errors of it and more.
        assert!(variance <= 1.1 * sharp, "variance {variance}, bound {sharp}");
        assert!(variance <= 2.0 / dim as f64 * dot(a, a) * dot(b, b) * 1.1);
    }

    #[test]
    fn estimates_are_unbiased_with_the_promised_variance() {
        let (a, b) = (draw(1, 700), draw(2, 700));
        let opposed: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 0.3 * b - a).collect();
        for dim in [16, 37, 128] {
            check_moments(&a, &b, dim);
            check_moments(&a, &opposed, dim);
            check_moments(&a, &a, dim);
        }
    }

    /// Gradients of a layer of which one input is alive: entries a width apart, where the width divides `dim`.
    #[test]
    fn the_width_of_a_layer_does_not_resonate_with_the_dimension() {
        for (width, dim) in [(64, 64), (32, 128), (128, 64)] {
            let column =
                |seed| (0..width * 40).map(move |i| if i % width == 5 { draw(seed + i as u64, 1)[0] } else { 0.0 });
            check_moments(&column(1).collect::<Vec<_>>(), &column(9000).collect::<Vec<_>>(), dim);
        }
    }

    /// Three tasks, of which parameters are reached by (0, 1, 2), (0, 2) and (1, 2): `G` adds up over what both reach.
    #[test]
    fn rows_may_reach_different_parameters() {
        let lens = [5000usize, 3000, 2000];
        let scopes: [&[usize]; 3] = [&[0, 1, 2], &[0, 2], &[1, 2]];
        let mut exact = [0.0; 9];
        let (mut blocks, mut place) = (Vec::new(), 0);
        for (s, (&len, scope)) in lens.iter().zip(scopes).enumerate() {
            // Rows that agree in part, so that every product is far from zero.
            let rows: Vec<(usize, u64, Vec<f64>)> = scope
                .iter()
                .map(|&t| {
                    let (own, common) = (draw(100 * s as u64 + t as u64, len), draw(5000 + s as u64, len));
                    (t, place, own.iter().zip(common).map(|(x, c)| x + c).collect())
                })
                .collect();
            for (t, _, a) in &rows {
                rows.iter().for_each(|(u, _, b)| exact[t * 3 + u] += dot(a, b));
            }
            place += len as u64;
            blocks.extend(rows);
        }
        let spans: Vec<Span<'_, f64>> =
            blocks.iter().map(|(row, place, values)| Span { row: *row, place: *place, values }).collect();
        let sketch = Sketch::new(5, 0, 8192);
        let mut sketches = vec![0.0; 3 * sketch.dim()];
        sketch.add(&spans, &mut sketches);
        let found = sketch.products(&sketches);
        for k in 0..9 {
            let scale = (exact[k / 3 * 4] * exact[k % 3 * 4]).sqrt();
            assert!((found[k] - exact[k]).abs() < 4.0 * (2.0 / 8192f64).sqrt() * scale, "{k}: {found:?} {exact:?}");
        }
    }

    #[test]
    fn seeds_and_steps_draw_other_maps() {
        let row = draw(3, 1000);
        let first = whole(Sketch::new(1, 0, 64), &row);
        assert_eq!(first, whole(Sketch::new(1, 0, 64), &row));
        assert_ne!(first, whole(Sketch::new(1, 1, 64), &row));
        assert_ne!(first, whole(Sketch::new(2, 0, 64), &row));
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_bits() {
        let row: Vec<f32> = draw(4, 200_000).iter().map(|&x| x as f32).collect();
        let run = |threads| {
            tch::set_num_threads(threads);
            whole(Sketch::new(1, 0, 20_000), &row)
        };
        assert_eq!(run(1), run(3));
    }

    /// A row of 16 MB against the inner product of the same numbers, which reads them once at memory speed. The margin
    /// is wide: this is to notice a loop that became scalar or quadratic, on a machine that does other things.
    #[test]
    fn costs_a_small_multiple_of_reading_the_row() {
        let row = vec![0.5f32; 1 << 22];
        let sketch = Sketch::new(1, 0, 1 << 16);
        let mut out = vec![0.0f32; sketch.dim()];
        let quickest = |work: &mut dyn FnMut()| {
            let time = |work: &mut dyn FnMut()| {
                let start = std::time::Instant::now();
                work();
                start.elapsed()
            };
            (0..7).map(|_| time(work)).min().unwrap()
        };
        let read = quickest(&mut || {
            std::hint::black_box(super::super::dot(&row, &row));
        });
        let sketched = quickest(&mut || sketch.add(&[Span { row: 0, place: 0, values: &row }], &mut out));
        assert!(sketched < 40 * read, "{sketched:?} for the sketch, {read:?} for an inner product");
    }
}
