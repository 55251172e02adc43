//! `balance.tasks`: names that exist, and a task in every step.

use super::super::fault::Fault;
use super::super::{ActiveTasks, Config, Span};
use super::batch::known_name;
use super::{At, Checked, MANY};
use std::collections::BTreeMap;

pub(super) fn check(config: &Config) -> Checked {
    let tasks: Vec<&str> = config.tasks.iter().map(|(name, _)| name.as_str()).collect();
    let at = At::key("balance").then("tasks");
    match &config.balance.tasks {
        ActiveTasks::All => Ok(()),
        ActiveTasks::Alternating(o) => at.then("alternating").then("every").within(o.every, 1, MANY),
        ActiveTasks::Grouped(o) => {
            let at = at.then("grouped");
            at.then("every").within(o.every, 1, MANY)?;
            groups(&at.then("groups"), &o.groups, &tasks)
        }
        ActiveTasks::Curriculum(spans) => {
            // A run of unknown length may reach every step.
            curriculum(&at.then("curriculum"), spans, &tasks, config.train.steps.unwrap_or(u64::MAX))
        }
    }
}

fn groups(at: &At, groups: &[Vec<String>], tasks: &[&str]) -> Checked {
    for (i, group) in groups.iter().enumerate() {
        let at = at.then(i);
        at.need(!group.is_empty(), "needs a task")?;
        for (k, name) in group.iter().enumerate() {
            known_name(&at.then(k), name, "task", tasks)?;
        }
        at.names(group)?;
    }
    let left_out = tasks.iter().find(|task| !groups.iter().flatten().any(|name| name == *task));
    left_out.map_or(Ok(()), |task| Err(at.fault(format!("task `{task}` is in no group"))))
}

fn curriculum(at: &At, spans: &BTreeMap<String, Span>, tasks: &[&str], steps: u64) -> Checked {
    for (name, span) in spans {
        let at = at.then(name);
        known_name(&at, name, "task", tasks).map_err(Fault::on_key)?;
        at.then("from").within(span.from, 0, MANY)?;
        if let Some(until) = span.until {
            at.then("until").within(until, 0, MANY)?;
            let message = format!("must be above `from` ({}), found {until}", span.from);
            at.then("until").need(until > span.from, message)?;
        }
    }
    if tasks.iter().any(|task| !spans.contains_key(*task)) {
        return Ok(());
    }
    // The set of active tasks can only lose its last one where a task leaves; or it is empty at the start.
    let ends = spans.values().filter_map(|span| span.until);
    let idle = std::iter::once(0).chain(ends).filter(|&step| step < steps);
    let idle = idle.filter(|&step| !spans.values().any(|span| span.contains(step))).min();
    let fault = |step: u64| {
        at.fault(format!("no task is active in step {step}")).hint("tasks that are not named are always active")
    };
    idle.map_or(Ok(()), |step| Err(fault(step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(checked: Checked) -> String {
        checked.map_or_else(|fault| fault.plain(), |()| "fine".into())
    }

    fn curriculum_of(spans: &[(&str, u64, Option<u64>)], steps: u64) -> String {
        let spans = spans.iter().map(|&(name, from, until)| (name.to_string(), Span { from, until })).collect();
        message(curriculum(&At::key("c"), &spans, &["a", "b"], steps))
    }

    #[test]
    fn every_step_needs_a_task() {
        assert_eq!(curriculum_of(&[("a", 100, None)], u64::MAX), "fine");
        assert_eq!(curriculum_of(&[("a", 0, Some(10)), ("b", 10, None)], u64::MAX), "fine");
        let hint = "\nhint: tasks that are not named are always active";
        let idle = |step: u64| format!("c: no task is active in step {step}{hint}");
        assert_eq!(curriculum_of(&[("a", 5, None), ("b", 1, None)], u64::MAX), idle(0));
        assert_eq!(curriculum_of(&[("a", 0, Some(10)), ("b", 11, None)], u64::MAX), idle(10));
        assert_eq!(curriculum_of(&[("a", 0, Some(10)), ("b", 0, Some(12))], u64::MAX), idle(12));
        assert_eq!(curriculum_of(&[("a", 0, Some(10)), ("b", 0, Some(12))], 12), "fine", "the run ends first");
    }

    #[test]
    fn a_span_has_steps() {
        assert_eq!(curriculum_of(&[("a", 5, Some(5))], u64::MAX), "c.a.until: must be above `from` (5), found 5");
    }

    #[test]
    fn names_are_tasks_and_no_task_is_left_out() {
        let groups_of = |names: &[&[&str]]| {
            let names: Vec<Vec<String>> = names.iter().map(|g| g.iter().map(|n| n.to_string()).collect()).collect();
            message(groups(&At::key("g"), &names, &["left", "right"]))
        };
        assert_eq!(groups_of(&[&["left"], &["right", "left"]]), "fine");
        assert_eq!(groups_of(&[&["left"]]), "g: task `right` is in no group");
        assert_eq!(groups_of(&[&["left", "right"], &[]]), "g.1: needs a task");
        assert_eq!(groups_of(&[&["left", "left"]]), "g.0.1: `left` is listed twice");
        let unknown = groups_of(&[&["left"], &["rigth"]]);
        assert!(
            unknown.starts_with("g.1.0: no task is called") && unknown.contains("did you mean `right`?"),
            "{unknown}"
        );
        assert!(curriculum_of(&[("z", 0, None)], 1).contains("no task is called"));
    }
}
