//! Which rows a global step takes: a pure function of (seed, source, step), the same on any number of ranks.
//!
//! Each source is read in an endless sequence of shuffled epochs. Step `k` takes `n_s` draws of source `s`; its draw `j`
//! is position `p = k n_s + j` of that sequence, so row `perm(s, p / N_s)[p % N_s]`, where `perm(s, e)` is drawn from
//! (seed, s, e). Nothing has to be saved to continue, and any step can be asked for directly.

use super::DataError;
use super::shuffle::permutation;
use crate::config::{Batch, Mix};
use crate::rng::{Stream, rng};

/// The rows of every global step. Caches permutations, which changes nothing that it answers.
#[derive(Debug, Clone)]
pub struct Sampler {
    seed: u64,
    sizes: Vec<usize>,
    /// Draws per source and step; of the pool alone with [`Mix::Uniform`].
    counts: Vec<usize>,
    pooled: bool,
    steps_per_epoch: u64,
    /// The last permutations used, per source (or of the pool): (epoch, permutation).
    cache: Vec<Vec<(u64, Vec<u32>)>>,
}

impl Sampler {
    /// A sampler of sources given by name and number of training rows.
    ///
    /// # Errors
    /// An empty source, no samples at all, or weights that do not fit the sources.
    pub fn new(batch: &Batch, sources: &[(&str, usize)], seed: u64) -> Result<Sampler, DataError> {
        let sizes: Vec<usize> = sources.iter().map(|(_, size)| *size).collect();
        if let Some((name, _)) = sources.iter().find(|(_, size)| *size == 0) {
            return Err(DataError::Unfit(format!("source `{name}` has no training rows to draw from")));
        }
        let pooled = batch.mix == Mix::Uniform;
        let weights = weights(&batch.mix, sources)?;
        let total = match batch.mix {
            Mix::Only(_) => batch.per_task,
            _ => batch.per_task * sizes.len(),
        };
        if total == 0 {
            return Err(DataError::Unfit("a step would take no sample; `batch.per_task` must be at least 1".into()));
        }
        let counts = match batch.mix {
            Mix::Uniform => vec![total],
            Mix::Balanced => vec![batch.per_task; sizes.len()],
            Mix::Proportional | Mix::Temperature(_) | Mix::Weights(_) | Mix::Only(_) => apportion(total, &weights),
        };
        let pool: usize = sizes.iter().zip(&weights).filter(|(_, w)| **w > 0.0).map(|(size, _)| size).sum();
        if pooled && pool > u32::MAX as usize {
            return Err(DataError::Unfit(format!("{pool} rows are too many for `mix: uniform`; choose another mix")));
        }
        let cache = vec![Vec::new(); counts.len()];
        Ok(Sampler { seed, sizes, counts, pooled, steps_per_epoch: pool.div_ceil(total) as u64, cache })
    }

