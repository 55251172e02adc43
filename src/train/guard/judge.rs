//! Which steps are refused. What is judged has the same bits on all ranks, so all refuse alike.

use super::spikes::Spikes;
use crate::config::{NonFinite, Spike, SpikeAction};
use crate::train::learner::names;
use std::fmt;

/// Why a step was not taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// This is not finite.
    NotFinite(String),
    /// This stands out from the steps before, in words.
    Spike(String),
    /// The run was taken back because of this step, and leaves it out.
    LeftOut,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotFinite(what) => write!(f, "{what} is not finite"),
            Refusal::Spike(words) => f.write_str(words),
            Refusal::LeftOut => f.write_str("left out after a rollback"),
        }
    }
}

/// Judges the numbers of a step before it is taken.
#[derive(Debug)]
pub(in crate::train) struct Judge {
    tasks: Vec<String>,
    spikes: Option<Spikes>,
    /// Whether the norm must be known before any parameter is moved: nothing could take the step back.
    pub needs_norm: bool,
}

impl Judge {
    /// A judge of these tasks' numbers.
    pub fn new(tasks: &[String], non_finite: NonFinite, spike: Option<Spike>) -> Self {
        let skips = spike.is_some_and(|spike| spike.action == SpikeAction::Skip);
        Judge {
            tasks: tasks.to_vec(),
            spikes: spike.map(|rule| Spikes::new(rule, tasks.len())),
            needs_norm: skips || non_finite == NonFinite::Skip,
        }
    }

    /// Judges the global losses `[T]`.
    pub fn losses(&self, losses: &[Option<f64>]) -> Option<Refusal> {
        match self.not_finite(losses) {
            Some(what) => Some(Refusal::NotFinite(what)),
            None => self.refusing()?.in_losses(losses).map(|(task, found)| {
                let task = &self.tasks[task];
                Refusal::Spike(format!("the loss of `{task}` {found}"))
            }),
        }
    }

    /// Judges the norm of the update. `applied`: the parameters have been moved by it.
    pub fn norm(&self, norm: f64, applied: bool) -> Option<Refusal> {
        let lost = if applied { " (already applied: these parameters are lost)" } else { "" };
        if !norm.is_finite() {
            return Some(Refusal::NotFinite(format!("the update{lost}")));
        }
        self.refusing()?.in_norm(norm).map(|found| Refusal::Spike(format!("the norm of the update {found}")))
    }

    /// Takes in a step that was taken. If spikes are only warned of: in words, what stands out.
    pub fn took(&mut self, losses: &[Option<f64>], norm: f64) -> Option<String> {
        let spikes = self.spikes.as_mut()?;
        let loss = spikes.in_losses(losses).map(|(task, found)| format!("the loss of `{}` {found}", self.tasks[task]));
        let words = loss.or_else(|| spikes.in_norm(norm).map(|found| format!("the norm of the update {found}")));
        spikes.take(losses, norm);
        words.filter(|_| spikes.rule().action == SpikeAction::Warn)
    }

    /// Which losses are not finite, in words.
    pub fn not_finite(&self, losses: &[Option<f64>]) -> Option<String> {
        let bad: Vec<usize> = (0..losses.len()).filter(|&t| losses[t].is_some_and(|l| !l.is_finite())).collect();
        (!bad.is_empty()).then(|| format!("the loss of {}", names(&self.tasks, &bad)))
    }

    /// State for a checkpoint.
    pub fn save(&self) -> Vec<Vec<f64>> {
        self.spikes.as_ref().map_or_else(Vec::new, Spikes::save)
    }

    /// Takes over the state of [`Self::save`].
    pub fn load(&mut self, state: &[Vec<f64>]) {
        if let Some(spikes) = &mut self.spikes {
            spikes.load(state);
        }
    }

    /// The guard against spikes, if a spike is a reason to refuse a step.
    fn refusing(&self) -> Option<&Spikes> {
        self.spikes.as_ref().filter(|spikes| spikes.rule().action != SpikeAction::Warn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A judge of two tasks that has seen four steps with losses 1 and 2 and an update of norm 3.
    fn judge(non_finite: NonFinite, action: Option<SpikeAction>) -> Judge {
        let rule = |action| Spike { window: 4, action, ..Spike::default() };
        let mut judge = Judge::new(&["a".into(), "b".into()], non_finite, action.map(rule));
        for _ in 0..4 {
            assert_eq!(judge.took(&[Some(1.0), Some(2.0)], 3.0), None);
        }
        judge
    }

    #[test]
    fn what_is_not_finite_is_refused_by_name_and_comes_before_a_spike() {
        let judge = judge(NonFinite::Stop, Some(SpikeAction::Stop));
        let words = |refusal: Option<Refusal>| refusal.map(|r| r.to_string()).unwrap_or_default();
        assert_eq!(words(judge.losses(&[Some(f64::NAN), Some(f64::INFINITY)])), "the loss of `a`, `b` is not finite");
        assert_eq!(words(judge.losses(&[Some(1e9), Some(f64::NAN)])), "the loss of `b` is not finite");
        assert_eq!(words(judge.norm(f64::NAN, false)), "the update is not finite");
        assert!(words(judge.norm(f64::INFINITY, true)).starts_with("the update (already applied"));
        assert_eq!(judge.losses(&[None, Some(2.0)]), None);
    }

    #[test]
    fn a_spike_is_refused_or_told_as_configured() {
        for action in [SpikeAction::Skip, SpikeAction::Rollback, SpikeAction::Stop] {
            let mut judge = judge(NonFinite::Stop, Some(action));
            let refusal = judge.losses(&[Some(1.0), Some(9.0)]);
            assert!(matches!(&refusal, Some(Refusal::Spike(words)) if words.starts_with("the loss of `b` is 9.000e0")));
            assert!(
                matches!(judge.norm(9.0, false), Some(Refusal::Spike(w)) if w.starts_with("the norm of the update"))
            );
            assert_eq!(judge.needs_norm, action == SpikeAction::Skip);
            assert_eq!(judge.took(&[Some(1.0), Some(9.0)], 3.0), None, "nobody is to be told of what was decided on");
        }
        let mut told = judge(NonFinite::Stop, Some(SpikeAction::Warn));
        assert_eq!((told.losses(&[Some(9.0), None]), told.norm(9.0, false)), (None, None));
        assert!(
            told.took(&[Some(9.0), None], 3.0).is_some_and(|words| words.starts_with("the loss of `a` is 9.000e0"))
        );
        assert!(told.took(&[None, None], 9.0).is_some_and(|words| words.starts_with("the norm of the update is")));
        let off = judge(NonFinite::Rollback, None);
        assert_eq!((off.losses(&[Some(1e30), None]), off.norm(1e30, true), off.needs_norm), (None, None, false));
        assert!(judge(NonFinite::Skip, None).needs_norm);
    }
}
