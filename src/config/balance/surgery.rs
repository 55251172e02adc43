//! `balance.surgery`: what is done about conflicting gradients.

use serde::{Deserialize, Serialize};

/// What is done about conflicting gradients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Surgery {
    /// Nothing: one backward of the weighted loss.
    #[default]
    None,
    // By what they need: the Gram matrix,
    /// Projecting conflicting gradients (Yu et al., 2020).
    Pcgrad,
    // three independent batches,
    // the task gradients themselves.
}
