//! Checkpoints of a run in progress: when one is due, and for how long it holds training up.

use crate::checkpoint::{Keep, Order, Report, Snapshot, Writer};
use crate::comm::Collective;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::fault;
use crate::log::Logger;
use std::time::{Duration, Instant};

/// The writer of rank 0, and clocks.
pub(super) struct Saver {
    /// On rank 0 alone.
    writer: Option<Writer>,
    config: config::Checkpoint,
    /// When the last checkpoint was ordered, or training began.
    last: Instant,
    /// For how long training has been held up and nobody was told.
    held: Option<Duration>,
    /// The longest time from an order to a checkpoint on the disk.
    longest_write: Duration,
}

impl Saver {
    /// Starts the writer on rank 0.
    ///
    /// # Errors
    /// If the system has no thread for it.
    pub fn new(config: &Config, comm: &dyn Collective) -> Result<Saver> {
        let world = comm.world();
        let root = config.run.dir().join("checkpoints");
        let writer = world.is_main().then(|| {
            let hook = move |step, point, nth| fault::strike_writing(step, point, nth, world);
            Writer::new(&root, Box::new(hook))
        });
        let writer =
            writer.transpose().map_err(|source| Error::Io { path: "thread for checkpoints".into(), source })?;
        Ok(Saver {
            writer,
            config: config.checkpoint.clone(),
            last: Instant::now(),
            held: None,
            longest_write: Duration::ZERO,
        })
    }

    /// Whether so much time has passed that rank 0 wants a checkpoint. Other ranks want none by themselves.
    pub fn time_is_up(&self) -> bool {
        let minutes = self.config.every_minutes.filter(|_| self.writer.is_some());
        minutes.is_some_and(|minutes| self.last.elapsed().as_secs_f64() >= 60.0 * minutes)
    }

    /// Hands a checkpoint to the writer. There must be none in flight: [`Self::wait`] comes first.
    pub fn order(&mut self, step: u64, best: bool, snapshot: impl FnOnce() -> Snapshot + Send + 'static) {
        let keep = Keep { last: self.config.keep.max(1), every: self.config.keep_every };
        let best = best && self.config.best;
        if let Some(writer) = &mut self.writer {
            writer.start(Order { step, best, keep, snapshot: Box::new(snapshot) });
        }
    }

    /// Takes note that training has stood still for a checkpoint.
    pub fn held_up(&mut self, since: Instant) {
        self.last = Instant::now();
        self.held = Some(self.held.unwrap_or_default() + since.elapsed());
    }

    /// Milliseconds for which training was held up since this was last asked; `None`: there was no checkpoint.
    pub fn held_ms(&mut self) -> Option<f64> {
        self.held.take().map(|held| held.as_secs_f64() * 1e3)
    }

    /// Tells what became of the checkpoint in flight, if it is finished.
    pub fn poll(&mut self, logger: &mut Logger) {
        if let Some(report) = self.writer.as_mut().and_then(Writer::poll) {
            self.tell(report, logger);
        }
    }

    /// Waits for the checkpoint in flight. One that failed is a warning: the next one that is due tries again.
    pub fn wait(&mut self, logger: &mut Logger) {
        if let Some(report) = self.writer.as_mut().and_then(Writer::wait) {
            self.tell(report, logger);
        }
    }

    /// Waits for the checkpoint in flight, on which the run depends.
    ///
    /// # Errors
    /// On rank 0: it could not be written.
    pub fn must(&mut self, logger: &mut Logger) -> Result<()> {
        match self.writer.as_mut().and_then(Writer::wait) {
            Some(Report { result: Err(e), .. }) => return Err(e.into()),
            Some(report) => self.tell(report, logger),
            None => {}
        }
        Ok(())
    }

    /// How long the slowest checkpoint so far took to get to the disk; zero on ranks that write none.
    pub fn longest_write(&self) -> Duration {
        self.longest_write
    }

    fn tell(&mut self, report: Report, logger: &mut Logger) {
        let step = report.step;
        match report.result {
            Err(e) => logger.message(&format!(
                "warning: no checkpoint at step {step}: {e}; training goes on, and tries again when the next one is due"
            )),
            Ok(written) => {
                self.longest_write =
                    self.longest_write.max(Duration::try_from_secs_f64(written.seconds).unwrap_or_default());
                tracing::debug!("checkpoint of step {step} written in {:.2} s", written.seconds);
                for warning in written.warnings {
                    logger.message(&format!("warning: the checkpoint of step {step} is written, but {warning}"));
                }
            }
        }
    }
}
