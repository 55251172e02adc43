//! How good the predictions are: mergeable metrics, exact over all ranks.

mod evaluate;
pub mod metrics;

pub use evaluate::{Metrics, evaluate, predictions, score};
