//! A run that was stopped or killed and started again is the run that never stopped.

use crate::process::ALONE;
use crate::sandbox::{Run, Sandbox, bits, timeless, values};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Everything that has a state: Adam's moments, log-variances, projections drawn at random, dropout, a best score.
const STATEFUL: [&str; 7] = [
    "optim={adamw: {lr: 0.01}}",
    "balance={weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}",
    "model.encoder.mlp.dropout=0.3",
    "train.eval_every_steps=7",
    "checkpoint.every=10",
    "checkpoint.keep=2",
    "train.replica_check_every=10",
];

/// The same bits of every tensor, the same state, the same curve.
#[track_caller]
fn same_history(run: &Run, whole: &Run) {
    let (a, b) = (run.latest(), whole.latest());
    assert_eq!(a.step, b.step);
    assert_eq!(a.tensors.keys().collect::<Vec<_>>(), ["model", "optim"]);
    for (file, tensors) in &b.tensors {
        assert_eq!(a.tensors[file].len(), tensors.len(), "{file}");
        for (x, y) in a.tensors[file].iter().zip(tensors) {
            assert_eq!((&x.name, &x.shape), (&y.name, &y.shape), "{file}");
            assert_eq!(bits(x), bits(y), "{file}: {}", x.name);
        }
    }
    for part in ["state", "transforms"] {
        assert_eq!(timeless(&a.json[part]), timeless(&b.json[part]), "{part}");
    }
    assert!(!b.json["state"]["balancer"].is_null());
    let (a, b) = (run.metrics(), whole.metrics());
    for (x, y) in a.iter().zip(&b) {
        assert_eq!(timeless(x), timeless(y));
    }
    assert_eq!(a.len(), b.len());
    let result = |run: &Run, name: &str| timeless(&run.json("summary.json")[name]);
    for part in ["best", "final", "steps", "samples", "status"] {
        assert_eq!(result(run, part), result(whole, part), "{part}");
    }
}

/// Steps of the training records.
fn steps(run: &Run) -> Vec<u64> {
    run.metrics().iter().filter(|line| line["kind"] == "train").filter_map(|line| line["step"].as_u64()).collect()
}

/// The first session has no end in sight, so that the signal never comes too late; the configured end may change.
#[track_caller]
fn stopped_by_a_signal(ranks: usize, signal: &str) {
    let sandbox = Sandbox::new();
    let set = [&STATEFUL[..], &["schedule={constant: {warmup: 30}}"]].concat();
    let mut job = sandbox.start(ranks, "stopped", &[&set[..], &["train.steps=1000000"]].concat());
    let run = sandbox.run("stopped");
    job.until(|| run.last_step() >= 20);
    job.signal(signal);
    job.wait_for(Duration::from_secs(20)).exits_with(75);

    let n = run.latest().step;
    assert!(n >= 20);
    assert_eq!(steps(&run), (1..=n).collect::<Vec<_>>());
    let summary = run.json("summary.json");
    assert_eq!((&summary["status"], &summary["steps"]), (&"stopped".into(), &n.into()));

    let end = format!("train.steps={}", n + 21);
    let set = [&set[..], &[end.as_str()]].concat();
    sandbox.train(ranks, "stopped", &set);
    let whole = sandbox.train(ranks, "whole", &set);
    assert_eq!(steps(&whole), (1..=n + 21).collect::<Vec<_>>());
    assert_eq!(run.json("summary.json")["resumed_from"], n);
    same_history(&run, &whole);
}

#[test]
fn two_ranks_stopped_by_usr1_continue_exactly() {
    stopped_by_a_signal(2, "USR1");
}

#[test]
fn a_single_process_stopped_by_term_continues_exactly() {
    stopped_by_a_signal(ALONE, "TERM");
}

/// Once rank 2, once rank 0, which writes. Whatever was lost since the last checkpoint is done again, to the same bits.
#[test]
fn a_killed_rank_ends_the_job_and_the_same_command_continues_exactly() {
    let sandbox = Sandbox::new();
    let set = [&STATEFUL[..], &["schedule={cosine: {warmup: 5, floor: 0.1}}", "train.steps=120"]].concat();
    let run = sandbox.run("killed");
    for (rank, step) in [(2, 25), (0, 45)] {
        let mut job = sandbox.start(3, "killed", &set);
        job.until(|| run.last_step() >= step);
        job.signal_rank(rank, "KILL");
        let killed = Instant::now();
        let output = job.wait_for(Duration::from_secs(10));
        println!("rank {rank} killed: the job ended after {:?}", killed.elapsed());
        assert_ne!(output.code, Some(0), "{output}");
        let n = run.latest().step;
        // The checkpoint before is there; that of the last ten steps may have been in flight.
        assert!(n + 20 >= step && n < 120, "{n}: killed too late");
    }
    sandbox.train(3, "killed", &set);
    let whole = sandbox.train(3, "whole", &set);
    assert_eq!(steps(&run), (1..=120).collect::<Vec<_>>());
    same_history(&run, &whole);
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs()
}

/// Two ranks, then three, then one: the same samples in the same order, and the same results up to rounding.
#[test]
fn another_number_of_ranks_continues_the_same_run() {
    let sandbox = Sandbox::new();
    let set = [
        "train.precision=f64",
        "optim={adamw: {lr: 0.01}}",
        "balance={weighting: uncertainty, surgery: pcgrad}",
        "batch.per_task=13",
    ];
    let with_steps = |n: u64| [set.map(str::to_string).to_vec(), vec![format!("train.steps={n}")]].concat();
    let train = |ranks: usize, run: &str, n: u64| {
        let set = with_steps(n);
        sandbox.train(ranks, run, &set.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for (ranks, n) in [(2, 15), (3, 30), (ALONE, 45)] {
        train(ranks, "changing", n);
    }
    let (run, whole) = (sandbox.run("changing"), train(ALONE, "whole", 45));
    assert_eq!(steps(&run), (1..=45).collect::<Vec<_>>());

    let records = |run: &Run| -> Vec<Value> { run.metrics().into_iter().filter(|l| l["kind"] == "train").collect() };
    for (a, b) in records(&run).iter().zip(records(&whole)) {
        assert_eq!(a["lr"], b["lr"]);
        for field in ["loss", "weight", "coef", "grad_norm"] {
            for task in ["a", "b", "r", "m"] {
                let (x, y) = (a[field][task].as_f64().unwrap(), b[field][task].as_f64().unwrap());
                assert!(close(x, y, 1e-6), "step {}: {field} of {task}: {x} and {y}", a["step"]);
            }
        }
    }
    let (a, b) = (run.latest(), whole.latest());
    for file in ["model", "optim"] {
        for (x, y) in a.tensors[file].iter().zip(&b.tensors[file]) {
            let largest = values(y).iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let apart = values(x).iter().zip(values(y)).fold(0.0f64, |m, (x, y)| m.max((x - y).abs()));
            assert!(apart <= 1e-9 * largest, "{file}: {}: {apart:e} of {largest:e}", x.name);
        }
    }
}
