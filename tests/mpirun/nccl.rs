//! Tensors over NCCL, with its stand-in that moves host memory: the whole program, as processes, on machines without a GPU.

use crate::equal::{distance, initial};
use crate::process::{self, ALONE, Output};
use crate::sandbox::{Run, Sandbox, bits, train_args};
use crate::standin::library;
use polytask::checkpoint::Snapshot;
use serde_json::Value;

const OVER_NCCL: [&str; 3] = ["comm.backend=nccl", "train.engine=tensors", "train.device=cpu"];

/// Trains with the stand-in as NCCL and this plan.
#[track_caller]
fn job(sandbox: &Sandbox, ranks: usize, run: &str, plan: &str, set: &[&str]) -> Output {
    let set = [&OVER_NCCL[..], set].concat();
    let (library, plan) = (format!("POLYTASK_NCCL={}", library().display()), format!("STANDIN_NCCL={plan}"));
    let options = ["-n", &ranks.to_string(), "-x", &library, "-x", &plan];
    process::start_parts(&sandbox.path(""), &[(&options, &train_args(run, &set))]).wait()
}

#[track_caller]
fn train(sandbox: &Sandbox, ranks: usize, run: &str, plan: &str, set: &[&str]) -> Run {
    job(sandbox, ranks, run, plan, set).exits_with(0);
    sandbox.run(run)
}

#[test]
fn ranks_over_nccl_equal_one_rank() {
    for balance in [
        &["balance={weighting: {uncertainty: {lr: 0.1}}}"][..],
        &["balance={surgery: upgrad}", "comm.gram={sketch: {dim: 64}}"],
        &["balance={surgery: moco}"],
        // Forward passes with parameters that are still on their way, of every kind; and steps that are taken back.
        &["balance={weighting: famo}", "model.recompute=true"],
        &["balance={weighting: auto_lambda}", "batch.accumulate=2"],
    ] {
        let sandbox = Sandbox::new();
        let set = [&["train.precision=f64"], balance].concat();
        let start = initial(&sandbox.config(&set));
        let alone = sandbox.train(ALONE, "alone", &set);
        for (ranks, reduction, plan, compared) in
            [(2, "sharded", "async=20", 0), (3, "all_reduce", "inprogress=2", 1), (4, "sharded", "", 1)]
        {
            let reduction = format!("comm.reduction={reduction}");
            // Comparing replicas waits for all parameters: without it, steps follow each other as they do for users.
            let compared = format!("train.replica_check_every={compared}");
            let run = train(
                &sandbox,
                ranks,
                &format!("{ranks}"),
                plan,
                &[&set[..], &[&reduction, &compared, "comm.bucket_mb=0.0001"]].concat(),
            );
            let (distance, name) = distance(&run, &alone, &start);
            assert!(distance <= 1e-12, "{balance:?}, {ranks} ranks, {reduction}: {distance:e} in `{name}`");
            let bytes = |run: &Run| run.metrics().iter().find_map(|line| line["bytes_per_step"].as_u64()).unwrap();
            assert!(bytes(&run) > 0 && bytes(&alone) == 0, "what NCCL sends is counted");
        }
    }
}

#[test]
fn a_run_over_nccl_resumes_to_the_same_bits() {
    let sandbox = Sandbox::new();
    let set = ["balance={surgery: pcgrad}", "optim=adamw", "train.precision=bf16", "comm.wire=bf16"];
    let whole = train(&sandbox, 2, "whole", "async=20", &[&set[..], &["train.replica_check_every=0"]].concat());
    train(&sandbox, 2, "parts", "", &[&set[..], &["train.steps=3"]].concat());
    let parts = train(&sandbox, 2, "parts", "", &set);
    let (whole, parts) = (whole.latest(), parts.latest());
    for file in ["model", "optim"] {
        let all = |snapshot: &Snapshot| snapshot.tensors[file].iter().map(bits).collect::<Vec<_>>();
        assert!(all(&whole) == all(&parts), "{file}: not the same bits");
    }
}

