//! Numbers that stand out from those of the steps before: a task's loss, or the norm of the update.
//!
//! A number is a spike when it is more than `sigmas` standard deviations above the mean of a window of steps, as
//! OLMo-core's `SkipStepOptimizer` has it. Departures: every task's loss is judged by itself, since a spike of one of many
//! drowns in their sum; a spread of less than 1 % of the mean counts as 1 %, since losses that hardly move any more would
//! make a spike of every ripple; and only steps that were taken are data, so that a spike does not hide the next one.
//!
//! Works on numbers that are the same bits on all ranks, in an order that is the same everywhere. Remembers the window;
//! saved in checkpoints.

use crate::config::Spike;
use std::collections::VecDeque;

/// A smaller spread, as a share of the mean, counts as this.
const LEAST_SPREAD: f64 = 0.01;

/// Numbers of the last steps that were taken.
#[derive(Debug, Clone)]
pub(in crate::train) struct Spikes {
    rule: Spike,
    /// Losses by task, then the norm of the update; oldest first.
    seen: Vec<VecDeque<f64>>,
}

/// A number that stands out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::train) struct Spiking {
    value: f64,
    mean: f64,
    /// By how many standard deviations it is above the mean.
    pub sigmas: f64,
    steps: usize,
}

impl std::fmt::Display for Spiking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spiking { value, mean, sigmas, steps } = self;
        write!(f, "is {value:.3e}, {sigmas:.1} sigmas above {mean:.3e}, its mean over {steps} steps")
    }
}

impl Spikes {
    /// Nothing seen yet of `n_tasks` tasks.
    pub fn new(rule: Spike, n_tasks: usize) -> Self {
        Spikes { rule, seen: vec![VecDeque::new(); n_tasks + 1] }
    }

    /// What is configured.
    pub fn rule(&self) -> Spike {
        self.rule
    }

    /// The task whose loss stands out most, if one does. Tasks without a loss are no data.
    pub fn in_losses(&self, losses: &[Option<f64>]) -> Option<(usize, Spiking)> {
        let found = losses.iter().zip(&self.seen).enumerate().filter_map(|(t, (loss, seen))| {
            let spiking = self.spiking(seen, (*loss)?)?;
            Some((t, spiking))
        });
        found.reduce(|a, b| if b.1.sigmas > a.1.sigmas { b } else { a })
    }

    /// Whether the norm of the update stands out.
    pub fn in_norm(&self, norm: f64) -> Option<Spiking> {
        self.spiking(self.seen.last()?, norm)
    }

    /// Takes in a step that was taken.
    pub fn take(&mut self, losses: &[Option<f64>], norm: f64) {
        let window = self.rule.window as usize;
        for (seen, value) in self.seen.iter_mut().zip(losses.iter().copied().chain([Some(norm)])) {
            let Some(value) = value.filter(|x| x.is_finite()) else { continue };
            seen.push_back(value);
            seen.drain(..seen.len().saturating_sub(window));
        }
    }

    /// State for a checkpoint: the windows, oldest first.
    pub fn save(&self) -> Vec<Vec<f64>> {
        self.seen.iter().map(|seen| seen.iter().copied().collect()).collect()
    }

    /// Takes over the state of [`Self::save`]; of a longer window its newest part, and nothing of other tasks.
    pub fn load(&mut self, state: &[Vec<f64>]) {
        let window = self.rule.window as usize;
        self.seen.iter_mut().for_each(VecDeque::clear);
        if state.len() == self.seen.len() {
            for (seen, saved) in self.seen.iter_mut().zip(state) {
                seen.extend(&saved[saved.len().saturating_sub(window)..]);
            }
        }
    }

