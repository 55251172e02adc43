//! What came of a run, read from its run directory.

use super::plan::Facts;
use crate::config::{self, Config};
use crate::data::Split;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// A run that has come to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// It was stopped by its own guard.
    pub failed: bool,
    /// The best validation score; `None`: not defined, or not validated.
    pub score: Option<f64>,
    /// By task of the run, its metrics in config order, at the best score (or at the end, where nothing validates).
    pub metrics: Vec<Vec<Option<f64>>>,
    /// Median of the milliseconds of a step.
    pub step_ms: Option<f64>,
}

/// Keys of [`config::MAY_CHANGE`] that a comparison must not change: they decide what its runs come to, or what a step
/// costs.
const DECIDE: [&str; 10] = [
    "batch.accumulate",
    "train.epochs",
    "train.steps",
    "train.eval_every_epochs",
    "train.eval_every_steps",
    "train.patience",
    "train.non_finite",
    "train.spike",
    "train.max_skipped",
    "train.max_rollbacks",
];

/// Refuses to mix runs of two configurations. `path` is the file of the one from before.
///
/// # Errors
/// Names the keys that differ; and a file that cannot be read.
pub fn same_experiment(path: &Path, config: &Config) -> Result<()> {
    let before = config::load(path, &[])?;
    let below = |key: &str, section: &str| {
        key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let decides = |key: &str| DECIDE.iter().any(|section| below(key, section));
    let changes = before.diff(config).into_iter().filter(|change| !change.allowed || decides(&change.key));
    let lines: Vec<String> = changes.map(|c| format!("  {}: {} -> {}", c.key, c.old, c.new)).collect();
    if lines.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the configuration is not the one of {}, which this comparison continues:\n{}\n  hint: choose another `--out` for \
         another comparison, or take the changes back",
        path.display(),
        lines.join("\n")
    )))
}

/// What came of the run of a configuration; `None` if it has not come to its end, or not begun.
///
/// # Errors
/// A run directory of another experiment, or files in it that cannot be read.
pub fn read(config: &Config, plan: &Config, facts: &Facts) -> Result<Option<Outcome>> {
    let dir = config.run.dir();
    let (resolved, summary) = (dir.join("config.yaml"), dir.join("summary.json"));
    if resolved.exists() {
        same_experiment(&resolved, config)?;
    }
    let text = match fs::read_to_string(&summary) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| at(&summary, e))?,
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| at(&summary, e.into()))?;
    let failed = match value["status"].as_str() {
        Some("done") => false,
        Some("failed") => true,
        _ => return Ok(None),
    };
    let evaluated = if value["best"].is_null() { &value["final"] } else { &value["best"] };
    let metrics = config.tasks.iter().map(|(name, task)| {
        let index = plan.tasks.iter().position(|(other, _)| other == name);
        let split = index.map_or(Split::Val, |index| facts.splits[index]);
        let found = &evaluated["metrics"][split.name()][name.as_str()];
        task.metrics().iter().map(|metric| found[metric.name()].as_f64()).collect()
    });
    Ok(Some(Outcome {
        failed,
        score: value["best"]["score"].as_f64(),
        metrics: metrics.collect(),
        step_ms: step_ms(&dir.join("metrics.jsonl"))?,
    }))
}

fn at(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.display().to_string(), source }
}

/// The median of the records of `metrics.jsonl`, each a mean over the steps since the one before, without evaluations and
/// checkpoints. The first record is left out where there are others: first steps are slow.
fn step_ms(path: &Path) -> Result<Option<f64>> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|e| at(path, e))?,
    };
    let mut times = Vec::new();
    for line in BufReader::new(file).lines() {
        // A line that is no record was cut off by a full disk; the run says so.
        let line = serde_json::from_str::<Value>(&line.map_err(|e| at(path, e))?).unwrap_or_default();
        if let Value::Object(phases) = &line["time_ms"] {
            times.push(phases.values().filter_map(Value::as_f64).sum());
        }
    }
    let first = usize::from(times.len() > 1);
    Ok(median(times.split_off(first)))
}

