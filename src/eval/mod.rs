//! How good the predictions are: mergeable metrics, exact over all ranks.

pub mod metrics;
