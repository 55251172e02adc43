//! The table at the end of a run.

use super::super::{EvalRecord, Status, Summary};
use super::table::{clock, count, number, table};

/// Results per task and metric, and what the run took.
pub fn report(summary: &Summary, width: usize) -> String {
    let status = match summary.status {
        Status::Done => "done",
        Status::Stopped => "stopped early: run the same command again to continue",
        Status::Failed => "stopped by its own guard",
    };
    let skipped = if summary.skipped > 0 { format!(", {} skipped", count(summary.skipped)) } else { String::new() };
    let line = format!(
        "{status}: {} steps{skipped}, {:.2} epochs, {} samples in {}\n",
        count(summary.steps),
        summary.epochs,
        count(summary.samples),
        clock(summary.seconds)
    );
    let places = place("best", &summary.best) + &place("final", &summary.last);
    format!("{}{places}{line}", results(summary, width))
}

/// Where a set of parameters stands in the run.
fn place(which: &str, records: &[EvalRecord]) -> String {
    let Some(record) = records.iter().find(|r| r.split == "val").or(records.first()) else { return String::new() };
    let (split, step, score) = (&record.split, count(record.step), number(record.score));
    format!("{which}: step {step}, epoch {:.2}, {split} score {score}\n", record.epoch)
}

/// One row per task and metric, one column per split, for the best and the final parameters where they differ.
fn results(summary: &Summary, width: usize) -> String {
    let columns = columns(summary);
    let Some((_, widest)) = columns.iter().max_by_key(|(_, record)| record.metrics.len()) else { return String::new() };
    let mut header = vec!["task", "metric"];
    header.extend(columns.iter().map(|(title, _)| title.as_str()));
    let mut rows = Vec::new();
    for (task, metrics) in &widest.metrics {
        for (i, (metric, _)) in metrics.iter().enumerate() {
            let name = if i == 0 { task.clone() } else { String::new() };
            let values = columns.iter().map(|(_, record)| number(value(record, task, metric)));
            rows.push([name, metric.clone()].into_iter().chain(values).collect());
        }
    }
    if widest.metrics.len() > 1 {
        rows.extend(means(widest, &columns));
    }
    format!("\n{}\n", table(&header, &rows, 2, width))
}

fn columns(summary: &Summary) -> Vec<(String, &EvalRecord)> {
    let same = |a: &EvalRecord| summary.best.iter().any(|b| b.split == a.split && b.step == a.step);
    let title = |record: &EvalRecord, which: &str| format!("{} {which}", record.split);
    let last = summary.last.iter().filter(|record| !same(record)).map(|record| (title(record, "final"), record));
    let best = summary.best.iter().map(|record| (title(record, "best"), record));
    let mut columns: Vec<_> = best.chain(last).collect();
    // `val` before `test`, in the order of the splits' first appearance.
    let splits: Vec<String> = columns.iter().map(|(_, record)| record.split.clone()).collect();
    columns.sort_by_key(|(_, record)| splits.iter().position(|split| *split == record.split));
    columns
}

fn value(record: &EvalRecord, task: &str, metric: &str) -> Option<f64> {
    let (_, metrics) = record.metrics.iter().find(|(name, _)| name == task)?;
    metrics.iter().find(|(name, _)| name == metric)?.1
}

/// A row per metric: its mean over the tasks that have it.
fn means(widest: &EvalRecord, columns: &[(String, &EvalRecord)]) -> Vec<Vec<String>> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in widest.metrics.iter().flat_map(|(_, metrics)| metrics) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mean = |record: &EvalRecord, name: &str| {
        let values = record.metrics.iter().flat_map(|(_, m)| m).filter(|(n, _)| n == name).filter_map(|(_, v)| *v);
        number(super::mean(values))
    };
    let row = |(i, name): (usize, &&str)| {
        let title = if i == 0 { "mean" } else { "" };
        let values = columns.iter().map(|(_, record)| mean(record, name));
        [title.to_string(), name.to_string()].into_iter().chain(values).collect()
    };
    names.iter().enumerate().map(row).collect()
}
