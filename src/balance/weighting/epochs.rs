//! Mean losses by epoch, for methods that are defined by epochs.

use super::Moment;
use serde::{Deserialize, Serialize};

/// Sums of one task's losses over the running epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sum {
    sum: f64,
    count: u64,
}

/// The running epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochMeans {
    epoch: u64,
    tasks: Vec<Sum>,
}

impl EpochMeans {
    /// At the start of training.
    pub fn new(n_tasks: usize) -> Self {
        EpochMeans { epoch: 0, tasks: vec![Sum::default(); n_tasks] }
    }

    /// Number of tasks.
    pub fn n_tasks(&self) -> usize {
        self.tasks.len()
    }

    /// The epoch that was summed up last.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Mean loss of a task over the epoch that was summed up last, if that is over by `epoch`; `None` also if the task
    /// had no label in it.
    pub fn finished(&self, task: usize, epoch: u64) -> Option<f64> {
        let Sum { sum, count } = self.tasks[task];
        (self.epoch < epoch && count > 0).then(|| sum / count as f64)
    }

    /// Adds the losses of a step. When it is the first of a new epoch, look at [`Self::finished`] before.
    pub fn add(&mut self, at: &Moment<'_>) {
        if self.epoch != at.epoch() {
            *self = EpochMeans { epoch: at.epoch(), ..EpochMeans::new(self.tasks.len()) };
        }
        for (task, loss) in self.tasks.iter_mut().zip(at.losses) {
            if let Some(loss) = loss {
                task.sum += loss;
                task.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::at_step;
    use super::*;

    #[test]
    fn an_epoch_is_finished_when_the_next_one_starts() {
        let mut means = EpochMeans::new(2);
        means.add(&at_step(&[Some(1.0), None], 0));
        means.add(&at_step(&[Some(4.0), None], 9));
        assert_eq!((means.finished(0, 0), means.finished(0, 1), means.finished(1, 1)), (None, Some(2.5), None));
        means.add(&at_step(&[Some(3.0), Some(5.0)], 10));
        assert_eq!((means.epoch(), means.finished(0, 1)), (1, None));
        assert_eq!((means.finished(0, 7), means.finished(1, 7)), (Some(3.0), Some(5.0)));
    }
}
