//! SIGKILL at every instant of writing.

use crate::process::{ALONE, Output};
use crate::sandbox::{Run, Sandbox, bits, timeless, train_args};
use polytask::checkpoint::{self, Point, Snapshot};
use std::collections::BTreeSet;
use std::fs;
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
pub fn broken(sandbox: &Sandbox, ranks: usize, run: &str, fault: &str, set: &[&str]) -> Output {
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

/// Kills the same run again and again: instant@step:rank, with the step to be continued from (0: none). Each time what is there
/// must verify and be what the run that nothing happens to had then; so must the end. Returns the files of the last checkpoint.
fn killed_again_and_again(ranks: usize, extra: &[&str], kills: &[(&str, u64)]) -> Vec<String> {
    let (sandbox, set) = (Sandbox::new(), [&STATEFUL[..], extra].concat());
    let whole = sandbox.train(ranks, "whole", &[&set[..], &["checkpoint.keep=100"]].concat());
    let (run, set) = (sandbox.run("killed"), [&set[..], &["checkpoint.keep=2"]].concat());
    for (at, left) in kills {
        let output = broken(&sandbox, ranks, "killed", &format!("ckpt:{at}"), &set);
        assert_ne!(output.code, Some(0), "{at} never came: {output}");
        assert!(!output.stderr.contains("error:"), "{at}: {output}");
        match found(&run.0.join("checkpoints")) {
            None => assert_eq!(*left, 0, "{at}: nothing left"),
            Some((snapshot, warnings)) => {
                assert_eq!((snapshot.step, warnings), (*left, vec![]), "{at}");
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
    let files = run.0.join("checkpoints/step_00000040");
    let mut names: Vec<String> =
        fs::read_dir(files).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every instant is among the kills.
fn covers_all(kills: &[(&str, u64)]) {
    let covered: BTreeSet<&str> = kills.iter().filter_map(|(at, _)| at.split(['=', '@']).next()).collect();
    assert_eq!(covered, Point::ALL.map(Point::name).into());
}

#[test]
fn a_run_killed_at_every_instant_of_writing_continues_to_the_same_bits() {
    let kills = [
        ("temp_made@2:0", 0),
        ("file_filled@2:0", 0),
        ("pointer_placed@2:0", 2),
        ("file_written@4:0", 2),
        ("file_filled=3@6:0", 4),
        ("file_written=5@8:0", 6),
        ("all_written@8:0", 6),
        ("manifest_written@10:0", 8),
        ("temp_synced@12:0", 10),
        ("renamed@14:0", 12),
        // The folder of step 14 is there, and `latest` does not name it.
        ("old_moved_aside@14:0", 12),
        ("root_synced@16:0", 14),
        ("pointer_written@18:0", 16),
        ("done@20:0", 20),
        ("best_marked@24:0", 24),
        ("unnamed@28:0", 28),
        ("pruned@32:0", 32),
        ("temp_synced@40:0", 38),
    ];
    covers_all(&kills);
    let files = killed_again_and_again(ALONE, &[], &kills);
    let whole =
        ["MANIFEST.json", "config.json", "model.safetensors", "optim.safetensors", "state.json", "transforms.json"];
    assert_eq!(files, whole);
}

/// With a state as large as the gradients of all tasks: rank 0 writes six files, rank 1 two.
#[cfg(feature = "mpi")]
#[test]
fn two_ranks_killed_at_every_instant_of_writing_their_shares_continue_to_the_same_bits() {
    let kills = [
        ("temp_made@2:0", 0),
        ("file_filled@2:1", 0),
        ("pointer_placed@2:0", 2),
        ("file_written@4:1", 2),
        ("file_filled=3@4:0", 2),
        ("file_filled=2@6:1", 4),
        ("file_written=6@6:0", 4),
        ("file_written=2@8:1", 6),
        ("all_written@8:0", 6),
        // The manifest: one count for both halves of the work.
        ("file_filled=7@8:0", 6),
        ("manifest_written@10:0", 8),
        ("temp_synced@12:0", 10),
        ("renamed@14:0", 12),
        ("old_moved_aside@14:0", 12),
        ("root_synced@16:0", 14),
        ("pointer_written@18:0", 16),
        ("done@20:0", 20),
        ("best_marked@24:0", 24),
        ("unnamed@30:0", 30),
        ("pruned@32:0", 32),
        // The last one, for which the ranks wait.
        ("file_written=2@40:1", 38),
        ("all_written@40:0", 38),
    ];
    covers_all(&kills);
    let extra = ["balance={weighting: {uncertainty: {lr: 0.1}}, surgery: moco}", "checkpoint.layout=sharded"];
    let files = killed_again_and_again(2, &extra, &kills);
    let parts: Vec<&str> = files.iter().map(String::as_str).filter(|name| name.contains(".rank0000")).collect();
    let expected = [
        "balance.rank00000-of-00002.safetensors",
        "balance.rank00001-of-00002.safetensors",
        "optim.rank00000-of-00002.safetensors",
        "optim.rank00001-of-00002.safetensors",
    ];
    assert_eq!((parts, files.len()), (expected.to_vec(), 9));
}

#[cfg(feature = "mpi")]
#[test]
fn two_ranks_killed_while_rank_0_writes_all_of_it_continue_to_the_same_bits() {
    let kills = [("file_filled=2@6:0", 4), ("root_synced@12:0", 10), ("unnamed@20:0", 20)];
    killed_again_and_again(2, &["checkpoint.layout=whole"], &kills);
}

#[test]
fn an_instant_that_does_not_exist_is_refused() {
    let sandbox = Sandbox::new();
    let output = broken(&sandbox, ALONE, "x", "ckpt:rename@4:0", &[]).exits_with(2);
    output.complains_once(&["no instant of writing is called `rename`, expected `temp_made`"]);
}
