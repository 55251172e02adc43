//! From files to batches: sources, splits, fitted transforms, the sampler and the loader.
//!
//! ```text
//! sources/  a file per format   -> Table (typed columns, place of each row)
//! columns   which columns are wanted, and what for
//! split     by file, column, seeded fraction
//! fit       standardisation, vocabularies, classes: from the training split only; saved with the model
//! features, labels   rows of a table, transformed, in memory
//! dataset   all of it, for every source and split
//! sampler   which rows a global step takes: a pure function of (seed, source, step)
//! loader    this rank's slice of it as tensors, prepared ahead by a thread (whereabouts: what it is at, for messages)
//! predict   a user's rows through the same transforms; predictions into a file
//! ```

mod batch;
mod columns;
mod dataset;
mod error;
mod features;
mod fit;
mod labels;
mod loader;
mod predict;
mod sampler;
mod shuffle;
pub mod sources;
mod split;
pub mod table;
#[cfg(test)]
mod testing;
mod values;
mod whereabouts;
mod words;
mod write;

pub use batch::{Batch, InputDims, Inputs, Part, Target, Tokens};
pub use dataset::{Dataset, TaskInfo, task_infos};
pub use error::DataError;
pub use fit::{Block, Category, Fitted, FittedTask, Standard};
pub use loader::{Loader, LoaderOptions};
pub use predict::Unlabelled;
pub use sampler::Sampler;
pub use split::{SourceTables, Split};
pub use words::Vocabulary;
pub use write::{Column, check_predictions_path, write_predictions};
