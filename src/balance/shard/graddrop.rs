//! Gradient sign dropout: each coordinate moves along one sign only.
//!
//! Chen et al., "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout", 2020
//! (arXiv:2010.06808). With `P = (1 + sum_t g_t / sum_t |g_t|) / 2` and `U ~ U(0, 1)` at each coordinate, the positive
//! entries pass where `P > U` and the negative ones where `P < U`; the direction is
//! `sum_t (leak * g_t + (1 - leak) * mask_t * g_t)`. Its expectation is the plain sum.
//!
//! Departures: it works on the gradients of the shared parameters, not on those of the representation, whose sign the
//! paper multiplies with that of the activation; this is how torchjd does it too. `leak` is one number, not one per
//! task. `U` is word `p` of the step's ChaCha stream at the coordinate with flat index `p`, so that it does not depend on
//! the number of ranks; it is an odd multiple of `2^-24`, never 0 or 1, so a coordinate on which all tasks agree in sign
//! is never dropped.
//!
//! The masked sum is all that is positive, or all that is negative, so the rows are read once. No state.

use super::{CommError, Part, ShardSurgery, ShardView, Sums, stretches};
use crate::config;
use crate::kernel::{Block, Pass, Real, sweep};
use crate::rng::{ChaCha8Rng, Stream, rng};
use rand::Rng;

/// Random words that are drawn at a time.
const WORDS: usize = 256;

/// Gradient sign dropout.
#[derive(Debug, Clone, PartialEq)]
pub struct GradDrop {
    leak: f64,
}

impl GradDrop {
    /// With these options.
    pub fn new(config: &config::GradDrop) -> Self {
        GradDrop { leak: config.leak }
    }
}

impl<F: Real> ShardSurgery<F> for GradDrop {
    fn direction(&mut self, at: &ShardView<'_, F>, _: &Sums<'_>, out: &mut [F]) -> Result<Option<Vec<f64>>, CommError> {
        let pass = PickSign {
            parts: at.parts,
            scale: at.scale.iter().map(|&x| F::from_f64(x)).collect(),
            leak: F::from_f64(self.leak),
            passing: F::from_f64(1.0 - self.leak),
            rng: rng(at.seed, Stream::Coordinate, at.step, 0),
        };
        sweep(&pass, &stretches(at.parts), &mut [], out);
        Ok(None)
    }
}

struct PickSign<'a, F> {
    parts: &'a [Part<'a, F>],
    scale: Vec<F>,
    leak: F,
    passing: F,
    rng: ChaCha8Rng,
}

impl<F: Real> Pass<F> for PickSign<'_, F> {
    #[inline(always)]
    fn block(&self, block: &mut Block<'_, '_, F>, _: &mut [f64]) {
        let zero = F::default();
        let part = &self.parts[block.stretch];
        // What is positive is summed up in the output, what is negative in the scratch memory.
        block.out.fill(zero);
        block.scratch.clear();
        block.scratch.resize(block.out.len(), zero);
        for (k, &t) in part.scope.iter().enumerate() {
            let scale = self.scale[t];
            let Some(row) = block.row(k).filter(|_| scale != zero) else { continue };
            for ((p, n), &g) in block.out.iter_mut().zip(&mut *block.scratch).zip(row) {
                let g = scale * g;
                *p += if g > zero { g } else { zero };
                *n += if g < zero { zero - g } else { zero };
            }
        }
        let mut rng = self.rng.clone();
        rng.set_word_pos((part.at.start + block.at) as u128);
        let mut words = [0u32; WORDS];
        for (positive, negative) in block.out.chunks_mut(WORDS).zip(block.scratch.chunks(WORDS)) {
            let words = &mut words[..positive.len()];
            rng.fill_bytes(bytemuck::cast_slice_mut(words));
            for ((p, &n), &word) in positive.iter_mut().zip(negative).zip(&*words) {
                let (u, v) = uniform(word);
                // P > U times the sum of both parts: no division, and nothing to guard where all gradients are zero.
                let (up, down) = (F::from_f64(v) * *p, F::from_f64(u) * n);
                let kept = if up > down { *p } else { zero } - if up < down { n } else { zero };
                *p = self.leak * (*p - n) + self.passing * kept;
            }
        }
    }
}

