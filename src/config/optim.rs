//! Sections `optim` and `schedule`.

use serde::{Deserialize, Serialize};

/// Optimizer with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Optim {
    /// Stochastic gradient descent, with momentum as in PyTorch.
    Sgd(Sgd),
    /// Adam with L2 regularisation in the gradient.
    Adam(Adam),
    /// Adam with decoupled weight decay.
    Adamw(Adam),
}

impl Default for Optim {
    fn default() -> Self {
        Optim::Adamw(Adam::default())
    }
}

/// Options of SGD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// Peak learning rate.
    pub lr: f64,
    /// Momentum in `[0, 1)`.
    pub momentum: f64,
    /// Nesterov's form.
    pub nesterov: bool,
    /// L2 regularisation, added to the gradient.
    pub weight_decay: f64,
    /// Clip the update to this global norm.
    pub clip_norm: Option<f64>,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0, clip_norm: None }
    }
}

/// Options of Adam and AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adam {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Clip the update to this global norm.
    pub clip_norm: Option<f64>,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, clip_norm: None }
    }
}

impl Optim {
    /// Peak learning rate.
    pub fn lr(&self) -> f64 {
        match self {
            Optim::Sgd(o) => o.lr,
            Optim::Adam(o) | Optim::Adamw(o) => o.lr,
        }
    }

    /// The same optimizer with another peak learning rate.
    pub fn with_lr(mut self, lr: f64) -> Self {
        match &mut self {
            Optim::Sgd(o) => o.lr = lr,
            Optim::Adam(o) | Optim::Adamw(o) => o.lr = lr,
        }
        self
    }

    /// Global norm to which the update is clipped.
    pub fn clip_norm(&self) -> Option<f64> {
        match self {
            Optim::Sgd(o) => o.clip_norm,
            Optim::Adam(o) | Optim::Adamw(o) => o.clip_norm,
        }
    }
}

/// Learning rate over the steps: a linear warm-up, then a shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The peak learning rate after the warm-up.
    Constant(Warmup),
    /// Half a cosine from the peak down to `floor * lr` at the last step.
    Cosine(Decay),
    /// A line from the peak down to `floor * lr` at the last step.
    Linear(Decay),
    /// Multiplied by `gamma` every `every` steps.
    Step(StepDecay),
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::Constant(Warmup::default())
    }
}

/// Warm-up alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warmup {
    /// Steps of linear warm-up; step `k` (from 0) has `lr * (k + 1) / warmup`.
    pub warmup: u64,
}

/// Warm-up and decay to a floor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decay {
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Share of the peak learning rate at the end, in `[0, 1]`.
    pub floor: f64,
}

/// Warm-up and decay by steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepDecay {
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// Steps between two decays.
    pub every: u64,
    /// Factor of each decay.
    #[serde(default = "tenth")]
    pub gamma: f64,
}

fn tenth() -> f64 {
    0.1
}
