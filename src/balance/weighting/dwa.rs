//! Dynamic weight average: tasks whose losses fall slowly weigh more.
//!
//! Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", 2019 (arXiv:1803.10704):
//! `w_t = T softmax(r / temperature)_t` with `r_t` the task's mean loss of the last epoch over that of the epoch
//! before; 1 for all tasks in the first two epochs.
//!
//! Departures: none. The softmax is over the tasks with a label in the step and `T` is their number. The two epochs of
//! a task are the last two in which it had labels; until there are two, and where the earlier mean is 0, `r_t = 1`
//! (neither faster nor slower). The means are over the steps of an epoch, each step's global mean loss counting alike.
//!
//! Remembers the sums of the running epoch and the last two means; saved in checkpoints.

use super::epochs::EpochMeans;
use super::{Moment, Weighting, of_present, softmax};
use crate::config;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The last two epochs of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    last: Option<f64>,
    before: Option<f64>,
}

impl History {
    fn then(self, mean: Option<f64>) -> Self {
        if mean.is_some() { History { last: mean, before: self.last } } else { self }
    }

    fn ratio(self) -> f64 {
        match (self.last, self.before) {
            (Some(last), Some(before)) => Some(last / before).filter(|r| r.is_finite()).unwrap_or(1.0),
            _ => 1.0,
        }
    }
}

/// Mean losses of the last two epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct Dwa {
    temperature: f64,
    running: EpochMeans,
    history: Vec<History>,
}

impl Dwa {
    /// Before the first epoch.
    pub fn new(config: &config::Dwa, n_tasks: usize) -> Self {
        let history = vec![History::default(); n_tasks];
        Dwa { temperature: config.temperature, running: EpochMeans::new(n_tasks), history }
    }

    /// What is known in `epoch`, which may have just begun.
    fn history(&self, task: usize, epoch: u64) -> History {
        self.history[task].then(self.running.finished(task, epoch))
    }
}

impl Weighting for Dwa {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        let rate = |t: usize| self.history(t, at.epoch()).ratio() / self.temperature;
        of_present(at, |tasks, _| {
            let shares = softmax(&tasks.iter().map(|&t| rate(t)).collect::<Vec<f64>>());
            shares.iter().map(|share| share * tasks.len() as f64).collect()
        })
    }

    fn observe(&mut self, at: &Moment<'_>) {
        self.history = (0..self.history.len()).map(|t| self.history(t, at.epoch())).collect();
        self.running.add(at);
    }

    fn save(&self) -> Value {
        json!({ "running": self.running, "history": self.history })
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let history: Vec<History> = super::load_tasks("dwa", &state["history"], self.history.len())?;
        let running: EpochMeans = Deserialize::deserialize(&state["running"]).map_err(|e| format!("dwa: {e}"))?;
        if running.n_tasks() != history.len() {
            return Err(format!("dwa: {} tasks in the checkpoint, {} here", running.n_tasks(), history.len()));
        }
        (self.running, self.history) = (running, history);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::at_step;
    use super::super::testing::close;
    use super::*;

    /// Weights at each of 10 steps an epoch, for losses by (task, epoch).
    fn weights(losses: &[[Option<f64>; 2]]) -> Vec<Vec<f64>> {
        let mut dwa = Dwa::new(&config::Dwa::default(), 2);
        let moments = losses.iter().enumerate().flat_map(|(e, row)| (0..10).map(move |s| (10 * e as u64 + s, row)));
        let step = |(step, row): (u64, &[Option<f64>; 2])| {
            // Within an epoch losses vary around their mean.
            let wave = 1.0 + 0.1 * if step % 2 == 0 { 1.0 } else { -1.0 };
            let losses = row.map(|loss| loss.map(|loss| loss * wave));
            let weights = dwa.weights(&at_step(&losses, step));
            dwa.observe(&at_step(&losses, step));
            weights
        };
        moments.map(step).collect()
    }

    #[test]
    fn is_one_for_two_epochs_and_then_follows_the_ratio_of_means() {
        let all = weights(&[[Some(4.0), Some(1.0)], [Some(2.0), Some(0.9)], [Some(1.9), Some(0.3)], [Some(1.0); 2]]);
        assert!(all[..20].iter().flatten().all(|w| (w - 1.0).abs() < 1e-12), "{all:?}");
        let expected = |a: f64, b: f64| {
            let (a, b) = ((a / 2.0).exp(), (b / 2.0).exp());
            [2.0 * a / (a + b), 2.0 * b / (a + b)]
        };
        // From the first step of an epoch to its last.
        all[20..30].iter().for_each(|w| close(w, &expected(0.5, 0.9), 1e-12));
        all[30..].iter().for_each(|w| close(w, &expected(0.95, 1.0 / 3.0), 1e-12));
    }

    #[test]
    fn an_epoch_without_labels_is_left_out() {
        let all = weights(&[[Some(4.0); 2], [Some(2.0), None], [None, Some(1.0)], [Some(1.0); 2]]);
        assert_eq!(all[25], [0.0, 1.0], "alone in its step");
        let (a, b) = ((0.5f64 / 2.0).exp(), (0.25f64 / 2.0).exp());
        close(&all[35], &[2.0 * a / (a + b), 2.0 * b / (a + b)], 1e-12);
    }

    #[test]
    fn a_loss_that_was_zero_says_nothing_about_speed() {
        let all = weights(&[[Some(0.0), Some(1.0)], [Some(3.0), Some(1.0)], [Some(0.0), Some(1.0)], [Some(1.0); 2]]);
        close(&all[25], &[1.0, 1.0], 1e-12);
    }
}
