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
    /// Gradient sign dropout: a random sign per coordinate, likelier that of the larger part (Chen et al., 2020).
    Graddrop(GradDrop),
    /// The mean of the tasks per coordinate, without the largest and smallest (Yin et al., 2018).
    TrimmedMean(TrimmedMean),
    /// Larger weights for tasks that are farther from convergence (He et al., 2024).
    ExcessMtl(ExcessMtl),
    /// Tracked gradients, and weights that follow those of the shortest combination (Fernando et al., 2023).
    Moco(MoCo),
    /// Gradients of log losses, averaged over steps, made equally long (Lin et al., 2023).
    DbMtl(DbMtl),
}

/// Options of gradient sign dropout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradDrop {
    /// Share of each gradient that is never dropped.
    pub leak: f64,
}

/// Options of the trimmed mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrimmedMean {
    /// How many of the largest values, and of the smallest, are left out.
    pub trim: usize,
}

impl Default for TrimmedMean {
    fn default() -> Self {
        TrimmedMean { trim: 1 }
    }
}

/// Options of ExcessMTL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExcessMtl {
    /// Step size of the weights.
    pub eta: f64,
}

impl Default for ExcessMtl {
    fn default() -> Self {
        ExcessMtl { eta: 0.01 }
    }
}

/// Options of MoCo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoCo {
    /// Step size of the tracked gradients at the first step: 1 keeps nothing of the earlier ones.
    pub beta: f64,
    /// Its decay: `beta / t^beta_sigma` at step `t`.
    pub beta_sigma: f64,
    /// Step size of the weights at the first step.
    pub gamma: f64,
    /// Its decay: `gamma / t^gamma_sigma`.
    pub gamma_sigma: f64,
    /// L2 regularisation of the weights: larger is closer to equal weights.
    pub rho: f64,
    /// Whether each gradient is brought to the length of its loss first, as in the authors' code.
    pub normalize: bool,
    /// How weights come back to the simplex after a step.
    pub simplex: Simplex,
}

impl Default for MoCo {
    fn default() -> Self {
        MoCo {
            beta: 0.5,
            beta_sigma: 0.5,
            gamma: 0.1,
            gamma_sigma: 0.5,
            rho: 0.0,
            normalize: false,
            simplex: Simplex::default(),
        }
    }
}

/// How weights come back to the simplex after a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Simplex {
    /// Its nearest point, as in the paper.
    #[default]
    Projection,
    /// Softmax, as in the authors' code.
    Softmax,
}

/// Options of DB-MTL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DbMtl {
    /// Share of the average kept in the next one, at the first step.
    pub beta: f64,
    /// Its decay: `beta / t^beta_sigma` at step `t`.
    pub beta_sigma: f64,
}

impl Default for DbMtl {
    fn default() -> Self {
        DbMtl { beta: 0.9, beta_sigma: 0.0 }
    }
}
