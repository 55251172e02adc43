//! Loss discrepancy control (LDC-MTL): learned weights, and a penalty on the gaps between neighbouring losses.
//!
//! Xiao, Dong, Zou and Ji, "LDC-MTL: Balancing Multi-Task Learning through Scalable Loss Discrepancy Control", 2025
//! (arXiv:2502.08585). Of normalised losses `l` the lower problem minimises `sum_t sigma_t l_t` over the network, the
//! upper one `sum_t |tau_t l_t - tau_{t+1} l_{t+1}|` over the router `W` with `sigma = softmax(W)`. What the authors'
//! code descends, in one loop, is one objective for both:
//! `phi = sum_t sigma_t l_t + lambda sum_t |tau_t l_t - tau_{t+1} l_{t+1}|`, with `tau = sigma` or `tau = 1`.
//! The weight is `d phi / d L_t`; `W` follows its own gradient (Adam). Neighbours are neighbours in the configuration.
//!
//! Normalisation: `rescaled` divides each loss by its first value over the least of them, `log` takes
//! `log(L / first)`.
//!
//! A task may have a **negative** weight: next to two tasks with larger losses, if `2 lambda tau_t > sigma_t`.
//!
//! Departures: `W` is a logit per task, as in the authors' experiment with the most tasks; in the others it is a layer
//! on the features. It goes through a softmax, where that code has a sigmoid over its (constant) sum, whose gradient
//! shrinks all weights, and with them the gaps. A task without a label in a step is left out: its neighbours become
//! each other's. A first loss that is not positive, or under `log` any loss, counts as a 10^-8th of the least positive
//! loss of its step.
//!
//! Remembers `W`, Adam's moments and the first losses; saved in checkpoints.

use super::learned::Learned;
use super::{Moment, Weighting, load_tasks, of_present, positive, present, softmax};
use crate::balance::gram::dot;
use crate::config::{self, Normalize, Tau};
use serde_json::{Value, json};

/// The router and what normalisation needs.
#[derive(Debug, Clone, PartialEq)]
pub struct LdcMtl {
    lambda: f64,
    lr: f64,
    normalize: Normalize,
    tau: Tau,
    router: Vec<Learned>,
    first: Vec<Option<f64>>,
}

/// The objective at the losses that are there: `[n]` each.
struct Objective {
    /// Normalised losses.
    losses: Vec<f64>,
    /// Their slopes in the losses.
    slopes: Vec<f64>,
    sigma: Vec<f64>,
    tau: Vec<f64>,
    /// Slope of the sum of gaps in `tau_t l_t`.
    gaps: Vec<f64>,
}

impl LdcMtl {
    /// All tasks alike.
    pub fn new(config: &config::LdcMtl, n_tasks: usize) -> Self {
        LdcMtl {
            lambda: config.lambda,
            lr: config.lr,
            normalize: config.normalize,
            tau: config.tau,
            router: vec![Learned::new(0.0); n_tasks],
            first: vec![None; n_tasks],
        }
    }

    /// First losses of these tasks: those remembered, or the losses of this step.
    fn first(&self, tasks: &[usize], losses: &[f64]) -> Vec<f64> {
        tasks.iter().zip(positive(losses)).map(|(&t, loss)| self.first[t].unwrap_or(loss)).collect()
    }

    fn objective(&self, tasks: &[usize], losses: &[f64]) -> Objective {
        let first = self.first(tasks, losses);
        let (normal, slopes): (Vec<f64>, Vec<f64>) = match self.normalize {
            Normalize::None => losses.iter().map(|&loss| (loss, 1.0)).unzip(),
            Normalize::Rescaled => {
                let least = first.iter().chain(self.first.iter().flatten()).copied().fold(f64::INFINITY, f64::min);
                losses.iter().zip(&first).map(|(loss, first)| (loss * (least / first), least / first)).unzip()
            }
            Normalize::Log => {
                positive(losses).iter().zip(&first).map(|(loss, first)| (loss.ln() - first.ln(), 1.0 / loss)).unzip()
            }
        };
        let sigma = softmax(&tasks.iter().map(|&t| self.router[t].value).collect::<Vec<f64>>());
        let tau = match self.tau {
            Tau::Weights => sigma.clone(),
            Tau::Ones => vec![1.0; tasks.len()],
        };
        let gaps = gaps(&tau.iter().zip(&normal).map(|(tau, loss)| tau * loss).collect::<Vec<f64>>());
        Objective { losses: normal, slopes, sigma, tau, gaps }
    }

    /// Slopes of the objective in the logits of `W`, `[n]`.
    fn router_slopes(&self, at: &Objective) -> Vec<f64> {
        let gap = |k: usize| match self.tau {
            Tau::Weights => self.lambda * at.gaps[k] * at.losses[k],
            Tau::Ones => 0.0,
        };
        let in_sigma: Vec<f64> = (0..at.sigma.len()).map(|k| at.losses[k] + gap(k)).collect();
        let mean = dot(&at.sigma, &in_sigma);
        at.sigma.iter().zip(in_sigma).map(|(sigma, slope)| sigma * (slope - mean)).collect()
    }
}

