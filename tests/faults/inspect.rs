//! `polytask inspect` tells what is there, and what is wrong with it.

use crate::process::ALONE;
use crate::sandbox::Sandbox;
use serde_json::Value;
use std::fs;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn checkpoints_are_shown_and_damage_is_named_with_exit_code_3() {
    let sandbox = Sandbox::new();
    let set = ["checkpoint.every=2", "optim={adamw: {lr: 0.01}}"];
    let run = sandbox.train(ALONE, "x", &set);
    let one = "inspect runs/x/checkpoints/step_00000004";

    let shown = sandbox.polytask(ALONE, one).exits_with(0).stdout;
    for words in ["step_00000004: good, every hash fits", "encoder.layers.0.weight", "exp_avg_sq", "optimizer    adamw"]
    {
        assert!(shown.contains(words), "`{words}` is missing\n{shown}");
    }
    let value = json(&sandbox.polytask(ALONE, &format!("{one} --json")).exits_with(0).stdout);
    assert_eq!(
        (&value["about"]["step"], &value["about"]["updates"], &value["good"]),
        (&4.into(), &4.into(), &true.into())
    );
    let line = run.metrics().into_iter().find(|line| line["step"] == 4).unwrap();
    assert_eq!(value["about"]["epoch"], line["epoch"]);
    let tensors = value["tensors"]["model"].as_array().unwrap();
    let first = tensors.iter().find(|t| t["name"] == "encoder.layers.0.weight").unwrap();
    assert_eq!(first["shape"][0], 16);
    assert!(first["norm"].as_f64().is_some_and(|norm| norm > 0.0) && first["not_finite"] == 0);
    assert_eq!(value["tensors"]["optim"].as_array().unwrap().len(), 2 * tensors.len());
    assert_eq!(value["files"].as_array().unwrap().len(), 5);

    let model = run.0.join("checkpoints/step_00000004/model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&model, bytes).unwrap();
    sandbox.polytask(ALONE, one).exits_with(3).complains_once(&["step_00000004/model.safetensors: damaged: SHA-256"]);
    let listed = sandbox.polytask(ALONE, "inspect runs/x").exits_with(3).stdout;
    for words in ["step_00000004  damaged", "step_00000006  good", "latest, best", "a run continues from step 6"] {
        assert!(listed.contains(words), "`{words}` is missing\n{listed}");
    }
    let value = json(&sandbox.polytask(ALONE, "inspect runs/x/checkpoints --json").exits_with(3).stdout);
    let good: Vec<bool> = value["checkpoints"].as_array().unwrap().iter().map(|c| c["good"] == true).collect();
    assert_eq!((good, &value["latest"], &value["continues_from"]), (vec![true, false, true], &6.into(), &6.into()));

    fs::remove_dir_all(model.parent().unwrap()).unwrap();
    sandbox.polytask(ALONE, "inspect runs/x").exits_with(0);
    sandbox
        .polytask(ALONE, "inspect runs")
        .exits_with(3)
        .complains_once(&["runs: is no checkpoint, nor a run directory"]);
    sandbox.polytask(ALONE, one).exits_with(3).complains_once(&["is no checkpoint"]);
}
