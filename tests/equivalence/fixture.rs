//! A small model on two sources, made so that everything uneven occurs: batches that `W` does not divide, ranks without a
//! sample of some task, missing labels, heads at two stages.

use polytask::comm::{Collective, Number};
use polytask::config::{self, Config};
use polytask::data::{Batch, Fitted, InputDims, Inputs, Part, Target};
use polytask::ffi::TorchReal;
use polytask::model::{Model, TaskSpec};
use polytask::rng::{Stream, rng};
use polytask::step::losses::{self, TaskLoss};
use polytask::train::persist::About;
use polytask::train::{Learner, Progress};
use polytask::world::World;
use rand::RngExt;
use tch::{Device, Kind, Tensor};

pub const DIM: usize = 6;
pub const CLASSES: i64 = 3;

/// Whether all tasks are on one source, as balancing on the representation wants it: gradients meet at samples.
pub fn one_source(config: &Config) -> bool {
    config.tasks.iter().all(|(_, task)| task.source == config.tasks[0].1.source)
}

/// The configuration of these choices.
pub fn config(balance: &str, optim: &str, reduction: &str) -> Config {
    config_on(balance.contains("representation"), balance, optim, reduction)
}

/// As [`config`], with all tasks on one source, or on two.
pub fn config_on(one_source: bool, balance: &str, optim: &str, reduction: &str) -> Config {
    let two = if one_source { "one" } else { "two" };
    let accumulate = match balance {
        _ if balance.contains("sdmgrad") || balance.contains("modo") => 3,
        _ if balance.contains("auto_lambda") => 2,
        _ => 1,
    };
    let text = format!(
        "run: {{name: test, seed: 3}}
data: {{sources: {{one: {{csv: {{train: one.csv, numeric: [x]}}}}, two: {{csv: {{train: two.csv, numeric: [x]}}}}}}}}
tasks:
  a: {{source: one, target: a, kind: {{binary: {{}}}}}}
  b: {{source: one, target: b, kind: {{multiclass: {{class_weights: [1.0, 2.0, 0.5], label_smoothing: 0.1}}}}}}
  c: {{source: {two}, target: c, kind: {{regression: {{loss: huber}}}}, head: {{stage: 0, widths: [4]}}}}
  d: {{source: {two}, target: [d, e], kind: {{multilabel: {{}}}}}}
model: {{encoder: {{mlp: {{widths: [8, 5]}}}}}}
train: {{steps: 10}}
batch: {{accumulate: {accumulate}}}
balance: {balance}
optim: {optim}
comm: {{reduction: {reduction}}}
"
    );
    config::load_str("test.yaml", &text, &[]).unwrap_or_else(|e| panic!("{e}"))
}

/// The samples of one source in one global batch.
pub struct Samples {
    x: Vec<f32>,
    y: Vec<Vec<f32>>,
    n: usize,
}

/// Two sources of 7 and 5 samples: no `W` of 2, 3 or 4 divides both. A quarter of the labels is missing; in step 2 the
/// second source has a single sample, so most ranks have none of its tasks.
pub fn global_batch(step: u64) -> [Samples; 2] {
    let mut rng = rng(9, Stream::Recipe, step, 0);
    [7, if step == 2 { 1 } else { 5 }].map(|n| {
        let x = (0..n * DIM).map(|_| rng.random_range(-1.0..1.0f32)).collect();
        let y = (0..3)
            .map(|_| {
                (0..n).map(|_| if rng.random_bool(0.25) { f32::NAN } else { rng.random_range(-1.0..1.0) }).collect()
            })
            .collect();
        Samples { x, y, n }
    })
}

/// The part of a rank, cut into micro-batches.
pub fn slice(step: u64, world: World, accumulate: usize, config: &Config) -> Vec<Batch> {
    let samples = global_batch(step);
    let one_source = one_source(config);
    let independent = config.balance.independent_batches();
    let micros = (0..independent).flat_map(|b| (0..accumulate).map(move |k| (b, k)));
    micros
        .map(|(b, k)| {
            let of = |rank, size| World { rank, size, ..World::SOLO };
            let parts = samples.iter().enumerate().filter(|(source, _)| !one_source || *source == 0);
            let parts = parts.filter_map(|(source, s)| {
                let batch = of(b, independent).slice(s.n);
                let mine = world.slice(batch.len());
                let inner = of(k, accumulate).slice(mine.len());
                let start = batch.start + mine.start;
                part(source, s, start + inner.start..start + inner.end, one_source)
            });
            Batch { parts: parts.collect() }
        })
        .collect()
}

