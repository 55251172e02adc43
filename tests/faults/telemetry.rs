//! Metrics and TensorBoard that cannot be written are a warning each, and training goes on.

use crate::process::{ALONE, Output};
use crate::sandbox::{Run, Sandbox, train_args};
use polytask::log::tensorboard::frame::events;
use polytask::log::tensorboard::proto::{Datum, What};
use polytask::log::tensorboard::writer::events_files;
use std::fs;

/// Both outputs warn once, are listed at the end, and only they.
#[track_caller]
fn both_are_missing(output: &Output, run: &Run) {
    for what in ["metrics.jsonl: ", "tensorboard/: "] {
        let warned = |line: &&str| line.starts_with("warning: ") && line.contains(what);
        assert_eq!(output.stderr.lines().filter(warned).count(), 1, "{what}\n{output}");
        let listed = |line: &&str| line.starts_with("incomplete: ") && line.contains(what);
        assert_eq!(output.stdout.lines().filter(listed).count(), 1, "{what}\n{output}");
    }
    let lost = run.json("summary.json")["lost"].clone();
    assert_eq!(lost.as_array().map(Vec::len), Some(2), "{lost}");
}

#[test]
fn a_full_disk_loses_telemetry_and_nothing_else() {
    let sandbox = Sandbox::new();
    let set = ["train.steps=100", "log.tensorboard=true", "checkpoint.every=40"];
    let args: Vec<String> = train_args("x", &set).iter().map(|arg| format!("'{arg}'")).collect();
    // Checkpoints of this model are smaller. Without the trap the signal of the limit would end the process.
    let output = sandbox.shell(&format!("trap '' XFSZ; ulimit -f 32; $polytask {}", args.join(" "))).exits_with(0);
    let run = sandbox.run("x");
    both_are_missing(&output, &run);
    assert_eq!(run.latest().step, 100);
    assert!(run.json("summary.json")["lost"][0].as_str().unwrap().contains("File too large"), "{output}");
    let kept = run.last_step();
    assert!((10..100).contains(&kept), "whole lines up to the end of the disk, not {kept}");

    // With room again the run goes on, and its metrics continue where they were cut.
    sandbox.train(ALONE, "x", &["train.steps=105", "log.tensorboard=true"]);
    let steps: Vec<u64> = run.metrics().iter().filter_map(|line| line["step"].as_u64()).collect();
    assert!(steps.is_sorted() && steps.last() == Some(&105) && steps.contains(&kept), "{steps:?}");
}

/// Values of a scalar in all sessions of a run, as they were written.
fn scalars(run: &Run, tag: &str) -> Vec<f32> {
    let mut found = Vec::new();
    for file in events_files(&run.0.join("tensorboard")).unwrap() {
        for event in events(&fs::read(file).unwrap()) {
            let Some(What::Summary(summary)) = event.unwrap().what else { continue };
            found.extend(summary.value.into_iter().filter(|value| value.tag == tag).filter_map(|value| value.datum));
        }
    }
    found.into_iter().map(|datum| if let Datum::Scalar(value) = datum { value } else { panic!("{tag}") }).collect()
}

/// The best step is evaluated on the test split too, whose score is another one.
#[test]
fn the_best_score_on_validation_is_the_same_after_a_resume() {
    let sandbox = Sandbox::new();
    // Nothing gets better: the first evaluation stays the best.
    let set = ["optim.sgd.lr=1e-12", "train.eval_every_steps=2", "log.tensorboard=true"];
    for steps in ["train.steps=4", "train.steps=8"] {
        sandbox.train(ALONE, "x", &[&set[..], &[steps]].concat());
    }
    let run = sandbox.run("x");
    let (best, scores) = (scalars(&run, "eval/val/best_score"), scalars(&run, "eval/val/score"));
    assert_eq!(best, [scores[0]; 4]);
    assert_ne!(scalars(&run, "eval/test/score")[0], scores[0], "the splits can be told apart");
}

#[test]
fn files_that_somebody_removes_are_missing_at_the_end_and_training_goes_on() {
    let sandbox = Sandbox::new();
    let set = ["train.steps=1000000", "log.tensorboard=true", "checkpoint.every=20", "checkpoint.keep=1"];
    let mut job = sandbox.start(ALONE, "x", &set);
    let run = sandbox.run("x");
    job.until(|| run.last_step() >= 5);
    fs::remove_file(run.0.join("metrics.jsonl")).unwrap();
    fs::remove_dir_all(run.0.join("tensorboard")).unwrap();
    let named = || fs::read_to_string(run.0.join("checkpoints/latest")).unwrap_or_default();
    let before = named();
    job.until(|| named() > before);
    job.signal("USR1");
    let output = job.wait().exits_with(75);
    both_are_missing(&output, &run);
    assert_eq!(output.stderr.matches("the file has been removed").count(), 2, "{output}");
}
