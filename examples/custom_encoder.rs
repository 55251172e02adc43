//! An encoder and a loss of your own, trained from Rust: no YAML, no files, no launcher.
//!
//! Two tasks on points of a square: `height`, a wavy surface to predict, with a third of its labels missing; and `ridge`,
//! the rare points where the surface is high. The encoder is a residual network on learned Fourier features; `ridge` has
//! a focal loss. Uncertainty weighting and PCGrad balance them. The same run on one rank and on two (threads of this
//! process) gives the same model:
//!
//! ```text
//! cargo run --release --example custom_encoder
//! ```

use polytask::comm::{Collective, Solo, Threads};
use polytask::config::{Adam, Balance, Decay, GramFrom, Head, NonFinite, Optim, Reduction, Schedule};
use polytask::config::{RegressionLoss, Surgery, Uncertainty, Weighting};
use polytask::data::{Batch, Inputs, Part, Target};
use polytask::model::{Encoder, Init, Model, ParamBuilder, TaskSpec};
use polytask::optim;
use polytask::rng::{Stream, rng};
use polytask::step::losses::{Regression, TaskLoss};
use polytask::step::{forward, probe_scopes};
use polytask::train::{Compute, Learner, Recipe, StepReport};
use rand::RngExt;
use std::error::Error;
use std::f64::consts::PI;
use tch::{Device, Kind, Reduction as Sum, Tensor};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SEED: u64 = 1;
const STEPS: u64 = 400;
/// Points of a global step: two ranks get 127 and 128 of them.
const BATCH: usize = 255;
const PEAK_LR: f64 = 3e-3;

/// `z0 = [sin(F x), cos(F x)]`, then blocks `z <- z + gelu(A z + b)`; every block is a stage.
struct Fourier {
    frequencies: Tensor,
    blocks: Vec<(Tensor, Tensor)>,
    widths: Vec<usize>,
}

impl Fourier {
    /// An encoder of points with `dim` coordinates. `builder` keeps the parameters: it gives them their place in the flat
    /// buffer, their initial values (from the seed alone) and their names in checkpoints.
    fn new(dim: usize, features: usize, n_blocks: usize, builder: &mut ParamBuilder) -> Self {
        let width = 2 * features;
        builder.stage(0); // what follows is reached by every task whose head sits at stage 0 or later
        let frequencies = builder.param("encoder.frequencies", &[features, dim], Init::Normal(2.0 * PI));
        let mut blocks = Vec::new();
        for k in 0..n_blocks {
            builder.stage(k);
            blocks.push(builder.dense(&format!("encoder.blocks.{k}"), &[width, width]));
        }
        Fourier { frequencies, blocks, widths: vec![width; n_blocks] }
    }
}

impl Encoder for Fourier {
    fn widths(&self) -> &[usize] {
        &self.widths
    }

    fn forward(&self, inputs: &Inputs, _train: bool) -> Vec<Tensor> {
        let Some(x) = &inputs.dense else { return Vec::new() };
        let angles = x.to_kind(self.frequencies.kind()).matmul(&self.frequencies.tr());
        let mut z = Tensor::cat(&[angles.sin(), angles.cos()], 1);
        let block = |(weight, bias): &(Tensor, Tensor)| {
            z = &z + z.linear(weight, Some(bias)).gelu("none");
            z.shallow_clone()
        };
        self.blocks.iter().map(block).collect()
    }
}

/// Focal loss, `(1 - p)^2 * -log p` of the true class's probability `p`: easy samples count less (Lin et al., 2017).
///
/// A loss gives the **sum** over the labels that are there. Their number over all ranks divides it later; the default
/// `count` (the number of labels) is right here.
struct Focal;

impl TaskLoss for Focal {
    fn sum(&self, output: &Tensor, target: &Target) -> Tensor {
        let labels = target.values.to_kind(output.kind());
        let cross_entropy = output.binary_cross_entropy_with_logits(&labels, None::<Tensor>, None::<Tensor>, Sum::None);
        let hard: Tensor = 1.0 - (-&cross_entropy).exp();
        let loss = hard.square() * cross_entropy;
        match &target.mask {
            Some(mask) => (loss * mask.to_kind(output.kind())).sum(output.kind()),
            None => loss.sum(output.kind()),
        }
    }

    fn predict(&self, output: &Tensor) -> Tensor {
        output.sigmoid()
    }
}

fn tasks() -> Vec<TaskSpec> {
    let task = |name: &str, head| TaskSpec { name: name.into(), outputs: 1, head };
    // `height` from the last stage, `ridge` from the one before, through a hidden layer.
    let ridge = Head { widths: vec![16], stage: Some(1), ..Head::default() };
    vec![task("height", Head::default()), task("ridge", ridge)]
}

fn losses() -> Vec<Box<dyn TaskLoss>> {
    vec![Box::new(Regression::new(RegressionLoss::Huber, 1.0)), Box::new(Focal)]
}

