//! Rows of gradients on which sketches are judged: made up with a known structure, and those of a real model.

use polytask::comm::Solo;
use polytask::config::load;
use polytask::data::{Loader, LoaderOptions};
use polytask::rng::{Stream, rng};
use polytask::step::{Grads, SharedRows, forward, task_grads};
use polytask::train::{Learner, setup};
use polytask::world::World;
use rand::RngExt;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, TchError};

/// Parameters of the rows that are made up.
pub const P: usize = 1 << 20;
/// Steps of training before the gradients of the real model are taken.
const STEPS: u64 = 30;

/// Gradients of some tasks, `[T, P]`.
pub struct Case {
    /// Structure.
    pub name: &'static str,
    /// A row per task.
    pub rows: Vec<Vec<f32>>,
}

/// Makes the rows of so many tasks.
type Make = fn(usize) -> Vec<Vec<f32>>;

/// The structures, by name.
pub const STRUCTURES: [(&str, Make); 5] = [
    ("random", random),
    ("conflicting", conflicting),
    ("one long", one_long),
    ("low rank", low_rank),
    ("nearly stationary", nearly_stationary),
];

/// Independent rows: all cosines near 0, which is what large networks show most of the time.
fn random(n_tasks: usize) -> Vec<Vec<f32>> {
    (0..n_tasks).map(noise).collect()
}

/// Half of the tasks pull against the other half: cosines of about 0.8 and -0.8.
fn conflicting(n_tasks: usize) -> Vec<Vec<f32>> {
    let common = noise(1000);
    (0..n_tasks).map(|t| mixed(&[(if t % 2 == 0 { 1.0 } else { -1.0 }, &common), (0.5, &noise(t))])).collect()
}

/// Independent rows, the first of them a hundred times as long.
fn one_long(n_tasks: usize) -> Vec<Vec<f32>> {
    let mut rows = random(n_tasks);
    rows[0].iter_mut().for_each(|x| *x *= 100.0);
    rows
}

/// Combinations of two vectors: a common one, and another with factors from -2 to 2. Many pairs conflict, and all have
/// a descent direction in common.
fn low_rank(n_tasks: usize) -> Vec<Vec<f32>> {
    let (common, other) = (noise(2000), noise(2001));
    let mut draw = rng(3, Stream::Init, 0, 0);
    (0..n_tasks).map(|_| mixed(&[(1.0, &common), (draw.random_range(-2.0..2.0), &other)])).collect()
}

/// Near the Pareto front: what the tasks have in common is a twentieth of each gradient, the rest adds up to zero.
fn nearly_stationary(n_tasks: usize) -> Vec<Vec<f32>> {
    let (common, mut rows) = (noise(3000), random(n_tasks));
    for i in 0..P {
        let mean = rows.iter().map(|row| row[i]).sum::<f32>() / n_tasks as f32;
        rows.iter_mut().for_each(|row| row[i] += 0.05 * common[i] - mean);
    }
    rows
}

/// Numbers between -1 and 1 whose size changes from one stretch of 4096 to the next by a factor of up to 100, as that of
/// gradients does from layer to layer. The stretches are the same for all rows.
fn noise(number: usize) -> Vec<f32> {
    let mut scales = rng(1, Stream::Recipe, 0, 0);
    let mut draw = rng(1, Stream::Init, number as u64, 0);
    let mut scale = 1.0;
    (0..P)
        .map(|i| {
            if i % 4096 == 0 {
                scale = 10f32.powf(scales.random_range(-1.0..1.0));
            }
            scale * draw.random_range(-1.0..1.0f32)
        })
        .collect()
}

fn mixed(parts: &[(f32, &Vec<f32>)]) -> Vec<f32> {
    (0..P).map(|i| parts.iter().map(|(factor, row)| factor * row[i]).sum()).collect()
}

/// The 12 task gradients of the model of `configs/tox21.yaml` (a shared MLP on 1024 inputs) on one batch, after a few
/// steps of training.
///
/// # Errors
/// If the data is not there.
pub fn tox21() -> Result<Case, Box<dyn Error>> {
    let config = load(Path::new("configs/tox21.yaml"), &["train.device=cpu".into()])?;
    let dataset = Arc::new(setup::open_data(&config, None, &Solo)?);
    let mut learner: Learner<f32> = setup::build_learner(&config, &dataset, Device::Cpu, &Solo)?;
    let options = LoaderOptions { prefetch: 0, ..LoaderOptions::of(&config, World::SOLO, Device::Cpu) };
    let mut loader = Loader::new(dataset.clone(), dataset.sampler(&config)?, options)?;
    for step in 0..STEPS {
        learner.step(step, 1e-3, &loader.next()?.0, &Solo)?;
    }
    let n_tasks = learner.losses.len();
    let params = &learner.model.params;
    let mut grads = Grads::zero(SharedRows::Tasks { batches: 1 }, params);
    for batch in loader.next()?.0 {
        let pass = forward(&learner.model, &learner.losses, &batch, &vec![true; n_tasks], true);
        let mut done = |_: &mut Grads, _| Ok::<_, TchError>(());
        task_grads(params, &pass.terms, 0, &mut grads, &mut done)?;
    }
    let mut rows = vec![Vec::new(); n_tasks];
    for (entry, of_entry) in params.entries.iter().zip(&grads.rows).filter(|(entry, _)| params.is_shared(entry)) {
        let len = entry.range.len();
        rows.iter_mut().for_each(|row| row.resize(row.len() + len, 0.0));
        for (&task, gradient) in entry.scope.iter().zip(of_entry) {
            let Some(gradient) = gradient.tensor() else { continue };
            let at = rows[task].len() - len;
            gradient.view(-1).copy_data(&mut rows[task][at..], len);
        }
    }
    Ok(Case { name: "tox21", rows })
}
