//! What a run has come to: everything small that must survive a stop, besides the learner itself.

use super::guard::Rollbacks;
use crate::log::{EvalRecord, Resumed};
use serde::{Deserialize, Serialize};

/// Counters and the best evaluation so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Samples of all ranks that went through the model.
    pub samples: u64,
    /// Seconds of training, evaluations and checkpoints included, over all sessions.
    pub seconds: f64,
    /// Steps that were not taken because of their numbers.
    pub skipped: u64,
    /// Steps skipped since the last one that was taken.
    pub skipped_in_a_row: u64,
    /// Steps (from 1) that are left out because a run that took them had to be taken back; ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<u64>,
    /// How often the run was taken back without getting beyond where it had been.
    #[serde(default)]
    pub rollbacks: Rollbacks,
    /// Best score so far.
    pub best_score: Option<f64>,
    /// Evaluations of the parameters with the best score, one per split.
    pub best: Vec<EvalRecord>,
    /// Evaluations of the parameters as they are now, one per split; empty if they changed since.
    pub evaluated: Vec<EvalRecord>,
    /// Evaluations since the best one.
    pub evaluations_since_best: u64,
}

impl Progress {
    /// Whether the step (from 1) is not to be taken.
    pub fn leaves_out(&self, step: u64) -> bool {
        self.left_out.binary_search(&step).is_ok()
    }

    /// What its records go on from.
    pub fn resumed(&self) -> Resumed {
        Resumed { step: self.step, best_score: self.best_score }
    }

    /// Takes in the score of an evaluation; whether it is the best so far. Equal is not better.
    pub fn judge(&mut self, score: Option<f64>) -> bool {
        let score = score.filter(|s| s.is_finite());
        let better = match (score, self.best_score) {
            (Some(new), Some(old)) => new > old,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if better {
            self.best_score = score;
            self.evaluations_since_best = 0;
        } else {
            self.evaluations_since_best += 1;
        }
        better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_to_leave_out_survive_and_a_checkpoint_without_them_is_read() {
        let progress = Progress { left_out: vec![3, 7], ..Progress::default() };
        let saved = serde_json::to_value(&progress).unwrap();
        let read: Progress = serde_json::from_value(saved).unwrap();
        assert_eq!((1..9).filter(|&step| read.leaves_out(step)).collect::<Vec<_>>(), [3, 7]);
        let none = serde_json::to_value(Progress::default()).unwrap();
        assert!(
            none.get("left_out").is_none() && serde_json::from_value::<Progress>(none).unwrap().left_out.is_empty()
        );
    }

    #[test]
    fn the_first_defined_score_is_the_best_and_equal_is_not_better() {
        let mut progress = Progress::default();
        let judged = [Some(f64::NAN), Some(0.5), Some(0.5), None, Some(0.6)].map(|s| progress.judge(s));
        assert_eq!(judged, [false, true, false, false, true]);
        assert_eq!((progress.best_score, progress.evaluations_since_best), (Some(0.6), 0));
    }
}
