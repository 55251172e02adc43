//! Choices by name, overrides, places of messages, and what counts as a change.

use polytask::config::*;
use std::path::Path;

fn base(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    load(Path::new("tests/broken_configs/base.yaml"), &sets).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_bare_name_is_the_choice_with_default_options() {
    for (name, options) in [
        ("optim=adamw", "optim={adamw: {}}"),
        ("optim=sgd", "optim={sgd: {lr: 0.1}}"),
        ("optim=adamw", "optim={adamw: }"),
        ("balance.weighting=uncertainty", "balance.weighting={uncertainty: {init: 0}}"),
        ("balance.weighting=equal", "balance.weighting={equal: {}}"),
        ("balance.surgery=pcgrad", "balance.surgery={pcgrad: {}}"),
        ("balance.surgery=none", "balance.surgery={none: null}"),
        ("balance.surgery=none", "balance.surgery='none'"),
        ("schedule=constant", "schedule={constant: {warmup: 0}}"),
        ("schedule=cosine", "schedule={cosine: {}}"),
        ("model.encoder=mlp", "model.encoder={mlp: {widths: [256, 128]}}"),
        ("model.sharing=hard", "model.sharing={hard: {}}"),
        ("tasks.income.kind=binary", "tasks.income.kind={binary: {label_smoothing: 0}}"),
        ("tasks.hours.kind=regression", "tasks.hours.kind={regression: {loss: mse}}"),
        ("batch.mix=uniform", "batch.mix={uniform: {}}"),
        ("train.precision=f64", "train.precision={f64: {}}"),
    ] {
        assert_eq!(base(&[name]), base(&[options]), "{name} and {options}");
    }
}

#[test]
fn overrides_reach_everything() {
    assert_eq!(base(&["run.seed=7"]).run.seed, 7);
    assert_eq!(base(&["run.seed=7", "run.seed=8"]).run.seed, 8);
    assert_eq!(base(&["run.dir=a=b"]).run.dir(), Path::new("a=b"));
    assert_eq!(base(&["run={name: other}"]).run.seed, 1);
    assert_eq!(base(&["train.steps=10", "train.epochs=", "schedule=constant"]).train.epochs, None);
    assert_eq!(base(&["tasks.income.metrics.1=f1"]).tasks[0].1.metrics, [Metric::Auc, Metric::F1]);
    assert_eq!(base(&["tasks.income.head.widths=[8, 4]"]).tasks[0].1.head.widths, [8, 4]);
    let added = base(&["tasks.new.source=census", "tasks.new.target=wage", "tasks.new.kind=regression"]);
    assert_eq!(added.tasks.last().map(|(name, _)| name.as_str()), Some("new"));
}

#[test]
fn an_override_takes_the_place_of_another_choice() {
    let lr = |sets: &[&str]| base(sets).optim;
    let sgd = |lr| Optim::Sgd(Sgd { lr, ..Sgd::default() });
    let adamw = |lr, weight_decay| Optim::Adamw(Adam { lr, weight_decay, ..Adam::default() });
    assert_eq!(lr(&["optim.adamw.lr=0.5"]), adamw(0.5, 0.01));
    assert_eq!(lr(&["optim=adamw", "optim.adamw.lr=0.5"]), adamw(0.5, 0.01));
    assert_eq!(lr(&["optim=adamw", "optim.sgd.lr=0.5"]), sgd(0.5));
    assert_eq!(lr(&["optim.sgd.lr=0.5"]), sgd(0.5));
    assert_eq!(lr(&["optim.sgd.lr=0.5", "optim.adamw.weight_decay=0"]), adamw(1e-3, 0.0));
    assert_eq!(lr(&["optim.adamw.weight_decay=0", "optim.sgd.lr=0.5"]), sgd(0.5));
    assert_eq!(lr(&["optim.sgd={lr: 0.5}"]), sgd(0.5));
}

#[test]
fn names_with_dots_are_found_by_overrides() {
    let text = std::fs::read_to_string("tests/broken_configs/base.yaml").unwrap().replace("income:", "nr.ar:");
    let sets = ["tasks.nr.ar.kind.binary.label_smoothing=0.25".to_string()];
    let config = load_str("dots.yaml", &text, &sets).unwrap();
    assert_eq!(config.tasks[0].1.kind, Kind::Binary(Binary { label_smoothing: 0.25, ..Binary::default() }));
}

#[test]
fn anchors_and_merge_keys_save_writing() {
    let text = "
run: {name: many}
data: {sources: {tox: {csv: {train: tox.csv, bits: [fp]}}}}
tasks:
  a: &task {source: tox, target: A, kind: binary}
  b: {<<: *task, target: B}
  c:
    <<: [*task]
    target: C
model: {encoder: mlp}
train: {steps: 1}
";
    let config = load_str("many.yaml", text, &[]).unwrap();
    let targets: Vec<Vec<&str>> = config.tasks.iter().map(|(_, task)| task.target.columns()).collect();
    assert_eq!(targets, [["A"], ["B"], ["C"]]);
    let wrong = load_str("many.yaml", &text.replace("kind: binary", "kind: binry"), &[]).unwrap_err();
    assert!(wrong.message.starts_with("many.yaml:5:43: tasks.a.kind: unknown choice"), "{wrong}");
}

#[test]
fn the_order_of_tasks_is_that_of_the_file() {
    let names = |config: &Config| config.tasks.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&base(&[])), ["income", "hours"]);
    let again = load_str("again.yaml", &base(&[]).to_yaml().unwrap(), &[]).unwrap();
    assert_eq!(names(&again), ["income", "hours"]);
}