/// Whoever looks at parameters waits for those that are on their way: evaluations and checkpoints after every step; and where a
/// rank has no sample of a step, and so no forward pass, whatever comes next.
#[test]
fn nobody_sees_parameters_that_have_not_arrived() {
    for balance in ["balance={weighting: {uncertainty: {lr: 0.1}}}", "balance={surgery: pcgrad}"] {
        let sandbox = Sandbox::new();
        let set =
            ["train.precision=f64", "train.eval_every_steps=1", "checkpoint.every=1", "batch.per_task=3", balance];
        let start = initial(&sandbox.config(&set));
        let alone = sandbox.train(ALONE, "alone", &set);
        let more = [&set[..], &["train.replica_check_every=0", "comm.bucket_mb=0.0001"]].concat();
        let run = train(&sandbox, 4, "delayed", "async=10", &more);
        let never = ["train.eval_every_steps=100", "checkpoint.every=0"];
        let undisturbed = train(&sandbox, 4, "undisturbed", "async=10", &[&more[..], &never].concat());
        for run in [&run, &undisturbed] {
            let (distance, name) = distance(run, &alone, &start);
            assert!(distance <= 1e-12, "{balance}: {distance:e} in `{name}`");
        }
        let evaluations = |run: &Run| -> Vec<Value> {
            run.metrics()
                .into_iter()
                .filter(|line| line["kind"] == "eval")
                .map(|line| line["metrics"].clone())
                .collect()
        };
        let (expected, found) = (evaluations(&alone), evaluations(&run));
        assert!(expected.len() > 6, "every step, and the test split");
        assert!(near(&Value::Array(expected), &Value::Array(found)), "{balance}");
    }
}

/// The same shape, and numbers that are equal to rounding.
fn near(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, x)| b.get(key).is_some_and(|y| near(x, y)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| near(x, y)),
        (Value::Number(_), Value::Number(_)) => {
            a.as_f64().zip(b.as_f64()).is_some_and(|(x, y)| (x - y).abs() <= 1e-9 * x.abs().max(1.0))
        }
        _ => a == b,
    }
}

#[test]
fn parameters_that_never_arrive_end_the_job_without_a_checkpoint() {
    let sandbox = Sandbox::new();
    // In a step each rank sends three segments of gradients, then three of parameters.
    for n in 4..=6 {
        let run = format!("lost{n}");
        // Nor do comparisons find out before the checkpoint.
        let set = ["train.steps=1", "comm.timeout=5", "train.replica_check_every=0"];
        let output = job(&sandbox, 2, &run, &format!("async_error@{n}"), &set);
        assert_eq!(output.code, Some(70), "{n}: {output}");
        assert!(!sandbox.path(&format!("runs/{run}/checkpoints/latest")).exists(), "{n}: {output}");
    }
}

#[test]
fn an_exchange_that_hangs_ends_the_job_and_is_named() {
    let sandbox = Sandbox::new();
    let set = ["comm.timeout=3", "balance={surgery: pcgrad}"];
    let output = job(&sandbox, 2, "hangs", "hang=reduce_scatter@3:1", &set);
    assert_ne!(output.code, Some(0), "{output}");
    assert!(output.stderr.contains("reduce_scatter (nccl #"), "{output}");
    for rank in 0..2 {
        assert!(sandbox.path(&format!("runs/hangs/flight/flight_rank{rank}.json")).exists(), "{output}");
    }
}

#[test]
fn an_exchange_that_fails_ends_the_job() {
    let sandbox = Sandbox::new();
    let output = job(&sandbox, 2, "fails", "error=reduce_scatter@3:1", &["balance={surgery: pcgrad}"]);
    assert_eq!(output.code, Some(70), "{output}");
    assert!(output.stderr.contains("[rank 1] error: "), "{output}");
}

#[test]
fn host_memory_is_refused_by_a_real_nccl() {
    let sandbox = Sandbox::new();
    let output = process::run(&sandbox.path(""), 2, &train_args("refused", &OVER_NCCL));
    assert_eq!(output.code, Some(2), "{output}");
    assert!(output.stderr.contains("hint: "), "{output}");
    assert_eq!(output.stderr.matches("error:").count(), 1, "one message is enough\n{output}");
}
