//! `check`, `eval`, `predict`, and the run directory they read.

use crate::process::ALONE;
use crate::sandbox::{Run, Sandbox, TEST_ROWS};
use arrow_array::{Array, Float64Array, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use polytask::config;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// Columns by name, as text.
type Cells = BTreeMap<String, Vec<String>>;

const LEARNT: [&str; 6] = [
    "train.precision=f64",
    "train.steps=60",
    "train.replica_check_every=20",
    "train.eval_every_steps=10",
    "optim={adamw: {lr: 0.02}}",
    "balance={weighting: uncertainty, surgery: pcgrad}",
];

fn from_csv(text: &str) -> Cells {
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_string).collect::<Vec<_>>());
    let header = lines.next().unwrap_or_default();
    let rows: Vec<Vec<String>> = lines.collect();
    header.into_iter().enumerate().map(|(c, name)| (name, rows.iter().map(|row| row[c].clone()).collect())).collect()
}

fn from_jsonl(text: &str) -> Cells {
    let mut cells = Cells::new();
    for line in text.lines() {
        let Value::Object(row) = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")) else {
            panic!("no object: {line}")
        };
        for (name, value) in row {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            cells.entry(name).or_default().push(text);
        }
    }
    cells
}

fn from_parquet(file: fs::File) -> Cells {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut cells = Cells::new();
    for batch in reader.map(Result::unwrap) {
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let column = column.as_any();
            let values: Vec<String> = match column.downcast_ref::<Float64Array>() {
                Some(numbers) => numbers.values().iter().map(f64::to_string).collect(),
                None => {
                    let texts = column.downcast_ref::<StringArray>().unwrap();
                    (0..texts.len()).map(|i| texts.value(i).to_string()).collect()
                }
            };
            cells.entry(field.name().clone()).or_default().extend(values);
        }
    }
    cells
}

fn numbers(cells: &[String]) -> Vec<f64> {
    cells.iter().map(|cell| cell.parse().unwrap_or_else(|e| panic!("{cell}: {e}"))).collect()
}

/// Share of (prediction, label) pairs that agree, those without a label left out.
fn agreement<'a>(pairs: impl Iterator<Item = (String, &'a String)>) -> f64 {
    let judged: Vec<bool> = pairs.filter(|(_, label)| !label.is_empty()).map(|(p, label)| p == *label).collect();
    judged.iter().filter(|right| **right).count() as f64 / judged.len() as f64
}

fn threshold(cells: &[String]) -> Vec<String> {
    numbers(cells).iter().map(|p| u8::from(*p > 0.5).to_string()).collect()
}

fn eval(sandbox: &Sandbox, ranks: usize, words: &str) -> Value {
    let output = sandbox.polytask(ranks, &format!("eval {words} --json")).exits_with(0);
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}\n{output}"))
}

/// The same numbers, up to the rounding of sums.
#[track_caller]
fn same(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            assert_eq!(x.keys().collect::<Vec<_>>(), y.keys().collect::<Vec<_>>());
            x.values().zip(y.values()).for_each(|(x, y)| same(x, y));
        }
        (Value::Number(_), Value::Number(_)) => {
            let (x, y) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((x - y).abs() <= 1e-12 * y.abs(), "{x} and {y}");
        }
        _ => assert_eq!(a, b),
    }
}

#[test]
fn evaluation_is_the_same_on_any_number_of_ranks_and_as_in_training() {
    let sandbox = Sandbox::new();
    let run = sandbox.train(2, "x", &LEARNT);
    let summary = run.json("summary.json");
    let one = eval(&sandbox, ALONE, "runs/x");
    same(&eval(&sandbox, 3, "runs/x"), &one);
    assert_eq!((&one["split"], &one["step"]), (&"test".into(), &summary["best"]["step"]));
    same(&one["metrics"], &summary["best"]["metrics"]["test"]);
    for (task, metric) in [("a", "auc"), ("b", "accuracy"), ("r", "r2"), ("m", "auc")] {
        let value = one["metrics"][task][metric].as_f64();
        assert!(value.is_some_and(|v| v > 0.55 && v <= 1.0), "{task} has learnt nothing: {metric} {value:?}");
    }
    let val = eval(&sandbox, ALONE, "runs/x --split val");
    same(&val["metrics"], &summary["best"]["metrics"]["val"]);
    same(&val["score"], &summary["best"]["score"]);
    let last = eval(&sandbox, 3, "runs/x --checkpoint latest");
    assert_eq!(last["step"], 60);
    same(&last["metrics"], &summary["final"]["metrics"]["test"]);
    assert!(sandbox.polytask(ALONE, "eval runs/x").exits_with(0).stdout.contains("score (mean):"));
}

