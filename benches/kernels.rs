//! Times of the kernels: `cargo bench --bench kernels`.
//!
//! `read` is the sum of all numbers of `J`: what merely reading it costs. Gram and update are to be compared with it,
//! and methods on the shard with `read twice`: once for what they have to know of all coordinates, once to combine.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use polytask::balance::Gram;
use polytask::balance::global::Sums;
use polytask::balance::shard::{Part, ShardView, build};
use polytask::config::{DbMtl, ExcessMtl, GradDrop, MoCo, Optim, Surgery, TrimmedMean};
use polytask::kernel::{Fragment, Piece, add_gram};
use polytask::optim::Optimizer;
use polytask::rng::{Stream, rng};
use rand::RngExt;
use std::hint::black_box;

/// What a call costs by itself.
const TOY: (usize, usize) = (2, 2);
/// (tasks, parameters)
const SIZES: [(usize, usize); 3] = [(3, 3_400_000), (8, 900_000), (40, 250_000)];

fn rows(n_tasks: usize, n: usize) -> Vec<Vec<f32>> {
    let mut rng = rng(1, Stream::Init, n as u64, 0);
    (0..n_tasks).map(|_| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

fn read(j: &[Vec<f32>]) -> f32 {
    j.iter().map(|row| row.chunks(16).map(|x| x[0]).sum::<f32>()).sum()
}

fn kernels(c: &mut Criterion) {
    for (n_tasks, n) in SIZES {
        let j = rows(n_tasks, n);
        let fragment = Fragment { len: n, rows: j.iter().map(Vec::as_slice).collect() };
        let name = format!("T={n_tasks} P={n}");
        let mut group = c.benchmark_group("kernels");
        group.sample_size(20).throughput(Throughput::Bytes((4 * n_tasks * n) as u64));
        group.bench_function(BenchmarkId::new("read", &name), |b| {
            b.iter(|| read(&j));
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

fn shard(c: &mut Criterion) {
    for (n_tasks, n) in [TOY].into_iter().chain(SIZES) {
        let j = rows(n_tasks, n);
        let scope: Vec<usize> = (0..n_tasks).collect();
        let rows = Fragment { len: n, rows: j.iter().map(Vec::as_slice).collect() };
        let mut gram = vec![0.0; n_tasks * n_tasks];
        add_gram(std::slice::from_ref(&rows), &mut gram);
        let gram = Gram::new(gram).unwrap();
        let part = Part { scope: &scope, at: 0..n, local: 0..n, rows };
        let (scale, losses) = (vec![1.0; n_tasks], vec![Some(1.0); n_tasks]);
        let parts = std::slice::from_ref(&part);
        let name = format!("T={n_tasks} P={n}");
        let mut group = c.benchmark_group("shard");
        group.sample_size(20).throughput(Throughput::Bytes((4 * n_tasks * n) as u64));
        group.bench_function(BenchmarkId::new("read twice", &name), |b| b.iter(|| read(&j) + read(black_box(&j))));
        for (method, surgery) in [
            ("graddrop", Surgery::Graddrop(GradDrop::default())),
            ("trimmed_mean", Surgery::TrimmedMean(TrimmedMean::default())),
            ("excess_mtl", Surgery::ExcessMtl(ExcessMtl::default())),
            ("moco", Surgery::Moco(MoCo::default())),
            ("db_mtl", Surgery::DbMtl(DbMtl::default())),
        ] {
            let mut method_on_shard = build::<f32>(&surgery, n_tasks, n).unwrap();
            let (mut out, mut step) = (vec![0.0; n], 0);
            group.bench_function(BenchmarkId::new(method, &name), |b| {
                b.iter(|| {
                    let view = ShardView { parts, scale: &scale, losses: &losses, gram: &gram, step, seed: 1 };
                    step += 1;
                    black_box(method_on_shard.direction(&view, &Sums::alone(), &mut out).unwrap())
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, kernels, shard);
criterion_main!(benches);
