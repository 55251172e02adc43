//! A rank that is slower than the others is named, with the phase; ranks that are alike are not.
#![cfg(feature = "mpi")]

use crate::kills::broken;
use crate::sandbox::{Run, Sandbox};
use serde_json::Value;

const WORDS: &str = "holds the others up";

fn ranks(run: &Run) -> Vec<Value> {
    run.metrics().into_iter().filter(|line| line["kind"] == "train").map(|line| line["ranks"].clone()).collect()
}

#[track_caller]
fn is_named(ranks: usize, fault: &str, rank: usize, phase: &str) {
    let sandbox = Sandbox::new();
    let set = ["log.every=2", "train.steps=14", "log.tensorboard=true"];
    let output = broken(&sandbox, ranks, "x", fault, &set).exits_with(0);
    let said: Vec<&str> = output.stdout.lines().filter(|line| line.contains(WORDS)).collect();
    assert_eq!(said.len(), 1, "once is enough\n{output}");
    assert!(said[0].starts_with(&format!("warning: rank {rank} (")), "{output}");
    assert!(said[0].contains(&format!("; most of it in `{phase}`: ")), "{output}");
    let run = sandbox.run("x");
    let found = self::ranks(&run);
    let last = found.last().expect("a training record");
    assert_eq!((&last["slowest"], &last["slow"]), (&rank.into(), &serde_json::json!([rank])), "{last}");
    assert!(last["slowdown"].as_f64().is_some_and(|factor| factor > 1.5), "{last}");
    let ms = |name: &str| last["own_ms"][name].as_f64().expect("milliseconds");
    assert!(ms("min") <= ms("median") && ms("median") <= ms("max") && ms("max") > 50.0, "{last}");
    // Tags are plain text in the events.
    let folder = std::fs::read_dir(run.0.join("tensorboard")).expect("a folder").flatten().next().expect("a file");
    let events = std::fs::read(folder.path()).expect("events");
    for tag in ["rank/own_ms_max", "rank/slowest", &format!("rank/{rank}/own_ms")] {
        assert!(events.windows(tag.len()).any(|bytes| bytes == tag.as_bytes()), "{tag}");
    }
}

#[test]
fn a_rank_that_computes_slowly_is_named() {
    is_named(3, "slow=0.15@3:1", 1, "forward");
}

#[test]
fn a_rank_whose_data_come_late_is_named_even_if_it_is_rank_0() {
    is_named(2, "slow_data=0.3@3:0", 0, "data");
}

#[test]
fn ranks_that_are_alike_are_not_named_and_need_not_be_compared() {
    let sandbox = Sandbox::new();
    let set = ["log.every=20", "train.steps=80"];
    let output = sandbox.start(2, "x", &set).wait().exits_with(0);
    assert!(!output.stdout.contains(WORDS), "{output}");
    let found = ranks(&sandbox.run("x"));
    assert!(found.len() == 5 && found.iter().all(|ranks| ranks["slow"] == serde_json::json!([])), "{found:?}");
    let run = sandbox.train(2, "y", &["train.steps=2", "log.straggler=0"]);
    assert_eq!(ranks(&run), [Value::Null, Value::Null]);
}
