//! How ranks exchange numbers. [`Collective`] moves numbers in host memory, and all that ranks decide together;
//! [`tensors::TensorCollective`] moves the rows of gradients and parameters where they live.
//!
//! * [`solo`]: a world of one.
//! * [`threads`]: ranks as threads of one process, for tests and for embedding.
//! * [`mpi`]: processes over MPI (cargo feature `mpi`).
//!
//! [`watchdog`] watches them all: a job that is stuck ends, and says who waits for whom.

mod launch;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod nccl;
pub mod reduce;
pub mod solo;
pub mod tensors;
pub mod threads;
pub mod watchdog;

pub use launch::{
    connect, job_by_launcher, launched, rank_by_launcher, shares_gpus, threads_by_environment, world_by_launcher,
};
pub use solo::Solo;
pub use threads::Threads;
pub use watchdog::{Watchdog, WatchdogOptions};

use crate::error::Error;
use crate::world::World;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A collective operation failed; the job cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CommError {
    /// The backend reported an error.
    #[error("{op} failed: {reason}")]
    Failed {
        /// The operation.
        op: &'static str,
        /// The backend's words.
        reason: String,
    },
    /// The launcher and the world it made do not fit.
    #[error("{0}")]
    Launch(String),
}

type Result<T> = std::result::Result<T, CommError>;

/// Exchange of numbers between all ranks of the run.
///
/// # Collective
/// Every method is called by all ranks, in the same order, with the same lengths. Results that are the same on all
/// ranks by definition have the same bits on all ranks. The order in which ranks are summed is fixed by `W` and the
/// length, so that a repeated run gives the same bits.
pub trait Collective {
    /// This rank's place.
    fn world(&self) -> World;
    /// Waits for all ranks.
    fn barrier(&self) -> Result<()>;
    /// Sums over ranks, in place.
    fn all_reduce_f64(&self, data: &mut [f64]) -> Result<()>;
    /// Sums over ranks, in place.
    fn all_reduce_f32(&self, data: &mut [f32]) -> Result<()>;
    /// Sums over ranks; rank `r` keeps block `r` of `send`. `send.len() == W * recv.len()`.
    fn reduce_scatter_f32(&self, send: &[f32], recv: &mut [f32]) -> Result<()>;
    /// As [`Self::reduce_scatter_f32`].
    fn reduce_scatter_f64(&self, send: &[f64], recv: &mut [f64]) -> Result<()>;
    /// Rank `r`'s block `r` of `data` goes to all ranks, in place. `data.len()` is a multiple of `W`.
    fn all_gather_f32(&self, data: &mut [f32]) -> Result<()>;
    /// As [`Self::all_gather_f32`].
    fn all_gather_f64(&self, data: &mut [f64]) -> Result<()>;
    /// Rank 0's bytes replace those of all ranks; lengths may differ before.
    fn broadcast(&self, data: &mut Vec<u8>) -> Result<()>;
    /// Rank 0's numbers replace those of all ranks; the lengths are equal.
    fn broadcast_f64(&self, data: &mut [f64]) -> Result<()>;
    /// The bytes of every rank, in rank order; lengths may differ.
    fn all_gather_bytes(&self, data: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// Ends the whole job at once with this exit code. For panics and errors that other ranks do not share.
    fn abort(&self, code: u8) -> !;
    /// Bytes this rank has sent so far, by the usual ring formulas (all-reduce `2 (W-1)/W * n`, others `(W-1)/W * n`).
    fn bytes_sent(&self) -> u64;
    /// The watchdog that records these operations, if there is one.
    fn watchdog(&self) -> Option<&Watchdog> {
        None
    }
}

/// Where this process was last seen.
static PLACE: Mutex<Option<(u64, &'static str)>> = Mutex::new(None);

/// Takes note of where this rank is outside of operations, for the watchdog and for messages: the step it works on, and what
/// it does there.
pub fn note(comm: &dyn Collective, step: u64, phase: &'static str) {
    *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = Some((step, phase));
    if let Some(watchdog) = comm.watchdog() {
        watchdog.note(step, phase);
    }
}

/// The step and phase that were noted last; `None` before the first step.
pub fn place() -> Option<(u64, &'static str)> {
    *PLACE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sums of one kind of float, so that generic code need not say which.
pub trait Number: crate::kernel::Real {
    /// See [`Collective::all_reduce_f32`].
    fn all_reduce(comm: &dyn Collective, data: &mut [Self]) -> Result<()>;
    /// See [`Collective::reduce_scatter_f32`].
    fn reduce_scatter(comm: &dyn Collective, send: &[Self], recv: &mut [Self]) -> Result<()>;
    /// See [`Collective::all_gather_f32`].
    fn all_gather(comm: &dyn Collective, data: &mut [Self]) -> Result<()>;
}

macro_rules! number {
    ($t:ty, $all_reduce:ident, $reduce_scatter:ident, $all_gather:ident) => {
        impl Number for $t {
            fn all_reduce(comm: &dyn Collective, data: &mut [Self]) -> Result<()> {
                comm.$all_reduce(data)
            }
            fn reduce_scatter(comm: &dyn Collective, send: &[Self], recv: &mut [Self]) -> Result<()> {
                comm.$reduce_scatter(send, recv)
            }
            fn all_gather(comm: &dyn Collective, data: &mut [Self]) -> Result<()> {
                comm.$all_gather(data)
            }
        }
    };
}
number!(f32, all_reduce_f32, reduce_scatter_f32, all_gather_f32);
number!(f64, all_reduce_f64, reduce_scatter_f64, all_gather_f64);

/// Sums over ranks, then takes rank 0's bits: for the small numbers that decide what a step does.
///
/// # Collective
/// All ranks, same length.
///
/// # Errors
/// If the collective fails.
pub fn agree_on_sum(comm: &dyn Collective, data: &mut [f64]) -> Result<()> {
    comm.all_reduce_f64(data)?;
    comm.broadcast_f64(data)
}

/// All ranks succeed, or all fail alike.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// On the lowest rank that failed, its own error; on the others [`Error::Elsewhere`] with that rank's words.
pub fn agree<T, E: Into<Error>>(comm: &dyn Collective, result: std::result::Result<T, E>) -> crate::Result<T> {
    let result = result.map_err(Into::into);
    let mine = match &result {
        Ok(_) => Vec::new(),
        Err(e) => [&[e.exit_code()], e.to_string().as_bytes()].concat(),
    };
    let all = comm.all_gather_bytes(&mine)?;
    let Some(rank) = all.iter().position(|m| !m.is_empty()) else { return result };
    match result {
        Err(e) if rank == comm.world().rank => Err(e),
        _ => {
            let message = String::from_utf8_lossy(&all[rank][1..]).into_owned();
            Err(Error::Elsewhere { rank, message, code: all[rank][0] })
        }
    }
}

/// Counts the bytes that one rank sends, by the formulas of ring algorithms.
#[derive(Debug, Default)]
struct Traffic(AtomicU64);

impl Traffic {
    fn all_reduce(&self, world: World, bytes: usize) {
        self.add(2 * bytes * (world.size - 1) / world.size);
    }
    fn one_way(&self, world: World, bytes: usize) {
        self.add(bytes * (world.size - 1) / world.size);
    }
    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
