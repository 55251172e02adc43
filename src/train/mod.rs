//! The training loop; alone in seeing every stage.

mod checkpointing;
pub mod clock;
pub mod device;
mod evaluation;
mod guard;
mod info;
mod layout;
mod learner;
mod lock;
pub mod persist;
pub mod phases;
mod progress;
mod replicas;
mod restore;
mod saving;
pub mod setup;
mod shares;
mod signals;
mod stragglers;
mod time_limit;
mod together;
mod window;

pub use guard::{Refusal, Rollbacks};
pub use learner::{Compute, Learner, Recipe, StepReport};
pub use progress::Progress;
pub use replicas::check_replicas;
pub use setup::{Options, Resume};
pub use signals::StopFlag;
pub use time_limit::TimeLimit;

use crate::checkpoint;
use crate::comm::{Collective, agree, agree_on_sum, note};
use crate::config::{Config, Precision};
use crate::data::{DataError, Dataset, Loader, LoaderOptions, Split};
use crate::error::{self, Error, Result};
use crate::fault;
use crate::log::{DeviceRecord, Logger, Status, Summary, TrainRecord};
use crate::optim;
use checkpointing::continue_from;
use guard::Next;
use info::{run_info, write_config};
use lock::RunLock;
use persist::Stored;
use phases::{Phase, Phases};
use saving::Saver;
use std::sync::Arc;
use std::time::Instant;
use stragglers::Stragglers;
use window::Window;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done, or patience ran out.
    Done,
    /// Stopped early with a checkpoint: the same command continues.
    Stopped,
}

/// Trains until the configured end, or until `stop` is raised or the time is nearly up on any rank.
///
/// # Collective
/// All ranks, with the same configuration.
///
/// # Errors
/// Bad configuration, data or checkpoints, on all ranks alike; [`Error::Guard`] when training stops itself; and failures
/// of one rank alone, for which [`Error::is_local`] holds and the job must be aborted.
pub fn train(config: &Config, options: &Options, stop: &StopFlag, comm: &dyn Collective) -> Result<Outcome> {
    let limit = TimeLimit::new(&config.train, stop, Instant::now());
    setup::same_config(config, comm)?;
    match config.train.precision {
        Precision::F32 | Precision::Bf16 => Session::<f32>::start(config, options, limit, comm)?.run(stop),
        Precision::F64 => Session::<f64>::start(config, options, limit, comm)?.run(stop),
    }
}

/// One run in progress.
struct Session<'a, F> {
    config: &'a Config,
    comm: &'a dyn Collective,
    dataset: Arc<Dataset>,
    learner: Learner<F>,
    progress: Progress,
    saver: Saver<'a>,
    stragglers: Stragglers,
    logger: Logger,
    limit: TimeLimit,
    steps_per_epoch: u64,
    samples_per_step: u64,
    total_steps: u64,
    /// Training began at this moment, as if all earlier sessions had happened just before this one.
    began: Instant,
    /// On rank 0: keeps other jobs out of the run directory until all the rest of this is gone.
    _lock: Option<RunLock>,
}

impl<'a, F: Stored> Session<'a, F> {
    fn start(config: &'a Config, options: &Options, limit: TimeLimit, comm: &'a dyn Collective) -> Result<Self> {
        let began = Instant::now();
        setup::set_threads(config, comm);
        let device = device::choose(config, comm)?;
        let lock = agree(comm, comm.world().is_main().then(|| RunLock::take(&config.run.dir())).transpose())?;
        if comm.world().is_main() {
            // The run directory is this job's: whatever a killed one was writing is in the way, and takes room that even the
            // first small file may need.
            checkpoint::clear(&config.run.dir().join("checkpoints"));
        }
        let start = setup::find_start(config, options, comm)?;
        let dataset = setup::open_data(config, start.as_ref(), comm)?;
        let sampler = dataset.sampler(config)?;
        let mut learner = setup::build_learner::<F>(config, &dataset, device, comm)?;
        setup::probe(&learner, &dataset)?;
        replicas::are_there(&learner.model.params, fault::parameters())?;
        let mut progress = Progress::default();
        let mut resumed = vec![u8::from(start.is_some())];
        comm.broadcast(&mut resumed)?;
        if resumed == [1] {
            let from = start.as_ref().map(|s| (s.path.as_path(), &s.snapshot));
            let state = learner.restore(from, comm)?;
            same_sizes(&dataset, &state.source_sizes)?;
            progress = state.progress;
            continue_from(config, start.as_ref(), &progress, comm)?;
        }
        let steps_per_epoch = sampler.steps_per_epoch();
        let total_steps =
            config.train.steps.unwrap_or_else(|| config.train.epochs.unwrap_or(0).saturating_mul(steps_per_epoch));
        let info = run_info(config, &learner, total_steps, comm);
        let logger = if comm.world().is_main() {
            let written = write_config(config);
            agree(comm, written)?;
            Logger::open(&config.run.dir(), info, (resumed == [1]).then(|| progress.resumed()), &config.log)
        } else {
            agree(comm, Ok::<_, Error>(()))?;
            Logger::null()
        };
        let saver = Saver::new(config, comm)?;
        let samples_per_step = sampler.samples_per_step() as u64;
        let earlier = std::time::Duration::try_from_secs_f64(progress.seconds).unwrap_or_default();
        let began = began.checked_sub(earlier).unwrap_or(began);
        let mut session = Session {
            config,
            comm,
            dataset: Arc::new(dataset),
            learner,
            progress,
            saver,
            stragglers: Stragglers::new(config, comm)?,
            logger,
            limit,
            steps_per_epoch,
            samples_per_step,
            total_steps,
            began,
            _lock: lock,
        };
        let mut continued = vec![u8::from(resumed == [1] && options.resume == Resume::Auto)];
        comm.broadcast(&mut continued)?;
        session.anchor(continued == [1])?;
        Ok(session)
    }

