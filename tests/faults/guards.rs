//! What keeps a run from being spoilt: another job in its directory, another configuration.

use crate::process::ALONE;
use crate::sandbox::Sandbox;

const ENDLESS: [&str; 2] = ["train.steps=1000000", "log.every=1"];

#[test]
fn two_jobs_in_a_run_directory_exclude_each_other_until_one_is_gone() {
    let sandbox = Sandbox::new();
    let run = sandbox.run("x");
    let mut first = sandbox.start(ALONE, "x", &ENDLESS);
    first.until(|| run.last_step() >= 2);
    let (pid, before) = (run.json("lock")["pid"].as_u64().unwrap(), sandbox.read("runs/x/config.yaml"));
    let output = sandbox.start(ALONE, "x", &["train.steps=3"]).wait().exits_with(2);
    output.complains_once(&["runs/x is in use by ", &format!("process {pid} on "), "hint: "]);
    assert_eq!(sandbox.read("runs/x/config.yaml"), before, "nothing was touched");

    // Nobody cleans up after SIGKILL: the lock goes with the process, its words stay.
    first.signal("KILL");
    drop(first.wait());
    assert_eq!(run.json("lock")["pid"].as_u64(), Some(pid));
    sandbox.train(ALONE, "x", &["train.steps=3"]);
    assert_eq!(sandbox.read("runs/x/lock"), "");
}

#[test]
fn a_changed_configuration_continues_with_the_flag_alone_and_says_what_has_changed() {
    let sandbox = Sandbox::new();
    sandbox.train(ALONE, "x", &["train.steps=2"]);
    let changed = "train config.yaml --set run.dir=runs/x --set train.steps=4 --set optim.sgd.lr=0.2";
    let output = sandbox.polytask(ALONE, changed).exits_with(2);
    output.complains_once(&["  optim.sgd.lr: 0.1 -> 0.2", "`--allow-config-change`"]);
    let output = sandbox.polytask(ALONE, &format!("{changed} --allow-config-change")).exits_with(0);
    let words = "continues with another configuration, as --allow-config-change says:\n  optim.sgd.lr: 0.1 -> 0.2";
    assert!(output.stderr.contains(words), "{output}");
    let run = sandbox.run("x");
    assert_eq!((run.latest().step, run.json("summary.json")["resumed_from"].as_u64()), (4, Some(2)));
    let rates: Vec<f64> =
        run.metrics().iter().filter(|l| l["kind"] == "train").filter_map(|l| l["lr"].as_f64()).collect();
    assert_eq!(rates, [0.1, 0.1, 0.2, 0.2]);
    // From then on it is the run's configuration.
    sandbox.polytask(ALONE, changed).exits_with(0);

    // What does not fit is refused all the same.
    let other = format!("{changed} --allow-config-change --set model.encoder.mlp.widths=[4]");
    sandbox
        .polytask(ALONE, &other)
        .exits_with(3)
        .complains_once(&["has shape [16, ", "hint: the model of the configuration"]);
    let other = format!("{changed} --allow-config-change --set optim=adamw");
    sandbox.polytask(ALONE, &other).exits_with(3).complains_once(&["tensor `exp_avg.", "is missing"]);
}
