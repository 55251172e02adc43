//! Times of the balancing methods: `cargo bench --bench balance`.
//!
//! What a step pays on the host for its coefficients, from a Gram matrix that is there to the coefficients, weighting
//! and checks included. Gradients are random: for 40 tasks, about half of all pairs conflict.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use polytask::balance::explicit::Explicit;
use polytask::balance::{Balancer, Gram};
use polytask::config::{Balance, with_tasks};
use polytask::rng::{Stream, rng};
use rand::RngExt;
use std::hint::black_box;

const TASKS: [usize; 3] = [2, 8, 40];
/// Columns of `J`.
const P: usize = 64;
/// Matrices in turn, so that no branch is learned by heart.
const MATRICES: usize = 16;

/// Methods on the Gram matrix.
const ON_GRAM: &[&str] = &[
    "{surgery: pcgrad}",
    "{surgery: mgda}",
    "{surgery: cagrad}",
    "{surgery: nash_mtl}",
    "{surgery: fairgrad}",
    "{surgery: {fairgrad: {alpha: 2}}}",
    "{surgery: upgrad}",
    "{surgery: dualproj}",
    "{surgery: gradvac}",
    "{surgery: imtl_g}",
    "{surgery: aligned_mtl}",
    "{surgery: config}",
    "{surgery: krum}",
    "{surgery: gradnorm}",
];

/// Methods of other kinds, with the passes over a `J` of `P` columns that they need.
const OTHERS: &[&str] = &[
    "{weighting: uncertainty}",
    "{weighting: dwa}",
    "{weighting: stch}",
    "{weighting: famo}",
    "{weighting: go4align}",
    "{weighting: ldc_mtl}",
    "{surgery: sdmgrad}",
    "{surgery: modo}",
    "{surgery: graddrop}",
    "{surgery: trimmed_mean}",
    "{surgery: excess_mtl}",
    "{surgery: moco}",
    "{surgery: db_mtl}",
];

/// The section `balance`; `None` if the method is not for so few tasks.
fn balance(yaml: &str, n_tasks: usize) -> Option<Balance> {
    let tasks: Vec<String> = (0..n_tasks).map(|t| t.to_string()).collect();
    Some(with_tasks("bench", &tasks, &[format!("balance={yaml}")]).ok()?.balance)
}

fn jacobian(n_tasks: usize, number: usize) -> Vec<Vec<f64>> {
    let mut rng = rng(1, Stream::Init, n_tasks as u64, number as u64);
    (0..n_tasks).map(|_| (0..P).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

fn gram(j: &[Vec<f64>]) -> Gram {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    Gram::new(j.iter().flat_map(|a| j.iter().map(|b| product(a, b))).collect()).unwrap()
}

fn methods(c: &mut Criterion) {
    for n_tasks in TASKS {
        let mut group = c.benchmark_group(format!("balance T={n_tasks}"));
        group.sample_size(20);
        let jacobians: Vec<Vec<Vec<f64>>> = (0..MATRICES).map(|k| jacobian(n_tasks, k)).collect();
        let grams: Vec<Gram> = jacobians.iter().map(|j| gram(j)).collect();
        let tasks: Vec<String> = (0..n_tasks).map(|t| t.to_string()).collect();
        for yaml in ON_GRAM {
            let Some(config) = balance(yaml, n_tasks) else { continue };
            let mut balancer = Balancer::build(&config, &tasks, 1, 1, 1);
            let (losses, weights) = (vec![Some(1.0); n_tasks], vec![1.0; n_tasks]);
            let mut step = 0;
            group.bench_function(BenchmarkId::from_parameter(yaml), |b| {
                b.iter(|| {
                    step += 1;
                    let gram = std::slice::from_ref(&grams[step as usize % MATRICES]);
                    black_box(balancer.coefficients(gram, &losses, &weights, step).unwrap())
                });
            });
        }
        for yaml in OTHERS {
            let Some(config) = balance(yaml, n_tasks) else { continue };
            let mut explicit = Explicit::new(&config, n_tasks, P, 1, 1);
            let losses = vec![1.0; n_tasks];
            let mut step = 0;
            group.bench_function(BenchmarkId::from_parameter(yaml), |b| {
                b.iter(|| {
                    step += 1;
                    let balanced = explicit.direct(&jacobians[step as usize % MATRICES], &losses, step).unwrap();
                    explicit.observe(&losses, step);
                    black_box(balanced)
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, methods);
criterion_main!(benches);
