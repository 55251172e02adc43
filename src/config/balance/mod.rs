//! Section `balance`: weighting and surgery.

mod schedule;
mod surgery;
mod weighting;

pub use schedule::*;
pub use surgery::*;
pub use weighting::*;

use serde::{Deserialize, Serialize};

/// Section `balance`. The update is `sum_t c_t g_t` with `c = w * surgery(diag(w) G diag(w))`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// Task weights `w` from losses.
    pub weighting: Weighting,
    /// What is done about conflicting gradients.
    pub surgery: Surgery,
    /// Which tasks take part in a step.
    pub tasks: ActiveTasks,
    /// Whether weights scale the heads' own gradients too; default: with surgery no, without it yes.
    pub scale_heads: Option<bool>,
    /// Steps from one run of surgery to the next; the steps between keep its coefficients and cost one backward.
    pub every: u64,
    /// What surgery is applied to at a time.
    pub scope: Scope,
    /// With respect to what the gradients are taken that surgery sees.
    pub gradients: Gradients,
    /// Share of the last coefficients kept in the next ones (CR-MOGM, Zhou et al., 2022); 0: none.
    pub smoothing: f64,
}

impl Default for Balance {
    fn default() -> Self {
        Balance {
            weighting: Weighting::default(),
            surgery: Surgery::default(),
            tasks: ActiveTasks::default(),
            scale_heads: None,
            every: 1,
            scope: Scope::default(),
            gradients: Gradients::default(),
            smoothing: 0.0,
        }
    }
}

impl Balance {
    /// Independent batches into which the rows of a step are divided, for methods that need several; `batch.accumulate` is a
    /// multiple of it.
    pub fn independent_batches(&self) -> usize {
        match (self.surgery.kind(), &self.weighting) {
            (SurgeryKind::Cross, _) => INDEPENDENT_BATCHES,
            (_, Weighting::AutoLambda(_)) => 2,
            _ => 1,
        }
    }

    /// Whether heads are scaled by the weights.
    pub fn scales_heads(&self) -> bool {
        self.scale_heads.unwrap_or(self.surgery == Surgery::None)
    }
}

/// What surgery is applied to at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scope {
    /// All shared parameters together.
    #[default]
    All,
    /// The parameters of each layer by themselves: one Gram matrix and one set of coefficients per layer.
    PerLayerGroup,
}

/// With respect to what the gradients are taken that surgery sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Gradients {
    /// The shared parameters.
    #[default]
    Parameters,
    /// The encoder's output, per sample (MGDA-UB): `T` backwards through the heads and one through the encoder.
    Representation,
}
