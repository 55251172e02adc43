//! Balancing: from global losses and the Gram matrix to the coefficients of the task gradients.
//!
//! `c = w * surgery(diag(w) G diag(w))`, in plain `f64` on `[T]` and `[T, T]`: no tensors, and nothing that differs
//! between ranks. [`global`] is the one file that talks to other ranks. Methods are told apart by what they need:
//!
//! | needs | where | cost of a step |
//! |---|---|---|
//! | losses | [`weighting`] | one backward |
//! | the Gram matrix | [`surgery`] | `T` backwards |
//! | Gram matrices of independent batches | [`cross`] | `T` backwards on each third of the batch |
//! | the gradients themselves | [`shard`] | `T` backwards, and passes over the shard |

pub mod catalog;
pub mod cross;
pub mod explicit;
pub mod global;
mod gram;
pub mod schedule;
pub mod shard;
mod smooth;
pub mod solver;
pub mod surgery;
pub mod weighting;

pub use gram::{Gram, NotFinite};

use crate::config::{self, Gradients};
use crate::rng::{Stream, rng};
use cross::CrossView;
use schedule::TaskSchedule;
use serde::Deserialize;
use serde_json::{Value, json};
use smooth::Smooth;
use surgery::{Surgery, View};
use weighting::{Moment, Weighting};

/// The configured weighting and surgery with their state.
pub struct Balancer {
    weighting: Box<dyn Weighting>,
    surgery: Surgery,
    schedule: TaskSchedule,
    /// By group of layers.
    smooth: Vec<Smooth>,
    /// The last coefficients of surgery by group and task, for the steps that do not run it.
    kept: Vec<Vec<f64>>,
    every: u64,
    gradients: Gradients,
    scale_heads: bool,
    seed: u64,
    steps_per_epoch: u64,
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer").field("state", &self.save()).finish_non_exhaustive()
    }
}

/// What a step has to compute for the balancing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// One backward of a weighted loss.
    Weighted,
    /// The gradient of every task, on this many independent batches.
    Tasks {
        /// Number of batches.
        batches: usize,
    },
    /// The gradient of every task with respect to the representation, then one backward of a weighted loss.
    Representation,
}

/// What multiplies the gradients of the mean losses in the update.
#[derive(Debug, Clone, PartialEq)]
pub struct Coefficients {
    /// Of the shared parameters, `c` `[T]` by group of layers. Methods whose update is no combination of the task
    /// gradients have none.
    pub shared: Option<Vec<Vec<f64>>>,
    /// Of each task's own parameters, `[T]`.
    pub heads: Vec<f64>,
}

impl Coefficients {
    /// Mean over groups of layers, `[T]`.
    pub fn mean(&self) -> Option<Vec<f64>> {
        let groups = self.shared.as_ref()?;
        let n_tasks = groups.first()?.len();
        Some((0..n_tasks).map(|t| groups.iter().map(|c| c[t]).sum::<f64>() / groups.len() as f64).collect())
    }
}

/// See [`Balancer::last_coefficients`].
#[derive(Debug, Clone)]
pub struct LastCoefficients {
    smooth: Vec<Smooth>,
    kept: Vec<Vec<f64>>,
}

impl Balancer {
    /// The configured balancing of these tasks, for `n_groups` groups of layers (1 unless the configuration asks for
    /// groups). `seed` is that of the run.
    pub fn build(config: &config::Balance, tasks: &[String], n_groups: usize, seed: u64, steps_per_epoch: u64) -> Self {
        Balancer {
            weighting: weighting::build(&config.weighting, tasks),
            surgery: surgery::build(&config.surgery, tasks.len(), n_groups),
            schedule: TaskSchedule::build(&config.tasks, tasks),
            smooth: vec![Smooth::new(config.smoothing, tasks.len()); n_groups],
            kept: vec![vec![1.0; tasks.len()]; n_groups],
            every: config.every.max(1),
            gradients: config.gradients,
            scale_heads: config.scales_heads(),
            seed,
            steps_per_epoch,
        }
    }

    /// Which tasks take part in step `step`, `[T]`; the others are as without labels.
    pub fn active(&self, step: u64) -> Vec<bool> {
        self.schedule.active(step)
    }

    /// What step `step` has to compute. Steps count from 0.
    pub fn plan(&self, step: u64) -> Plan {
        match (&self.surgery, self.gradients) {
            (Surgery::None, _) => Plan::Weighted,
            _ if !step.is_multiple_of(self.every) => Plan::Weighted,
            (Surgery::Cross(_), _) => Plan::Tasks { batches: cross::BATCHES },
            (_, Gradients::Representation) => Plan::Representation,
            _ => Plan::Tasks { batches: 1 },
        }
    }

    /// Whether the weights of a step depend on the losses of the same step.
    pub fn needs_losses(&self) -> bool {
        self.weighting.needs_losses()
    }

