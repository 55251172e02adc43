//! Steps with bad numbers: what becomes of them under every policy, on all ranks alike (`train.replica_check_every: 1`
//! compares their bits after every step).

use crate::kills::{broken, same};
use crate::process::{ALONE, Output};
use crate::sandbox::{Run, Sandbox, bits, timeless, values};
use polytask::checkpoint::Snapshot;
use serde_json::Value;

/// Ranks of a job, and the one that breaks.
#[cfg(feature = "mpi")]
const WORLDS: [(usize, usize); 2] = [(ALONE, 0), (2, 1)];
#[cfg(not(feature = "mpi"))]
const WORLDS: [(usize, usize); 1] = [(ALONE, 0)];

/// Checkpoints after steps 4, 8 and 12.
const RUN: [&str; 3] = ["train.steps=12", "checkpoint.every=4", "checkpoint.keep=100"];

/// Ways to an update, and what of it is not finite after a NaN in the gradient of `b` where the norm is needed before the
/// update (always so with tensors), and where it is not.
const WAYS: [([&str; 2], &str, &str); 4] = [
    (["balance={surgery: pcgrad}", "train.engine=tensors"], "the gradient of `b`", "the gradient of `b`"),
    (["balance={weighting: uncertainty}", "train.engine=auto"], "the update", "the update (already applied"),
    (["balance={weighting: dwa, smoothing: 0.5}", "train.engine=tensors"], "the update", "the update"),
    (["balance={weighting: random, surgery: moco}", "train.engine=auto"], "the gradient of `b`", "the gradient of `b`"),
];

fn run(sandbox: &Sandbox, world: (usize, usize), name: &str, fault: &str, set: &[&str]) -> Output {
    let fault = fault.replace('R', &world.1.to_string());
    broken(sandbox, world.0, name, &fault, &[&RUN, set].concat())
}

/// Every training record is there once, in order.
#[track_caller]
fn whole_curve(run: &Run, steps: u64) -> Vec<Value> {
    let lines: Vec<Value> = run.metrics().into_iter().filter(|line| line["kind"] == "train").collect();
    let found: Vec<u64> = lines.iter().filter_map(|line| line["step"].as_u64()).collect();
    assert_eq!(found, (1..=steps).collect::<Vec<_>>());
    lines
}

/// The same bits of parameters, optimizer and memories of surgery.
#[track_caller]
fn same_bits(a: &Snapshot, b: &Snapshot, what: &str) {
    for (x, y) in a.tensors.values().flatten().zip(b.tensors.values().flatten()) {
        assert_eq!((&x.name, bits(x)), (&y.name, bits(y)), "{what}");
        assert!(values(x).into_iter().all(f64::is_finite), "{what}: {}", x.name);
    }
    assert_eq!(a.json["state"]["balancer"], b.json["state"]["balancer"], "{what}");
    assert_eq!(a.json["state"]["updates"], b.json["state"]["updates"], "{what}");
}

fn skipped(run: &Run) -> Option<u64> {
    run.json("summary.json")["skipped"].as_u64()
}

#[test]
fn a_bad_gradient_on_one_rank_stops_the_run_or_is_skipped_or_taken_back_to_the_same_bits() {
    for world in WORLDS {
        for ([balance, engine], early, late) in WAYS {
            let sandbox = Sandbox::new();
            let trains = |name: &str, policy: &str| {
                let policy = format!("train.non_finite={policy}");
                run(&sandbox, world, name, "nan=b@7:R", &[balance, engine, &policy])
            };
            let what = format!("{world:?} {balance} {engine}");
            let words = ["is not finite", "`--set train.non_finite=skip`", &format!("step 7: {late}")];
            trains("stop", "stop").exits_with(4).complains_once(&words);
            assert_eq!(sandbox.run("stop").latest().step, 4, "{what}");
            let output = trains("skip", "skip").exits_with(0);
            let words = format!("step 7: {early} is not finite; step skipped on all ranks");
            assert!(output.stdout.contains(&words), "{what}: {output}");
            let output = trains("back", "rollback").exits_with(0);
            let words =
                "back to the checkpoint of step 4 on all ranks, and past step 7 without taking it (rollback 1 of 3)";
            assert!(output.stdout.contains(words), "{what}: {output}");

            let (skip, back) = (sandbox.run("skip"), sandbox.run("back"));
            same_bits(&skip.latest(), &back.latest(), &what);
            assert_eq!((skipped(&skip), skipped(&back)), (Some(1), Some(1)), "{what}");
            let (a, b) = (whole_curve(&skip, 12), whole_curve(&back, 12));
            for (x, y) in a.iter().zip(&b).filter(|(x, _)| x["step"] != 7) {
                for key in ["step", "loss", "weight", "coef", "grad_norm", "lr", "skipped"] {
                    assert_eq!(x[key], y[key], "{what}: {key}");
                }
            }
            assert!(b[6]["loss"]["b"].is_null() && b[6]["skipped"] == 1 && b[5]["skipped"] == 0, "{what}");
        }
    }
}

