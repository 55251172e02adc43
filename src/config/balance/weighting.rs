//! `balance.weighting`: task weights from losses.

use crate::config::Named;
use serde::{Deserialize, Serialize};

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
    /// Weights that a second batch learns, one step ahead (Auto-Lambda, Liu et al., 2022).
    AutoLambda(AutoLambda),
}

/// Options of Auto-Lambda.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoLambda {
    /// Learning rate of the weights (Adam).
    pub lr: f64,
    /// Weights at the start.
    pub init: f64,
    /// Tasks whose losses the weights are to lower; none: all.
    pub primary: Vec<String>,
}

impl Default for AutoLambda {
    fn default() -> Self {
        AutoLambda { lr: 1e-3, init: 0.1, primary: Vec::new() }
    }
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