    /// Steps that draw about as many samples as the drawn-from sources have: `ceil(rows / samples per step)`.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Samples of a global step, over all sources and ranks.
    pub fn samples_per_step(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Samples of one source in a global step; with [`Mix::Uniform`] their mean number.
    pub fn samples_of(&self, source: usize) -> f64 {
        match (self.pooled, self.sizes.iter().sum::<usize>()) {
            (true, pool) => self.counts[0] as f64 * self.sizes[source] as f64 / pool as f64,
            (false, _) => self.counts[source] as f64,
        }
    }

    /// The rows of a global step in the order drawn, as (source, rows); sources without a draw are left out.
    pub fn rows(&mut self, step: u64) -> Vec<(usize, Vec<u32>)> {
        if self.pooled {
            return self.pooled_rows(step);
        }
        let drawn = (0..self.sizes.len()).filter(|&s| self.counts[s] > 0).collect::<Vec<_>>();
        drawn.into_iter().map(|s| (s, self.draw(s, self.sizes[s], s as u64, step))).collect()
    }

    fn pooled_rows(&mut self, step: u64) -> Vec<(usize, Vec<u32>)> {
        let mut rows: Vec<(usize, Vec<u32>)> = (0..self.sizes.len()).map(|s| (s, Vec::new())).collect();
        // The pool's counter is one that no source has.
        for index in self.draw(0, self.sizes.iter().sum(), self.sizes.len() as u64, step) {
            let mut row = index as usize;
            let mut source = 0;
            while row >= self.sizes[source] {
                row -= self.sizes[source];
                source += 1;
            }
            rows[source].1.push(row as u32);
        }
        rows.retain(|(_, rows)| !rows.is_empty());
        rows
    }

    /// Draws of one step from a shuffled sequence of `size` rows.
    fn draw(&mut self, slot: usize, size: usize, counter: u64, step: u64) -> Vec<u32> {
        let (count, size) = (self.counts[slot] as u64, size as u64);
        let mut rows = Vec::with_capacity(count as usize);
        let (mut at, end) = (step * count, (step + 1) * count);
        while at < end {
            let (epoch, first) = (at / size, at % size);
            let n = (size - first).min(end - at);
            let order = self.order(slot, size as usize, counter, epoch);
            rows.extend_from_slice(&order[first as usize..(first + n) as usize]);
            at += n;
        }
        rows
    }

    fn order(&mut self, slot: usize, size: usize, counter: u64, epoch: u64) -> &[u32] {
        let cache = &mut self.cache[slot];
        let at = cache.iter().position(|(e, _)| *e == epoch).unwrap_or_else(|| {
            if cache.len() == 2 {
                cache.remove(0);
            }
            cache.push((epoch, permutation(&mut rng(self.seed, Stream::Shuffle, counter, epoch), size)));
            cache.len() - 1
        });
        &cache[at].1
    }
}

fn weights(mix: &Mix, sources: &[(&str, usize)]) -> Result<Vec<f64>, DataError> {
    let unfit = |text: String| Err(DataError::Unfit(format!("`batch.mix.weights`: {text}")));
    let weights = match mix {
        Mix::Balanced | Mix::Uniform => return Ok(vec![1.0; sources.len()]),
        Mix::Proportional => return Ok(sources.iter().map(|(_, size)| *size as f64).collect()),
        Mix::Temperature(o) => return Ok(sources.iter().map(|(_, size)| (*size as f64).powf(1.0 / o.t)).collect()),
        Mix::Only(only) => {
            let weights: Vec<f64> = sources.iter().map(|(name, _)| f64::from(u8::from(name == only))).collect();
            if weights.iter().all(|w| *w == 0.0) {
                return Err(DataError::Unfit(format!("`batch.mix.only`: there is no source `{only}`")));
            }
            return Ok(weights);
        }
        Mix::Weights(weights) => weights,
    };
    if let Some(name) = weights.keys().find(|name| !sources.iter().any(|(source, _)| source == name)) {
        return unfit(format!("there is no source `{name}`"));
    }
    if let Some((name, weight)) = weights.iter().find(|(_, weight)| !(0.0..f64::INFINITY).contains(*weight)) {
        return unfit(format!("the weight of `{name}` is {weight}; expected 0 or more"));
    }
    if let Some((name, _)) = sources.iter().find(|(name, _)| !weights.contains_key(*name)) {
        return unfit(format!("source `{name}` has no weight; give one (0 leaves it out)"));
    }
    if weights.values().all(|weight| *weight == 0.0) {
        return unfit("all weights are 0; at least one source is needed".into());
    }
    Ok(sources.iter().filter_map(|(name, _)| weights.get(*name)).copied().collect())
}

/// Divides `total` in proportion to weights by largest remainder (ties: the first), at least 1 where the weight is not 0;
/// what that needs is taken from the largest shares.
fn apportion(total: usize, weights: &[f64]) -> Vec<usize> {
    let sum: f64 = weights.iter().sum();
    let quotas: Vec<f64> = weights.iter().map(|w| total as f64 * (w / sum)).collect();
    let mut counts: Vec<usize> = quotas.iter().map(|q| q.floor() as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&s| weights[s] > 0.0).collect();
    let remainder = |s: usize| quotas[s] - quotas[s].floor();
    order.sort_by(|&a, &b| remainder(b).total_cmp(&remainder(a)).then(a.cmp(&b)));
    let left = total.saturating_sub(counts.iter().sum());
    order.iter().cycle().take(left).for_each(|&s| counts[s] += 1);
    for s in 0..counts.len() {
        if weights[s] > 0.0 && counts[s] == 0 {
            counts[s] = 1;
        }
    }
    while counts.iter().sum::<usize>() > total {
        let largest = (0..counts.len()).max_by_key(|&s| (counts[s], std::cmp::Reverse(s)));
        largest.into_iter().for_each(|s| counts[s] -= 1);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Temperature;
    use proptest::prelude::*;

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn sampler(mix: Mix, per_task: usize, sizes: &[usize]) -> Result<Sampler, DataError> {
        let sources: Vec<_> = NAMES.iter().copied().zip(sizes.iter().copied()).collect();
        Sampler::new(&Batch { per_task, mix, ..Batch::default() }, &sources, 7)
    }

    fn counts(mix: Mix, per_task: usize, sizes: &[usize]) -> Vec<usize> {
        sampler(mix, per_task, sizes).unwrap().counts
    }

    fn weights(pairs: &[(&str, f64)]) -> Mix {
        Mix::Weights(pairs.iter().map(|(name, weight)| (name.to_string(), *weight)).collect())
    }

    #[test]
    fn counts_follow_the_mixture() {
        assert_eq!(counts(Mix::Balanced, 8, &[100, 10, 1]), [8, 8, 8]);
        assert_eq!(counts(Mix::Proportional, 10, &[60, 30, 10]), [18, 9, 3]);
        assert_eq!(counts(Mix::Proportional, 2, &[1000, 1, 1]), [4, 1, 1]);
        assert_eq!(counts(Mix::Temperature(Temperature { t: 1.0 }), 10, &[60, 30, 10]), [18, 9, 3]);
        assert_eq!(counts(Mix::Temperature(Temperature { t: 2.0 }), 10, &[64, 16]), [13, 7]);
        assert_eq!(counts(Mix::Temperature(Temperature { t: 1e9 }), 10, &[64, 16]), [10, 10]);
        assert_eq!(counts(weights(&[("a", 1.0), ("b", 0.0), ("c", 3.0)]), 4, &[5, 5, 5]), [3, 0, 9]);
        assert_eq!(counts(weights(&[("a", 1.0), ("b", 1.0), ("c", 1e-9)]), 1, &[5, 5, 5]), [1, 1, 1]);
    }

    #[test]
    fn what_cannot_be_sampled_is_refused() {
        let message = |mix, per_task, sizes: &[usize]| sampler(mix, per_task, sizes).unwrap_err().to_string();
        assert_eq!(message(Mix::Balanced, 1, &[3, 0]), "source `b` has no training rows to draw from");
        assert_eq!(message(Mix::Balanced, 0, &[3]), "a step would take no sample; `batch.per_task` must be at least 1");
        let of = |pairs| message(weights(pairs), 1, &[3, 3]);
        assert_eq!(of(&[("a", 1.0), ("x", 1.0)]), "`batch.mix.weights`: there is no source `x`");
        assert_eq!(of(&[("a", 1.0)]), "`batch.mix.weights`: source `b` has no weight; give one (0 leaves it out)");
        assert_eq!(of(&[("a", -1.0), ("b", 1.0)]), "`batch.mix.weights`: the weight of `a` is -1; expected 0 or more");
        assert_eq!(
            of(&[("a", 0.0), ("b", 0.0)]),
            "`batch.mix.weights`: all weights are 0; at least one source is needed"
        );
    }

    #[test]
    fn an_epoch_counts_only_sources_that_are_drawn_from() {
        assert_eq!(sampler(Mix::Balanced, 4, &[10, 30]).unwrap().steps_per_epoch(), 5);
        assert_eq!(sampler(Mix::Balanced, 4, &[10, 31]).unwrap().steps_per_epoch(), 6);
        let s = sampler(weights(&[("a", 1.0), ("b", 0.0)]), 4, &[10, 1000]).unwrap();
        assert_eq!((s.steps_per_epoch(), s.samples_per_step()), (2, 8));
    }

    #[test]
    fn one_source_alone_gives_the_samples_that_it_gives_among_others() {
        let mut alone = sampler(Mix::Only("b".into()), 4, &[10, 30, 5]).unwrap();
        let mut among = sampler(Mix::Balanced, 4, &[10, 30, 5]).unwrap();
        for step in 0..20 {
            assert_eq!(alone.rows(step), [among.rows(step)[1].clone()]);
        }
        assert_eq!((alone.steps_per_epoch(), alone.samples_per_step()), (8, 4));
        let message = sampler(Mix::Only("x".into()), 4, &[10, 30]).unwrap_err().to_string();
        assert_eq!(message, "`batch.mix.only`: there is no source `x`");
    }

    #[test]
    fn samples_of_a_source_add_up_to_those_of_the_step() {
        let of = |mix, source| sampler(mix, 10, &[60, 30, 10]).unwrap().samples_of(source);
        assert_eq!([0, 1, 2].map(|s| of(Mix::Proportional, s)), [18.0, 9.0, 3.0]);
        assert_eq!([0, 1, 2].map(|s| of(Mix::Uniform, s)), [18.0, 9.0, 3.0]);
        assert_eq!([0, 1, 2].map(|s| of(Mix::Balanced, s)), [10.0; 3]);
        assert_eq!([0, 1, 2].map(|s| of(Mix::Only("a".into()), s)), [10.0, 0.0, 0.0]);
    }

    fn mixes() -> impl Strategy<Value = Mix> {
        let given = |w: Vec<u8>| {
            let pairs: Vec<_> = NAMES.iter().copied().zip(w.into_iter().map(f64::from)).collect();
            weights(&pairs)
        };
        prop_oneof![
            Just(Mix::Balanced),
            Just(Mix::Proportional),
            (1.0..5.0).prop_map(|t| Mix::Temperature(Temperature { t })),
            prop::collection::vec(1u8..9, 5).prop_map(given),
            Just(Mix::Uniform),
        ]
    }

    /// Weights are for five sources, so there are five.
    fn sizes() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(1usize..40, 5)
    }

    proptest! {
        #[test]
        fn every_step_takes_as_many_samples_as_it_should(mix in mixes(), per_task in 1usize..9, sizes in sizes(), step in 0u64..1000) {
            let mut s = sampler(mix, per_task, &sizes).unwrap();
            let rows = s.rows(step);
            prop_assert_eq!(rows.iter().map(|(_, r)| r.len()).sum::<usize>(), per_task * 5);
            prop_assert_eq!(s.samples_per_step(), per_task * 5);
            prop_assert!(rows.iter().all(|(source, r)| !r.is_empty() && r.iter().all(|&r| (r as usize) < sizes[*source])));
            prop_assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
            prop_assert!(s.pooled || rows.len() == 5);
        }

        #[test]
        fn every_epoch_of_a_source_is_a_permutation(mix in mixes(), per_task in 1usize..9, sizes in sizes()) {
            prop_assume!(mix != Mix::Uniform);
            let mut s = sampler(mix, per_task, &sizes).unwrap();
            let mut drawn = vec![Vec::new(); 5];
            for step in 0..60 {
                s.rows(step).into_iter().for_each(|(source, rows)| drawn[source].extend(rows));
            }
            for (rows, &size) in drawn.iter().zip(&sizes) {
                let epochs: Vec<_> = rows.chunks_exact(size).collect();
                for epoch in &epochs {
                    let mut sorted = epoch.to_vec();
                    sorted.sort_unstable();
                    prop_assert_eq!(sorted, (0..size as u32).collect::<Vec<_>>());
                }
                prop_assert!(size < 12 || epochs.windows(2).all(|pair| pair[0] != pair[1]));
            }
        }

        #[test]
        fn an_epoch_of_the_pool_takes_every_row_once(per_task in 1usize..9, sizes in sizes()) {
            let mut s = sampler(Mix::Uniform, per_task, &sizes).unwrap();
            let pool: usize = sizes.iter().sum();
            let mut seen: Vec<Vec<u32>> = sizes.iter().map(|&size| vec![0; size]).collect();
            let n = 5 * per_task;
            // So many steps are a whole number of epochs.
            for step in 0..pool as u64 {
                s.rows(step).into_iter().for_each(|(source, rows)| rows.iter().for_each(|&r| seen[source][r as usize] += 1));
            }
            prop_assert!(seen.iter().flatten().all(|&times| times as usize == n));
        }

        #[test]
        fn any_step_can_be_asked_for_directly(mix in mixes(), per_task in 1usize..9, sizes in sizes(), order in prop::collection::vec(0u64..50, 1..20)) {
            let mut sequential = sampler(mix.clone(), per_task, &sizes).unwrap();
            let all: Vec<_> = (0..50).map(|step| sequential.rows(step)).collect();
            let mut random = sampler(mix, per_task, &sizes).unwrap();
            for step in order {
                prop_assert_eq!(&random.rows(step), &all[step as usize]);
            }
        }
    }

    #[test]
    fn the_order_depends_on_seed_and_source() {
        let rows = |seed| Sampler::new(&Batch::default(), &[("a", 99), ("b", 99)], seed).unwrap().rows(0);
        assert_eq!(rows(1), rows(1));
        assert_ne!(rows(1), rows(2));
        assert_ne!(rows(1)[0].1, rows(1)[1].1);
    }

    #[test]
    fn far_steps_cost_no_more_than_near_ones() {
        let mut s = sampler(Mix::Balanced, 256, &[1000]).unwrap();
        assert_eq!(s.rows(1 << 40)[0].1.len(), 256);
        assert!(s.cache[0].len() <= 2);
    }
}
