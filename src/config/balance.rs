//! Section `balance`: weighting and surgery.

use super::Named;
use serde::{Deserialize, Serialize};

/// Section `balance`. The update is `sum_t c_t g_t` with `c = w * surgery(diag(w) G diag(w))`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// Task weights `w` from losses.
    pub weighting: Weighting,
    /// What is done about conflicting gradients.
    pub surgery: Surgery,
    /// Whether weights scale the heads' own gradients too; default: with surgery no, without it yes.
    pub scale_heads: Option<bool>,
}

impl Balance {
    /// Whether heads are scaled by the weights.
    pub fn scales_heads(&self) -> bool {
        self.scale_heads.unwrap_or(self.surgery == Surgery::None)
    }
}

/// Task weights from losses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Weighting {
    /// 1 for every task.
    #[default]
    Equal,
    /// Given by task; tasks that are not named have 1.
    Fixed(Named),
    /// Uncertainty weighting: learned log-variances (Kendall et al., 2018).
    Uncertainty(Uncertainty),
}

/// Options of uncertainty weighting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uncertainty {
    /// Learning rate of the log-variances (Adam).
    pub lr: f64,
    /// Log-variances at the start.
    pub init: f64,
}

impl Default for Uncertainty {
    fn default() -> Self {
        Uncertainty { lr: 0.025, init: 0.0 }
    }
}

/// What is done about conflicting gradients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Surgery {
    /// Nothing: one backward of the weighted loss.
    #[default]
    None,
    /// Projecting conflicting gradients (Yu et al., 2020).
    Pcgrad,
}
