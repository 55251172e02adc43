//! Checkpoints of a run in progress: when one is due, and what goes into it. How it gets to the disk: [`saving`](super::saving).

use super::persist::{About, Stored};
use super::replicas::check_replicas;
use super::setup::Start;
use super::{Progress, Session, due, sizes};
use crate::checkpoint;
use crate::comm::{Collective, agree, note};
use crate::config::Config;
use crate::error::Result;
use crate::log::Flushed;
use std::time::Instant;

impl<F: Stored> Session<'_, F> {
    pub(super) fn checkpoint_is_due(&self) -> bool {
        match self.config.checkpoint.every {
            0 => self.evaluation_is_due(),
            every => due(every, self.progress.step),
        }
    }

    /// Orders a checkpoint: training goes on while what is copied here is written. One that cannot be written is a warning.
    pub(super) fn checkpoint(&mut self, best: bool) -> Result<()> {
        let start = Instant::now();
        note(self.comm, self.progress.step, "checkpoint");
        self.learner.settle()?;
        self.prove_replicas()?;
        // Before anything is copied: two copies may be more than fits into memory.
        self.saver.wait(&mut self.logger)?;
        self.progress.seconds = self.began.elapsed().as_secs_f64();
        let sizes = sizes(&self.dataset);
        let (config, fitted, progress) = (self.config, self.dataset.fitted(), &self.progress);
        let about = About { config, fitted, progress, source_sizes: &sizes };
        let step = progress.step;
        // Points of a curve that are not in the file when the checkpoint is would never come again.
        let flushed = self.logger.flush();
        if self.saver.is_sharded() {
            if let Some(temp) = self.saver.begin(step, best)? {
                let cut = self.learner.cut(about, self.comm)?;
                self.saver.order_share(temp, after(flushed, move || cut.share()));
            }
        } else if let Some(gathered) = self.learner.gather(about, self.comm)? {
            self.saver.order(step, best, after(flushed, move || gathered.snapshot()));
        }
        self.saver.held_up(start);
        self.limit.checkpoint_took(start.elapsed() + self.saver.longest_write());
        Ok(())
    }

    /// Proves that what goes into a checkpoint is what all ranks hold, unless nobody wants to know.
    fn prove_replicas(&self) -> Result<()> {
        match self.config.train.replica_check_every {
            0 => Ok(()),
            _ => check_replicas(&self.learner.model.params, self.progress.step, self.comm),
        }
    }

    /// Writes the checkpoint on which the run depends, and waits until it is on the disk.
    pub(super) fn last_checkpoint(&mut self, best: bool) -> Result<()> {
        self.checkpoint(best)?;
        let written = self.saver.must(&mut self.logger);
        agree(self.comm, written)
    }
}

/// What is to be done once the records are where a kill does not reach them.
fn after<T>(flushed: Flushed, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        flushed.wait();
        work()
    }
}

/// Makes a checkpoint of this very run the one that it continues from, before anything that is newer is given up: whatever
/// ends this session, the next one does not find itself in a future that was left.
///
/// # Collective
/// All ranks; `start` on rank 0 alone.
///
/// # Errors
/// On all ranks: if that cannot be written.
pub(super) fn continue_from(
    config: &Config,
    start: Option<&Start>,
    progress: &Progress,
    comm: &dyn Collective,
) -> Result<()> {
    let root = config.run.dir().join("checkpoints");
    let best = progress.best.first().map(|record| record.step);
    let point = |start: &Start| checkpoint::continue_from(&root, &start.path, start.snapshot.step, best);
    agree(comm, start.map_or(Ok(()), point))?;
    mark_best_again(config, progress, comm);
    Ok(())
}

/// Repeats what a kill between writing a checkpoint and marking it as the best would have left out.
fn mark_best_again(config: &Config, progress: &Progress, comm: &dyn Collective) {
    let best = progress.evaluated.iter().any(|record| record.best) && config.checkpoint.best;
    if best && comm.world().is_main() {
        let root = config.run.dir().join("checkpoints");
        if let Err(e) = checkpoint::mark_best(&root, progress.step) {
            tracing::debug!("not marked as the best again: {e}");
        }
    }
}
