//! SIGKILL at every instant of writing.

use crate::process::{ALONE, Output};
use crate::sandbox::{Run, Sandbox, bits, timeless, train_args};
use polytask::checkpoint::{self, Point, Snapshot};
use std::collections::BTreeSet;
use std::path::Path;

/// Adam's moments, log-variances, projections drawn at random, dropout, a best score; a checkpoint at every second step.
const STATEFUL: [&str; 6] = [
    "optim={adamw: {lr: 0.01}}",
    "balance={weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}",
    "model.encoder.mlp.dropout=0.3",
    "train.eval_every_steps=4",
    "checkpoint.every=2",
    "train.steps=40",
];

/// Trains with a fault armed.
fn broken(sandbox: &Sandbox, ranks: usize, run: &str, fault: &str, set: &[&str]) -> Output {
    let args: Vec<String> = train_args(run, set).iter().map(|arg| format!("'{arg}'")).collect();
    let start =
        if ranks == ALONE { String::new() } else { format!("mpirun -n {ranks} --oversubscribe --bind-to none") };
    sandbox.shell(&format!("export POLYTASK_FAULT={fault}; {start} $polytask {}", args.join(" ")))
}

/// The same bits, and the same state but for times.
#[track_caller]
pub fn same(a: &Snapshot, b: &Snapshot) {
    assert_eq!(a.step, b.step);
    assert_eq!(a.tensors.keys().collect::<Vec<_>>(), b.tensors.keys().collect::<Vec<_>>());
    for (x, y) in a.tensors.values().flatten().zip(b.tensors.values().flatten()) {
        assert_eq!((&x.name, &x.shape, bits(x)), (&y.name, &y.shape, bits(y)), "step {}", a.step);
    }
    for part in ["state", "transforms"] {
        assert_eq!(timeless(&a.json[part]), timeless(&b.json[part]), "{part} at step {}", a.step);
    }
}

fn of_step(run: &Run, step: u64) -> Snapshot {
    let path = run.0.join(format!("checkpoints/step_{step:08}"));
    checkpoint::read(&path).unwrap_or_else(|e| panic!("{e}"))
}

/// What a resume would continue from, and what it would warn of.
fn found(root: &Path) -> Option<(Snapshot, Vec<String>)> {
    checkpoint::latest(root).unwrap_or_else(|e| panic!("{e}")).map(|found| (found.snapshot, found.warnings))
}

/// Kills the same run again and again: at (instant, step of the checkpoint), with the step to be continued from (0: none).
/// Each time what is there must verify and be what the run that nothing happens to had then; so must the end.
fn killed_again_and_again(ranks: usize, kills: &[(&str, u64, u64)]) {
    let sandbox = Sandbox::new();
    let whole = sandbox.train(ranks, "whole", &[&STATEFUL[..], &["checkpoint.keep=100"]].concat());
    let (run, set) = (sandbox.run("killed"), [&STATEFUL[..], &["checkpoint.keep=2"]].concat());
    for (point, step, left) in kills {
        let output = broken(&sandbox, ranks, "killed", &format!("ckpt:{point}@{step}:0"), &set);
        assert_ne!(output.code, Some(0), "{point} never came: {output}");
        assert!(!output.stderr.contains("error:"), "{point}: {output}");
        match found(&run.0.join("checkpoints")) {
            None => assert_eq!(*left, 0, "{point}: nothing left"),
            Some((snapshot, warnings)) => {
                assert_eq!((snapshot.step, warnings), (*left, vec![]), "{point}");
                same(&snapshot, &of_step(&whole, *left));
            }
        }
    }
    sandbox.train(ranks, "killed", &set);
    same(&run.latest(), &whole.latest());
    let (a, b) = (run.metrics(), whole.metrics());
    assert_eq!(a.iter().map(timeless).collect::<Vec<_>>(), b.iter().map(timeless).collect::<Vec<_>>());
    assert_eq!(run.json("summary.json")["best"]["score"], whole.json("summary.json")["best"]["score"]);
    let best = |run: &Run| checkpoint::read(&checkpoint::best(&run.0.join("checkpoints")).unwrap().unwrap()).unwrap();
    same(&best(&run), &best(&whole));
    let left = run.checkpoints();
    assert!(left.iter().all(|name| !name.starts_with('.')), "nothing half-made stays: {left:?}");
}

#[test]
fn a_run_killed_at_every_instant_of_writing_continues_to_the_same_bits() {
    let kills = [
        ("temp_made", 2, 0),
        ("file_filled", 2, 0),
        ("pointer_placed", 2, 2),
        ("file_written", 4, 2),
        ("file_filled=3", 6, 4),
        ("file_written=5", 8, 6),
        ("manifest_written", 10, 8),
        ("temp_synced", 12, 10),
        ("renamed", 14, 12),
        // The folder of step 14 is there, and `latest` does not name it.
        ("old_moved_aside", 14, 12),
        ("root_synced", 16, 14),
        ("pointer_written", 18, 16),
        ("done", 20, 20),
        ("best_marked", 24, 24),
        ("unnamed", 28, 28),
        ("pruned", 32, 32),
        ("temp_synced", 40, 38),
    ];
    let covered: BTreeSet<&str> = kills.iter().map(|(point, _, _)| point.split('=').next().unwrap()).collect();
    assert_eq!(covered, Point::ALL.map(Point::name).into(), "every instant is there");
    killed_again_and_again(ALONE, &kills);
}

#[cfg(feature = "mpi")]
#[test]
fn two_ranks_killed_while_rank_0_writes_continue_to_the_same_bits() {
    killed_again_and_again(2, &[("file_filled=2", 6, 4), ("root_synced", 12, 10), ("unnamed", 20, 20)]);
}

#[test]
fn an_instant_that_does_not_exist_is_refused() {
    let sandbox = Sandbox::new();
    let output = broken(&sandbox, ALONE, "x", "ckpt:rename@4:0", &[]).exits_with(2);
    output.complains_once(&["no instant of writing is called `rename`, expected `temp_made`"]);
}
