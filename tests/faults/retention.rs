//! Which checkpoints are written and which stay.

use crate::process::ALONE;
use crate::sandbox::Sandbox;

#[test]
fn multiples_of_a_step_stay_for_good_besides_the_last_and_the_best() {
    let sandbox = Sandbox::new();
    let set = [
        "checkpoint.every=1",
        "checkpoint.keep=1",
        "checkpoint.keep_every=3",
        "checkpoint.best=false",
        "train.steps=8",
    ];
    let run = sandbox.train(ALONE, "x", &set);
    assert_eq!(run.checkpoints(), ["latest", "step_00000003", "step_00000006", "step_00000008"]);
}

/// A clock that is always up: rank 0 wants a checkpoint at every step, and the others go along.
fn by_the_clock(ranks: usize) {
    let sandbox = Sandbox::new();
    let set = ["checkpoint.every_minutes=1e-9", "checkpoint.keep=100", "checkpoint.best=false", "train.steps=4"];
    let run = sandbox.train(ranks, "x", &set);
    let steps = ["step_00000001", "step_00000002", "step_00000003", "step_00000004"];
    assert_eq!(run.checkpoints(), [&["latest"], &steps[..]].concat());
    let run = sandbox.train(ranks, "y", &["checkpoint.every_minutes=1000", "checkpoint.best=false"]);
    assert_eq!(run.checkpoints(), ["latest", "step_00000006"], "only the last one");
}

#[test]
fn checkpoints_are_written_by_the_clock() {
    by_the_clock(ALONE);
}

#[cfg(feature = "mpi")]
#[test]
fn two_ranks_write_by_the_clock_of_rank_0() {
    by_the_clock(2);
}

#[test]
fn a_run_that_fails_finishes_the_checkpoint_in_flight() {
    let sandbox = Sandbox::new();
    let words = "$polytask train config.yaml --set run.dir=runs/x --set checkpoint.every=4";
    let output = sandbox.shell(&format!("POLYTASK_FAULT=error@5:0 {words}")).exits_with(3);
    assert!(output.stderr.contains("at the start of step 5: injected"), "{output}");
    let run = sandbox.run("x");
    assert_eq!((run.latest().step, run.checkpoints()), (4, vec!["latest".into(), "step_00000004".into()]));
}
