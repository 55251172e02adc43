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
    /// The shortest convex combination (Sener and Koltun, 2018).
    Mgda(Mgda),
    /// The best worst case near the mean (Liu et al., 2021).
    Cagrad(Cagrad),
    /// The Nash bargain (Navon et al., 2022).
    NashMtl(NashMtl),
    /// Alpha-fair shares (Ban and Ji, 2024).
    Fairgrad(FairGrad),
    /// Every gradient projected on the cone that hurts no task (Quinton and Rey, 2024).
    Upgrad(UpGrad),
    /// The mean gradient projected on that cone (Lopez-Paz and Ranzato, 2017).
    Dualproj(DualProj),
    // three independent batches,
    // the task gradients themselves.
}

/// Options of MGDA.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mgda {
    /// What the gradients are divided by before the shortest combination is found.
    pub normalize: MgdaNormalize,
    /// Which gradients the combination is then made of.
    pub apply: MgdaApply,
}

/// What MGDA divides the gradients by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MgdaNormalize {
    /// Nothing.
    #[default]
    None,
    /// Their norms.
    L2,
    /// The losses.
    Loss,
    /// Norms times losses.
    LossL2,
}

/// Which gradients MGDA combines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MgdaApply {
    /// Those before the division, as the authors do.
    #[default]
    Original,
    /// Those after it.
    Normalized,
}

/// Options of CAGrad.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cagrad {
    /// Radius of the ball around the mean gradient, in lengths of it.
    pub c: f64,
    /// What the direction is divided by.
    pub rescale: CagradRescale,
}

impl Default for Cagrad {
    fn default() -> Self {
        Cagrad { c: 0.5, rescale: CagradRescale::default() }
    }
}

/// What CAGrad's direction is divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CagradRescale {
    /// Nothing.
    None,
    /// `1 + c`.
    Linear,
    /// `1 + c^2`.
    #[default]
    Square,
}

/// Options of Nash-MTL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NashMtl {
    /// Length to which a longer update is cut; `null` or 0: not.
    pub max_norm: Option<f64>,
}

impl Default for NashMtl {
    fn default() -> Self {
        NashMtl { max_norm: Some(1.0) }
    }
}

/// Options of FairGrad.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FairGrad {
    /// Fairness: 1 is the Nash bargain, large is the task that gains least.
    pub alpha: f64,
}

impl Default for FairGrad {
    fn default() -> Self {
        FairGrad { alpha: 1.0 }
    }
}

/// Options of UPGrad.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpGrad {
    /// Added to the diagonal of `G / tr(G)`.
    pub reg: f64,
}

impl Default for UpGrad {
    fn default() -> Self {
        UpGrad { reg: 1e-4 }
    }
}

/// Options of DualProj.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DualProj {
    /// Added to the diagonal of `G / tr(G)`.
    pub reg: f64,
}

impl Default for DualProj {
    fn default() -> Self {
        DualProj { reg: 1e-4 }
    }
}
