//! TensorBoard itself reads what we write: every tag, step, value, picture, text, hyper-parameter, also after a resume.
//!
//! Needs a Python with the `tensorboard` package, named by `POLYTASK_PYTHON`; run with
//! `POLYTASK_PYTHON=.../python cargo test --test tensorboard -- --include-ignored`.

#[cfg(feature = "mpi")]
#[allow(dead_code, reason = "all of it is used by the tests under mpirun")]
#[path = "mpirun/process.rs"]
mod process;
#[cfg(feature = "mpi")]
#[allow(dead_code, reason = "all of it is used by the tests under mpirun")]
#[path = "mpirun/sandbox.rs"]
mod sandbox;

use polytask::config::{self, Metric};
use polytask::log::console::Console;
use polytask::log::{EvalRecord, HParam, Logger, Resumed, RunInfo, Status, Summary, TaskInfo, TrainRecord};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const TASKS: [&str; 3] = ["income", "hours", "marital status (3)"];

fn info() -> RunInfo {
    let tasks = TASKS.iter().map(|name| TaskInfo { name: name.to_string(), metrics: vec![Metric::Auc] }).collect();
    RunInfo {
        name: "sample".into(),
        tasks,
        world_size: 2,
        device: "cpu".into(),
        n_params_shared: 1000,
        n_params_private: 30,
        total_steps: 8,
        config_yaml: "run:\n  name: sample # ``` and | marks\n".into(),
        hparams: vec![
            ("seed".into(), 7.0.into()),
            ("surgery".into(), "pcgrad".into()),
            ("sharded".into(), HParam::Flag(true)),
        ],
        libtorch: "2.11.0".into(),
    }
}

fn train_record(step: u64) -> TrainRecord {
    let x = step as f64;
    TrainRecord {
        step,
        epoch: x / 4.0,
        lr: 1e-3 * x,
        tasks: TASKS.map(String::from).to_vec(),
        // The last task has no label in odd steps.
        loss: vec![Some(x), Some(2.0 * x), step.is_multiple_of(2).then_some(3.0 * x)],
        weight: vec![1.0; 3],
        coef: vec![0.5, 0.25, -0.125],
        grad_norm: Some(vec![x, 0.0, 1.0]),
        cosine: Some(vec![1.0, -0.5, f64::NAN, -0.5, 1.0, f64::NAN, f64::NAN, f64::NAN, 1.0]),
        conflict_rate: Some(1.0 / 3.0),
        update_norm: 2.5,
        time_ms: vec![("forward", 1.0), ("backward", 2.0)],
        samples_per_s: 1000.0,
        bytes_per_step: 4096,
        skipped: 0,
        checkpoint_ms: None,
        device: None,
        ranks: None,
    }
}

fn eval_record(step: u64) -> EvalRecord {
    let value = |i: usize| Some(step as f64 / 16.0 + i as f64 / 8.0);
    let metrics = TASKS.iter().enumerate().map(|(i, t)| (t.to_string(), vec![("auc".into(), value(i))])).collect();
    let score = value(1);
    EvalRecord { step, epoch: step as f64 / 4.0, split: "val".into(), metrics, score, best: step <= 4, seconds: 0.1 }
}

fn session(dir: &Path, resume_step: Option<u64>, steps: std::ops::RangeInclusive<u64>) -> Logger {
    let console = Console::plain(Box::new(std::io::sink()), 100, &info(), resume_step);
    let log = config::Log { every: 1, tensorboard: true, image_every: 2, ..Default::default() };
    let resumed = resume_step.map(|step| Resumed { step, best_score: eval_record(4).score });
    let mut logger = Logger::with_console(console, dir, info(), resumed, &log);
    for step in steps {
        logger.train(&train_record(step));
        if step.is_multiple_of(4) {
            logger.eval(&eval_record(step));
        }
    }
    logger
}