    fn run(mut self, stop: &StopFlag) -> Result<Outcome> {
        let outcome = self.train(stop);
        if matches!(outcome, Err(Error::Guard(_))) {
            // All ranks are here: what is in flight needs them to become a checkpoint.
            self.saver.wait(&mut self.logger)?;
        }
        if !outcome.as_ref().is_err_and(Error::is_local) {
            self.learner.close_exchange();
        }
        outcome
    }

    fn train(&mut self, stop: &StopFlag) -> Result<Outcome> {
        let config = self.config;
        let world = self.comm.world();
        let mut loader = self.loader()?;
        let mut window = Window::new();
        while self.progress.step < self.total_steps && !self.is_impatient() {
            let step = self.progress.step;
            note(self.comm, step + 1, "data");
            fault::strike(step + 1, world)?;
            replicas::flip(&self.learner.model.params, fault::flipped(step + 1, world));
            let (batches, wait_ms) = loader.next().map_err(shortage_or)?;
            note(self.comm, step + 1, "compute");
            let lr = optim::lr(&config.schedule, config.optim.lr(), step, self.total_steps);
            let sent = self.learner.bytes_sent(self.comm);
            let mut slowed = Phases::default();
            slowed.time(Phase::Forward, || fault::slow_down(step + 1, world));
            self.learner.compares_replicas = due(config.train.replica_check_every, step + 1);
            let left_out = self.progress.leaves_out(step + 1);
            let mut report =
                if left_out { self.learner.leave_out() } else { self.learner.step(step, lr, &batches, self.comm)? };
            report.phases.add(&slowed);
            drop(batches);
            window.add(&report, wait_ms, self.learner.bytes_sent(self.comm) - sent);
            self.progress.step += 1;
            self.progress.samples += self.samples_per_step;
            self.progress.evaluated.clear();
            let boundary = Instant::now();
            if self.guard(&report)? == Next::Back {
                // Never two of them: each holds batches.
                drop(loader);
                loader = self.loader()?;
                window.pause(boundary);
                continue;
            }
            self.record(&report, lr, &mut window)?;

            let boundary = Instant::now();
            if due(config.train.replica_check_every, self.progress.step) {
                self.learner.settle()?;
                check_replicas(&self.learner.model.params, self.progress.step, self.comm)?;
            }
            self.saver.poll(&mut self.logger);
            let (stopping, time_is_up) = self.agree_what_is_due(stop)?;
            let best = self.evaluation_is_due() && self.evaluate()?;
            let last = self.progress.step == self.total_steps || self.is_impatient();
            if stopping && !last {
                self.last_checkpoint(best)?;
                self.finish(Status::Stopped);
                return Ok(Outcome::Stopped);
            }
            if !last && ((best && config.checkpoint.best) || self.checkpoint_is_due() || time_is_up) {
                self.checkpoint(best)?;
            }
            window.pause(boundary);
        }
        drop(loader);
        if self.is_impatient() {
            let n = self.progress.evaluations_since_best;
            self.logger.message(&format!("no better score for {n} evaluations: stopped early (`train.patience`)"));
        }
        let best = self.evaluate_at_the_end()?;
        self.last_checkpoint(best)?;
        self.finish(Status::Done);
        Ok(Outcome::Done)
    }

    /// Whether the score has not improved for as many evaluations as the configuration allows.
    fn is_impatient(&self) -> bool {
        self.config.train.patience.is_some_and(|p| self.progress.evaluations_since_best >= p.max(1))
    }

