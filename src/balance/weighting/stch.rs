//! Smooth Tchebycheff scalarisation: a smooth maximum of the losses.
//!
//! Lin, Zhang et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", 2024 (arXiv:2402.19078).
//!
//! - `log`, as the authors train networks: `phi = T mu log sum_t exp(log(L_t / nadir_t) / mu)`, so
//!   `w_t = T softmax(log(L / nadir) / mu)_t / L_t`. The nadir is the task's mean loss over the epoch that follows
//!   `warmup_epochs` epochs; until that epoch is over, `phi = sum_t log L_t`. The scale of a loss does not matter.
//! - `linear`, the paper's definition: `phi = mu log sum_t exp(lambda_t (L_t - ideal_t) / mu)` with preferences
//!   `lambda` that sum to 1, so `w_t = lambda_t softmax(lambda (L - ideal) / mu)_t`. It has no warm-up and no state.
//!
//! Departures: none. `T` and the sums are over the tasks with a label in the step. In `log`, a loss that is not
//! positive counts as a 10^-8th of the least positive loss of the step. A task without a label in the epoch of the
//! nadir takes its nadir from its first epoch with one; until that is over, its loss counts as being at the nadir.
//!
//! Remembers the sums of the running epoch and the nadir; saved in checkpoints.

use super::epochs::EpochMeans;
use super::{Moment, Weighting, by_task, load_tasks, of_present, positive, preferences, present, softmax};
use crate::config::{self, StchForm};
use serde::Deserialize;
use serde_json::{Value, json};

/// The configured form with its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Stch {
    mu: f64,
    form: Form,
}

#[derive(Debug, Clone, PartialEq)]
enum Form {
    Log { warmup: u64, running: EpochMeans, nadir: Vec<Option<f64>> },
    Linear { lambda: Vec<f64>, ideal: Vec<f64> },
}

impl Stch {
    /// Before the first epoch.
    pub fn new(config: &config::Stch, tasks: &[String]) -> Self {
        let n = tasks.len();
        let form = match config.form {
            StchForm::Log => {
                Form::Log { warmup: config.warmup_epochs, running: EpochMeans::new(n), nadir: vec![None; n] }
            }
            StchForm::Linear => Form::Linear {
                lambda: preferences(tasks, &config.preferences),
                ideal: by_task(tasks, &config.ideal, 0.0),
            },
        };
        Stch { mu: config.mu, form }
    }

    /// `softmax(x / mu)`: the largest is taken off before the division, which then cannot overflow.
    fn shares(&self, x: &[f64]) -> Vec<f64> {
        let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        softmax(&x.iter().map(|x| (x - largest) / self.mu).collect::<Vec<f64>>())
    }
}

/// The nadir of a task as known in `epoch`, which may have just begun.
fn nadir_in(epoch: u64, task: usize, warmup: u64, running: &EpochMeans, nadir: &[Option<f64>]) -> Option<f64> {
    nadir[task].or_else(|| running.finished(task, epoch).filter(|_| running.epoch() >= warmup))
}