#[test]
fn predictions_have_the_rows_of_the_file_and_the_accuracy_of_the_evaluation() {
    let sandbox = Sandbox::new();
    sandbox.train(ALONE, "x", &LEARNT);
    for ending in ["csv", "parquet", "jsonl"] {
        for source in ["one", "two"] {
            let words = format!("predict runs/x --source {source}_test.csv --as {source} --out p_{source}.{ending}");
            sandbox.polytask(ALONE, &words).exits_with(0);
        }
    }
    let metrics = eval(&sandbox, ALONE, "runs/x")["metrics"].take();
    let accuracy = |task: &str| metrics[task]["accuracy"].as_f64().unwrap();

    for ending in ["csv", "parquet", "jsonl"] {
        let cells = |source: &str| match ending {
            "csv" => from_csv(&sandbox.read(&format!("p_{source}.csv"))),
            "jsonl" => from_jsonl(&sandbox.read(&format!("p_{source}.jsonl"))),
            _ => from_parquet(fs::File::open(sandbox.path(&format!("p_{source}.parquet"))).unwrap()),
        };
        let (one, two) = (cells("one"), cells("two"));
        let names = |cells: &Cells| cells.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&one), ["a", "b", "b.blue", "b.green", "b.red"], "{ending}");
        assert_eq!(names(&two), ["m.m1", "m.m2", "r"], "{ending}");
        for (cells, n) in [(&one, TEST_ROWS[0]), (&two, TEST_ROWS[1])] {
            assert!(cells.values().all(|column| column.len() == n), "{ending}");
        }

        let (truth_1, truth_2) = (from_csv(&sandbox.read("one_test.csv")), from_csv(&sandbox.read("two_test.csv")));
        let a = agreement(threshold(&one["a"]).into_iter().zip(&truth_1["a"]));
        let b = agreement(one["b"].iter().cloned().zip(&truth_1["b"]));
        assert_eq!((a, b), (accuracy("a"), accuracy("b")), "{ending}");
        let both = |cells: &Cells, names: [&str; 2]| names.map(|name| cells[name].clone()).concat();
        let m = agreement(threshold(&both(&two, ["m.m1", "m.m2"])).into_iter().zip(&both(&truth_2, ["m1", "m2"])));
        assert!((m - accuracy("m")).abs() < 1e-12, "{ending}: {m} and {}", accuracy("m"));
        let squares: f64 = numbers(&two["r"]).iter().zip(numbers(&truth_2["r"])).map(|(p, y)| (p - y) * (p - y)).sum();
        let rmse = (squares / TEST_ROWS[1] as f64).sqrt();
        let expected = metrics["r"]["rmse"].as_f64().unwrap();
        assert!((rmse / expected - 1.0).abs() < 1e-6, "{ending}: {rmse} and {expected}");
        for i in 0..TEST_ROWS[0] {
            let sum: f64 = ["b.blue", "b.green", "b.red"].map(|name| numbers(&one[name])[i]).iter().sum();
            assert!((sum - 1.0).abs() < 1e-6, "{ending}: row {i}: probabilities add up to {sum}");
        }
    }
}

#[test]
fn predictions_for_new_rows_need_no_labels_and_take_unknown_categories() {
    let sandbox = Sandbox::new();
    sandbox.train(ALONE, "x", &LEARNT[1..]);
    sandbox.write(
        "new.csv",
        "note,c,x4,x3,x2,x1\nfirst,never seen,0.1,0.2,0.3,0.4\n,,0.1,0.2,0.3,0.4\n,p,0.1,0.2,0.3,0.4\n",
    );
    sandbox.polytask(ALONE, "predict runs/x --source new.csv --as one --out new.jsonl").exits_with(0);
    let cells = from_jsonl(&sandbox.read("new.jsonl"));
    let a = numbers(&cells["a"]);
    assert_eq!(a.len(), 3);
    assert!(a.iter().all(|p| (0.0..=1.0).contains(p)));
    // Not to the bit: the place of a row in a batch may decide how libtorch sums.
    assert!((a[0] - a[1]).abs() < 1e-6, "a category that was never seen counts as a missing one: {a:?}");
    assert!((a[0] - a[2]).abs() > 1e-6, "a known category counts: {a:?}");
    sandbox.write("short.csv", "c,x4,x3,x2\np,0.1,0.2,0.3\n");
    let output =
        sandbox.polytask(ALONE, "predict runs/x --source short.csv --as one --out short.csv.csv").exits_with(3);
    output.complains_once(&["short.csv", "`x1`"]);
    assert!(!sandbox.path("short.csv.csv").exists());
}

/// A reader that has seen enough is no failure; a full disk is one, but no bug.
#[test]
fn closed_and_full_outputs_are_no_bugs() {
    let sandbox = Sandbox::new();
    sandbox.shell("$polytask check config.yaml | head -n 1; exit ${PIPESTATUS[0]}").exits_with(0);
    for command in ["check config.yaml", "doctor"] {
        let output = sandbox.shell(&format!("$polytask {command} > /dev/full")).exits_with(3);
        output.complains_once(&["standard output: "]);
    }
}

