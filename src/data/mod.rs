//! From files to batches: sources, splits, fitted transforms, the sampler and the loader.
//!
//! ```text
//! sources/  a file per format   -> Table (typed columns, place of each row)
//! split     by file, column, seeded fraction
//! fit       standardisation, vocabularies, classes: from the training split only; saved with the model
//! dataset   transformed samples in memory
//! sampler   which rows a global step takes: a pure function of (seed, source, step)
//! loader    this rank's slice of it as tensors, prepared ahead by a thread
//! ```

mod batch;
mod error;
pub mod sources;
pub mod table;

pub use batch::{Batch, InputDims, Inputs, Part, Target, Tokens};
pub use error::DataError;