#[test]
fn a_run_killed_after_a_rollback_goes_back_again_and_ends_with_the_same_bits() {
    let set = [
        "optim={adamw: {lr: 0.01}}",
        "balance={weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}",
        "model.encoder.mlp.dropout=0.3",
        "train.eval_every_steps=4",
        "train.non_finite=rollback",
        "log.tensorboard=true",
    ];
    for world in WORLDS {
        let sandbox = Sandbox::new();
        run(&sandbox, world, "whole", "nan=a@7:R", &set).exits_with(0);
        // Between the rollback and the checkpoint of step 8, which is the first to know of step 7.
        let output = run(&sandbox, world, "killed", "nan=a@7:R,kill@8:R", &set);
        assert!(output.code != Some(0) && output.stdout.contains("rollback 1 of 3"), "{output}");
        assert_eq!(sandbox.run("killed").latest().step, 4);
        let output = run(&sandbox, world, "killed", "nan=a@7:R", &set).exits_with(0);
        assert!(output.stdout.contains("rollback 1 of 3"), "again: {output}");
        let (whole, killed) = (sandbox.run("whole"), sandbox.run("killed"));
        same(&whole.latest(), &killed.latest());
        let timeless = |run: &Run| run.metrics().iter().map(timeless).collect::<Vec<_>>();
        assert_eq!(timeless(&whole), timeless(&killed));

        // After the checkpoint of step 8 nothing is to be repeated; before it, the steps to leave out are in it.
        let set = [&set[..], &["checkpoint.every=1"]].concat();
        run(&sandbox, world, "known", "nan=a@7:R,nan=a@6:R,kill@9:R", &set);
        let known = sandbox.run("known");
        assert_eq!(known.latest().json["state"]["progress"]["left_out"], serde_json::json!([6, 7]));
        let output = run(&sandbox, world, "known", "nan=a@7:R,nan=a@6:R", &set).exits_with(0);
        assert!(!output.stdout.contains("rollback"), "{output}");
        assert_eq!(skipped(&known), Some(2));
        whole_curve(&known, 12);
        let events = std::fs::read_dir(whole.0.join("tensorboard")).unwrap().count();
        assert_eq!(events, 2, "one file per way through the curve");
    }
}

#[test]
fn the_first_step_can_be_taken_back_too() {
    for world in WORLDS {
        let sandbox = Sandbox::new();
        let output = run(&sandbox, world, "back", "nan=a@1:R", &["train.non_finite=rollback", "train.max_skipped=1"])
            .exits_with(0);
        assert!(output.stdout.contains("back to the checkpoint of step 0"), "{output}");
        run(&sandbox, world, "skip", "nan=a@1:R", &["train.non_finite=skip"]).exits_with(0);
        same_bits(&sandbox.run("back").latest(), &sandbox.run("skip").latest(), "the first step");
        whole_curve(&sandbox.run("back"), 12);
    }
}