/// The value in the middle, or the mean of the two there.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(values[n / 2]),
        _ => Some((values[n / 2 - 1] + values[n / 2]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const CONFIG: &str = "
run: {name: x}
data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}
tasks:
  a: {source: s, target: a, kind: binary, metrics: [auc, f1]}
  b: {source: s, target: b, kind: regression, metrics: [rmse]}
model: {encoder: mlp}
train: {steps: 10}
";

    fn config(dir: &Path, sets: &[&str]) -> Config {
        let mut sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        sets.push(format!("run.dir={dir:?}"));
        config::load_str("x.yaml", CONFIG, &sets).unwrap()
    }

    fn facts(splits: [Split; 2]) -> Facts {
        Facts { steps_per_epoch: 1, samples: vec![1, 1], splits: splits.to_vec(), validates: true }
    }

    const SUMMARY: &str = r#"{"status": "done",
        "best": {"step": 5, "score": 0.75, "metrics": {
            "val": {"a": {"auc": 0.8, "f1": 0.1}, "b": {"rmse": 2.5}}, "test": {"a": {"auc": 0.7, "f1": null}}}},
        "final": {"step": 9, "score": 0.5, "metrics": {"test": {"a": {"auc": 0.1, "f1": 0.2}, "b": {"rmse": 9}}}}}"#;
    const RECORDS: &str = r#"{"kind":"train","step":1,"time_ms":{"data":90.0,"forward":10.0}}
{"kind":"train","step":2,"time_ms":{"data":1.0,"forward":3.0}}
{"kind":"eval","step":2,"score":0.5,"seconds":100.0}
{"kind":"train","step":3,"time_ms":{"data":2.0,"forward":4.0}}
{"kind":"train","step":4,"time_ms":{"data":0.5,"forward":0.5}}
{"kind":"train","st"#;

    #[test]
    fn a_run_is_judged_at_its_best_score_on_the_split_of_each_task() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), &[]);
        let read = |splits| read(&config, &config, &facts(splits)).unwrap();
        assert_eq!(read([Split::Test; 2]), None, "not begun");
        fs::write(dir.path().join("metrics.jsonl"), RECORDS).unwrap();
        fs::write(dir.path().join("summary.json"), SUMMARY).unwrap();
        let expected = |metrics| Outcome { failed: false, score: Some(0.75), metrics, step_ms: Some(4.0) };
        let found = read([Split::Test, Split::Val]).unwrap();
        assert_eq!(found, expected(vec![vec![Some(0.7), None], vec![Some(2.5)]]));
        fs::write(dir.path().join("summary.json"), SUMMARY.replace("done", "stopped")).unwrap();
        assert_eq!(read([Split::Test; 2]), None, "not at its end");
        fs::write(dir.path().join("summary.json"), SUMMARY.replace("done", "failed")).unwrap();
        assert!(read([Split::Test; 2]).unwrap().failed);
        fs::write(
            dir.path().join("summary.json"),
            r#"{"status": "done", "best": null, "final": {"metrics":
            {"test": {"a": {"auc": 0.1, "f1": 0.2}, "b": {"rmse": 9}}}}}"#,
        )
        .unwrap();
        let found = read([Split::Test; 2]).unwrap();
        assert_eq!((found.score, found.metrics), (None, vec![vec![Some(0.1), Some(0.2)], vec![Some(9.0)]]));
    }

    #[test]
    fn runs_of_another_experiment_are_refused_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("config.yaml");
        fs::write(&path, config(dir.path(), &[]).to_yaml().unwrap()).unwrap();
        let refused = |sets: &[&str]| same_experiment(&path, &config(dir.path(), sets)).err().map(|e| e.to_string());
        assert_eq!(refused(&["run.name=y", "train.threads=2", "checkpoint.keep=1", "comm.reduction=all_reduce"]), None);
        let text = refused(&["optim.adamw.lr=0.5", "train.steps=11"]).unwrap();
        assert!(text.contains("  optim.adamw.lr: 0.001 -> 0.5\n  train.steps: 10 -> 11\n  hint: "), "{text}");
        assert!(refused(&["train.non_finite=skip"]).unwrap().contains("train.non_finite: \"stop\" -> \"skip\""));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }
}
