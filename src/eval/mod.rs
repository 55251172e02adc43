//! How good the predictions are: mergeable metrics, exact over all ranks; and how much better than single tasks.

mod delta_m;
mod evaluate;
pub mod metrics;

pub use delta_m::{DeltaM, Measured, Undefined, delta_m};
pub use evaluate::{Metrics, evaluate, predictions, score};
