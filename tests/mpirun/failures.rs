//! A failure is one clear message, the documented exit code, and a dead job within seconds.

use crate::process::{ALONE, start_parts};
use crate::sandbox::{Sandbox, train_args, values};
use std::fs;

#[test]
fn a_broken_configuration_is_refused_once_and_with_its_place() {
    let sandbox = Sandbox::new();
    sandbox.write("broken.yaml", &sandbox.read("config.yaml").replace("kind: binary", "kind: binray"));
    for ranks in [ALONE, 3] {
        let output = sandbox.polytask(ranks, "train broken.yaml").exits_with(2);
        output.complains_once(&["broken.yaml:13:37:", "binray", "binary"]);
    }
    assert!(!sandbox.path("runs").exists());
}

/// Nodes may hold different files. Rank 0 knows nothing of it, so the rank itself must say it.
#[test]
fn a_configuration_that_is_broken_on_one_rank_is_told_by_that_rank() {
    let sandbox = Sandbox::new();
    let (good, bad) = (train_args("x", &[]), train_args("x", &["optim={sgd: {rate: 1}}"]));
    let job = start_parts(sandbox.path("").as_path(), &[(&["-n", "1"], &good), (&["-n", "1"], &bad)]);
    job.wait().exits_with(2).complains_once(&["[rank 1] error: ", "rate"]);
}

#[test]
fn another_configuration_on_one_rank_is_refused() {
    let sandbox = Sandbox::new();
    let (one, other) = (train_args("x", &[]), train_args("x", &["optim.sgd.lr=0.2"]));
    let job = start_parts(sandbox.path("").as_path(), &[(&["-n", "1"], &one), (&["-n", "1"], &other)]);
    job.wait().exits_with(2).complains_once(&["rank 1 ", "`optim.sgd.lr` is 0.1 on rank 0 and 0.2 there"]);
}

#[test]
fn missing_data_is_named() {
    let sandbox = Sandbox::new();
    fs::remove_file(sandbox.path("two.csv")).unwrap();
    for ranks in [ALONE, 2] {
        sandbox.polytask(ranks, "train config.yaml").exits_with(3).complains_once(&["two.csv"]);
    }
}

/// Relative paths, and a working directory of its own for rank 1, as on a node with another copy of the data.
fn with_another_copy_on_rank_1(change: impl Fn(&Sandbox)) -> crate::process::Output {
    let (one, other) = (Sandbox::new(), Sandbox::new());
    change(&other);
    let args = train_args("x", &["data.root=."]);
    let wdir = other.path("").display().to_string();
    let parts: [(&[&str], &[String]); 2] = [(&["-n", "1"], &args), (&["-n", "1", "-wdir", &wdir], &args)];
    start_parts(one.path("").as_path(), &parts).wait()
}

#[test]
fn data_that_is_bad_on_one_rank_ends_the_job_and_names_the_rank() {
    let output =
        with_another_copy_on_rank_1(|copy| copy.write("one.csv", &copy.read("one.csv").replace(",blue,", ",")));
    output.exits_with(3).complains_once(&["rank 1: ", "one.csv:"]);
}

#[test]
fn data_that_differs_on_one_rank_is_refused() {
    let output = with_another_copy_on_rank_1(|copy| {
        let text = copy.read("two.csv");
        let cut = text.trim_end().rfind('\n').unwrap();
        copy.write("two.csv", &text[..=cut]);
    });
    output.exits_with(3).complains_once(&["rank 1 ", "`two`"]);
}

#[test]
fn a_used_run_directory_is_not_overwritten_and_a_changed_run_not_continued() {
    let sandbox = Sandbox::new();
    let run = sandbox.train(ALONE, "x", &["train.steps=2"]);
    let (lines, result) = (run.metrics(), run.json("summary.json")["final"].take());
    sandbox.train(ALONE, "x", &["train.steps=2"]);
    assert_eq!((lines, result), (run.metrics(), run.json("summary.json")["final"].take()), "nothing is left to do");
    let before = sandbox.listing();
    let output = sandbox.polytask(2, "train config.yaml --set run.dir=runs/x --resume never").exits_with(2);
    output.complains_once(&["runs/x holds a run of 2 steps", "hint: choose another `run.dir`"]);

    let output = sandbox.polytask(2, "train config.yaml --set run.dir=runs/x --set optim.sgd.lr=0.2 --set run.seed=4");
    let output = output.exits_with(2).complains_once(&["run.seed: 3 -> 4", "optim.sgd.lr: 0.1 -> 0.2", "hint:"]);
    assert!(!output.stderr.contains("train.steps"), "what may change is no reason to refuse\n{output}");

    fs::write(sandbox.path("two.csv"), sandbox.read("two.csv") + "0,0,0,0,p,,red,1,,0\n0,0,0,0,p,,red,1,,0\n").unwrap();
    let output = sandbox.polytask(2, "train config.yaml --set run.dir=runs/x").exits_with(2);
    output.complains_once(&["source `two` has ", "but 120 when the checkpoint was written"]);
    assert_eq!(run.latest().step, 2);
    sandbox.write("two.csv", &sandbox.read("two.csv").replace("0,0,0,0,p,,red,1,,0\n", ""));
    assert_eq!(before, sandbox.listing(), "a refusal touches nothing");
}

#[test]
fn a_diverging_run_stops_itself_and_keeps_its_checkpoint() {
    let sandbox = Sandbox::new();
    let output = sandbox.start(2, "x", &["optim.sgd.lr=1e30", "checkpoint.every=1"]).wait();
    output.exits_with(4).complains_once(&["step 2: the loss of `", "is not finite", "`--set train.non_finite=skip`"]);
    let run = sandbox.run("x");
    let latest = run.latest();
    assert_eq!(latest.step, 1, "the checkpoint from before");
    assert!(latest.tensors["model"].iter().flat_map(values).all(f64::is_finite));
    let summary = run.json("summary.json");
    assert_eq!((&summary["status"], &summary["skipped"]), (&"failed".into(), &1.into()));

    let set = ["optim.sgd.lr=1e30", "train.non_finite=skip", "train.steps=30"];
    let output = sandbox.start(ALONE, "y", &set).wait().exits_with(4);
    output.complains_once(&["step 11: ", "is not finite; 10 steps in a row were not taken (`train.max_skipped`)"]);
}

#[test]
fn ranks_that_would_train_alone_are_refused() {
    let sandbox = Sandbox::new();
    let output = sandbox.polytask(2, "train config.yaml --set comm.backend=solo").exits_with(2);
    output.complains_once(&["`comm.backend: solo` under a launcher that started 2 processes"]);
    assert!(!sandbox.path("runs").exists());
}

#[test]
fn commands_on_a_folder_that_is_no_run_say_so() {
    let sandbox = Sandbox::new();
    for words in ["eval nothing", "predict nothing --source one.csv --out p.csv"] {
        sandbox.polytask(ALONE, words).exits_with(2).complains_once(&["nothing/config.yaml: no such file"]);
    }
    sandbox.train(ALONE, "x", &["train.steps=1"]);
    let output = sandbox.polytask(2, "eval runs/x --checkpoint runs/y").exits_with(3);
    output.complains_once(&["runs/y"]);
    let output = sandbox.polytask(ALONE, "predict runs/x --source one_test.csv --out p.csv").exits_with(2);
    output.complains_once(&["`--as`", "`one`, `two`"]);
    let output = sandbox.polytask(ALONE, "predict runs/x --source one_test.csv --as one --out p.txt").exits_with(3);
    output.complains_once(&["p.txt"]);
}
