//! One huge GPU: a step on `W` ranks is the step of one rank on the concatenated batch, for every balancing method,
//! both reductions, uneven slices, ranks without a sample of some task, and missing labels; and all replicas keep the
//! same bits.

use polytask::comm::{Collective, Number, Solo, Threads};
use polytask::config::{self, Config};
use polytask::data::{Batch, InputDims, Inputs, Part, Target};
use polytask::ffi::{TorchReal, numbers};
use polytask::model::{Model, TaskSpec};
use polytask::rng::{Stream, rng};
use polytask::step::losses;
use polytask::train::Learner;
use polytask::world::World;
use rand::RngExt;
use tch::{Device, Kind, Tensor};

const DIM: usize = 6;
const CLASSES: i64 = 3;
const STEPS: u64 = 4;

/// Every balancing choice; a new method is a new row.
const BALANCE: &[&str] = &[
    "{weighting: equal, surgery: none}",
    "{weighting: {fixed: {b: 0.25, c: 3.0}}, surgery: none}",
    "{weighting: {fixed: {b: 0.25, c: 3.0}}, surgery: none, scale_heads: false}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: none}",
    "{weighting: equal, surgery: pcgrad}",
    "{weighting: {fixed: {b: 0.25, c: 3.0}}, surgery: pcgrad}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad, scale_heads: true}",
    "{surgery: pcgrad, smoothing: 0.5}",
    "{weighting: {uncertainty: {lr: 0.1}}, smoothing: 0.5}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad, every: 2}",
    "{surgery: pcgrad, scope: per_layer_group}",
    "{surgery: pcgrad, gradients: representation}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad, gradients: representation, every: 3}",
];

/// Balancing on the representation wants all tasks on one source: their gradients meet at samples.
fn one_source(balance: &config::Balance) -> bool {
    balance.gradients == config::Gradients::Representation
}

fn config(balance: &str, optim: &str, reduction: &str) -> Config {
    let two = if balance.contains("representation") { "one" } else { "two" };
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
balance: {balance}
optim: {optim}
comm: {{reduction: {reduction}}}
"
    );
    config::load_str("test.yaml", &text, &[]).unwrap_or_else(|e| panic!("{e}"))
}

/// The samples of one source in one global batch.
struct Samples {
    x: Vec<f32>,
    y: Vec<Vec<f32>>,
    n: usize,
}

/// Two sources of 7 and 5 samples: no `W` of 2, 3 or 4 divides both. A quarter of the labels is missing; in step 2 the
/// second source has a single sample, so most ranks have none of its tasks.
fn global_batch(step: u64) -> [Samples; 2] {
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
fn slice(step: u64, world: World, accumulate: usize, balance: &config::Balance) -> Vec<Batch> {
    let samples = global_batch(step);
    let one_source = one_source(balance);
    let independent = balance.independent_batches();
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

fn part(source: usize, s: &Samples, rows: std::ops::Range<usize>, one_source: bool) -> Option<Part> {
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

fn learner<F: TorchReal + Number>(config: &Config, comm: &dyn Collective) -> Learner<F> {
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
    let model = Model::build(&config.model, &dims, &tasks, precision, Device::Cpu, 3, size).unwrap();
    let losses = config.tasks.iter().map(|(_, t)| losses::build(&t.kind)).collect();
    Learner::new(config, 2, model, losses, comm)
}

/// Parameters by name after some steps, and the coefficients of the last one.
fn train<F: TorchReal + Number>(config: &Config, comm: &dyn Collective, accumulate: usize) -> (Vec<Vec<F>>, Vec<f64>) {
    let mut learner = learner::<F>(config, comm);
    let mut coef = Vec::new();
    for step in 0..STEPS {
        let report = learner.step(step, 0.05, &slice(step, comm.world(), accumulate, &config.balance), comm).unwrap();
        assert_eq!(report.refused, None);
        coef = report.coefficients.mean().unwrap_or_default();
    }
    let flat = numbers::<F>(&learner.model.params.flat);
    (learner.model.params.entries.iter().map(|e| flat[e.range.clone()].to_vec()).collect(), coef)
}

fn flatten<F: TorchReal>(params: &[Vec<F>]) -> Vec<f64> {
    params.iter().flatten().map(|x| x.to_f64()).collect()
}

/// Largest difference relative to the length of the update.
fn distance(a: &[f64], b: &[f64], start: &[f64]) -> f64 {
    let update = a.iter().zip(start).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt() / update
}

fn check<F: TorchReal + Number>(tolerance: f64) {
    tch::set_num_threads(1);
    for balance in BALANCE {
        for optim in ["{sgd: {momentum: 0.9, weight_decay: 0.01}}", "{sgd: {clip_norm: 0.05}}"] {
            let start = {
                let config = config(balance, optim, "sharded");
                let learner = learner::<F>(&config, &Solo);
                let flat = numbers::<F>(&learner.model.params.flat);
                let params: Vec<Vec<F>> =
                    learner.model.params.entries.iter().map(|e| flat[e.range.clone()].to_vec()).collect();
                flatten(&params)
            };
            let (alone, coef) = train::<F>(&config(balance, optim, "sharded"), &Solo, 1);
            let alone = flatten(&alone);
            assert!(alone.iter().all(|x| x.is_finite()));
            for reduction in ["sharded", "all_reduce"] {
                let config = config(balance, optim, reduction);
                for (size, accumulate) in [(1, 3), (2, 1), (3, 1), (4, 1), (2, 2)] {
                    let ranks = Threads::run(size, |comm| train::<F>(&config, &comm, accumulate));
                    for (rank, (params, c)) in ranks.iter().enumerate() {
                        let what =
                            format!("{balance} {optim} {reduction} W={size} accumulate={accumulate} rank {rank}");
                        assert!(*params == ranks[0].0, "replicas differ: {what}");
                        let d = distance(&alone, &flatten(params), &start);
                        assert!(d <= tolerance, "{what}: {d:e}");
                        let difference = c.iter().zip(&coef).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                        assert!(difference <= 1e3 * tolerance, "{what}: coefficients {c:?} {coef:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn w_ranks_equal_one_rank_in_f64() {
    check::<f64>(1e-12);
}

#[test]
fn w_ranks_equal_one_rank_in_f32() {
    check::<f32>(1e-5);
}

#[test]
fn adam_keeps_replicas_identical() {
    // Adam divides by the root of squared gradients, which blows rounding up where a gradient is nearly zero: replicas
    // must have the same bits all the same, and the sharded optimizer must equal the whole one.
    tch::set_num_threads(1);
    for reduction in ["sharded", "all_reduce"] {
        let config =
            config("{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}", "{adamw: {weight_decay: 0.1}}", reduction);
        let (alone, _) = train::<f64>(&config, &Solo, 1);
        for size in 2..=4 {
            let ranks = Threads::run(size, |comm| train::<f64>(&config, &comm, 1).0);
            assert!(ranks.iter().all(|r| *r == ranks[0]));
            let (a, b) = (flatten(&alone), flatten(&ranks[0]));
            let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-9, "{reduction} W={size}: {worst:e}");
        }
    }
}
