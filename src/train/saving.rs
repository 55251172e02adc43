//! Checkpoints of a run in progress: when one is due, what becomes of it, and for how long it holds training up.
//!
//! Where every rank writes its own states, a checkpoint has two parts. Rank 0 makes a folder ([`Saver::begin`]), and every
//! rank's writer puts its files into it ([`Saver::order_share`]). At the end of a step the ranks find that all have done so
//! ([`Saver::has_written`]) and tell each other what came of it ([`Saver::settle`]); then the writer of rank 0 makes a checkpoint
//! of the files, or the folder goes. Writers never talk to other ranks.

use super::layout;
use crate::checkpoint::{
    self, CheckpointError, FileInfo, Keep, Order, Point, Report, Share, Snapshot, Work, Writer, Written,
};
use crate::comm::{Collective, CommError};
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::fault;
use crate::log::Logger;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The writer of this rank, and clocks.
pub(super) struct Saver<'a> {
    /// On ranks that write.
    writer: Option<Writer>,
    comm: &'a dyn Collective,
    /// Whether every rank writes its own states.
    sharded: bool,
    root: PathBuf,
    stage: Stage,
    /// The checkpoint that was ordered last.
    ordered: Ordered,
    config: config::Checkpoint,
    /// When the last checkpoint was ordered, or training began.
    last: Instant,
    /// For how long training has been held up and nobody was told.
    held: Option<Duration>,
    /// The longest time from an order to a checkpoint on the disk.
    longest_write: Duration,
}

/// Where the checkpoint in flight is, as this rank knows.
enum Stage {
    /// With the writer of rank 0, which does the rest; or there is none.
    Whole,
    /// This rank writes its files.
    Writing,
    /// This rank is done with its files, and the others have not been told.
    Written(Result<Told, CheckpointError>),
    /// It has failed before anything was written.
    Failed(CheckpointError),
}

struct Ordered {
    step: u64,
    best: bool,
    /// How long the slowest rank has taken for its part.
    seconds: f64,
}

impl Ordered {
    fn new(step: u64, best: bool) -> Self {
        Ordered { step, best, seconds: 0.0 }
    }
}

/// What a rank tells of its part.
#[derive(Serialize, Deserialize)]
struct Told {
    files: Vec<FileInfo>,
    seconds: f64,
}