    /// Whether [`Self::observe_after`] is to be called.
    pub fn needs_losses_after(&self) -> bool {
        self.weighting.needs_losses_after()
    }

    /// The tasks whose losses one step ahead the weights learn from; `None` if they do not look ahead.
    pub fn looks_ahead_for(&self) -> Option<&[bool]> {
        self.weighting.looks_ahead_for()
    }

    /// Learns from the gradient of those losses with respect to the weights.
    pub fn learn_ahead(&mut self, gradient: &[Option<f64>]) {
        self.weighting.learn_ahead(gradient);
    }

    /// Weights `w` `[T]` of this step; 0 for tasks whose loss is `None` (no label on any rank).
    pub fn weights(&self, losses: &[Option<f64>], step: u64) -> Vec<f64> {
        let weights = self.weighting.weights(&self.moment(losses, step));
        weights.iter().zip(losses).map(|(&w, loss)| if loss.is_some() { w } else { 0.0 }).collect()
    }

    /// Coefficients of a step without surgery: the weights, times the last coefficients of surgery if it runs every few
    /// steps only.
    pub fn of_weights(&mut self, weights: &[f64]) -> Coefficients {
        let present = present(weights);
        let shared = match &self.surgery {
            Surgery::None => {
                let mut chosen = pick(weights, &present);
                self.smooth[0].apply(&present, &mut chosen);
                vec![spread(&chosen, &present, weights.len())]
            }
            _ => self.kept.iter().map(|kept| product(weights, kept)).collect(),
        };
        let heads = match &self.surgery {
            Surgery::None => self.heads(&shared[0]),
            _ => self.heads(weights),
        };
        Coefficients { shared: Some(shared), heads }
    }

    /// Coefficients from the weights and the Gram matrices of the unweighted gradients, one per group of layers.
    ///
    /// # Errors
    /// [`NotFinite`] if a weighted inner product or a coefficient is not finite.
    ///
    /// # Panics
    /// For methods of another kind.
    pub fn coefficients(
        &mut self,
        grams: &[Gram],
        losses: &[Option<f64>],
        weights: &[f64],
        step: u64,
    ) -> Result<Coefficients, NotFinite> {
        let Surgery::Gram(methods) = &mut self.surgery else { panic!("coefficients of a method that is not on Gram") };
        let tasks = present(weights);
        let losses = weighted_losses(losses, weights, &tasks);
        let chosen_weights = pick(weights, &tasks);
        let mut shared = Vec::with_capacity(grams.len());
        for (group, (gram, method)) in grams.iter().zip(methods).enumerate() {
            let gram = gram.of(&tasks).scaled(&chosen_weights).map_err(|bad| bad.among(&tasks))?;
            let view = View { gram: &gram, losses: &losses, tasks: &tasks, step };
            let chosen = if tasks.is_empty() {
                Vec::new()
            } else {
                // Every group draws the same numbers: groups are alternatives, not a sequence.
                method.coefficients(&view, &mut rng(self.seed, Stream::Surgery, step, 0))
            };
            shared.push(keep(&mut self.kept[group], &mut self.smooth[group], &tasks, chosen)?);
        }
        let shared = shared.iter().map(|kept| product(weights, kept)).collect();
        Ok(Coefficients { shared: Some(shared), heads: self.heads(weights) })
    }

    /// Coefficients of the last batch's gradients, from the products `J_1 J_2ᵀ` `[T, T]` of the unweighted gradients of
    /// two other batches. `everywhere` `[T]` says which tasks have labels in all batches.
    ///
    /// # Errors
    /// [`NotFinite`] if a coefficient is not finite.
    ///
    /// # Panics
    /// For methods of another kind.
    pub fn cross_coefficients(
        &mut self,
        cross: &[f64],
        everywhere: &[bool],
        weights: &[f64],
        step: u64,
    ) -> Result<Coefficients, NotFinite> {
        let Surgery::Cross(method) = &mut self.surgery else {
            panic!("coefficients of a method that is not on batches")
        };
        let n = weights.len();
        let tasks: Vec<usize> = present(weights).into_iter().filter(|&t| everywhere[t]).collect();
        let entry = |i: usize, j: usize| weights[i] * cross[i * n + j] * weights[j];
        let products: Vec<f64> = tasks.iter().flat_map(|&i| tasks.iter().map(move |&j| entry(i, j))).collect();
        let view = CrossView { cross: &products, tasks: &tasks, step };
        let chosen = if tasks.is_empty() {
            Vec::new()
        } else {
            method.coefficients(&view, &mut rng(self.seed, Stream::Surgery, step, 0))
        };
        let kept = keep(&mut self.kept[0], &mut self.smooth[0], &tasks, chosen)?;
        Ok(Coefficients { shared: Some(vec![product(weights, &kept)]), heads: self.heads(weights) })
    }

