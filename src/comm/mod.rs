//! How ranks exchange numbers. One trait, [`Collective`]; the step, balancing and checkpoints know nothing else.
//!
//! * [`solo`]: a world of one.
//! * [`threads`]: ranks as threads of one process, for tests and for embedding.
//! * [`mpi`]: processes over MPI (cargo feature `mpi`).

use crate::world::World;

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
pub trait Collective: Send {
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
    /// The bytes of every rank, in rank order; lengths may differ.
    fn all_gather_bytes(&self, data: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// Ends the whole job at once with this exit code. For panics and errors that other ranks do not share.
    fn abort(&self, code: u8) -> !;
    /// Bytes this rank has sent so far, by the usual ring formulas (all-reduce `2 (W-1)/W * n`, others `(W-1)/W * n`).
    fn bytes_sent(&self) -> u64;
}
