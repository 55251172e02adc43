//! Records for the tests of this folder.

use super::{EvalRecord, RunInfo, TaskInfo, TrainRecord};
use crate::config::Metric;

/// A training record; the second task has no label in this step.
pub fn train_record(step: u64, tasks: &[&str]) -> TrainRecord {
    let t = tasks.len();
    TrainRecord {
        step,
        epoch: step as f64 / 40.0,
        lr: 1e-3,
        tasks: tasks.iter().map(|task| task.to_string()).collect(),
        loss: (0..t).map(|i| (i != 1).then_some(0.5 + i as f64)).collect(),
        weight: (0..t).map(|i| 1.0 + i as f64).collect(),
        coef: (0..t).map(|i| 0.5 + i as f64).collect(),
        grad_norm: Some((0..t).map(|i| 1.5 + i as f64).collect()),
        cosine: Some((0..t * t).map(|i| if i % (t + 1) == 0 { 1.0 } else { -0.5 }).collect()),
        conflict_rate: Some(0.25),
        update_norm: 0.75,
        time_ms: vec![("forward", 4.0), ("backward", 8.0)],
        samples_per_s: 5120.0,
        bytes_per_step: 4096,
        skipped: 0,
        checkpoint_ms: None,
        device: None,
        ranks: None,
    }
}

/// An evaluation with one metric per task; the score is the mean.
pub fn eval_record(step: u64, split: &str, auc: &[(&str, Option<f64>)]) -> EvalRecord {
    let values: Vec<f64> = auc.iter().filter_map(|(_, value)| *value).collect();
    EvalRecord {
        step,
        epoch: step as f64 / 40.0,
        split: split.into(),
        metrics: auc.iter().map(|(task, value)| (task.to_string(), vec![("auc".to_string(), *value)])).collect(),
        score: Some(values.iter().sum::<f64>() / values.len() as f64),
        best: true,
        seconds: 0.25,
    }
}

/// A run whose tasks are judged by AUC.
pub fn run_info(tasks: &[&str]) -> RunInfo {
    let tasks = tasks.iter().map(|name| TaskInfo { name: name.to_string(), metrics: vec![Metric::Auc] }).collect();
    RunInfo {
        name: "sample".into(),
        tasks,
        world_size: 2,
        device: "cpu".into(),
        n_params_shared: 410_001,
        n_params_private: 2_344,
        total_steps: 400,
        config_yaml: "run:\n  name: sample\n".into(),
        hparams: vec![("seed".into(), 1.0.into()), ("surgery".into(), "pcgrad".into())],
        libtorch: "2.11.0".into(),
    }
}
