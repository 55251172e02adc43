//! Which tasks take part in a step.
//!
//! All of them, by default. Or they take turns (`alternating`, one at a time; `grouped`, some at a time), or they enter
//! and leave at given steps (`curriculum`). An inactive task is not computed: in its step it is a task without labels,
//! and weightings and surgery leave it out.
//!
//! A pure function of the step: nothing to save, and a resumed run goes on where it was.

use crate::config::{ActiveTasks, Span};

/// A schedule of tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSchedule {
    n_tasks: usize,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    All,
    /// Each turn `[T]` lasts `every` steps.
    Turns {
        turns: Vec<Vec<bool>>,
        every: u64,
    },
    /// By task.
    Spans(Vec<Span>),
}

impl TaskSchedule {
    /// The configured schedule of these tasks. Names of others are overlooked: see the checks of the configuration.
    pub fn build(config: &ActiveTasks, tasks: &[String]) -> Self {
        let among = |group: &[String]| tasks.iter().map(|task| group.contains(task)).collect();
        let kind = match config {
            ActiveTasks::All => Kind::All,
            ActiveTasks::Alternating(o) => {
                let turns = tasks.iter().map(|task| among(std::slice::from_ref(task))).collect();
                Kind::Turns { turns, every: o.every }
            }
            ActiveTasks::Grouped(o) => {
                Kind::Turns { turns: o.groups.iter().map(|g| among(g)).collect(), every: o.every }
            }
            ActiveTasks::Curriculum(spans) => {
                Kind::Spans(tasks.iter().map(|task| spans.get(task).copied().unwrap_or_default()).collect())
            }
        };
        TaskSchedule { n_tasks: tasks.len(), kind }
    }

    /// Which tasks take part in a step, `[T]`. Steps count from 0.
    pub fn active(&self, step: u64) -> Vec<bool> {
        match &self.kind {
            Kind::All => vec![true; self.n_tasks],
            Kind::Turns { turns, every } => {
                let turn = (step / (*every).max(1)) % (turns.len() as u64).max(1);
                turns.get(turn as usize).cloned().unwrap_or_else(|| vec![true; self.n_tasks])
            }
            Kind::Spans(spans) => spans.iter().map(|span| span.contains(step)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Alternating, Grouped};

    /// Active tasks at each of the first steps, by letter.
    fn steps(config: &ActiveTasks, n: u64) -> Vec<String> {
        let tasks = ["a", "b", "c"].map(String::from);
        let schedule = TaskSchedule::build(config, &tasks);
        let letters =
            |step: u64| tasks.iter().zip(schedule.active(step)).filter(|(_, on)| *on).map(|(t, _)| t.as_str());
        (0..n).map(|step| letters(step).collect()).collect()
    }

    #[test]
    fn all_tasks_by_default() {
        assert_eq!(steps(&ActiveTasks::default(), 2), ["abc", "abc"]);
    }

    #[test]
    fn tasks_alternate_in_order() {
        assert_eq!(steps(&ActiveTasks::Alternating(Alternating { every: 1 }), 5), ["a", "b", "c", "a", "b"]);
        assert_eq!(steps(&ActiveTasks::Alternating(Alternating { every: 2 }), 7), ["a", "a", "b", "b", "c", "c", "a"]);
    }

    #[test]
    fn groups_take_turns_and_may_share_tasks() {
        let groups = vec![vec!["c".into(), "a".into()], vec!["b".into()], vec!["b".into(), "c".into()]];
        assert_eq!(steps(&ActiveTasks::Grouped(Grouped { groups, every: 1 }), 5), ["ac", "b", "bc", "ac", "b"]);
    }

    #[test]
    fn a_curriculum_lets_tasks_enter_and_leave() {
        let spans = [("a".into(), Span { from: 2, until: None }), ("b".into(), Span { from: 1, until: Some(3) })];
        assert_eq!(steps(&ActiveTasks::Curriculum(spans.into()), 5), ["c", "bc", "abc", "ac", "ac"]);
    }

    #[test]
    fn is_a_function_of_the_step_alone() {
        let tasks = ["a", "b"].map(String::from);
        let schedule = TaskSchedule::build(&ActiveTasks::Alternating(Alternating { every: 3 }), &tasks);
        let forwards: Vec<_> = (0..20).map(|step| schedule.active(step)).collect();
        let backwards: Vec<_> = (0..20).rev().map(|step| schedule.active(step)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
        assert_eq!(schedule.active(u64::MAX).iter().filter(|on| **on).count(), 1);
    }
}
