//! Batches that cannot be made, or do not come: the rank says which, and the job ends.

use crate::kills::broken;
use crate::process::ALONE;
use crate::sandbox::Sandbox;

#[test]
fn a_loader_that_dies_is_told_with_step_source_and_file() {
    let sandbox = Sandbox::new();
    for prefetch in ["batch.prefetch=2", "batch.prefetch=0"] {
        let output = broken(&sandbox, ALONE, prefetch, "die@4:0", &[prefetch, "checkpoint.every=1"]).exits_with(3);
        output.complains_once(&[
            "error: batches can no longer be prepared: the batch of step 4 of source `one` (",
            "one.csv) and source `two` (",
            "POLYTASK_FAULT at the batch of step 4",
        ]);
        assert_eq!(sandbox.run(prefetch).latest().step, 3);
    }
}

#[cfg(feature = "mpi")]
#[test]
fn a_loader_that_dies_on_one_rank_ends_the_job() {
    let output = broken(&Sandbox::new(), 2, "x", "die@4:1", &[]).exits_with(3);
    output.complains_once(&["[rank 1] error: batches can no longer be prepared: the batch of step 4 "]);
}

#[test]
fn a_loader_that_hangs_is_warned_of_and_ends_the_run() {
    let sandbox = Sandbox::new();
    let output = broken(&sandbox, ALONE, "x", "stall=600@4:0", &["data.timeout=1"]).exits_with(3);
    let output = output.complains_once(&[
        "error: this rank has waited 1 s for the batch of step 4 of source `one` (",
        "hint: ",
        "raise `data.timeout`",
    ]);
    assert!(output.stderr.contains("warning: 0.5 s have been waited for the batch of step 4 of source"), "{output}");
}

#[test]
fn a_loader_that_is_late_is_warned_of_and_nothing_else() {
    let sandbox = Sandbox::new();
    let output = broken(&sandbox, ALONE, "x", "stall=9@4:0", &["data.timeout=14"]).exits_with(0);
    assert_eq!(output.stderr.matches("have been waited for the batch of step 4").count(), 1, "{output}");
    assert_eq!(sandbox.run("x").last_step(), 6);
}

/// The watchdogs of the others would only say that they wait for rank 1.
#[cfg(feature = "mpi")]
#[test]
fn the_rank_with_the_hanging_loader_speaks_before_the_watchdog() {
    let sandbox = Sandbox::new();
    let output = broken(&sandbox, 2, "x", "stall=600@4:1", &["comm.timeout=20"]).exits_with(3);
    output.complains_once(&["[rank 1] error: this rank has waited 15 s for the batch of step 4 "]);
    assert!(!sandbox.path("runs/x/flight").exists());
}
