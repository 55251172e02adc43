//! A folder with data and a configuration, and what runs leave in it.

use crate::process::{self, Job, Output};
use polytask::checkpoint::{self, Floats, NamedTensor, Snapshot};
use polytask::config::{self, Config};
use polytask::rng::{Stream, rng};
use rand::RngExt;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A temporary folder with two sources, four tasks on them, and `config.yaml`.
pub struct Sandbox(tempfile::TempDir);

const CONFIG: &str = "
run: {name: test, seed: 3}
data:
  root: ROOT
  sources:
    one:
      csv:
        <<: &columns {split: {fraction: {val: 0.2}}, numeric: [x1, x2, x3, x4], categorical: [c]}
        train: one.csv
        test: one_test.csv
    two: {csv: {<<: *columns, train: two.csv, test: two_test.csv}}
tasks:
  a: {source: one, target: a, kind: binary, metrics: [auc, accuracy]}
  b: {source: one, target: b, kind: multiclass, metrics: [accuracy, mcc]}
  r: {source: two, target: r, kind: {regression: {loss: huber}}, metrics: [rmse, r2], head: {stage: 0}}
  m: {source: two, target: [m1, m2], kind: multilabel, metrics: [auc, accuracy], head: {widths: [4]}}
batch: {per_task: 17} # neither 2 nor 3 nor 4 ranks divide it
model: {encoder: {mlp: {widths: [16, 8]}}}
optim: {sgd: {lr: 0.1}}
train: {steps: 6, eval_every_epochs: 0, replica_check_every: 1}
log: {every: 1, tensorboard: false}
";

/// Rows of `one_test.csv` and of `two_test.csv`.
pub const TEST_ROWS: [usize; 2] = [53, 41];

impl Sandbox {
    pub fn new() -> Self {
        let sandbox = Sandbox(tempfile::tempdir().expect("a temporary folder"));
        let root = sandbox.path("").display().to_string();
        sandbox.write("config.yaml", &CONFIG.replace("ROOT", &format!("{root:?}")));
        sandbox.write("one.csv", &table(1, 240));
        sandbox.write("two.csv", &table(2, 150));
        sandbox.write("one_test.csv", &table(3, TEST_ROWS[0]));
        sandbox.write("two_test.csv", &table(4, TEST_ROWS[1]));
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file in a temporary folder");
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The configuration with overrides, as the program resolves it.
    pub fn config(&self, set: &[&str]) -> Config {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        config::load(&self.path("config.yaml"), &set).unwrap_or_else(|e| panic!("{e}"))
    }

    /// `polytask WORDS`, split at blanks.
    #[track_caller]
    pub fn polytask(&self, ranks: usize, words: &str) -> Output {
        let args: Vec<String> = words.split_whitespace().map(str::to_string).collect();
        process::run(self.0.path(), ranks, &args)
    }

    /// A line of bash, in which `$polytask` is the program.
    #[track_caller]
    pub fn shell(&self, line: &str) -> Output {
        process::shell(self.0.path(), line)
    }

    /// Starts training into the run directory `runs/RUN`.
    pub fn start(&self, ranks: usize, run: &str, set: &[&str]) -> Job {
        process::start(self.0.path(), ranks, &train_args(run, set))
    }

    /// Trains to the end, which must be a good one.
    #[track_caller]
    pub fn train(&self, ranks: usize, run: &str, set: &[&str]) -> Run {
        self.start(ranks, run, set).wait().exits_with(0);
        self.run(run)
    }

    pub fn run(&self, name: &str) -> Run {
        Run(self.path("runs").join(name))
    }

    /// Every file below the folder with its size, in order.
    pub fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(self.0.path(), &mut found);
        found.sort();
        found
    }
}

fn list(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let length = entry.metadata().expect("a file").len();
        found.push(format!("{} {length}", entry.path().display()));
        if entry.path().is_dir() {
            list(&entry.path(), found);
        }
    }
}

