//! `polytask compare`: whole comparisons of a few steps each.

use crate::process::{self, ALONE, Job, Output};
use crate::sandbox::{Sandbox, timeless};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// A sandbox with `small.yaml`: a task on each source, one of them with its head below the last stage.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let text = sandbox.read("config.yaml");
    let kept = |line: &&str| !line.starts_with("  b: ") && !line.starts_with("  m: ");
    let lines: Vec<&str> = text.lines().filter(kept).collect();
    sandbox.write("small.yaml", &(lines.join("\n") + "\n"));
    sandbox
}

fn start(sandbox: &Sandbox, ranks: usize, words: &[&str]) -> Job {
    let args: Vec<String> = ["compare", "small.yaml"].iter().chain(words).map(|word| word.to_string()).collect();
    process::start(&sandbox.path(""), ranks, &args)
}

#[track_caller]
fn run(sandbox: &Sandbox, ranks: usize, words: &[&str]) -> Output {
    start(sandbox, ranks, words).wait()
}

const WORDS: [&str; 10] = [
    "--methods",
    "uncertainty+pcgrad",
    "--seeds=2",
    "--set=train.eval_every_steps=50",
    "--set=optim={adamw: {lr: 0.01}}",
    "--set=train.steps=200",
    "--set=train.replica_check_every=100",
    "--set=log.every=1",
    "--set=checkpoint.every=10",
    "--set=checkpoint.keep=2",
];

/// `comparison.csv` without times.
fn table(sandbox: &Sandbox, out: &str) -> Vec<String> {
    let text = sandbox.read(&format!("{out}/comparison.csv"));
    let timed = |line: &&str| !line.contains(",step_ms,") && !line.contains(",relative_step_time,");
    text.lines().filter(timed).map(str::to_string).collect()
}

/// Stopped within a run of the first seed, then killed within one of the second.
fn stopped_and_killed(ranks: usize, signal: &str) {
    let sandbox = sandbox();
    let whole = run(&sandbox, ranks, &[&WORDS[..], &["--out=whole"]].concat()).exits_with(0);
    for text in ["[1/8] equal, learning rate 0.01, seed 3", "[8/8] r alone, ", "| uncertainty+pcgrad | ", "task alone"]
    {
        assert!(whole.stdout.contains(text), "`{text}` is missing\n{whole}");
    }

    let first = sandbox.run("compare-test/uncertainty+pcgrad/lr_0.01/seed_3");
    let mut job = start(&sandbox, ranks, &WORDS);
    job.until(|| first.last_step() >= 45);
    job.signal(signal);
    let stopped = job.wait_for(Duration::from_secs(30)).exits_with(75);
    assert!(stopped.stdout.contains("stopped after 1 of 8 runs: run the same command again"), "{stopped}");
    assert_eq!(first.json("summary.json")["status"], "stopped");
    assert!(sandbox.read("runs/compare-test/comparison.md").contains("**Not complete: 1 of 8 runs.**"));

    let second = sandbox.run("compare-test/single_task/a/lr_0.01/seed_4");
    let mut job = start(&sandbox, ranks, &WORDS);
    job.until(|| second.last_step() >= 45);
    if ranks == ALONE {
        job.signal("KILL");
    } else {
        job.signal_rank(1, "KILL");
    }
    assert_ne!(job.wait_for(Duration::from_secs(30)).code, Some(0));
    assert!(!second.0.join("summary.json").exists(), "killed too late");

    let rest = run(&sandbox, ranks, &WORDS).exits_with(0);
    assert!(rest.stdout.contains("[7/8]") && !rest.stdout.contains("[6/8]"), "{rest}");
    assert_eq!(table(&sandbox, "runs/compare-test"), table(&sandbox, "whole"));
    // From a checkpoint before the kill: that of step 40 may have been in flight, that of step 30 was on the disk.
    let resumed_from = second.json("summary.json")["resumed_from"].as_u64();
    assert!(resumed_from.is_some_and(|step| step >= 30 && step % 10 == 0), "{resumed_from:?}");
    let again = run(&sandbox, ranks, &WORDS).exits_with(0);
    assert!(!again.stdout.contains("/8]"), "nothing is left to train\n{again}");

    // A run of a comparison is a run like any other.
    let alone = "train whole/uncertainty+pcgrad/lr_0.01/seed_4/config.yaml --set run.dir=runs/alone";
    sandbox.polytask(ranks, alone).exits_with(0);
    let text = sandbox.read("whole/uncertainty+pcgrad/lr_0.01/seed_4/summary.json");
    let compared: Value = serde_json::from_str(&text).unwrap();
    for part in ["best", "final", "samples"] {
        assert_eq!(timeless(&sandbox.run("alone").json("summary.json")[part]), timeless(&compared[part]), "{part}");
    }
}

