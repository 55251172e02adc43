//! Loops over millions of numbers, at memory speed: inner products of rows, sketches of them, "combine rows, then
//! optimize", and passes over columns.
//!
//! Plain slices in, plain slices out: no tensors. Work is cut into chunks of fixed length, so the result has the
//! same bits for any number of threads. Rows come in [`Fragment`]s, because on one rank the gradients that
//! libtorch hands out are read where they lie, without a copy into one buffer.

mod columns;
mod gram;
mod parallel;
mod real;
mod simd;
mod sketch;
mod update;

pub use columns::{Block, Pass, Stretch, add_block_gram, combine, sweep};
pub use gram::{add_gram, dot};
pub use real::Real;
pub use sketch::{Sketch, Span};
pub use update::{Piece, Rule, update};

/// Columns of one unit of parallel work: large enough to hide the scheduling, small enough to balance it.
const CHUNK: usize = 32 * 1024;

/// The same range of columns of several rows. An empty row stands for zeros.
#[derive(Debug, Clone)]
pub struct Fragment<'a, F> {
    /// Number of columns.
    pub len: usize,
    /// The rows: each has `len` entries, or none (zeros).
    pub rows: Vec<&'a [F]>,
}
