//! Times and traffic of the steps since the last record.

use super::StepReport;
use super::phases::{NAMES, Phase, Phases};
use super::stragglers::{OWN, OwnMs};
use std::time::Instant;

/// Sums over the steps since the last record.
#[derive(Debug)]
pub struct Window {
    start: Instant,
    phases: Phases,
    steps: u64,
    bytes: u64,
    /// Milliseconds of exchanges between devices when the window was opened.
    exchanged_ms: f64,
}

impl Window {
    /// An empty window that starts now.
    pub fn new() -> Self {
        Window { start: Instant::now(), phases: Phases::default(), steps: 0, bytes: 0, exchanged_ms: 0.0 }
    }

    /// Adds a step with the time it waited for data and the bytes it sent.
    pub fn add(&mut self, report: &StepReport, wait_ms: f64, bytes: u64) {
        self.phases.add(&report.phases);
        self.phases.0[Phase::Data as usize] += wait_ms;
        self.steps += 1;
        self.bytes += bytes;
    }

    /// Mean milliseconds per step that this rank spent by itself, so far.
    pub fn own_ms(&self) -> OwnMs {
        OWN.map(|phase| self.phases.0[phase as usize] / self.steps.max(1) as f64)
    }

    /// Leaves out what happened since `since`: evaluations and checkpoints are no part of a step.
    pub fn pause(&mut self, since: Instant) {
        self.start += since.elapsed();
    }

    /// Mean milliseconds per step of exchanges between devices, of which `so_far` have been spent since the start of the
    /// run, and the share of them for which the computation waited. Comes before [`Self::close`].
    pub fn exchange(&mut self, so_far: f64) -> (f64, f64) {
        let ms = so_far - self.exchanged_ms;
        self.exchanged_ms = so_far;
        let waited = self.phases.0[Phase::Reduce as usize] + self.phases.0[Phase::Gather as usize];
        (ms / self.steps.max(1) as f64, if ms > 0.0 { (waited / ms).min(1.0) } else { 0.0 })
    }

    /// Mean milliseconds per phase with the rest as `other`, steps per second, bytes per step; and a fresh window.
    pub fn close(&mut self) -> (Vec<(&'static str, f64)>, f64, u64) {
        let steps = self.steps.max(1) as f64;
        let total_ms = self.start.elapsed().as_secs_f64() * 1e3;
        let mut times: Vec<(&str, f64)> = NAMES.iter().zip(self.phases.0).map(|(&n, ms)| (n, ms / steps)).collect();
        let known: f64 = self.phases.0.iter().sum();
        times.push(("other", (total_ms - known).max(0.0) / steps));
        let result = (times, steps / (total_ms / 1e3).max(1e-9), self.bytes / self.steps.max(1));
        *self = Window { exchanged_ms: self.exchanged_ms, ..Window::new() };
        result
    }
}