pub fn part(source: usize, s: &Samples, rows: std::ops::Range<usize>, one_source: bool) -> Option<Part> {
    let n = rows.len();
    if n == 0 {
        return None;
    }
    let dense = Tensor::from_slice(&s.x[rows.start * DIM..rows.end * DIM]).reshape([n as i64, DIM as i64]);
    let column = |k: usize| &s.y[k][rows.clone()];
    let masked = |task: usize, columns: &[usize], value: fn(f32) -> f32| {
        let pick = |f: &dyn Fn(f32) -> f32| -> Vec<f32> {
            (0..n).flat_map(|i| columns.iter().map(move |&k| (i, k))).map(|(i, k)| f(column(k)[i])).collect()
        };
        let shape = [n as i64, columns.len() as i64];
        let mask = pick(&|y| if y.is_nan() { 0.0 } else { 1.0 });
        let values = pick(&|y| if y.is_nan() { 0.0 } else { value(y) });
        let n_labelled = mask.chunks(columns.len()).filter(|m| m.iter().any(|&x| x > 0.0)).count();
        let mask = (mask.contains(&0.0)).then(|| Tensor::from_slice(&mask).reshape(shape));
        Target { task, values: Tensor::from_slice(&values).reshape(shape), mask, n_labelled }
    };
    let positive = |y: f32| f32::from(u8::from(y > 0.0));
    let classes = |task: usize, k: usize| {
        let class = |y: &f32| if y.is_nan() { -100 } else { ((y + 1.0) / 2.0 * CLASSES as f32) as i64 };
        let values: Vec<i64> = column(k).iter().map(class).collect();
        let n_labelled = values.iter().filter(|&&c| c >= 0).count();
        Target { task, values: Tensor::from_slice(&values), mask: None, n_labelled }
    };
    let mut targets = Vec::new();
    if source == 0 {
        targets.extend([masked(0, &[0], positive), classes(1, 1)]);
    }
    if source == 1 || one_source {
        targets.extend([masked(2, &[0], |y| y), masked(3, &[1, 2], positive)]);
    }
    let inputs = Inputs { dense: Some(dense), categorical: None, tokens: None, image: None };
    Some(Part { source, len: n, inputs, targets })
}

/// What a checkpoint of this fixture says of its run.
pub fn about<'a>(config: &'a Config, fitted: &'a Fitted, progress: &'a Progress) -> About<'a> {
    About { config, fitted, progress, source_sizes: &[] }
}

pub fn nothing_fitted() -> Fitted {
    let empty = r#"{"numeric":[],"dense":[],"bits":[],"categorical":[],"text":null,"image":null,"tasks":[]}"#;
    serde_json::from_str(empty).unwrap()
}

pub fn learner<F: TorchReal + Number>(config: &Config, comm: &dyn Collective) -> Learner<F> {
    let losses = config.tasks.iter().map(|(_, t)| losses::build(&t.kind)).collect();
    learner_of(config, losses, comm)
}

/// As [`learner`], with losses of the test's own.
pub fn learner_of<F: TorchReal + Number>(
    config: &Config,
    losses: Vec<Box<dyn TaskLoss>>,
    comm: &dyn Collective,
) -> Learner<F> {
    let outputs = [1, CLASSES as usize, 1, 2];
    let spec = |((name, task), outputs): (&(String, config::Task), usize)| TaskSpec {
        name: name.clone(),
        outputs,
        head: task.head.clone(),
    };
    let tasks: Vec<TaskSpec> = config.tasks.iter().zip(outputs).map(spec).collect();
    let dims = InputDims { dense: DIM, categories: vec![], vocab: 0, image: None };
    let precision = if F::KIND == Kind::Double { config::Precision::F64 } else { config::Precision::F32 };
    let size = comm.world().size;
    let model =
        Model::build(&config.model, &dims, &tasks, precision, Device::Cpu, 3, size, config.comm.bucket()).unwrap();
    Learner::new(config, 2, model, losses, comm)
}
