//! One huge GPU: whatever the number of processes, the parameters after some steps are those of a single one.

use crate::process::ALONE;
use crate::sandbox::{Run, Sandbox, bits, values};
use polytask::checkpoint::NamedTensor;
use polytask::comm::Solo;
use polytask::config::{Config, Precision};
use polytask::data::Dataset;
use polytask::train::persist::{Stored, model_tensors};
use polytask::train::setup;
use tch::Device;

/// Parameters before the first step.
pub fn initial(config: &Config) -> Vec<NamedTensor> {
    fn build<F: Stored>(config: &Config) -> Vec<NamedTensor> {
        let dataset = Dataset::open(config).expect("good data");
        let learner = setup::build_learner::<F>(config, &dataset, Device::Cpu, &Solo).expect("a model that fits");
        model_tensors::<F>(&learner.model.params, &learner.parameters(&Solo).expect("a world of one"))
    }
    match config.train.precision {
        Precision::F32 | Precision::Bf16 => build::<f32>(config),
        Precision::F64 => build::<f64>(config),
    }
}

fn norm(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

/// Distance of two results relative to the way they have gone since the start, the worst over tensors, by name.
#[track_caller]
pub fn distance(one: &Run, other: &Run, start: &[NamedTensor]) -> (f64, String) {
    let (one, other) = (one.latest(), other.latest());
    assert_eq!(one.step, other.step);
    let names = |tensors: &[NamedTensor]| tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    let (one, other) = (&one.tensors["model"], &other.tensors["model"]);
    assert_eq!(names(one), names(other));
    assert_eq!(names(one), names(start));
    let mut worst = (0.0, "nothing moved".to_string());
    let mut moved = 0;
    for ((a, b), s) in one.iter().zip(other).zip(start) {
        let (apart, way) = (norm(&values(a), &values(b)), norm(&values(b), &values(s)));
        moved += usize::from(way > 0.0);
        let relative = if apart == 0.0 { 0.0 } else { apart / way };
        if relative >= worst.0 {
            worst = (relative, b.name.clone());
        }
    }
    assert_eq!(moved, one.len(), "every tensor has moved");
    worst
}

/// One run without a launcher, and one for each (ranks, reduction): the same parameters.
#[track_caller]
fn same_on(worlds: &[(usize, &str)], tolerance: f64, set: &[&str]) {
    let sandbox = Sandbox::new();
    let start = initial(&sandbox.config(set));
    let alone = sandbox.train(ALONE, "alone", set);
    for (ranks, reduction) in worlds {
        let reduction = format!("comm.reduction={reduction}");
        let set = [set, &[reduction.as_str()]].concat();
        let run = sandbox.train(*ranks, &format!("{ranks}"), &set);
        let (distance, name) = distance(&run, &alone, &start);
        println!("{ranks} ranks, {reduction}: {distance:e} in {name}");
        assert!(distance <= tolerance, "{ranks} ranks, {reduction}: {distance:e} in `{name}`");
        assert_eq!(run.metrics().len(), alone.metrics().len(), "other ranks write nothing");
    }
}

const F64: &str = "train.precision=f64";

#[test]
fn equal_weights() {
    same_on(&[(2, "sharded"), (3, "all_reduce"), (4, "sharded")], 1e-12, &[F64]);
}

#[test]
fn uncertainty() {
    let set = [F64, "balance={weighting: {uncertainty: {lr: 0.1}}}"];
    same_on(&[(2, "all_reduce"), (3, "sharded"), (4, "all_reduce")], 1e-12, &set);
}

#[test]
fn pcgrad() {
    let set = [F64, "balance={surgery: pcgrad}"];
    same_on(&[(2, "sharded"), (3, "all_reduce"), (4, "sharded")], 1e-12, &set);
}

#[test]
fn uncertainty_and_pcgrad() {
    let set = [F64, "balance={weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}", "batch.accumulate=2"];
    same_on(&[(2, "all_reduce"), (3, "sharded"), (4, "all_reduce")], 1e-12, &set);
}

/// Three samples of each source on four ranks: in every step one rank has none of a task.
#[test]
fn adamw_with_ranks_that_hold_no_sample() {
    let set = [
        F64,
        "batch.per_task=3",
        "balance={weighting: uncertainty, surgery: pcgrad}",
        "optim={adamw: {lr: 0.01, weight_decay: 0.1, clip_norm: 1.0}}",
    ];
    same_on(&[(3, "sharded"), (4, "sharded")], 1e-9, &set);
}

#[test]
fn single_precision() {
    let set = ["balance={weighting: uncertainty, surgery: pcgrad}", "optim={sgd: {lr: 0.5, momentum: 0.9}}"];
    same_on(&[(4, "sharded"), (2, "all_reduce")], 1e-5, &set);
}

/// Of one rank nothing is reduced, so that not even rounding may differ.
#[test]
fn one_rank_under_mpirun_has_the_bits_of_no_launcher() {
    let sandbox = Sandbox::new();
    let set = ["balance={weighting: uncertainty, surgery: pcgrad}", "optim={adamw: {lr: 0.01}}"];
    let alone = sandbox.train(ALONE, "alone", &set).latest();
    for backend in ["auto", "mpi"] {
        let backend = format!("comm.backend={backend}");
        let one = sandbox.train(1, &backend, &[&set[..], &[backend.as_str()]].concat()).latest();
        for (file, tensors) in &alone.tensors {
            assert!(!tensors.is_empty());
            let others = &one.tensors[file];
            assert_eq!(tensors.len(), others.len());
            for (a, b) in tensors.iter().zip(others) {
                assert_eq!((&a.name, bits(a)), (&b.name, bits(b)), "{file}");
            }
        }
    }
}
