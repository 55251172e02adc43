//! A parameter that changes in the memory of one rank: it is noticed, the rank is named, and the run continues to the bits of
//! one that nothing has happened to.
#![cfg(feature = "mpi")]

use crate::kills::{broken, same};
use crate::process::ALONE;
use crate::sandbox::Sandbox;

const WEIGHT: &str = "encoder.layers.0.weight";

/// Flips a bit, continues without, and compares with a run without.
#[track_caller]
fn is_found(ranks: usize, fault: &str, set: &[&str], message: &str, left: u64) {
    let sandbox = Sandbox::new();
    let set = [&["optim={adamw: {lr: 0.01}}", "train.steps=9"], set].concat();
    let output = broken(&sandbox, ranks, "x", &format!("flip={WEIGHT}@{fault}"), &set).exits_with(4);
    output.complains_once(&[message, &format!("first in `{WEIGHT}`"), "hint: "]);
    let run = sandbox.run("x");
    assert_eq!(run.latest().step, left, "the last checkpoint from before the flip");
    sandbox.train(ranks, "x", &set);
    let whole = sandbox.train(ranks, "whole", &set);
    same(&run.latest(), &whole.latest());
}

#[test]
fn with_shards_it_is_found_before_the_update_spreads() {
    let message = "step 5: the parameters of rank 2 are not those of the other ranks, ";
    is_found(3, "5:2", &["checkpoint.every=2", "train.replica_check_every=1"], message, 4);
}

#[test]
fn it_is_found_before_rank_0_writes_it_into_a_checkpoint() {
    let set = ["comm.reduction=all_reduce", "checkpoint.every=3", "train.replica_check_every=100"];
    is_found(3, "5:0", &set, "step 6: the parameters of rank 0 are not those of the other ranks, ", 3);
}

#[test]
fn two_ranks_differ_and_cannot_tell_who_is_right() {
    let set = ["comm.reduction=all_reduce", "checkpoint.every=2", "train.replica_check_every=7"];
    is_found(2, "7:1", &set, "step 7: the parameters of rank 1 are not those of rank 0, ", 6);
}

/// Which moves parameters and gathers them from the ranks that own them before the update.
#[test]
fn it_is_found_before_a_weighting_looks_ahead() {
    let ahead = ["balance.weighting=auto_lambda", "batch.accumulate=2"];
    let set = [&["checkpoint.every=2", "train.replica_check_every=1"][..], &ahead].concat();
    is_found(3, "5:1", &set, "step 5: the parameters of rank 1 are not those of the other ranks, ", 4);
}

#[test]
fn a_parameter_that_is_not_there_is_refused() {
    let sandbox = Sandbox::new();
    let output = broken(&sandbox, ALONE, "x", "flip=encoder.layer.0.weight@5:0", &[]).exits_with(2);
    output.complains_once(&["no parameter is called `encoder.layer.0.weight`", &format!("did you mean `{WEIGHT}`?")]);
}
