//! The data set that comes with the repository, by its own configuration.

use crate::process::{ALONE, run};
use polytask::checkpoint;
use std::path::Path;

/// A few steps of `configs/tox21.yaml` on one process and on three, then an evaluation; without dropout, whose masks
/// depend on the number of ranks.
#[test]
fn tox21_trains_and_evaluates_alike_on_one_process_and_on_three() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let set = [
        format!("data.root={}", root.join("data").display()),
        "train.steps=3".into(),
        "train.eval_every_epochs=0".into(),
        "model.encoder.mlp.dropout=0".into(),
        "model.encoder.mlp.widths=[64, 32]".into(),
    ];
    let train = |ranks: usize, name: &str| -> serde_json::Value {
        let mut args = vec!["train".to_string(), root.join("configs/tox21.yaml").display().to_string()];
        for value in set.iter().chain([&format!("run.dir={name}")]) {
            args.extend(["--set".to_string(), value.clone()]);
        }
        run(dir.path(), ranks, &args).exits_with(0);
        let found = checkpoint::latest(&dir.path().join(name).join("checkpoints")).unwrap().unwrap();
        assert_eq!(found.snapshot.step, 3);
        let text = std::fs::read_to_string(dir.path().join(name).join("summary.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (one, three) = (train(ALONE, "one"), train(3, "three"));
    let auc =
        |summary: &serde_json::Value, task: &str| summary["final"]["metrics"]["test"][task]["auc"].as_f64().unwrap();
    let tasks: Vec<&String> = one["final"]["metrics"]["test"].as_object().unwrap().keys().collect();
    assert_eq!(tasks.len(), 12);
    for task in tasks {
        let (a, b) = (auc(&one, task), auc(&three, task));
        assert!((a - b).abs() < 1e-3, "{task}: {a} and {b}");
    }
}