fn finish(mut logger: Logger) {
    let best = vec![eval_record(4)];
    let last = vec![eval_record(8)];
    let (status, steps, epochs) = (Status::Done, 8, 2.0);
    logger.finish(&Summary { status, steps, epochs, samples: 64, seconds: 1.0, skipped: 0, best, last });
    assert!(logger.lost().is_empty(), "{:?}", logger.lost());
}

/// What TensorBoard sees in a run's folder.
fn seen(run: &Path) -> Value {
    let python = std::env::var("POLYTASK_PYTHON").expect("POLYTASK_PYTHON names a Python with the tensorboard package");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tensorboard/read.py");
    let out = Command::new(python).arg(script).arg(run.join("tensorboard")).output().expect("POLYTASK_PYTHON runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("the script prints JSON")
}

fn points(seen: &Value, tag: &str) -> Vec<(u64, f64)> {
    let points = seen["scalars"][tag].as_array().unwrap_or_else(|| panic!("no tag {tag}"));
    points.iter().map(|p| (p[0].as_u64().unwrap(), p[1].as_f64().unwrap())).collect()
}

fn steps(seen: &Value, tag: &str) -> Vec<u64> {
    points(seen, tag).into_iter().map(|(step, _)| step).collect()
}

#[test]
#[ignore = "needs POLYTASK_PYTHON, a Python with the tensorboard package"]
fn tensorboard_sees_every_tag_step_and_value() {
    let dir = tempfile::tempdir().unwrap();
    finish(session(dir.path(), None, 1..=8));
    let seen = seen(dir.path());

    let expected: Vec<(u64, f64)> = (1..=8).map(|step| (step, step as f64)).collect();
    assert_eq!(points(&seen, "train/loss/income"), expected);
    assert_eq!(steps(&seen, "train/loss/marital status (3)"), [2, 4, 6, 8]);
    assert_eq!(points(&seen, "train/coef/marital status (3)")[0], (1, -0.125));
    assert_eq!(points(&seen, "grad/cosine/income_hours")[7], (8, -0.5));
    assert!(seen["scalars"]["grad/cosine/income_marital status (3)"].is_null(), "not defined: no point");
    assert_eq!(points(&seen, "perf/step_ms")[0], (1, 3.0));
    assert_eq!(points(&seen, "eval/val/auc/hours"), [(4, 0.375), (8, 0.625)]);
    assert_eq!(points(&seen, "eval/val/auc/mean"), [(4, 0.375), (8, 0.625)]);
    assert_eq!(points(&seen, "eval/val/score"), [(4, 0.375), (8, 0.625)]);
    assert_eq!(points(&seen, "eval/val/best_score"), [(4, 0.375), (8, 0.375)]);
    let tags = seen["scalars"].as_object().unwrap();
    for tag in ["train/weight/hours", "grad/norm/hours", "grad/conflict_rate", "grad/cosine_mean", "grad/cosine_min"] {
        assert!(tags.contains_key(tag), "no {tag} in {:?}", tags.keys());
    }
    for tag in ["opt/lr", "opt/update_norm", "perf/samples_per_s", "perf/time_ms/forward", "perf/bytes_per_step"] {
        assert_eq!(steps(&seen, tag), (1..=8).collect::<Vec<_>>(), "{tag}");
    }
    assert_eq!(seen["descriptions"]["opt/lr"], "Learning rate.");
}

#[test]
#[ignore = "needs POLYTASK_PYTHON, a Python with the tensorboard package"]
fn tensorboard_sees_pictures_texts_hparams_and_the_dashboard() {
    let dir = tempfile::tempdir().unwrap();
    finish(session(dir.path(), None, 1..=8));
    let seen = seen(dir.path());

    let images = seen["images"]["grad/cosine_matrix"].as_array().unwrap();
    assert_eq!(images.iter().map(|i| i[0].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3, 5, 7]);
    assert!(images.iter().all(|i| i[1].as_u64() > Some(100) && i[3] == "89504e470d0a1a0a"), "{images:?}");
    assert_eq!(seen["texts"]["config"][0], "    run:\n      name: sample # ``` and | marks\n");
    assert!(seen["texts"]["run"][0].as_str().unwrap().contains("| ranks | 2 |"));
    let hparams = &seen["hparams"];
    assert_eq!(hparams["values"].to_string(), r#"{"seed":7.0,"sharded":true,"surgery":"pcgrad"}"#);
    assert_eq!(hparams["names"].to_string(), r#"["seed","surgery","sharded"]"#);
    assert_eq!((&hparams["group"], &hparams["ended"][0]), (&"sample".into(), &1.into()));
    assert!(hparams["metrics"].as_array().unwrap().contains(&"eval/val/auc/mean".into()));
    assert_eq!(seen["layout"]["Tasks"][0].to_string(), r#"["training loss",["train/loss/.*"]]"#);
}

#[test]
#[ignore = "needs POLYTASK_PYTHON, a Python with the tensorboard package"]
fn after_a_resume_tensorboard_sees_one_curve_without_gap_or_duplicate() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, resumed) = (dir.path().join("whole"), dir.path().join("resumed"));
    finish(session(&whole, None, 1..=8));
    // Cut off after step 7 without a word; the last checkpoint is that of step 4.
    drop(session(&resumed, None, 1..=7));
    finish(session(&resumed, Some(4), 5..=8));
    assert_eq!(std::fs::read_dir(resumed.join("tensorboard")).unwrap().count(), 2);
    let (whole, resumed) = (seen(&whole), seen(&resumed));
    assert_eq!(whole["scalars"], resumed["scalars"]);
    assert_eq!(whole["images"], resumed["images"]);
}

#[test]
#[ignore = "needs POLYTASK_PYTHON, a Python with the tensorboard package"]
fn a_fresh_start_in_an_old_folder_replaces_the_old_curve() {
    let dir = tempfile::tempdir().unwrap();
    drop(session(dir.path(), None, 1..=8));
    drop(session(dir.path(), None, 1..=3));
    assert_eq!(steps(&seen(dir.path()), "opt/lr"), [1, 2, 3]);
}

/// Two ranks, killed: nothing older than the interval of flushing is lost, nothing that a checkpoint has behind it, and
/// after a resume there is one curve.
#[cfg(feature = "mpi")]
#[test]
#[ignore = "needs POLYTASK_PYTHON, a Python with the tensorboard package"]
fn a_killed_run_is_seen_up_to_the_last_flush_and_goes_on_as_one_curve() {
    let sandbox = sandbox::Sandbox::new();
    let run = sandbox.run("x");
    let set = ["log.every=10", "log.tensorboard=true", "checkpoint.every=100", "train.replica_check_every=0"];
    let endless = [&set[..], &["train.steps=1000000"]].concat();
    // With a checkpoint on the disk, and no interval of flushing over.
    let mut job = sandbox.start(2, "x", &endless);
    job.until(|| run.0.join("checkpoints/latest").exists());
    job.signal_rank(0, "KILL");
    assert_ne!(job.wait().code, Some(0));

    let further = run.last_step() + 200;
    let mut job = sandbox.start(2, "x", &endless);
    job.until(|| run.last_step() >= further);
    let before = run.last_step();
    std::thread::sleep(std::time::Duration::from_secs(8)); // 5 to a flush, and a busy machine
    job.signal_rank(0, "KILL");
    assert_ne!(job.wait().code, Some(0));
    let tag = "train/loss/a";
    let seen_then = *steps(&seen(&run.0), tag).last().unwrap();
    assert!(seen_then >= before, "{seen_then} of at least {before}");

    let end = run.last_step() / 10 * 10 + 50;
    sandbox.train(2, "x", &[&set[..], &[&format!("train.steps={end}")]].concat());
    let expected: Vec<u64> = std::iter::once(1).chain((10..=end).step_by(10)).collect();
    assert_eq!(steps(&seen(&run.0), tag), expected);
}