#[test]
fn a_comparison_stopped_by_term_and_killed_continues_to_the_same_table() {
    stopped_and_killed(ALONE, "TERM");
}

#[test]
fn on_two_ranks_a_comparison_stopped_by_usr1_and_killed_continues_to_the_same_table() {
    stopped_and_killed(2, "USR1");
}

/// Lines of a CSV file that begin like this, split at commas.
fn lines(sandbox: &Sandbox, begin: &str) -> Vec<Vec<String>> {
    let text = sandbox.read("out/comparison.csv");
    let found = text.lines().filter(|line| line.starts_with(begin));
    found.map(|line| line.split(',').map(str::to_string).collect()).collect()
}

/// A learning rate with which everything diverges: its runs are results, and the other one is chosen.
#[test]
fn learning_rates_are_chosen_and_diverging_runs_are_reported() {
    let sandbox = sandbox();
    let words = ["--methods=pcgrad", "--seeds=2", "--tune-lr=1e30,0.1", "--out=out", "--set=train.steps=30"];
    let output = run(&sandbox, ALONE, &words).exits_with(0);
    assert_eq!(output.stdout.matches("failed: step ").count(), 4, "{output}");
    assert!(sandbox.read("out/comparison.md").contains("**"), "the chosen one is in bold");
    assert_eq!(
        lines(&sandbox, "pcgrad,0.1,failed"),
        [["pcgrad", "0.1", "failed", "", "", "", "false", "0", "0", "2", "0", "0"]]
    );
    for method in ["equal,0.1,delta_m_percent", "pcgrad,0.1,improvement_percent"] {
        let found = lines(&sandbox, method);
        assert!(found[0][7..].iter().all(|cell| cell.parse::<f64>().unwrap().is_finite()), "{found:?}");
    }
    // Of each task of its own source: a is judged by auc and accuracy, r by rmse and R².
    assert_eq!(lines(&sandbox, "single_task,0.1,metric").len(), 4);
    let samples = |run: &str| -> Value {
        let text = sandbox.read(&format!("out/{run}/lr_0.1/seed_3/summary.json"));
        serde_json::from_str::<Value>(&text).unwrap()["samples"].clone()
    };
    assert_eq!((samples("equal"), samples("single_task/a")), (1020.into(), 510.into()));

    // Without a choice failed runs stand in the table, and nothing is there to compare.
    let words = ["--methods=pcgrad", "--seeds=2", "--out=out", "--set=train.steps=30", "--set=optim.sgd.lr=1e30"];
    let output = run(&sandbox, ALONE, &words).exits_with(2);
    output.complains_once(&["out/config.yaml", "optim.sgd.lr: 0.1 -> 1e+30", "--out"]);
    fs::remove_dir_all(sandbox.path("out")).unwrap();
    let output = run(&sandbox, ALONE, &words).exits_with(0);
    assert!(output.stdout.contains("| 0, 2 failed |"), "{output}");
    assert_eq!(
        run(&sandbox, ALONE, &words).exits_with(0).stdout.matches("failed: step ").count(),
        0,
        "not tried again"
    );
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let sandbox = sandbox();
    let before = sandbox.listing();
    for (ranks, words, texts) in [
        (ALONE, &["--methods=pcgrda"][..], &["`pcgrda` is no method", "did you mean `pcgrad`?"][..]),
        (2, &["--methods=pcgrad,{surgery: {pcgrad: {x: 1}}}"], &["takes no options"]),
        (ALONE, &["--tune-lr=0.1,-1"], &["must be greater than 0, found -1"]),
        (ALONE, &["--set=optim.sgd.lr=0"], &["must be greater than 0"]),
    ] {
        run(&sandbox, ranks, words).exits_with(2).complains_once(texts);
    }
    let output = run(&sandbox, 2, &["--methods=pcgrad,uncertainty", "--tune-lr=0.1,0.2", "--dry-run"]).exits_with(0);
    let runs: Vec<&str> = output.stdout.lines().collect();
    assert_eq!((runs.len(), runs[20]), (21, "20 runs; nothing was trained"), "{output}");
    assert!(runs[1].contains("pcgrad, learning rate 0.1, seed 3  runs/compare-test/pcgrad/lr_0.1/seed_3"), "{output}");
    assert!(runs[19].contains("r alone, the chosen learning rate, seed 5  "), "{output}");
    assert_eq!(before, sandbox.listing());
}