impl Weighting for Stch {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        match &self.form {
            Form::Log { warmup, .. } if at.epoch() <= *warmup => {
                of_present(at, |_, losses| positive(losses).iter().map(|loss| 1.0 / loss).collect())
            }
            Form::Log { warmup, running, nadir } => of_present(at, |tasks, losses| {
                let losses = positive(losses);
                let known = |t: usize| nadir_in(at.epoch(), t, *warmup, running, nadir);
                let log = |(&t, loss): (&usize, &f64)| known(t).map_or(0.0, |nadir| loss.ln() - nadir.ln());
                let shares = self.shares(&tasks.iter().zip(&losses).map(log).collect::<Vec<f64>>());
                shares.iter().zip(&losses).map(|(share, loss)| tasks.len() as f64 * share / loss).collect()
            }),
            Form::Linear { lambda, ideal } => of_present(at, |tasks, losses| {
                let distance = |(&t, loss): (&usize, &f64)| lambda[t] * (loss - ideal[t]);
                let shares = self.shares(&tasks.iter().zip(losses).map(distance).collect::<Vec<f64>>());
                tasks.iter().zip(shares).map(|(&t, share)| lambda[t] * share).collect()
            }),
        }
    }

    fn needs_losses(&self) -> bool {
        true
    }

    fn observe(&mut self, at: &Moment<'_>) {
        if let Form::Log { warmup, running, nadir } = &mut self.form {
            *nadir = (0..nadir.len()).map(|t| nadir_in(at.epoch(), t, *warmup, running, nadir)).collect();
            let (tasks, losses) = present(at.losses);
            let losses: Vec<Option<f64>> = positive(&losses).into_iter().map(Some).collect();
            let mut all = vec![None; at.losses.len()];
            tasks.iter().zip(losses).for_each(|(&t, loss)| all[t] = loss);
            running.add(&Moment { losses: &all, ..*at });
        }
    }

    fn save(&self) -> Value {
        match &self.form {
            Form::Log { running, nadir, .. } => json!({ "running": running, "nadir": nadir }),
            Form::Linear { .. } => Value::Null,
        }
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        if let Form::Log { running, nadir, .. } = &mut self.form {
            let loaded: Vec<Option<f64>> = load_tasks("stch", &state["nadir"], nadir.len())?;
            let sums: EpochMeans = Deserialize::deserialize(&state["running"]).map_err(|e| format!("stch: {e}"))?;
            if sums.n_tasks() != loaded.len() {
                return Err(format!("stch: {} tasks in the checkpoint, {} here", sums.n_tasks(), loaded.len()));
            }
            (*running, *nadir) = (sums, loaded);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::at_step;
    use super::super::testing::{close, names, slope, some};
    use super::*;
    use crate::config::Named;

    /// After the epochs 0 and 1 (warm-up) and 2 (nadir), of 10 steps each.
    fn trained(scale: f64) -> Stch {
        let config = config::Stch { warmup_epochs: 2, mu: 0.5, ..config::Stch::default() };
        let mut method = Stch::new(&config, &names(2));
        for step in 0..30 {
            let losses = if step < 20 { [9.0 * scale, 9.0] } else { [scale * (1.0 + 0.2 * (step - 20) as f64), 3.0] };
            let w = method.weights(&at_step(&some(&losses), step));
            close(&w, &[1.0 / losses[0], 1.0 / losses[1]], 1e-15);
            method.observe(&at_step(&some(&losses), step));
        }
        method
    }

    #[test]
    fn is_the_slope_of_the_smooth_maximum_of_logs_after_the_nadir_is_known() {
        let (mut method, losses) = (trained(1.0), [1.2, 2.5]);
        let nadir = [1.9, 3.0];
        let phi = |l: &[f64]| 2.0 * 0.5 * (0..2).map(|t| (l[t] / nadir[t]).powf(1.0 / 0.5)).sum::<f64>().ln();
        for step in 30..45 {
            close(&method.weights(&at_step(&some(&losses), step)), &slope(phi, &losses), 1e-8);
            method.observe(&at_step(&some(&losses), step));
        }
    }

    #[test]
    fn the_scale_of_a_loss_does_not_matter() {
        let weighted = |scale: f64| {
            let losses = [1.2 * scale, 2.5];
            let w = trained(scale).weights(&at_step(&some(&losses), 30));
            [w[0] * losses[0], w[1] * losses[1]]
        };
        close(&weighted(1e9), &weighted(1.0), 1e-12);
    }

    #[test]
    fn a_task_that_comes_late_takes_its_nadir_from_its_first_epoch() {
        let config = config::Stch { warmup_epochs: 0, ..config::Stch::default() };
        let mut method = Stch::new(&config, &names(2));
        (0..20).for_each(|step| method.observe(&at_step(&[Some(2.0), None], step)));
        let losses = [Some(4.0), Some(5.0)];
        // At its nadir, whatever its loss: shares 4/2 and 1.
        close(&method.weights(&at_step(&losses, 20)), &[2.0 * 2.0 / 3.0 / 4.0, 2.0 / 3.0 / 5.0], 1e-12);
        (20..30).for_each(|step| method.observe(&at_step(&losses, step)));
        let later = method.weights(&at_step(&[Some(4.0), Some(10.0)], 30));
        close(&later, &[2.0 * 0.5 / 4.0, 2.0 * 0.5 / 10.0], 1e-12);
    }

    #[test]
    fn the_linear_form_is_the_slope_of_its_definition() {
        let config = config::Stch {
            form: StchForm::Linear,
            mu: 0.3,
            preferences: Named::from([("a".into(), 3.0)]),
            ideal: Named::from([("b".into(), -1.0)]),
            ..config::Stch::default()
        };
        let method = Stch::new(&config, &names(2));
        let phi = |l: &[f64]| 0.3 * ((0.75 * l[0] / 0.3).exp() + (0.25 * (l[1] + 1.0) / 0.3).exp()).ln();
        let losses = [0.4, 0.9];
        close(&method.weights(&at_step(&some(&losses), 0)), &slope(phi, &losses), 1e-8);
        // As mu vanishes, only the largest is left.
        let sharp = Stch { mu: 1e-300, ..method };
        assert_eq!(sharp.weights(&at_step(&some(&losses), 0)), [0.0, 0.25]);
    }
}
