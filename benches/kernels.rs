//! Times of the kernels: `cargo bench --bench kernels`.
//!
//! `read` is the sum of all numbers of `J`: what merely reading it costs. Gram and update are to be compared with it.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use polytask::config::Optim;
use polytask::kernel::{Fragment, Piece, add_gram};
use polytask::optim::Optimizer;
use polytask::rng::{Stream, rng};
use rand::RngExt;
use std::hint::black_box;

/// (tasks, parameters)
const SIZES: [(usize, usize); 3] = [(3, 3_400_000), (8, 900_000), (40, 250_000)];

fn rows(n_tasks: usize, n: usize) -> Vec<Vec<f32>> {
    let mut rng = rng(1, Stream::Init, n as u64, 0);
    (0..n_tasks).map(|_| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

fn kernels(c: &mut Criterion) {
    for (n_tasks, n) in SIZES {
        let j = rows(n_tasks, n);
        let fragment = Fragment { len: n, rows: j.iter().map(Vec::as_slice).collect() };
        let name = format!("T={n_tasks} P={n}");
        let mut group = c.benchmark_group("kernels");
        group.sample_size(20).throughput(Throughput::Bytes((4 * n_tasks * n) as u64));
        group.bench_function(BenchmarkId::new("read", &name), |b| {
            b.iter(|| j.iter().map(|row| row.chunks(16).map(|x| x[0]).sum::<f32>()).sum::<f32>());
        });
        group.bench_function(BenchmarkId::new("gram", &name), |b| {
            b.iter(|| {
                let mut gram = vec![0.0; n_tasks * n_tasks];
                add_gram(std::slice::from_ref(&fragment), &mut gram);
                gram
            });
        });
        let (mut param, coef) = (vec![0.1f32; n], vec![0.5f32; n_tasks]);
        let mut optimizer = Optimizer::<f32>::new(&Optim::default(), n);
        group.bench_function(BenchmarkId::new("combine and AdamW", &name), |b| {
            b.iter(|| {
                let rule = optimizer.rule(1e-3);
                let (first, second) = (&mut optimizer.first[..], &mut optimizer.second[..]);
                let piece = Piece { grads: fragment.clone(), coef: &coef, param: &mut param, first, second };
                black_box(Optimizer::apply(rule, vec![piece]))
            });
        });
        group.finish();
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