#[test]
fn a_run_taken_back_by_hand_goes_back_to_where_it_began_and_not_to_what_came_later() {
    let sandbox = Sandbox::new();
    run(&sandbox, WORLDS[0], "x", "", &["train.non_finite=rollback"]).exits_with(0);
    // Its checkpoints of steps 8 and 12 are of another future.
    let line = "export POLYTASK_FAULT=nan=a@10:0; $polytask train config.yaml --set run.dir=runs/x --set train.steps=12 \
                --set checkpoint.every=100 --set checkpoint.keep=100 --set train.non_finite=rollback \
                --resume runs/x/checkpoints/step_00000004";
    let output = sandbox.shell(line).exits_with(0);
    assert!(output.stdout.contains("back to the checkpoint of step 4"), "{output}");
    whole_curve(&sandbox.run("x"), 12);
}

/// Killed before it has a checkpoint of its own, the new course goes on, and not the one that was left; the best checkpoint of
/// that one is none of this.
#[test]
fn a_run_taken_back_by_hand_stays_there_whatever_ends_it() {
    for world in WORLDS {
        let sandbox = Sandbox::new();
        let whole = run(&sandbox, world, "whole", "", &["train.eval_every_steps=2"]).exits_with(0);
        run(&sandbox, world, "x", "", &["train.eval_every_steps=2"]).exits_with(0);
        let x = sandbox.run("x");
        let root = x.0.join("checkpoints");
        let named = |pointer: &str| std::fs::read_to_string(root.join(pointer)).unwrap_or_default().trim().to_string();
        std::fs::write(root.join("best"), "step_00000012\n").unwrap();
        let (ranks, rank) = world;
        let mpirun =
            if ranks == ALONE { String::new() } else { format!("mpirun -n {ranks} --oversubscribe --bind-to none") };
        let line = format!(
            "export POLYTASK_FAULT=kill@7:{rank}; {mpirun} $polytask train config.yaml --set run.dir=runs/x --set train.steps=12 \
             --set checkpoint.every=100 --set checkpoint.keep=100 --set train.eval_every_steps=2 --set checkpoint.best=false \
             --resume runs/x/checkpoints/step_00000004"
        );
        let output = sandbox.shell(&line);
        assert_ne!(output.code, Some(0), "{output}");
        assert_eq!(named("latest"), "step_00000004", "{output}");
        assert!(["", "step_00000002", "step_00000004"].contains(&named("best").as_str()), "{}", named("best"));
        run(&sandbox, world, "x", "", &["train.eval_every_steps=2"]).exits_with(0);
        whole_curve(&x, 12);
        assert_eq!(x.json("summary.json")["resumed_from"], 4, "{whole}");
        same_bits(&x.latest(), &sandbox.run("whole").latest(), "taken back");
    }
}

#[test]
fn limits_end_a_run_that_gets_nowhere() {
    let sandbox = Sandbox::new();
    let alone = WORLDS[0];
    let four = "nan=a@5:R,nan=a@6:R,nan=a@7:R,nan=a@8:R";
    let set = ["train.non_finite=rollback", "train.max_rollbacks=3"];
    let output = run(&sandbox, alone, "back", four, &set).exits_with(4);
    output.complains_once(&[
        "step 8: the update (already applied: these parameters are lost) is not finite, after 3 rollbacks in a row \
         (`train.max_rollbacks`), which left out the steps 5, 6, 7",
        "hint: ",
    ]);
    assert_eq!(sandbox.run("back").json("summary.json")["status"], "failed");
    run(&sandbox, alone, "more", four, &["train.non_finite=rollback", "train.max_rollbacks=4"]).exits_with(0);
    assert_eq!(skipped(&sandbox.run("more")), Some(4));
    // The checkpoint of step 8 is beyond step 6: what comes later begins anew.
    let apart = "nan=a@5:R,nan=a@6:R,nan=a@10:R,nan=a@11:R";
    run(&sandbox, alone, "apart", apart, &["train.non_finite=rollback", "train.max_rollbacks=2"]).exits_with(0);

    let set = ["train.non_finite=skip", "train.max_skipped=3"];
    let output = run(&sandbox, alone, "skip", four, &set).exits_with(4);
    output.complains_once(&["step 7: the update is not finite; 3 steps in a row were not taken (`train.max_skipped`)"]);
    run(&sandbox, alone, "skips", four, &["train.non_finite=skip", "train.max_skipped=5"]).exits_with(0);
}

