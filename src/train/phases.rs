//! Where a step's time goes.

use super::clock;
use std::time::Instant;

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
        if let Some(start) = clock::start() {
            let result = body();
            clock::end(phase, start);
            return result;
        }
        let start = Instant::now();
        let result = body();
        self.0[phase as usize] += start.elapsed().as_secs_f64() * 1e3;
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
