//! `balance.tasks`: which tasks take part in a step.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which tasks take part in a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ActiveTasks {
    /// All of them.
    #[default]
    All,
    /// One at a time, in the order of the configuration.
    Alternating(Alternating),
    /// Groups take turns.
    Grouped(Grouped),
    /// Tasks enter and leave at steps; those that are not named are always active.
    Curriculum(BTreeMap<String, Span>),
}

/// Options of tasks that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alternating {
    /// Steps of a turn.
    pub every: u64,
}

impl Default for Alternating {
    fn default() -> Self {
        Alternating { every: 1 }
    }
}

/// Options of groups that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grouped {
    /// The groups, in the order of their turns; every task is in one or more.
    pub groups: Vec<Vec<String>>,
    /// Steps of a turn.
    #[serde(default = "one")]
    pub every: u64,
}

fn one() -> u64 {
    1
}

/// The steps in which a task is active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Span {
    /// The first step; steps count from 0.
    pub from: u64,
    /// The first step in which it is no longer active; none: to the end.
    pub until: Option<u64>,
}

impl Span {
    /// Whether the step is one of them.
    pub fn contains(&self, step: u64) -> bool {
        self.from <= step && self.until.is_none_or(|until| step < until)
    }
}
