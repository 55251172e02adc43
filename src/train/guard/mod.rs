//! What becomes of a step with bad numbers: it is taken with a warning, skipped, taken back with all since the last
//! checkpoint, or it stops the run.
//!
//! ```text
//! spikes    when a number stands out from those of the steps before
//! judge     which steps are refused; asked by the learner before it moves a parameter
//! rollback  back to the last checkpoint, in the same process
//! faulty    numbers that are broken on purpose
//! ```
//!
//! All of it depends on numbers that are the same bits on all ranks, so all ranks do the same.

pub(super) mod faulty;
mod judge;
mod rollback;
mod spikes;

pub(super) use judge::Judge;
pub use judge::Refusal;
pub use rollback::Rollbacks;

use super::persist::Stored;
use super::{Session, StepReport};
use crate::config::{NonFinite, SpikeAction, Train};
use crate::error::{Error, Result};
use crate::log::Status;

/// What to do about a step that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Stop,
    Skip,
    Rollback,
}

/// What the loop does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Goes on.
    On,
    /// Goes on from an earlier step: the run has been taken back.
    Back,
}

impl Policy {
    fn of(train: &Train, refusal: &Refusal) -> Policy {
        let on_spike = train.spike.map(|spike| spike.action);
        match (refusal, train.non_finite, on_spike) {
            (Refusal::LeftOut, _, _) | (Refusal::NotFinite(_), NonFinite::Skip, _) => Policy::Skip,
            (Refusal::NotFinite(_), NonFinite::Rollback, _) => Policy::Rollback,
            (Refusal::NotFinite(_), NonFinite::Stop, _) => Policy::Stop,
            (Refusal::Spike(_), _, Some(SpikeAction::Skip)) => Policy::Skip,
            (Refusal::Spike(_), _, Some(SpikeAction::Rollback)) => Policy::Rollback,
            // A step is not refused for a spike that is only warned of.
            (Refusal::Spike(_), _, Some(SpikeAction::Stop | SpikeAction::Warn) | None) => Policy::Stop,
        }
    }
}

impl<F: Stored> Session<'_, F> {
    /// What to do about the step that was just taken, or refused.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// [`Error::Guard`] if the run is to stop.
    pub(super) fn guard(&mut self, report: &StepReport) -> Result<Next> {
        let (step, train) = (self.progress.step, &self.config.train);
        if let Some(words) = &report.warning {
            self.logger.message(&format!("warning: step {step}: {words}"));
        }
        let Some(refusal) = &report.refused else {
            self.progress.skipped_in_a_row = 0;
            return Ok(Next::On);
        };
        self.progress.skipped += 1;
        if *refusal == Refusal::LeftOut {
            // Known beforehand; how often a run may be taken back has a limit of its own.
            self.logger.message(&format!("step {step}: {refusal}; step skipped on all ranks"));
            return Ok(Next::On);
        }
        self.progress.skipped_in_a_row += 1;
        match Policy::of(train, refusal) {
            Policy::Stop => Err(self.give_up(&refusal.to_string(), hint(refusal))),
            Policy::Rollback => self.roll_back(refusal).map(|()| Next::Back),
            Policy::Skip if self.progress.skipped_in_a_row < train.max_skipped => {
                self.logger.message(&format!("step {step}: {refusal}; step skipped on all ranks"));
                Ok(Next::On)
            }
            Policy::Skip => {
                let words =
                    format!("{refusal}; {} steps in a row were not taken (`train.max_skipped`)", train.max_skipped);
                Err(self.give_up(&words, ANOTHER_EXPERIMENT))
            }
        }
    }

    /// Ends the run, with the checkpoint in flight written: it is the one to go back to.
    fn give_up(&mut self, words: &str, hint: &str) -> Error {
        if let Err(e) = self.saver.wait(&mut self.logger) {
            return e;
        }
        self.finish(Status::Failed);
        Error::Guard(format!("step {}: {words}\n  hint: {hint}", self.progress.step))
    }
}

const ANOTHER_EXPERIMENT: &str =
    "a lower `lr`, a `clip_norm` or a longer `warmup` make another experiment, which needs a new `run.dir`";

/// How to go on after a stop.
fn hint(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Spike(_) => {
            "to continue from the last checkpoint past such steps, add `--set train.spike.action=skip`; with higher \
             `train.spike.sigmas` less is a spike"
        }
        _ => {
            "a lower `lr`, a `clip_norm` or a longer `warmup` make another experiment, which needs a new `run.dir`; to \
             continue this one from its last checkpoint past such steps, add `--set train.non_finite=skip`"
        }
    }
}
