//! Balancing: from global losses and the Gram matrix to the coefficients of the task gradients.
//!
//! `c = w * surgery(diag(w) G diag(w))`, in plain `f64` on `[T]` and `[T, T]`: no tensors, and nothing that differs
//! between ranks. [`global`] is the one file that talks to other ranks.

pub mod global;
mod gram;
pub mod surgery;
pub mod weighting;

pub use gram::{Gram, NotFinite};

use crate::config;
use crate::rng::{Stream, rng};
use serde_json::{Value, json};
use surgery::Surgery;
use weighting::Weighting;

/// The configured weighting and surgery with their state.
pub struct Balancer {
    weighting: Box<dyn Weighting>,
    surgery: Surgery,
    scale_heads: bool,
    seed: u64,
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer").field("state", &self.save()).finish_non_exhaustive()
    }
}

/// What multiplies the gradients of the mean losses in the update.
#[derive(Debug, Clone, PartialEq)]
pub struct Coefficients {
    /// Of the shared parameters, `c` `[T]`.
    pub shared: Vec<f64>,
    /// Of each task's own parameters, `[T]`.
    pub heads: Vec<f64>,
}

impl Balancer {
    /// The configured balancing of these tasks. `seed` is that of the run.
    pub fn build(config: &config::Balance, tasks: &[String], seed: u64) -> Self {
        Balancer {
            weighting: weighting::build(&config.weighting, tasks),
            surgery: surgery::build(&config.surgery),
            scale_heads: config.scales_heads(),
            seed,
        }
    }

    /// Whether per-task gradients are needed (`T` backwards), or losses are enough (one).
    pub fn needs_gram(&self) -> bool {
        matches!(self.surgery, Surgery::Gram(_))
    }

    /// Whether the weights of a step depend on the losses of the same step.
    pub fn needs_losses(&self) -> bool {
        self.weighting.needs_losses()
    }

    /// Weights `w` `[T]` of this step; 0 for tasks whose loss is `None` (no label on any rank).
    pub fn weights(&self, losses: &[Option<f64>]) -> Vec<f64> {
        let weights = self.weighting.weights(losses);
        weights.iter().zip(losses).map(|(&w, loss)| if loss.is_some() { w } else { 0.0 }).collect()
    }

    /// Coefficients when there is no surgery: the weights.
    pub fn of_weights(&self, weights: &[f64]) -> Coefficients {
        Coefficients { shared: weights.to_vec(), heads: self.heads(weights) }
    }

    /// Coefficients from the weights and the Gram matrix of the unweighted gradients. `step` counts from 0.
    ///
    /// # Errors
    /// [`NotFinite`] if a weighted inner product or a coefficient is not finite.
    pub fn coefficients(&mut self, gram: &Gram, weights: &[f64], step: u64) -> Result<Coefficients, NotFinite> {
        let shared = match &mut self.surgery {
            Surgery::None => weights.to_vec(),
            Surgery::Gram(method) => {
                let mut rng = rng(self.seed, Stream::Surgery, step, 0);
                let chosen = method.coefficients(&gram.scaled(weights)?, &mut rng);
                weights.iter().zip(chosen).map(|(w, s)| w * s).collect()
            }
        };
        let bad: Vec<usize> = (0..shared.len()).filter(|&t| !shared[t].is_finite()).collect();
        if !bad.is_empty() {
            return Err(NotFinite(bad));
        }
        Ok(Coefficients { shared, heads: self.heads(weights) })
    }

    fn heads(&self, weights: &[f64]) -> Vec<f64> {
        weights.iter().map(|&w| if self.scale_heads || w == 0.0 { w } else { 1.0 }).collect()
    }

    /// Learns from the losses of a step that was taken.
    pub fn observe(&mut self, losses: &[Option<f64>]) {
        self.weighting.observe(losses);
    }

    /// State for a checkpoint.
    pub fn save(&self) -> Value {
        let surgery = match &self.surgery {
            Surgery::None => Value::Null,
            Surgery::Gram(method) => method.save(),
        };
        json!({ "weighting": self.weighting.save(), "surgery": surgery })
    }

    /// Takes over the state of [`Self::save`].
    ///
    /// # Errors
    /// What does not fit.
    pub fn load(&mut self, state: &Value) -> Result<(), String> {
        self.weighting.load(&state["weighting"])?;
        match &mut self.surgery {
            Surgery::None => Ok(()),
            Surgery::Gram(method) => method.load(&state["surgery"]),
        }
    }
}