#[test]
fn without_a_checkpoint_to_go_back_to_the_run_stops_and_says_so() {
    let sandbox = Sandbox::new();
    // A file where the folder of the first checkpoint belongs.
    sandbox.shell("mkdir -p runs/x/checkpoints && touch runs/x/checkpoints/step_00000000").exits_with(0);
    let output = run(&sandbox, WORLDS[0], "x", "nan=a@2:R", &["train.non_finite=rollback"]).exits_with(4);
    assert!(output.stdout.contains("warning: no checkpoint at step 0"), "{output}");
    output.complains_once(&[
        "step 2: the update (already applied",
        "there is no checkpoint from before it to go back to",
    ]);
}

#[test]
fn a_spike_is_told_or_skipped_or_taken_back_or_stops_the_run() {
    for world in WORLDS {
        for balance in ["balance={surgery: pcgrad}", "balance={weighting: {uncertainty: {lr: 0.1}}}"] {
            let sandbox = Sandbox::new();
            let spiked = |name: &str, action: &str| {
                let set = format!("train.spike={{window: 8, action: {action}}}");
                // Clipped, so that the run survives a spike that is only told.
                run(&sandbox, world, name, "spike=b@7:R", &[balance, "optim.sgd.clip_norm=1", &set])
            };
            let words = "step 7: the loss of `b` is ";
            spiked("stop", "stop").exits_with(4).complains_once(&[
                words,
                "sigmas above",
                "`--set train.spike.action=skip`",
            ]);
            let output = spiked("warn", "warn").exits_with(0);
            assert!(output.stdout.contains(&format!("warning: {words}")), "{output}");
            assert_eq!(skipped(&sandbox.run("warn")), Some(0));
            let output = spiked("skip", "skip").exits_with(0);
            assert!(output.stdout.contains(words) && output.stdout.contains("step skipped on all ranks"), "{output}");
            let output = spiked("rollback", "rollback").exits_with(0);
            assert!(output.stdout.contains("back to the checkpoint of step 4 on all ranks"), "{output}");
            let (skip, back) = (sandbox.run("skip"), sandbox.run("rollback"));
            same_bits(&skip.latest(), &back.latest(), balance);
            assert_eq!((skipped(&skip), skipped(&back)), (Some(1), Some(1)));
            let losses =
                |run: &Run| run.latest().json["state"]["spikes"].as_array().map(|windows| windows[..4].to_vec());
            assert!(losses(&skip).is_some() && losses(&skip) == losses(&back));
            whole_curve(&back, 12);
            let first = |run: &Run| bits(&run.latest().tensors["model"][0]);
            assert_ne!(first(&sandbox.run("warn")), first(&skip), "the spike moved the parameters");
        }
    }
}

#[test]
fn resuming_in_the_middle_of_the_window_is_exact() {
    let sandbox = Sandbox::new();
    let set = ["train.spike={window: 12, action: skip}", "balance={surgery: pcgrad}"];
    run(&sandbox, WORLDS[0], "whole", "spike=a@9:R", &set).exits_with(0);
    run(&sandbox, WORLDS[0], "two", "spike=a@9:R", &[&set[..], &["train.steps=8"]].concat()).exits_with(0);
    // The window of the second session is that of the first: six steps are needed before anything is a spike.
    let output = run(&sandbox, WORLDS[0], "two", "spike=a@9:R", &set).exits_with(0);
    assert!(output.stdout.contains("step 9: the loss of `a` is "), "{output}");
    same(&sandbox.run("whole").latest(), &sandbox.run("two").latest());
    let window = &sandbox.run("two").latest().json["state"]["spikes"];
    assert_eq!(window.as_array().map(Vec::len), Some(5), "four tasks and the norm");
    assert_eq!(window[0].as_array().map(Vec::len), Some(11), "all steps but the one that was skipped");
}

#[test]
fn a_fault_of_a_task_that_does_not_exist_is_refused() {
    let sandbox = Sandbox::new();
    let output = run(&sandbox, WORLDS[0], "x", "nan=z@1:R", &[]).exits_with(2);
    output.complains_once(&["POLYTASK_FAULT: no task is called `z`", "hint: the tasks are `a`, `b`, `r`, `m`"]);
}
