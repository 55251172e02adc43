//! Times of the balancing methods: `cargo bench --bench balance`.
//!
//! What a step pays on the host for its coefficients, from a Gram matrix that is there to the coefficients, weighting
//! and checks included. Gradients are random: for 40 tasks, about half of all pairs conflict.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use polytask::balance::explicit::Explicit;
use polytask::balance::{Balancer, Gram};
use polytask::config::{Balance, load_str};
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
];

/// Methods of other kinds, with the passes over a `J` of `P` columns that they need.
const OTHERS: &[&str] = &["{weighting: uncertainty}"];

fn balance(yaml: &str) -> Balance {
    let rest = "
run: {name: a}
data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}
tasks: {t: {source: s, target: y, kind: binary}}
model: {encoder: mlp}
train: {epochs: 1}
";
    load_str("bench.yaml", &format!("{rest}balance: {yaml}\n"), &[]).unwrap_or_else(|e| panic!("{e}")).balance
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
            let mut balancer = Balancer::build(&balance(yaml), &tasks, 1, 1, 1);
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
            let mut explicit = Explicit::new(&balance(yaml), n_tasks, P, 1, 1);
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