#[test]
fn texts_are_taken_as_written() {
    let config = base(&["tasks.income.kind={binary: {positive: [1, 1.0, true, \"null\", 007]}}"]);
    let Kind::Binary(binary) = &config.tasks[0].1.kind else { panic!("{:?}", config.tasks) };
    assert_eq!(binary.positive, ["1", "1.0", "true", "null", "007"]);
}

#[test]
fn a_configuration_changed_in_code_is_checked_too() {
    let mut config = base(&[]);
    config.check().unwrap();
    config.train.eval_batch = 0;
    assert_eq!(config.check().unwrap_err().message, "train.eval_batch: must be at least 1, found 0");
    config = base(&[]);
    config.optim = Optim::Sgd(Sgd { lr: f64::NAN, ..Sgd::default() });
    assert_eq!(config.check().unwrap_err().message, "optim.sgd.lr: must be greater than 0, found NaN");
}

/// (key, old, new, allowed) of one override.
fn change(set: &str) -> Vec<(String, String, String, bool)> {
    let changes = base(&[]).diff(&base(&[set]));
    changes.into_iter().map(|c| (c.key, c.old, c.new, c.allowed)).collect()
}

#[test]
fn changes_name_key_and_values_and_say_what_a_resumed_run_may_change() {
    for (set, key, old, new, allowed) in [
        ("train.epochs=30", "train.epochs", "20", "30", true),
        ("run.name=b", "run.name", "\"adult\"", "\"b\"", true),
        ("comm.reduction=all_reduce", "comm.reduction", "\"sharded\"", "\"all_reduce\"", true),
        ("log.tensorboard=false", "log.tensorboard", "true", "false", true),
        ("data.root=/elsewhere", "data.root", "null", "\"/elsewhere\"", true),
        ("run.seed=2", "run.seed", "1", "2", false),
        ("train.precision=f64", "train.precision", "\"f32\"", "\"f64\"", false),
        ("batch.per_task=8", "batch.per_task", "256", "8", false),
        ("optim.adamw.lr=0.1", "optim.adamw.lr", "0.001", "0.1", false),
        ("optim=sgd", "optim", "adamw", "sgd", false),
        ("balance.weighting=equal", "balance.weighting", "uncertainty", "equal", false),
        ("tasks.hours.metrics=[mae, rmse]", "tasks.hours.metrics", "[\"mae\"]", "[\"mae\",\"rmse\"]", false),
    ] {
        assert_eq!(change(set), [(key.into(), old.into(), new.into(), allowed)], "{set}");
    }
    assert_eq!(change("run.seed=1"), []);
}

#[test]
fn added_and_reordered_tasks_are_changes() {
    let (old, mut new) = (base(&[]), base(&[]));
    new.tasks.swap(0, 1);
    let changes = old.diff(&new);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((changes[0].key.as_str(), changes[0].allowed), ("tasks", false));
    assert_eq!((changes[0].old.as_str(), changes[0].new.as_str()), ("income, hours", "hours, income"));
    new.tasks.pop();
    let changes = old.diff(&new);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((changes[0].key.as_str(), changes[0].old.as_str()), ("tasks.income", "present"));
    assert_eq!((changes[0].new.as_str(), changes[0].allowed), ("absent", false));
}

#[test]
fn the_hash_covers_what_a_resumed_run_may_not_change() {
    let hash = |set: &str| base(&[set]).hash();
    let plain = base(&[]).hash();
    assert_eq!(plain.len(), 64);
    for set in
        ["train.epochs=3", "train.device=cpu", "log.every=1", "comm.backend=solo", "run.dir=x", "checkpoint.keep=9"]
    {
        assert_eq!(hash(set), plain, "{set}");
    }
    for set in
        ["run.seed=2", "optim.adamw.lr=0.1", "batch.per_task=8", "train.precision=f64", "tasks.income.head.dropout=0.1"]
    {
        assert_ne!(hash(set), plain, "{set}");
    }
    let (mut a, b) = (base(&[]), base(&[]));
    a.tasks.swap(0, 1);
    assert_ne!(a.hash(), b.hash());
}

#[test]
fn every_key_that_may_change_exists() {
    let tree = serde_json::to_value(base(&[])).unwrap();
    for key in MAY_CHANGE {
        assert!(tree.pointer(&format!("/{}", key.replace('.', "/"))).is_some(), "{key}");
    }
}

#[test]
fn a_configuration_survives_json_in_a_checkpoint() {
    let config = base(&["optim.adamw.lr=0.1", "optim.adamw.eps=1e-300"]);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
}