    /// Loads the batches from here on.
    fn loader(&self) -> Result<Loader> {
        let options = LoaderOptions::of(self.config, self.comm.world(), self.learner.model.device());
        let options = LoaderOptions { first_step: self.progress.step, hook: fault::strike_loading, ..options };
        Ok(Loader::new(self.dataset.clone(), self.dataset.sampler(self.config)?, options)?)
    }

    fn record(&mut self, report: &StepReport, lr: f64, window: &mut Window) -> Result<()> {
        let step = self.progress.step;
        if !(due(self.config.log.every, step) || step == 1 || step == self.total_steps) {
            return Ok(());
        }
        let device = self.device_record(window);
        let (ranks, words) = self.stragglers.compare(window.own_ms(), self.comm)?.unzip();
        words.iter().flatten().for_each(|words| self.logger.message(words));
        let (time_ms, steps_per_s, bytes_per_step) = window.close();
        self.logger.train(&TrainRecord {
            step,
            epoch: self.epoch(),
            lr,
            tasks: self.config.tasks.iter().map(|(name, _)| name.clone()).collect(),
            loss: report.losses.clone(),
            weight: report.weights.clone(),
            coef: report.coefficients.mean().unwrap_or_default(),
            grad_norm: report.gram.as_ref().map(|g| g.norms()),
            cosine: report.gram.as_ref().map(|g| g.cosines()),
            conflict_rate: report.gram.as_ref().and_then(|g| g.conflict_rate()),
            update_norm: report.update_norm,
            time_ms,
            samples_per_s: steps_per_s * self.samples_per_step as f64,
            bytes_per_step,
            skipped: self.progress.skipped,
            checkpoint_ms: self.saver.held_ms(),
            device,
            ranks,
        });
        Ok(())
    }

    /// What is known of the device since the last record; `None` on a CPU.
    fn device_record(&self, window: &mut Window) -> Option<DeviceRecord> {
        let exchange = self.learner.exchange_ms().map(|so_far| window.exchange(so_far));
        Some(DeviceRecord { memory_mib: device::memory_mib(self.learner.model.device())?, exchange })
    }

    fn epoch(&self) -> f64 {
        self.progress.step as f64 / self.steps_per_epoch as f64
    }

    /// Whether any rank was asked to stop or fears that its time will be up, and whether rank 0 wants a checkpoint because of
    /// the time. When all ranks have written their part of a checkpoint, they settle it.
    fn agree_what_is_due(&mut self, stop: &StopFlag) -> Result<(bool, bool)> {
        let now = Instant::now();
        let votes = [stop.raised(), self.limit.is_near(now), self.saver.time_is_up(), self.saver.has_written()];
        let mut votes = votes.map(|vote| f64::from(u8::from(vote)));
        agree_on_sum(self.comm, &mut votes)?;
        let all_have_written = votes[3] == self.comm.world().size as f64;
        let [asked, near, time_is_up, _] = votes.map(|sum| sum > 0.0);
        if all_have_written {
            self.saver.settle(&mut self.logger)?;
        }
        if near && !asked {
            self.logger.message(&self.limit.words(now));
        }
        Ok((asked || near, time_is_up))
    }

    fn finish(&mut self, status: Status) {
        self.progress.seconds = self.began.elapsed().as_secs_f64();
        self.logger.finish(&Summary {
            status,
            steps: self.progress.step,
            epochs: self.epoch(),
            samples: self.progress.samples,
            seconds: self.progress.seconds,
            skipped: self.progress.skipped,
            best: self.progress.best.clone(),
            last: self.progress.evaluated.clone(),
        });
    }
}

/// A batch that found no memory is told as any other lack of it.
fn shortage_or(error: DataError) -> Error {
    match &error {
        DataError::Loader(words) => error::shortage(words).map_or(error.into(), Error::Memory),
        _ => error.into(),
    }
}

/// Whether something that happens every so many steps (0: never) happens now.
fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn sizes(dataset: &Dataset) -> Vec<u64> {
    (0..dataset.n_sources()).map(|s| dataset.n_rows(s, Split::Train) as u64).collect()
}

fn same_sizes(dataset: &Dataset, before: &[u64]) -> Result<()> {
    let now = sizes(dataset);
    match (0..now.len()).find(|&s| before.get(s) != Some(&now[s])) {
        None => Ok(()),
        Some(s) => Err(Error::Usage(format!(
            "source `{}` has {} training rows, but {} when the checkpoint was written: the sample order would be another \
             one\n  hint: bring the data back, or start a new run with another `run.dir`",
            dataset.source_name(s),
            now[s],
            before.get(s).map_or("was not there".into(), |n| n.to_string()),
        ))),
    }
}