impl<'a> Saver<'a> {
    /// Finds out who writes, and starts the writers.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If the system has no thread for one; or all ranks are to write, and do not see the same folder.
    pub fn new(config: &Config, comm: &'a dyn Collective) -> Result<Saver<'a>> {
        let world = comm.world();
        let root = config.run.dir().join("checkpoints");
        let sharded = layout::is_sharded(config, comm)?;
        let writer = (sharded || world.is_main()).then(|| {
            let hook = move |step, point, nth| fault::strike_writing(step, point, nth, world);
            Writer::new(&root, Box::new(hook))
        });
        let writer =
            writer.transpose().map_err(|source| Error::Io { path: "thread for checkpoints".into(), source })?;
        Ok(Saver {
            writer,
            comm,
            sharded,
            root,
            stage: Stage::Whole,
            ordered: Ordered::new(0, false),
            config: config.checkpoint.clone(),
            last: Instant::now(),
            held: None,
            longest_write: Duration::ZERO,
        })
    }

    /// Whether so much time has passed that rank 0 wants a checkpoint. Other ranks want none by themselves.
    pub fn time_is_up(&self) -> bool {
        let minutes = self.config.every_minutes.filter(|_| self.comm.world().is_main());
        minutes.is_some_and(|minutes| self.last.elapsed().as_secs_f64() >= 60.0 * minutes)
    }

    /// Whether every rank writes its own states.
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    /// Hands a checkpoint to the writer. There must be none in flight: [`Self::wait`] comes first.
    pub fn order(&mut self, step: u64, best: bool, snapshot: impl FnOnce() -> Snapshot + Send + 'static) {
        self.ordered = Ordered::new(step, best);
        let (best, keep) = (self.marks(), self.keep());
        if let Some(writer) = &mut self.writer {
            writer.start(Order { step, work: Work::Whole { snapshot: Box::new(snapshot), best, keep } });
        }
    }

    /// Makes the folder into which all ranks write; `None`: that failed, of which [`Self::poll`] and its like tell. There must
    /// be no checkpoint in flight.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If the collective fails.
    pub fn begin(&mut self, step: u64, best: bool) -> Result<Option<PathBuf>> {
        self.ordered = Ordered::new(step, best);
        let world = self.comm.world();
        let mut strike = |point: Point| fault::strike_writing(step, point, 1, world);
        let made = world.is_main().then(|| checkpoint::begin(&self.root, step, &mut strike));
        // The name alone, which is plain text: the folder above is where this rank was found to see it.
        let name = made.as_ref().and_then(|made| made.as_ref().ok()?.file_name()?.to_str());
        let mut bytes = name.unwrap_or_default().as_bytes().to_vec();
        self.comm.broadcast(&mut bytes)?;
        if let Some(Err(e)) = made {
            checkpoint::undo(&self.root, step);
            self.stage = Stage::Failed(e);
        }
        Ok((!bytes.is_empty()).then(|| self.root.join(String::from_utf8_lossy(&bytes).as_ref())))
    }

    /// Hands this rank's part of a checkpoint to its writer, for the folder that [`Self::begin`] has made.
    pub fn order_share(&mut self, temp: PathBuf, share: impl FnOnce() -> Share + Send + 'static) {
        if let Some(writer) = &mut self.writer {
            writer.start(Order { step: self.ordered.step, work: Work::Share { temp, share: Box::new(share) } });
            self.stage = Stage::Writing;
        }
    }

    fn marks(&self) -> bool {
        self.ordered.best && self.config.best
    }

    fn keep(&self) -> Keep {
        Keep { last: self.config.keep.max(1), every: self.config.keep_every }
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
        let report = self.writer.as_mut().and_then(Writer::poll);
        if let Some(report) = report.and_then(|report| self.landed(report)).or_else(|| self.failed()) {
            self.tell(report, logger);
        }
    }

    /// Whether this rank has written its files and waits for the others: when all do, it is time to [`settle`](Self::settle).
    pub fn has_written(&self) -> bool {
        matches!(self.stage, Stage::Written(_))
    }

    /// The ranks tell each other of the files that they have written: rank 0 goes on with them, or tells what went wrong.
    ///
    /// # Collective
    /// All ranks, when all [have written](Self::has_written) theirs.
    ///
    /// # Errors
    /// If a collective fails.
    pub fn settle(&mut self, logger: &mut Logger) -> Result<()> {
        if let Some(report) = self.settled()? {
            self.tell(report, logger);
        }
        Ok(())
    }

    /// Waits for the checkpoint in flight. One that failed is a warning: the next one that is due tries again.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If a collective fails.
    pub fn wait(&mut self, logger: &mut Logger) -> Result<()> {
        if let Some(report) = self.finished()? {
            self.tell(report, logger);
        }
        Ok(())
    }

    /// Waits for the checkpoint in flight, on which the run depends.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// On rank 0, and on others as it may be: it could not be written.
    pub fn must(&mut self, logger: &mut Logger) -> Result<()> {
        match self.finished()? {
            Some(Report { result: Err(e), .. }) => return Err(e.into()),
            Some(report) => self.tell(report, logger),
            None => {}
        }
        Ok(())
    }

    /// Sees the checkpoint in flight to its end; `None`: there is none on this rank.
    fn finished(&mut self) -> Result<Option<Report>, CommError> {
        if matches!(self.stage, Stage::Writing)
            && let Some(report) = self.writer.as_mut().and_then(Writer::wait)
        {
            self.landed(report);
        }
        if self.has_written()
            && let Some(report) = self.settled()?
        {
            return Ok(Some(report));
        }
        Ok(self.writer.as_mut().and_then(Writer::wait).or_else(|| self.failed()))
    }

    /// Takes a report of the writer; it is given back if the checkpoint ends with it.
    fn landed(&mut self, report: Report) -> Option<Report> {
        if matches!(self.stage, Stage::Writing) {
            self.stage = Stage::Written(report.result.map(|Written { files, seconds, .. }| Told { files, seconds }));
            return None;
        }
        Some(report)
    }

    /// What is to be told of a checkpoint that was not even begun.
    fn failed(&mut self) -> Option<Report> {
        match std::mem::replace(&mut self.stage, Stage::Whole) {
            Stage::Failed(e) => Some(Report { step: self.ordered.step, result: Err(e) }),
            other => {
                self.stage = other;
                None
            }
        }
    }

    /// Brings the files of all ranks to rank 0, whose writer goes on; or what went wrong to all.
    fn settled(&mut self) -> Result<Option<Report>, CommError> {
        let step = self.ordered.step;
        let mine = match std::mem::replace(&mut self.stage, Stage::Whole) {
            Stage::Written(told) => told.map_err(|e| e.to_string()),
            _ => Err("nothing was written".into()),
        };
        let all = self.comm.all_gather_bytes(&serde_json::to_vec(&mine).unwrap_or_default())?;
        let parse = |bytes: &Vec<u8>| -> std::result::Result<Told, String> {
            serde_json::from_slice(bytes).unwrap_or_else(|e| Err(e.to_string()))
        };
        let mut files = Vec::new();
        for (rank, told) in all.iter().map(parse).enumerate() {
            match told {
                Ok(told) => {
                    files.extend(told.files);
                    self.ordered.seconds = self.ordered.seconds.max(told.seconds);
                }
                Err(message) => {
                    if self.comm.world().is_main() {
                        checkpoint::undo(&self.root, step);
                    }
                    return Ok(Some(Report { step, result: Err(CheckpointError::OnRank { rank, message }) }));
                }
            }
        }
        let (best, keep) = (self.marks(), self.keep());
        if let Some(writer) = self.writer.as_mut().filter(|_| self.comm.world().is_main()) {
            writer.start(Order { step, work: Work::Finish { files, best, keep } });
        }
        Ok(None)
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
                let seconds = self.ordered.seconds + written.seconds;
                self.longest_write = self.longest_write.max(Duration::try_from_secs_f64(seconds).unwrap_or_default());
                tracing::debug!("checkpoint of step {step} written in {seconds:.2} s");
                for warning in written.warnings {
                    logger.message(&format!("warning: the checkpoint of step {step} is written, but {warning}"));
                }
            }
        }
    }
}