/// Arguments of a training run.
pub fn train_args(run: &str, set: &[&str]) -> Vec<String> {
    let mut args: Vec<String> =
        vec!["train".into(), "config.yaml".into(), "--set".into(), format!("run.dir=runs/{run}")];
    for value in set {
        args.extend(["--set".to_string(), value.to_string()]);
    }
    args
}

/// Rows whose labels follow from the inputs, more or less; one label of `a` and `m1` in four is missing.
fn table(seed: u64, rows: usize) -> String {
    let mut rng = rng(seed, Stream::Recipe, 0, 0);
    let mut text = "x1,x2,x3,x4,c,a,b,r,m1,m2\n".to_string();
    for _ in 0..rows {
        let x: [f64; 4] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
        let c = rng.random_range(0..3usize);
        let mut noise = || rng.random_range(-0.3..0.3);
        let a = x[0] + 0.5 * x[1] + noise() > 0.2;
        let b = ["blue", "green", "red"][((x[1] - x[2] + noise() + 2.3) / 1.6).clamp(0.0, 2.0) as usize];
        let r = 10.0 + 3.0 * x[0] - 2.0 * x[3] + c as f64 + noise();
        let (m1, m2) = (x[2] + noise() > 0.0, x[3] - x[0] + noise() > 0.4);
        let mut maybe = |label: bool| if rng.random_bool(0.25) { String::new() } else { u8::from(label).to_string() };
        let (a, m1) = (maybe(a), maybe(m1));
        let x = x.map(|x| format!("{x:.4}")).join(",");
        text += &format!("{x},{},{a},{b},{r:.4},{m1},{}\n", ["p", "q", "s"][c], u8::from(m2));
    }
    text
}

/// A run directory.
pub struct Run(pub PathBuf);

impl Run {
    pub fn json(&self, name: &str) -> Value {
        let path = self.0.join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Lines of `metrics.jsonl`; none before there is one. A line that is being written is left out.
    pub fn metrics(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.0.join("metrics.jsonl")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The last step in `metrics.jsonl`.
    pub fn last_step(&self) -> u64 {
        self.metrics().last().and_then(|line| line["step"].as_u64()).unwrap_or(0)
    }

    /// What the latest checkpoint holds.
    pub fn latest(&self) -> Snapshot {
        let found = checkpoint::latest(&self.0.join("checkpoints")).unwrap_or_else(|e| panic!("{e}"));
        let found = found.unwrap_or_else(|| panic!("{} holds no checkpoint", self.0.display()));
        assert_eq!(found.warnings, Vec::<String>::new());
        found.snapshot
    }

    /// Names in `checkpoints/`, in order.
    pub fn checkpoints(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("checkpoints")).expect("a folder of checkpoints").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Without what no two runs have in common: times.
pub fn timeless(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let times = ["seconds", "time_ms", "samples_per_s", "checkpoint_ms", "ranks"];
            let kept = map.iter().filter(|(key, _)| !times.contains(&key.as_str()));
            Value::Object(kept.map(|(key, value)| (key.clone(), timeless(value))).collect())
        }
        Value::Array(list) => list.iter().map(timeless).collect(),
        other => other.clone(),
    }
}

/// Values of a tensor as `f64`.
pub fn values(tensor: &NamedTensor) -> Vec<f64> {
    match &tensor.data {
        Floats::F32(values) => values.iter().map(|&x| f64::from(x)).collect(),
        Floats::F64(values) => values.clone(),
    }
}

/// Bits of a tensor, to tell apart what compares as equal.
pub fn bits(tensor: &NamedTensor) -> Vec<u64> {
    match &tensor.data {
        Floats::F32(values) => values.iter().map(|x| u64::from(x.to_bits())).collect(),
        Floats::F64(values) => values.iter().map(|x| x.to_bits()).collect(),
    }
}
