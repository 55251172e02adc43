//! The watchdog of collective operations: a job that is stuck becomes one sentence that says who waits for whom, and ends.
//!
//! Every rank numbers its operations and keeps the last ones (`ring`). A thread of its own, which never calls MPI or
//! CUDA, notices an operation that takes longer than the deadline or has failed (`thread`), writes what this rank
//! has done ([`flight`]), wakes the watchdogs of the other ranks and ends the job (`alarm`) with the sentence that
//! [`culprit`] finds in the records of all ranks.
//!
//! [`Guarded`] records the operations of a [`Collective`](super::Collective). Enqueued operations on devices record
//! themselves with [`Watchdog::begin_async`].

mod alarm;
pub mod culprit;
pub mod flight;
mod guarded;
mod leave;
mod ring;
#[cfg(test)]
mod tests;
mod thread;

pub use guarded::{Guarded, guard, skip_next_all_reduce};
pub use leave::told_to_leave;

use crate::world::World;
use ring::{Place, Ring};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How a [`Watchdog`] watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchdogOptions {
    /// How long an operation may take, from when this rank entered it. Zero: nothing is watched.
    pub deadline: Duration,
    /// Where flight records go; made only when there is one to write. All ranks must see the same folder.
    pub dir: PathBuf,
    /// Operations that are remembered per plane.
    pub buffer: usize,
}

impl Default for WatchdogOptions {
    /// Ten minutes and 2000 operations, as PyTorch has it.
    fn default() -> Self {
        WatchdogOptions { deadline: Duration::from_secs(600), dir: "flight".into(), buffer: 2000 }
    }
}

/// A handle of this rank's watchdog; clones are the same watchdog. It watches until the last handle is dropped.
#[derive(Clone)]
pub struct Watchdog(Option<Arc<Owner>>);

/// Dropped with the last handle.
struct Owner(Arc<Shared>);

/// What all ranks of a job know of it.
#[derive(Default)]
struct Job {
    /// Its name.
    run: String,
    /// Hosts by rank, where the ranks are on several; else empty.
    hosts: Vec<String>,
}

/// What handles, tickets and the thread share.
struct Shared {
    world: World,
    options: WatchdogOptions,
    /// Tells records of this job from those of an earlier one in the same folder.
    run: String,
    /// Hosts by rank, where the ranks are on several; else empty.
    hosts: Vec<String>,
    origin: Instant,
    /// Wall clock at `origin`.
    epoch: SystemTime,
    ring: Mutex<Ring>,
    stopped: AtomicBool,
    /// Ends the job with these words.
    end: Box<dyn Fn(&str) + Send + Sync>,
}

impl Watchdog {
    /// Starts the watchdog of this rank. Ranks that should find each other's records use [`guard`], which gives
    /// all of them the same name for this job.
    pub fn start(world: World, options: WatchdogOptions) -> Watchdog {
        Watchdog::start_as(world, options, Job::default(), Box::new(alarm::end_job))
    }

    /// A watchdog that watches nothing.
    pub fn off() -> Watchdog {
        Watchdog(None)
    }

    fn start_as(world: World, options: WatchdogOptions, job: Job, end: Box<dyn Fn(&str) + Send + Sync>) -> Watchdog {
        if options.deadline.is_zero() {
            return Watchdog::off();
        }
        let ring = Mutex::new(Ring::new(options.buffer));
        let (origin, epoch, stopped) = (Instant::now(), SystemTime::now(), AtomicBool::new(false));
        let Job { run, hosts } = job;
        let shared = Arc::new(Shared { world, options, run, hosts, origin, epoch, ring, stopped, end });
        let watched = shared.clone();
        match std::thread::Builder::new().name("watchdog".into()).spawn(move || thread::run(&watched)) {
            Ok(_) => Watchdog(Some(Arc::new(Owner(shared)))),
            Err(e) => {
                tracing::warn!("no thread for the watchdog, so a rank that hangs will not be noticed: {e}");
                Watchdog::off()
            }
        }
    }

    /// Notes that this rank enters an operation, which lasts until the ticket is dropped. `plane` names the kind of
    /// communication (`"mpi"`, `"nccl"`); within a plane all ranks call the same operations in the same order. `bytes` is
    /// the same on all ranks, or 0 where ranks may differ.
    #[must_use = "the operation ends when the ticket is dropped"]
    pub fn begin(&self, plane: &'static str, op: &'static str, bytes: u64) -> Ticket {
        Ticket(self.shared().map(|shared| {
            let now = shared.now();
            let (plane, seq) = shared.ring().begin(plane, op, bytes, now);
            (shared.clone(), plane, seq)
        }))
    }

    /// As [`Self::begin`], for an operation that is only enqueued here: it has ended when `poll` says `true`. The
    /// watchdog's thread calls `poll` some times a second, for the oldest operation of the plane alone; it must not
    /// wait for anything. An error is treated like an expired deadline, with its words.
    pub fn begin_async(
        &self,
        plane: &'static str,
        op: &'static str,
        bytes: u64,
        poll: Box<dyn Fn() -> Result<bool, String> + Send>,
    ) {
        let Some(shared) = self.shared() else { return };
        let now = shared.now();
        let mut ring = shared.ring();
        let (plane, seq) = ring.begin(plane, op, bytes, now);
        ring.watch(plane, seq, poll);
    }

    /// Notes where this rank is outside of operations: "step 120, backward".
    pub fn note(&self, step: u64, phase: &'static str) {
        if let Some(shared) = self.shared() {
            let since = shared.now();
            shared.ring().place = Some(Place { step, phase, since });
        }
    }

    fn shared(&self) -> Option<&Arc<Shared>> {
        self.0.as_ref().map(|owner| &owner.0)
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
        // What the questions hold (events of a device) goes now, on this thread, and not after the libraries are gone.
        let polls = self.0.ring().take_all_polls();
        drop(polls);
    }
}

/// An operation that this rank is in, until it is dropped.
pub struct Ticket(Option<(Arc<Shared>, usize, u64)>);

impl Ticket {
    /// Notes that the operation has ended.
    pub fn end(self) {}
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((shared, plane, seq)) = &self.0 {
            let now = shared.now();
            shared.ring().end(*plane, *seq, now);
        }
    }
}
