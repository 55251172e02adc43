//! Evaluations of a run in progress: when one is due, on which splits, and whether the parameters are the best so far.

use super::persist::Stored;
use super::{Session, due};
use crate::comm::note;
use crate::data::Split;
use crate::error::Result;
use crate::eval::{evaluate, score};
use crate::log::EvalRecord;
use std::time::Instant;

impl<F: Stored> Session<'_, F> {
    pub(super) fn evaluation_is_due(&self) -> bool {
        let train = &self.config.train;
        let every = train.eval_every_steps.unwrap_or(train.eval_every_epochs.saturating_mul(self.steps_per_epoch));
        due(every, self.progress.step)
    }

    fn has(&self, split: Split) -> bool {
        (0..self.dataset.n_sources()).any(|s| self.dataset.n_rows(s, split) > 0)
    }

    /// Evaluates on validation, and on test too when the parameters are the best so far; whether they are.
    pub(super) fn evaluate(&mut self) -> Result<bool> {
        if !self.has(Split::Val) {
            return Ok(false);
        }
        let mut val = self.evaluate_on(Split::Val)?;
        val.best = self.progress.judge(val.score);
        self.logger.eval(&val);
        self.progress.evaluated = vec![val.clone()];
        if val.best {
            self.progress.best = vec![val];
            if self.has(Split::Test) {
                let test = EvalRecord { best: true, ..self.evaluate_on(Split::Test)? };
                self.logger.eval(&test);
                self.progress.best.push(test.clone());
                self.progress.evaluated.push(test);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Completes the evaluations of the final parameters; whether they are the best.
    pub(super) fn evaluate_at_the_end(&mut self) -> Result<bool> {
        let best = self.progress.evaluated.is_empty() && self.evaluate()?;
        if self.has(Split::Test) && !self.progress.evaluated.iter().any(|r| r.split == Split::Test.name()) {
            let test = self.evaluate_on(Split::Test)?;
            self.logger.eval(&test);
            self.progress.evaluated.push(test);
        }
        Ok(best || self.progress.evaluated.iter().any(|r| r.best))
    }

    fn evaluate_on(&self, split: Split) -> Result<EvalRecord> {
        note(self.comm, self.progress.step, "evaluation");
        self.learner.settle()?;
        let start = Instant::now();
        let (config, learner) = (self.config, &self.learner);
        let batch = config.train.eval_batch;
        let metrics = evaluate(&learner.model, &learner.losses, &self.dataset, &config.tasks, split, batch, self.comm)?;
        Ok(EvalRecord {
            step: self.progress.step,
            epoch: self.epoch(),
            split: split.name().into(),
            score: score(&config.train.best_by, &config.tasks, &metrics),
            metrics,
            best: false,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}