/// `U` and `1 - U`, both exact in single precision.
#[inline(always)]
fn uniform(word: u32) -> (f64, f64) {
    const STEP: f64 = 1.0 / 16_777_216.0;
    let odd = 2 * (u32::from_le(word) >> 9) + 1;
    // Through i32, for which there is an instruction.
    let u = f64::from(odd as i32) * STEP;
    (u, 1.0 - u)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{COLUMNS, SEED, Step, by_explicit, close, flat, run, some_steps, sum};
    use super::*;

    fn surgery(leak: f64) -> config::Surgery {
        config::Surgery::Graddrop(config::GradDrop { leak })
    }

    /// `U` of one coordinate, drawn alone.
    fn draw(step: u64, at: usize) -> f64 {
        let mut rng = rng(SEED, Stream::Coordinate, step, 0);
        rng.set_word_pos(at as u128);
        (f64::from(rng.next_u32() >> 9) + 0.5) / f64::from(1 << 23)
    }

    /// The equation, coordinate by coordinate; `place` says where a column is in the flat parameters.
    fn reference(step: &Step, leak: f64, place: impl Fn(usize) -> usize) -> Vec<f64> {
        let column = |c: usize| {
            let g: Vec<f64> = step.weighted().iter().map(|row| row[c]).collect();
            let all: f64 = g.iter().map(|x| x.abs()).sum();
            let p = if all > 0.0 { 0.5 * (1.0 + g.iter().sum::<f64>() / all) } else { 0.5 };
            let u = draw(step.step, place(c));
            let passes = |x: f64| (p > u && x > 0.0) || (p < u && x < 0.0);
            g.iter().map(|&x| leak * x + (1.0 - leak) * if passes(x) { x } else { 0.0 }).sum()
        };
        (0..step.j[0].len()).map(column).collect()
    }

    #[test]
    fn equals_the_formula() {
        for leak in [0.0, 0.3, 1.0] {
            let steps = some_steps(4, 3);
            let found = run::<f64>(&surgery(leak), &steps, 1);
            for (step, direction) in steps.iter().zip(&found.directions) {
                close(direction, &reference(step, leak, |c| flat(COLUMNS, c)), 1e-14);
            }
            assert!(found.state.is_empty() && found.coefficients.iter().all(Option::is_none));
        }
        let step = &some_steps(3, 1)[0].plain();
        close(&by_explicit(&surgery(0.1), std::slice::from_ref(step))[0], &reference(step, 0.1, |c| c), 1e-14);
    }

    #[test]
    fn any_number_of_ranks_gives_the_same_bits() {
        let steps = some_steps(5, 2);
        let whole = run::<f32>(&surgery(0.2), &steps, 1).directions;
        assert!((2..=4).all(|size| run::<f32>(&surgery(0.2), &steps, size).directions == whole));
    }

    #[test]
    fn the_expectation_is_the_sum() {
        let (first, n) = (some_steps(3, 1)[0].plain(), 1000u64);
        let steps: Vec<Step> = (0..n).map(|step| Step { step, ..first.narrow(40) }).collect();
        let mut mean = [0.0; 40];
        for direction in run::<f64>(&surgery(0.0), &steps, 1).directions {
            mean.iter_mut().zip(direction).for_each(|(m, d)| *m += d / n as f64);
        }
        for (c, (mean, sum)) in mean.iter().zip(sum(&steps[0].weighted())).enumerate() {
            let all: f64 = steps[0].j.iter().map(|row| row[c].abs()).sum();
            // Five standard deviations of a mean of n two-valued draws, which lie `all` apart.
            assert!((mean - sum).abs() <= 5.0 * 0.5 * all / (n as f64).sqrt(), "{c}: {mean} {sum}");
        }
    }

    #[test]
    fn coordinates_on_which_all_agree_are_untouched() {
        let mut step = some_steps(4, 1)[0].plain();
        for (c, sign) in (0..step.j[0].len()).map(|c| (c, if c % 2 == 0 { 1.0 } else { -1.0 })) {
            step.j.iter_mut().for_each(|row| row[c] = sign * row[c].abs());
        }
        let found = run::<f64>(&surgery(0.0), std::slice::from_ref(&step), 1);
        close(&found.directions[0], &sum(&step.weighted()), 1e-15);
    }

    #[test]
    fn uniform_numbers_are_inside_the_interval_and_exact_in_single_precision() {
        for word in [0, 1 << 9, 0x8000_0000, u32::MAX] {
            let (u, v) = uniform(word);
            assert!(u > 0.0 && v > 0.0 && u + v == 1.0);
            assert_eq!((f64::from(u as f32), f64::from(v as f32)), (u, v));
        }
    }
}