    /// Coefficients of the heads alone, where the shared parameters move by a direction of their own.
    pub fn of_heads(&self, weights: &[f64], shared: Option<Vec<f64>>) -> Coefficients {
        Coefficients { shared: shared.map(|c| vec![c]), heads: self.heads(weights) }
    }

    fn heads(&self, weights: &[f64]) -> Vec<f64> {
        weights.iter().map(|&w| if self.scale_heads || w == 0.0 { w } else { 1.0 }).collect()
    }

    /// Learns from the losses of a step that was taken.
    pub fn observe(&mut self, losses: &[Option<f64>], step: u64) {
        let moment = self.moment(losses, step);
        self.weighting.observe(&moment);
    }

    /// Learns from the losses of one batch before and after the update.
    pub fn observe_after(&mut self, before: &[Option<f64>], after: &[Option<f64>], step: u64) {
        let moment = self.moment(before, step);
        self.weighting.observe_after(&moment, after);
    }

    fn moment<'a>(&self, losses: &'a [Option<f64>], step: u64) -> Moment<'a> {
        Moment { losses, step, steps_per_epoch: self.steps_per_epoch, seed: self.seed }
    }

    /// The coefficients that later steps build on: smoothed ones, and those of surgery.
    pub fn last_coefficients(&self) -> LastCoefficients {
        LastCoefficients { smooth: self.smooth.clone(), kept: self.kept.clone() }
    }

    /// Forgets the coefficients of a step that was not taken; `before` is from before it.
    pub fn forget_since(&mut self, before: LastCoefficients) {
        (self.smooth, self.kept) = (before.smooth, before.kept);
    }

    /// State for a checkpoint.
    pub fn save(&self) -> Value {
        let surgery = match &self.surgery {
            Surgery::None | Surgery::Shard => Value::Null,
            Surgery::Gram(methods) => methods.iter().map(|m| m.save()).collect(),
            Surgery::Cross(method) => method.save(),
        };
        let smooth: Vec<Value> = self.smooth.iter().map(Smooth::save).collect();
        json!({ "weighting": self.weighting.save(), "surgery": surgery, "smooth": smooth, "kept": self.kept })
    }

    /// Takes over the state of [`Self::save`].
    ///
    /// # Errors
    /// What does not fit.
    pub fn load(&mut self, state: &Value) -> Result<(), String> {
        self.weighting.load(&state["weighting"])?;
        match &mut self.surgery {
            Surgery::None | Surgery::Shard => {}
            Surgery::Gram(methods) => {
                for (group, method) in methods.iter_mut().enumerate() {
                    method.load(&state["surgery"][group])?;
                }
            }
            Surgery::Cross(method) => method.load(&state["surgery"])?,
        }
        for (group, smooth) in self.smooth.iter_mut().enumerate() {
            smooth.load(&state["smooth"][group])?;
        }
        let kept: Vec<Vec<f64>> = Deserialize::deserialize(&state["kept"]).map_err(|e| format!("kept: {e}"))?;
        let fits = kept.len() == self.kept.len() && kept.iter().zip(&self.kept).all(|(a, b)| a.len() == b.len());
        if !fits {
            return Err("kept: another number of tasks or groups of layers in the checkpoint".into());
        }
        self.kept = kept;
        Ok(())
    }
}

/// Tasks that take part: those with a label and a weight.
fn present(weights: &[f64]) -> Vec<usize> {
    (0..weights.len()).filter(|&t| weights[t] != 0.0).collect()
}

fn pick(values: &[f64], tasks: &[usize]) -> Vec<f64> {
    tasks.iter().map(|&t| values[t]).collect()
}

fn spread(values: &[f64], tasks: &[usize], n: usize) -> Vec<f64> {
    let mut all = vec![0.0; n];
    tasks.iter().zip(values).for_each(|(&t, &x)| all[t] = x);
    all
}

fn product(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| if *a == 0.0 { 0.0 } else { a * b }).collect()
}

fn weighted_losses(losses: &[Option<f64>], weights: &[f64], tasks: &[usize]) -> Vec<f64> {
    tasks.iter().map(|&t| weights[t] * losses[t].unwrap_or(0.0)).collect()
}

/// Checks and smooths what surgery chose for these tasks, and keeps it by task.
fn keep(kept: &mut [f64], smooth: &mut Smooth, tasks: &[usize], mut chosen: Vec<f64>) -> Result<Vec<f64>, NotFinite> {
    let bad: Vec<usize> = tasks.iter().zip(&chosen).filter(|(_, c)| !c.is_finite()).map(|(&t, _)| t).collect();
    if !bad.is_empty() {
        return Err(NotFinite(bad));
    }
    smooth.apply(tasks, &mut chosen);
    tasks.iter().zip(chosen).for_each(|(&t, c)| kept[t] = c);
    // A task that is not there has weight 0, so what is kept for it does not matter now.
    Ok(kept.to_vec())
}
