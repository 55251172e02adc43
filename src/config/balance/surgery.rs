//! `balance.surgery`: what is done about conflicting gradients.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Gradient Vaccine: cosines are raised to their running means (Wang et al., 2021).
    Gradvac(Gradvac),
    /// IMTL-G: equal projections on all gradients (Liu et al., 2021).
    ImtlG,
    /// Aligned-MTL: gradients made orthogonal and of one length (Senushkin et al., 2023).
    AlignedMtl(AlignedMtl),
    /// ConFIG: the direction with equal cosines to all gradients (Liu et al., 2024).
    Config,
    /// Krum and Multi-Krum: the gradients with the closest neighbours (Blanchard et al., 2017).
    Krum(Krum),
    /// GradNorm: weights learned so that gradients have balanced norms (Chen et al., 2018).
    Gradnorm(Gradnorm),
    // three independent batches,
    /// SDMGrad: minimal norm near the mean gradient, without the bias of one batch (Xiao et al., 2023).
    Sdmgrad(Sdmgrad),
    /// MoDo: weights that follow the minimal norm, without the bias of one batch (Chen et al., 2023).
    Modo(Modo),
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

/// What a surgery has to see of the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SurgeryKind {
    /// Nothing: there is no surgery.
    None,
    /// Their inner products, in one batch.
    Gram,
    /// Their inner products between [`INDEPENDENT_BATCHES`] batches.
    Cross,
    /// Themselves.
    Shard,
}

/// Independent batches that surgeries of [`SurgeryKind::Cross`] divide a step into.
pub const INDEPENDENT_BATCHES: usize = 3;

impl Surgery {
    /// What it has to see of the gradients.
    pub fn kind(&self) -> SurgeryKind {
        match self {
            Surgery::None => SurgeryKind::None,
            Surgery::Pcgrad => SurgeryKind::Gram,
            Surgery::Gradvac(_) | Surgery::ImtlG | Surgery::AlignedMtl(_) | Surgery::Config => SurgeryKind::Gram,
            Surgery::Krum(_) | Surgery::Gradnorm(_) => SurgeryKind::Gram,
            Surgery::Mgda(_) | Surgery::Cagrad(_) | Surgery::NashMtl(_) => SurgeryKind::Gram,
            Surgery::Fairgrad(_) | Surgery::Upgrad(_) | Surgery::Dualproj(_) => SurgeryKind::Gram,
            Surgery::Sdmgrad(_) | Surgery::Modo(_) => SurgeryKind::Cross,
            Surgery::Graddrop(_) | Surgery::TrimmedMean(_) => SurgeryKind::Shard,
            Surgery::ExcessMtl(_) | Surgery::Moco(_) | Surgery::DbMtl(_) => SurgeryKind::Shard,
        }
    }

    /// Its name, as written in the configuration.
    pub fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => name,
            Ok(Value::Object(options)) => options.keys().next().cloned().unwrap_or_default(),
            _ => String::new(),
        }
    }
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
    /// Added to the diagonal of `G / tr(G)`; TorchJD adds 1e-4.
    pub reg: f64,
}

impl Default for UpGrad {
    fn default() -> Self {
        UpGrad { reg: 0.0 }
    }
}

/// Options of DualProj.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DualProj {
    /// Added to the diagonal of `G / tr(G)`; TorchJD adds 1e-4.
    pub reg: f64,
}

impl Default for DualProj {
    fn default() -> Self {
        DualProj { reg: 0.0 }
    }
}

/// Options of Gradient Vaccine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gradvac {
    /// Share of the newest cosine in the running means; 0: the targets stay 0, as in PCGrad.
    pub beta: f64,
}

impl Default for Gradvac {
    fn default() -> Self {
        Gradvac { beta: 0.5 }
    }
}

/// Options of Aligned-MTL.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlignedMtl {
    /// The common length of the aligned gradients.
    pub scale: AlignedScale,
}

/// The common length of aligned gradients, from the singular values of their matrix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AlignedScale {
    /// The smallest, as in the paper.
    #[default]
    Min,
    /// The median.
    Median,
    /// The root of the mean square.
    Rmse,
}

/// Options of Krum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Krum {
    /// How many gradients may be arbitrarily wrong, `f`; at most the number of tasks less 3.
    pub n_byzantine: usize,
    /// How many gradients are chosen, `m`: 1 is Krum, more is Multi-Krum.
    pub n_selected: usize,
}

impl Default for Krum {
    fn default() -> Self {
        Krum { n_byzantine: 1, n_selected: 1 }
    }
}

/// Options of GradNorm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gradnorm {
    /// How strongly tasks that train slower than others are helped; 0: equal norms for all.
    pub alpha: f64,
    /// Learning rate of the weights.
    pub lr: f64,
}

impl Default for Gradnorm {
    fn default() -> Self {
        Gradnorm { alpha: 1.5, lr: 0.025 }
    }
}

/// Options of SDMGrad.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sdmgrad {
    /// Pull towards the mean gradient; 0: minimal norm alone.
    pub lambda: f64,
    /// Learning rate of the weights, for products whose mean norm is 1.
    pub lr: f64,
    /// Momentum of the weights within a step.
    pub momentum: f64,
    /// Iterations of the weights per step.
    pub iterations: usize,
}

impl Default for Sdmgrad {
    fn default() -> Self {
        Sdmgrad { lambda: 0.3, lr: 10.0, momentum: 0.5, iterations: 20 }
    }
}

/// Options of MoDo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Modo {
    /// Learning rate of the weights, in units of 1 / (squared norm of gradients).
    pub gamma: f64,
    /// Regularisation of the weights towards equal ones, in units of a squared norm of gradients.
    pub rho: f64,
}

impl Default for Modo {
    fn default() -> Self {
        Modo { gamma: 0.1, rho: 0.1 }
    }
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