impl Weighting for LdcMtl {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        of_present(at, |tasks, losses| {
            let Objective { slopes, sigma, tau, gaps, .. } = self.objective(tasks, losses);
            (0..tasks.len()).map(|k| (sigma[k] + self.lambda * tau[k] * gaps[k]) * slopes[k]).collect()
        })
    }

    fn needs_losses(&self) -> bool {
        true
    }

    fn observe(&mut self, at: &Moment<'_>) {
        let (tasks, losses) = present(at.losses);
        let slopes = self.router_slopes(&self.objective(&tasks, &losses));
        let first = self.first(&tasks, &losses);
        for ((&t, slope), first) in tasks.iter().zip(slopes).zip(first) {
            self.router[t].learn(slope, self.lr);
            self.first[t] = Some(first);
        }
    }

    fn save(&self) -> Value {
        json!({ "router": self.router, "first": self.first })
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let router = load_tasks("ldc_mtl", &state["router"], self.router.len())?;
        let first = load_tasks("ldc_mtl", &state["first"], self.first.len())?;
        (self.router, self.first) = (router, first);
        Ok(())
    }
}

/// Slopes of `sum_k |x_k - x_{k+1}|`; 0 where two are equal.
fn gaps(x: &[f64]) -> Vec<f64> {
    let sign = |d: f64| f64::from(i8::from(d > 0.0) - i8::from(d < 0.0));
    let mut slopes = vec![0.0; x.len()];
    for k in 1..x.len() {
        let sign = sign(x[k - 1] - x[k]);
        slopes[k - 1] += sign;
        slopes[k] -= sign;
    }
    slopes
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::super::testing::{close, slope, some};
    use super::*;

    const FIRST: [f64; 3] = [0.5, 4.0, 1.0];

    /// The objective, written from its definition.
    fn phi(normalize: Normalize, tau: Tau, w: &[f64], losses: &[f64]) -> f64 {
        let normal = |t: usize| match normalize {
            Normalize::None => losses[t],
            Normalize::Rescaled => losses[t] / (FIRST[t] / 0.5),
            Normalize::Log => (losses[t] / FIRST[t]).ln(),
        };
        let sum: f64 = w.iter().map(|w| w.exp()).sum();
        let sigma = |t: usize| w[t].exp() / sum;
        let gap = |t: usize| if tau == Tau::Ones { normal(t) } else { sigma(t) * normal(t) };
        (0..3).map(|t| sigma(t) * normal(t)).sum::<f64>() + 0.3 * ((gap(0) - gap(1)).abs() + (gap(1) - gap(2)).abs())
    }

    fn method(normalize: Normalize, tau: Tau, w: [f64; 3]) -> LdcMtl {
        let config = config::LdcMtl { lambda: 0.3, normalize, tau, ..config::LdcMtl::default() };
        LdcMtl { router: w.map(Learned::new).to_vec(), first: FIRST.map(Some).to_vec(), ..LdcMtl::new(&config, 3) }
    }

    #[test]
    fn weights_and_router_follow_the_slopes_of_the_objective() {
        let w = [0.2, -0.5, 0.7];
        for normalize in [Normalize::None, Normalize::Rescaled, Normalize::Log] {
            for tau in [Tau::Weights, Tau::Ones] {
                for losses in [[0.3, 2.0, 0.7], [5.0, 0.1, 3.0], [1.0, 1.1, 1.2]] {
                    let method = method(normalize, tau, w);
                    let weights = method.weights(&at(&some(&losses)));
                    close(&weights, &slope(|l| phi(normalize, tau, &w, l), &losses), 1e-6);
                    let router = method.router_slopes(&method.objective(&[0, 1, 2], &losses));
                    close(&router, &slope(|w| phi(normalize, tau, w, &losses), &w), 1e-6);
                }
            }
        }
    }

    #[test]
    fn neighbours_of_an_absent_task_are_neighbours() {
        let method = method(Normalize::None, Tau::Ones, [0.0; 3]);
        assert_eq!(method.weights(&at(&[Some(3.0), None, Some(1.0)])), [0.8, 0.0, 0.2]);
        // The smallest of three gives way to both.
        close(
            &method.weights(&at(&some(&[3.0, 1.0, 2.0]))),
            &[1.0 / 3.0 + 0.3, 1.0 / 3.0 - 0.6, 1.0 / 3.0 + 0.3],
            1e-14,
        );
    }

    #[test]
    fn first_losses_are_those_of_the_first_step_with_labels() {
        let mut method = LdcMtl::new(&config::LdcMtl::default(), 3);
        method.observe(&at(&[Some(2.0), None, Some(8.0)]));
        method.observe(&at(&[Some(1.0), Some(4.0), Some(1.0)]));
        assert_eq!(method.first, [Some(2.0), Some(4.0), Some(8.0)]);
        let Objective { losses, .. } = method.objective(&[0, 1, 2], &[1.0, 1.0, 1.0]);
        assert_eq!(losses, [1.0, 0.5, 0.25]);
    }

    #[test]
    fn the_router_prefers_the_smaller_loss_as_the_lower_problem_does() {
        let mut method = LdcMtl::new(&config::LdcMtl { lambda: 0.0, lr: 0.1, ..config::LdcMtl::default() }, 2);
        (0..5).for_each(|_| method.observe(&at(&[Some(1.0), Some(1.0)])));
        assert!(method.router.iter().all(|w| w.value.abs() < 1e-12), "equal losses");
        (0..5).for_each(|_| method.observe(&at(&[Some(2.0), Some(1.0)])));
        assert!(method.router[0].value < -0.3 && method.router[1].value > 0.3, "{:?}", method.router);
    }
}
