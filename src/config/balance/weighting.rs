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
    /// The softmax of normal draws, new in each step (RLW; Lin et al., 2021).
    Random,
    /// The inverse of the loss: the objective is the sum of the log losses (Navon et al., 2022).
    ScaleInvariant,
    /// Uncertainty weighting: learned log-variances (Kendall et al., 2018).
    Uncertainty(Uncertainty),
    /// Dynamic weight average: by the ratio of the last two epochs' losses (Liu et al., 2019).
    Dwa(Dwa),
    /// The geometric mean of the losses (Chennupati et al., 2019).
    Gls,
    /// Impartial learning of loss scales (IMTL-L; Liu et al., 2021).
    ImtlL(ImtlL),
    /// Smooth Tchebycheff scalarisation (Lin et al., 2024).
    Stch(Stch),
    /// Fast adaptive multitask optimization (Liu et al., 2023).
    Famo(Famo),
    /// A weighted sum with a pull towards a preferred direction (Ruchte and Grabocka, 2021).
    Cosmos(Cosmos),
    /// Penalty-based boundary intersection (Zhang and Li, 2007).
    Pbi(Pbi),
    /// Groups of tasks with similar weights (Shen et al., 2024).
    Go4align(Go4Align),
    /// Loss discrepancy control (Xiao et al., 2025).
    LdcMtl(LdcMtl),
    /// Weights that a second batch learns, one step ahead (Auto-Lambda, Liu et al., 2022).
    AutoLambda(AutoLambda),
}

/// Options of uncertainty weighting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uncertainty {
    /// Learning rate of the log-variances (Adam).
    pub lr: f64,
    /// Log-variances at the start.
    pub init: f64,
    /// The term that keeps the log-variances from growing.
    pub form: UncertaintyForm,
}

impl Default for Uncertainty {
    fn default() -> Self {
        Uncertainty { lr: 0.025, init: 0.0, form: UncertaintyForm::default() }
    }
}

/// The term that keeps the log-variances `s` from growing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum UncertaintyForm {
    /// `s / 2` (Kendall et al., 2018).
    #[default]
    Kendall,
    /// `log(1 + exp(s))`, never negative (Liebel and Körner, 2018).
    Revised,
}

/// Options of the dynamic weight average.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dwa {
    /// Temperature of the softmax: the larger, the more equal the weights.
    pub temperature: f64,
}

impl Default for Dwa {
    fn default() -> Self {
        Dwa { temperature: 2.0 }
    }
}

/// Options of IMTL-L.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImtlL {
    /// Learning rate of the log-scales (Adam).
    pub lr: f64,
    /// Log-scales at the start.
    pub init: f64,
}

impl Default for ImtlL {
    fn default() -> Self {
        ImtlL { lr: 0.025, init: 0.0 }
    }
}

/// Options of smooth Tchebycheff scalarisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stch {
    /// Smoothing: the smaller, the closer to the maximum.
    pub mu: f64,
    /// Which losses are compared.
    pub form: StchForm,
    /// `log` only: epochs of log losses before the epoch whose means become the nadir.
    pub warmup_epochs: u64,
    /// `linear` only: preference by task, scaled to the sum 1; tasks that are not named have 1.
    pub preferences: Named,
    /// `linear` only: ideal loss by task; tasks that are not named have 0.
    pub ideal: Named,
}

impl Default for Stch {
    fn default() -> Self {
        let (preferences, ideal) = (Named::new(), Named::new());
        Stch { mu: 1.0, form: StchForm::default(), warmup_epochs: 4, preferences, ideal }
    }
}

/// Which losses smooth Tchebycheff scalarisation compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StchForm {
    /// Logarithms of the losses over their nadir.
    #[default]
    Log,
    /// The losses above their ideal, by preference.
    Linear,
}

/// Options of FAMO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Famo {
    /// Learning rate of the logits (Adam).
    pub lr: f64,
    /// Weight decay of the logits.
    pub gamma: f64,
    /// Lower bound of the loss by task; tasks that are not named have 0.
    pub min_losses: Named,
}

impl Default for Famo {
    fn default() -> Self {
        Famo { lr: 0.025, gamma: 1e-3, min_losses: Named::new() }
    }
}

/// Options of COSMOS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cosmos {
    /// Weight of the cosine.
    pub lambda: f64,
    /// Preference by task, scaled to the sum 1; tasks that are not named have 1.
    pub preferences: Named,
}

impl Default for Cosmos {
    fn default() -> Self {
        Cosmos { lambda: 2.0, preferences: Named::new() }
    }
}

/// Options of penalty-based boundary intersection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pbi {
    /// Weight of the distance from the preferred direction.
    pub theta: f64,
    /// Preference by task; tasks that are not named have 1.
    pub preferences: Named,
    /// Ideal loss by task; tasks that are not named have 0.
    pub ideal: Named,
}

impl Default for Pbi {
    fn default() -> Self {
        Pbi { theta: 5.0, preferences: Named::new(), ideal: Named::new() }
    }
}

/// Options of GO4Align.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Go4Align {
    /// Number of groups.
    pub groups: usize,
    /// How much a step's losses count for the steps after it.
    pub step_size: f64,
}

impl Default for Go4Align {
    fn default() -> Self {
        Go4Align { groups: 2, step_size: 1e-4 }
    }
}

/// Options of LDC-MTL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LdcMtl {
    /// Weight of the gaps between neighbouring losses.
    pub lambda: f64,
    /// Learning rate of the router (Adam).
    pub lr: f64,
    /// How losses are made comparable.
    pub normalize: Normalize,
    /// What losses are multiplied by in the gaps.
    pub tau: Tau,
}

impl Default for LdcMtl {
    fn default() -> Self {
        LdcMtl { lambda: 0.05, lr: 1e-3, normalize: Normalize::default(), tau: Tau::default() }
    }
}

/// How LDC-MTL makes losses comparable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalize {
    /// Not at all.
    None,
    /// Divided so that all first losses equal the least of them.
    #[default]
    Rescaled,
    /// The logarithm of the loss over the first loss.
    Log,
}

/// What LDC-MTL multiplies losses by in the gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Tau {
    /// Their learned weights.
    #[default]
    Weights,
    /// 1.
    Ones,
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