#[test]
fn check_changes_nothing() {
    let sandbox = Sandbox::new();
    let before = sandbox.listing();
    let output = sandbox.polytask(ALONE, "check config.yaml --ranks 4").exits_with(0);
    for text in ["one", "two", "regression", "multilabel", "parameters", "all is well", "runs/test (not touched)"] {
        assert!(output.stdout.contains(text), "`{text}` is missing\n{output}");
    }
    assert_eq!(output.stderr, "");
    assert_eq!(before, sandbox.listing());
}

/// Keys of an object, in the order of the file.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn the_run_directory_holds_what_its_page_says() {
    let sandbox = Sandbox::new();
    let set = ["log.every=5", "log.tensorboard=true", "checkpoint.every=4", "checkpoint.keep=2"];
    let set = [&LEARNT[1..], &set].concat();
    let run = sandbox.train(2, "x", &set);
    let mut found: Vec<String> =
        fs::read_dir(&run.0).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    assert_eq!(found, ["checkpoints", "config.yaml", "lock", "metrics.jsonl", "summary.json", "tensorboard"]);
    assert!(fs::read_dir(run.0.join("tensorboard")).unwrap().count() == 1);

    let dir = "run.dir=runs/x";
    let again = config::load(&run.0.join("config.yaml"), &[]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again, sandbox.config(&[&set[..], &[dir]].concat()));
    assert_eq!(again.to_yaml().unwrap(), sandbox.read("runs/x/config.yaml"));

    summary_and_checkpoints(&run);
    metrics(&run);
}

fn summary_and_checkpoints(run: &Run) {
    let summary = run.json("summary.json");
    let expected = "name status steps epochs samples seconds skipped resumed_from world_size device parameters versions \
                    config_sha256 best final lost";
    assert_eq!(keys(&summary).join(" "), expected);
    assert_eq!(
        (&summary["status"], &summary["steps"], &summary["samples"]),
        (&"done".into(), &60.into(), &2040.into())
    );
    assert_eq!(
        (&summary["world_size"], &summary["resumed_from"], &summary["lost"]),
        (&2.into(), &Value::Null, &Value::Array(vec![]))
    );
    assert_eq!(keys(&summary["best"]), ["step", "epoch", "score", "metrics"]);
    assert_eq!(keys(&summary["final"]["metrics"]), ["val", "test"]);
    assert_eq!(keys(&summary["best"]["metrics"]["test"]), ["a", "b", "r", "m"]);

    let best = format!("step_{:08}", summary["best"]["step"].as_u64().unwrap());
    let mut expected =
        vec![best.clone(), "step_00000056".into(), "step_00000060".into(), "latest".into(), "best".into()];
    expected.sort();
    expected.dedup();
    assert_eq!(run.checkpoints(), expected);
    let pointer = |name: &str| fs::read_to_string(run.0.join("checkpoints").join(name)).unwrap();
    assert_eq!((pointer("best").trim(), pointer("latest").trim()), (best.as_str(), "step_00000060"));
}

fn metrics(run: &Run) {
    let text = fs::read_to_string(run.0.join("metrics.jsonl")).unwrap();
    assert!(text.ends_with('\n'));
    let lines = run.metrics();
    assert_eq!(lines.len(), text.lines().count());
    let (train, eval): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line["kind"] == "train");
    let steps: Vec<u64> = train.iter().filter_map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, [&[1][..], &(1..=12).map(|k| 5 * k).collect::<Vec<u64>>()].concat());
    for line in train {
        let expected = "kind step epoch loss weight coef grad_norm conflict_rate update_norm lr time_ms samples_per_s \
                        bytes_per_step skipped";
        // A checkpoint every 4 steps holds training up before each line but the first.
        let held = if line["step"] == 1 { "" } else { " checkpoint_ms" };
        assert_eq!(keys(line).join(" "), format!("{expected}{held} ranks"));
        for field in ["loss", "weight", "coef", "grad_norm"] {
            assert_eq!(keys(&line[field]), ["a", "b", "r", "m"]);
            assert!(line[field].as_object().unwrap().values().all(Value::is_number), "{line}");
        }
        assert!(line["bytes_per_step"].as_u64().is_some_and(|bytes| bytes > 0));
    }
    let val: Vec<u64> = eval.iter().filter(|l| l["split"] == "val").filter_map(|l| l["step"].as_u64()).collect();
    assert_eq!(val, [10, 20, 30, 40, 50, 60]);
    assert!(eval.iter().any(|l| l["split"] == "test" && l["step"] == 60));
    for line in eval {
        assert_eq!(keys(line), ["kind", "step", "epoch", "split", "metrics", "score", "best", "seconds"]);
        assert_eq!(keys(&line["metrics"]["r"]), ["rmse", "r2"]);
    }
}
