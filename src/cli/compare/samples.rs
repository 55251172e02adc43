//! A small comparison for tests.

use super::methods::Method;
use super::plan::{Facts, Plan};
use super::report::Known;
use super::results::Outcome;
use crate::config::{self, Balance};
use crate::data::Split;

const CONFIG: &str = "
run: {name: sample}
data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}
tasks:
  a: {source: s, target: a, kind: binary, metrics: [auc]}
  b: {source: s, target: b, kind: regression, metrics: [rmse]}
model: {encoder: mlp}
train: {steps: 10}
";

/// Equal weights and PCGrad, seeds 1 and 2.
pub fn plan(rates: &[f64]) -> Plan {
    let config = config::load_str("x.yaml", CONFIG, &[]).unwrap();
    let method = |name: &str| Method { name: name.into(), folder: name.into(), balance: Balance::default() };
    Plan::new(config, vec![method("equal"), method("pcgrad")], 2, rates, None).unwrap()
}

pub fn outcome(metrics: &[&[Option<f64>]], step_ms: f64) -> Outcome {
    let metrics = metrics.iter().map(|task| task.to_vec()).collect();
    Outcome { failed: false, score: Some(0.5), metrics, step_ms: Some(step_ms) }
}

/// All runs: [`plan`] with one learning rate.
pub fn sample() -> (Plan, Facts, Known) {
    let facts =
        Facts { steps_per_epoch: 1, samples: vec![1, 1], splits: vec![Split::Test, Split::Val], validates: true };
    let both = |auc: f64, rmse: f64, ms: f64| outcome(&[&[Some(auc)], &[Some(rmse)]], ms);
    let one = |value: f64| outcome(&[&[Some(value)]], 1.0);
    let known = Known::from([
        ((0, 0, 1), both(0.6, 3.0, 2.0)),
        ((0, 0, 2), both(0.5, 6.0, 4.0)),
        ((1, 0, 1), both(0.55, 1.5, 3.0)),
        ((1, 0, 2), both(0.65, 3.0, 8.0)),
        ((2, 0, 1), one(0.5)),
        ((2, 0, 2), one(0.5)),
        ((3, 0, 1), one(2.0)),
        ((3, 0, 2), one(4.0)),
    ]);
    (plan(&[]), facts, known)
}
