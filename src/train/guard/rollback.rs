//! Back to the last checkpoint without leaving the process: data, model and connections stay, everything else becomes what
//! it was then, and the step that was the reason is left out when it comes again.

use super::{ANOTHER_EXPERIMENT, Refusal};
use crate::comm::note;
use crate::config::{NonFinite, SpikeAction, Train};
use crate::error::{Error, Result};
use crate::train::checkpointing::continue_from;
use crate::train::persist::Stored;
use crate::train::setup::{self, Options, Resume, Start};
use crate::train::{Progress, Session};
use serde::{Deserialize, Serialize};

/// How often the run has been taken back without getting anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rollbacks {
    in_a_row: u64,
    /// The step (from 1) of the last one.
    last: u64,
}

impl Rollbacks {
    /// One more, from step `from` to the checkpoint of step `to`; how many there have been in a row now. A checkpoint
    /// beyond the step of the last one is a new beginning.
    fn count(&mut self, from: u64, to: u64) -> u64 {
        self.in_a_row = if to > self.last { 1 } else { self.in_a_row + 1 };
        self.last = from;
        self.in_a_row
    }
}

/// Whether a run may be taken back.
fn may_roll_back(train: &Train) -> bool {
    train.non_finite == NonFinite::Rollback || train.spike.is_some_and(|s| s.action == SpikeAction::Rollback)
}

impl<F: Stored> Session<'_, F> {
    /// Sees to it that there is a checkpoint to go back to, before the first step of a session that has not `continued` the
    /// latest one of this run.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If a collective fails.
    pub(in crate::train) fn anchor(&mut self, continued: bool) -> Result<()> {
        if continued || !may_roll_back(&self.config.train) || self.progress.step >= self.total_steps {
            return Ok(());
        }
        self.checkpoint(false)
    }

    /// Takes the run back to its last checkpoint, because of the step that was just refused.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// [`Error::Guard`] if there is nothing to go back to, or the run has been taken back too often.
    pub(super) fn roll_back(&mut self, refusal: &Refusal) -> Result<()> {
        let bad = self.progress.step;
        note(self.comm, bad, "rollback");
        self.saver.wait(&mut self.logger)?;
        let options = Options { resume: Resume::Auto, allow_config_change: true };
        let start = match setup::find_start(self.config, &options, self.comm) {
            Err(e) if e.is_local() => return Err(e),
            Err(e) => {
                let words = format!("{refusal}, and there is no checkpoint to go back to: {e}");
                let hint = "when it is there again, the same command continues from it";
                return Err(self.give_up(&words, hint));
            }
            Ok(start) => start,
        };
        let Some(to) = self.agree_on_step(start.as_ref())?.filter(|&to| to < bad) else {
            let words = format!("{refusal}, and there is no checkpoint from before it to go back to");
            return Err(self.give_up(&words, ANOTHER_EXPERIMENT));
        };
        let (n, most) = (self.progress.rollbacks.count(bad, to), self.config.train.max_rollbacks);
        if n > most {
            return Err(self.too_often(refusal, most));
        }
        self.go_back(start.as_ref(), bad)?;
        let words = format!(
            "step {bad}: {refusal}; back to the checkpoint of step {to} on all ranks, and past step {bad} \
                             without taking it (rollback {n} of {most})"
        );
        self.logger.message(&words);
        Ok(())
    }

    /// The step of what rank 0 has found, if it has.
    fn agree_on_step(&self, start: Option<&Start>) -> Result<Option<u64>> {
        let mut step = [start.map_or(-1.0, |start| start.snapshot.step as f64)];
        self.comm.broadcast_f64(&mut step)?;
        Ok((step[0] >= 0.0).then_some(step[0] as u64))
    }

    /// Makes everything what it was at the checkpoint, but for the steps to leave out.
    fn go_back(&mut self, start: Option<&Start>, bad: u64) -> Result<()> {
        let from = start.map(|start| (start.path.as_path(), &start.snapshot));
        let state = self.learner.restore(from, self.comm)?;
        let mut left_out = [&state.progress.left_out[..], &self.progress.left_out, &[bad]].concat();
        left_out.sort_unstable();
        left_out.dedup();
        self.progress = Progress { left_out, rollbacks: self.progress.rollbacks, ..state.progress };
        continue_from(self.config, start, &self.progress, self.comm)?;
        self.logger.go_back(self.progress.resumed());
        Ok(())
    }

    fn too_often(&mut self, refusal: &Refusal, most: u64) -> Error {
        let left_out: Vec<String> = self.progress.left_out.iter().map(u64::to_string).collect();
        let words = format!(
            "{refusal}, after {most} rollbacks in a row (`train.max_rollbacks`), which left out the steps {}",
            left_out.join(", ")
        );
        self.give_up(&words, ANOTHER_EXPERIMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_beyond_the_step_in_question_starts_the_count_anew() {
        let mut rollbacks = Rollbacks::default();
        let counts =
            [(7, 4), (8, 4), (9, 8), (10, 9), (12, 11), (13, 12), (13, 12)].map(|(f, t)| rollbacks.count(f, t));
        assert_eq!(counts, [1, 2, 3, 4, 1, 2, 3]);
    }
}
