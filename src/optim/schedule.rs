//! The learning rate as a function of the step.

use crate::config::Schedule;
use std::f64::consts::PI;

/// Learning rate of `step` (from 0) in a run of `total` steps whose peak is `peak`.
pub fn lr(schedule: &Schedule, peak: f64, step: u64, total: u64) -> f64 {
    let warmup = match schedule {
        Schedule::Constant(c) => c.warmup,
        Schedule::Cosine(c) | Schedule::Linear(c) => c.warmup,
        Schedule::Step(c) => c.warmup,
    };
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    // 0 at the first step after the warm-up, 1 at the last step of the run.
    let progress = (step - warmup) as f64 / total.saturating_sub(warmup + 1).max(1) as f64;
    let progress = progress.min(1.0);
    match schedule {
        Schedule::Constant(_) => peak,
        Schedule::Cosine(c) => peak * (c.floor + (1.0 - c.floor) * 0.5 * (1.0 + (PI * progress).cos())),
        Schedule::Linear(c) => peak * (c.floor + (1.0 - c.floor) * (1.0 - progress)),
        Schedule::Step(c) => peak * c.gamma.powf(((step - warmup) / c.every) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Decay, StepDecay, Warmup};

    fn rates(schedule: &Schedule, total: u64) -> Vec<f64> {
        (0..total).map(|step| (lr(schedule, 1.0, step, total) * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn shapes() {
        let decay = Decay { warmup: 2, floor: 0.1 };
        assert_eq!(rates(&Schedule::Constant(Warmup { warmup: 4 }), 6), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        assert_eq!(rates(&Schedule::Linear(decay.clone()), 5), [0.5, 1.0, 1.0, 0.55, 0.1]);
        assert_eq!(rates(&Schedule::Cosine(decay), 5), [0.5, 1.0, 1.0, 0.55, 0.1]);
        let step = Schedule::Step(StepDecay { warmup: 0, every: 2, gamma: 0.5 });
        assert_eq!(rates(&step, 5), [1.0, 1.0, 0.5, 0.5, 0.25]);
    }

    #[test]
    fn past_the_end_it_stays_at_the_floor() {
        let cosine = Schedule::Cosine(Decay { warmup: 0, floor: 0.0 });
        assert_eq!(lr(&cosine, 1.0, 50, 10), 0.0);
        assert_eq!(lr(&cosine, 1.0, 0, 1), 1.0);
    }
}