    fn spiking(&self, seen: &VecDeque<f64>, value: f64) -> Option<Spiking> {
        let steps = seen.len();
        if steps < (self.rule.window as usize).div_ceil(2) {
            return None;
        }
        let mean = seen.iter().sum::<f64>() / steps as f64;
        let variance = seen.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (steps - 1).max(1) as f64;
        let spread = variance.sqrt().max(LEAST_SPREAD * mean.abs());
        let sigmas = (value - mean) / spread;
        (spread > 0.0 && sigmas > self.rule.sigmas).then_some(Spiking { value, mean, sigmas, steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SpikeAction;
    use crate::rng::{Stream, rng};
    use rand::RngExt;

    fn spikes(window: u64, n_tasks: usize) -> Spikes {
        Spikes::new(Spike { sigmas: 6.0, window, action: SpikeAction::Skip }, n_tasks)
    }

    /// A loss that falls from 2.5 to 0.5, with noise of one in five (about normal: a sum of 12 uniform numbers).
    fn noisy(step: u64) -> f64 {
        let mut rng = rng(5, Stream::Recipe, step, 0);
        let noise = (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>();
        (0.5 + 2.0 * (-(step as f64) / 300.0).exp()) * (1.0 + 0.2 * noise)
    }

    #[test]
    fn a_noisy_falling_loss_is_no_alarm_and_a_spike_is_one() {
        let mut spikes = spikes(128, 1);
        for step in 0..5000 {
            let loss = noisy(step);
            assert_eq!(spikes.in_losses(&[Some(loss)]), None, "step {step}");
            if spikes.seen[0].len() >= 64 {
                let (task, spiking) = spikes.in_losses(&[Some(loss + 6.0)]).unwrap_or_else(|| panic!("step {step}"));
                assert!(task == 0 && spiking.sigmas > 6.0);
            }
            spikes.take(&[Some(loss)], 1.0);
        }
    }

    #[test]
    fn nothing_is_a_spike_before_half_the_window_is_there_and_what_was_not_there_does_not_count() {
        let mut spikes = spikes(10, 2);
        for step in 0..4 {
            spikes.take(&[Some(1.0), None], 1.0);
            spikes.take(&[None, None], f64::NAN);
            assert_eq!(spikes.in_losses(&[Some(1e9), Some(1e9)]), None, "{step}");
        }
        spikes.take(&[Some(1.0), None], 1.0);
        let (task, spiking) = spikes.in_losses(&[Some(1e9), Some(1e12)]).unwrap();
        assert_eq!((task, spiking.steps), (0, 5));
        assert_eq!(spikes.in_losses(&[None, Some(1e12)]), None);
        assert_eq!(spikes.in_norm(2.0).map(|s| s.mean), Some(1.0));
        assert_eq!(spiking.to_string(), "is 1.000e9, 99999999900.0 sigmas above 1.000e0, its mean over 5 steps");
    }

    #[test]
    fn the_task_that_stands_out_most_is_named() {
        let mut spikes = spikes(4, 3);
        (0..4).for_each(|_| spikes.take(&[Some(1.0), Some(1.0), Some(100.0)], 1.0));
        let (task, _) = spikes.in_losses(&[Some(2.0), Some(3.0), Some(110.0)]).unwrap();
        assert_eq!(task, 1);
    }

    #[test]
    fn what_hardly_moves_is_given_some_room_and_falling_is_never_a_spike() {
        let mut spikes = spikes(8, 1);
        (0..8).for_each(|_| spikes.take(&[Some(2.0)], 0.0));
        // Six times 1 % of 2.
        assert_eq!(spikes.in_losses(&[Some(2.11)]), None);
        assert!(spikes.in_losses(&[Some(2.13)]).is_some());
        assert_eq!(spikes.in_losses(&[Some(-1e9)]), None);
        assert_eq!(spikes.in_norm(1.0), None, "no spread at all: nothing to compare with");
        assert_eq!(spikes.in_norm(f64::NAN), None);
    }

    #[test]
    fn the_window_slides_over_the_steps_that_were_taken() {
        let mut spikes = spikes(4, 1);
        (0..4).for_each(|_| spikes.take(&[Some(1.0)], 1.0));
        assert!(spikes.in_losses(&[Some(5.0)]).is_some());
        assert!(spikes.in_losses(&[Some(5.0)]).is_some(), "what was only judged is not remembered");
        (0..4).for_each(|_| spikes.take(&[Some(5.0)], 1.0));
        assert_eq!(spikes.in_losses(&[Some(5.0)]), None);
        assert_eq!(spikes.save()[0], [5.0; 4]);
    }

    #[test]
    fn a_window_goes_on_exactly_after_a_checkpoint() {
        let (mut whole, mut resumed) = (spikes(16, 1), spikes(16, 1));
        (0..11).for_each(|step| whole.take(&[Some(noisy(step))], noisy(step + 100)));
        let text = serde_json::to_string(&whole.save()).unwrap();
        resumed.take(&[Some(7.0)], 7.0);
        resumed.load(&serde_json::from_str::<Vec<Vec<f64>>>(&text).unwrap());
        for step in 11..40 {
            let loss = [Some(3.0 * noisy(step))];
            assert_eq!(whole.in_losses(&loss), resumed.in_losses(&loss));
            [&mut whole, &mut resumed].into_iter().for_each(|s| s.take(&[Some(noisy(step))], noisy(step)));
        }
        assert_eq!(whole.save(), resumed.save());
        let mut shorter = spikes(4, 1);
        shorter.load(&whole.save());
        assert_eq!(shorter.save()[0], whole.save()[0][12..]);
        let mut others = spikes(4, 3);
        others.load(&whole.save());
        assert_eq!(others.save(), vec![Vec::<f64>::new(); 4]);
    }
}