/// This rank's slice of the global batch of a step. The batch is a function of the step: any number of ranks cuts up the
/// same points.
fn batch(step: u64, comm: &dyn Collective) -> Batch {
    let mut rng = rng(SEED, Stream::Recipe, step, 0);
    let mut draw = || (rng.random_range(-1.0..1.0f32), rng.random_range(-1.0..1.0f32), rng.random_bool(0.67));
    let points: Vec<(f32, f32, bool)> = (0..BATCH).map(|_| draw()).collect();
    let mine = &points[comm.world().slice(BATCH)];

    let n = mine.len();
    let column = |values: Vec<f32>| Tensor::from_slice(&values).reshape([n as i64, 1]);
    let height = |&(x, y, _): &(f32, f32, bool)| (6.0 * x).sin() + (4.0 * y).cos() * x;
    let known: Vec<f32> = mine.iter().map(|p| f32::from(u8::from(p.2))).collect();
    let heights = Target {
        task: 0,
        values: column(mine.iter().map(|p| if p.2 { height(p) } else { 0.0 }).collect()),
        n_labelled: mine.iter().filter(|p| p.2).count(),
        mask: Some(column(known)),
    };
    let ridge = column(mine.iter().map(|p| f32::from(u8::from(height(p) > 1.2))).collect());
    let ridges = Target { task: 1, values: ridge, mask: None, n_labelled: n };
    let xy: Vec<f32> = mine.iter().flat_map(|&(x, y, _)| [x, y]).collect();
    let dense = Some(Tensor::from_slice(&xy).reshape([n as i64, 2]));
    let inputs = Inputs { dense, categorical: None, tokens: None, image: None };
    Batch { parts: vec![Part { source: 0, len: n, inputs, targets: vec![heights, ridges] }] }
}

type Named = (String, Vec<f64>);

/// Parameters by name, and the reports of the first and the last step.
struct Trained {
    params: Vec<Named>,
    first: StepReport,
    last: StepReport,
}

fn train(comm: &dyn Collective) -> Result<Trained> {
    tch::set_num_threads(1);
    let tasks = tasks();
    let size = comm.world().size;
    let model = Model::assemble(&tasks, Kind::Double, Device::Cpu, SEED, size, |builder| {
        Ok(Box::new(Fourier::new(2, 16, 3, builder)))
    })?;
    let losses = losses();
    // One backward per task proves that what the encoder declared with `stage` is what its graph does.
    probe_scopes(&model.params, &forward(&model, &losses, &batch(0, comm), &vec![true; losses.len()], true).terms)?;

    let recipe = Recipe {
        tasks: tasks.into_iter().map(|task| task.name).collect(),
        seed: SEED,
        steps_per_epoch: 1,
        balance: Balance {
            weighting: Weighting::Uncertainty(Uncertainty::default()),
            surgery: Surgery::Pcgrad,
            ..Balance::default()
        },
        optim: Optim::Adamw(Adam::default()),
        reduction: Reduction::Sharded,
        gram: GramFrom::Exact,
        compute: Compute::default(),
        non_finite: NonFinite::Stop,
        spike: None,
    };
    let schedule = Schedule::Cosine(Decay { warmup: 20, floor: 0.01 });
    let mut learner = Learner::<f64>::assemble(recipe, model, losses, comm);
    let mut first = None;
    let last = loop {
        let step = learner.optimizer.updates;
        let lr = optim::lr(&schedule, PEAK_LR, step, STEPS);
        let report = learner.step(step, lr, &[batch(step, comm)], comm)?;
        if let Some(refusal) = report.refused {
            return Err(format!("step {step}: {refusal}").into());
        }
        if step + 1 == STEPS {
            break report;
        }
        first.get_or_insert(report);
    };
    learner.settle()?;
    let values = |tensor: &Tensor| Vec::<f64>::try_from(tensor.detach().reshape([-1]));
    let entries = learner.model.params.entries.iter();
    let params = entries.map(|e| Ok((e.name.clone(), values(&e.tensor)?))).collect::<Result<_>>()?;
    Ok(Trained { params, first: first.ok_or("a single step")?, last })
}

/// Largest difference between two models, and the parameter where it is.
fn difference<'a>(a: &'a Trained, b: &Trained) -> (f64, &'a str) {
    let largest = |((name, x), (_, y)): (&'a Named, &Named)| {
        let d = x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        (d, name.as_str())
    };
    a.params.iter().zip(&b.params).map(largest).max_by(|x, y| x.0.total_cmp(&y.0)).unwrap_or((0.0, "nothing"))
}

fn main() -> Result<()> {
    let alone = train(&Solo)?;
    let ranks: Vec<Trained> = Threads::run(2, |comm| train(&comm)).into_iter().collect::<Result<_>>()?;

    let (first, last) = (&alone.first, &alone.last);
    println!("task      loss at step 1  at step {STEPS}  weight  coefficient");
    for (t, task) in tasks().iter().enumerate() {
        let loss = |report: &StepReport| report.losses[t].unwrap_or(f64::NAN);
        let (weight, coef) = (last.weights[t], last.coefficients.mean().map_or(f64::NAN, |c| c[t]));
        println!("{:<8} {:>15.4} {:>12.5} {weight:>7.2} {coef:>12.2}", task.name, loss(first), loss(last));
    }
    if let Some(gram) = &first.gram {
        println!("cosine of the two task gradients at step 1: {:+.3}", gram.cosines()[1]);
    }
    let (between, _) = difference(&ranks[0], &ranks[1]);
    let (apart, name) = difference(&alone, &ranks[0]);
    println!("two ranks: largest difference between their replicas {between:e}");
    println!("one rank against two, after {STEPS} steps: largest difference {apart:.1e} (in {name})");
    if between == 0.0 && apart < 1e-6 { Ok(()) } else { Err("the runs do not agree".into()) }
}
