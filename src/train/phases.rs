//! Where a step's time goes.

use super::clock;
use std::cell::{Cell, RefCell};
use std::time::Instant;

thread_local! {
    /// The phase that this thread is in.
    static AROUND: Cell<Option<Phase>> = const { Cell::new(None) };
    /// Milliseconds within it, by the host's clock, that count as those of other phases.
    static WITHIN: RefCell<Vec<(Phase, f64)>> = const { RefCell::new(Vec::new()) };
}

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the loader.
    Data,
    /// Forward pass.
    Forward,
    /// Exchange of losses and counts.
    Losses,
    /// Backward passes.
    Backward,
    /// Reduction of gradients over ranks.
    Reduce,
    /// Local inner products.
    Gram,
    /// Exchange of the Gram matrix, surgery.
    Balance,
    /// Combination of gradients and optimizer.
    Update,
    /// Gather of parameters.
    Gather,
}

/// Names in records, in the order of [`Phase`].
pub const NAMES: [&str; 9] = ["data", "forward", "losses", "backward", "reduce", "gram", "balance", "update", "gather"];

/// Milliseconds by phase.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phases(pub [f64; NAMES.len()]);

impl Phases {
    /// Runs `body` and adds its time to a phase: now by the host's clock, or in [`Self::collect`] by the device's.
    pub fn time<R>(&mut self, phase: Phase, body: impl FnOnce() -> R) -> R {
        let around = AROUND.replace(Some(phase));
        let result = if let Some(start) = clock::start() {
            let result = body();
            clock::end(phase, start);
            result
        } else {
            let start = Instant::now();
            let result = body();
            self.0[phase as usize] += start.elapsed().as_secs_f64() * 1e3;
            for (other, ms) in WITHIN.take() {
                self.0[other as usize] += ms;
                self.0[phase as usize] -= ms;
            }
            result
        };
        AROUND.set(around);
        result
    }

    /// Adds the phases that the device has finished meanwhile.
    pub fn collect(&mut self) {
        clock::finished().into_iter().for_each(|(phase, ms)| self.0[phase as usize] += ms);
    }

    /// Adds another step's times.
    pub fn add(&mut self, other: &Phases) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }
}

/// Runs `body`, within the `body` of [`Phases::time`]: its time counts as that of `phase` and not as that of the phase around it.
/// Outside of all phases it is not timed.
pub fn within<R>(phase: Phase, body: impl FnOnce() -> R) -> R {
    let Some(around) = AROUND.get() else { return body() };
    if let Some(start) = clock::start() {
        let result = body();
        clock::end_within(phase, around, start);
        return result;
    }
    let start = Instant::now();
    let result = body();
    WITHIN.with_borrow_mut(|within| within.push((phase, start.elapsed().as_secs_f64() * 1e3)));
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn what_is_timed_within_a_phase_is_taken_from_it() {
        let mut phases = Phases::default();
        let wait = |ms| move || sleep(Duration::from_millis(ms));
        within(Phase::Gather, wait(1));
        assert_eq!(phases, Phases::default());
        phases.time(Phase::Forward, || within(Phase::Gather, wait(40)));
        let [forward, gather] = [Phase::Forward, Phase::Gather].map(|phase| phases.0[phase as usize]);
        assert!(gather >= 40.0 && (0.0..gather / 2.0).contains(&forward), "{phases:?}");
        phases.time(Phase::Backward, || ());
        assert!(phases.0[Phase::Backward as usize] >= 0.0, "nothing is left over: {phases:?}");
        assert_eq!(phases.0[Phase::Gather as usize], gather);
    }
}
