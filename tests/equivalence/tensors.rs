//! The engine on tensors against the engine on numbers, and its own promises: one wait for the device per step, rows that
//! travel in pieces, 16-bit floats. On the host here; the operations are those that run on GPUs.

use super::fixture::{config, learner, slice};
use super::{BALANCE, STEPS, distance, flatten, train};
use polytask::comm::{Collective, Number, Solo, Threads};
use polytask::config::{Config, Engine, Precision, Wire};
use polytask::data::Batch;
use polytask::ffi::{self, TorchReal, values};
use polytask::train::Learner;
use polytask::world::World;

fn on_tensors(config: &Config) -> Config {
    let mut config = config.clone();
    config.train.engine = Engine::Tensors;
    config
}

fn start<F: TorchReal + Number>(config: &Config) -> Vec<f64> {
    values::<f64>(learner::<F>(config, &Solo).model.params.flat())
}

fn by_entry<F: TorchReal>(learner: &Learner<F>, flat: &[f64]) -> Vec<f64> {
    learner.model.params.entries.iter().flat_map(|e| flat[e.range.clone()].to_vec()).collect()
}

fn check<F: TorchReal + Number>(tolerance: f64) {
    tch::set_num_threads(1);
    for balance in BALANCE {
        for optim in ["{sgd: {momentum: 0.9, weight_decay: 0.01}}", "{sgd: {clip_norm: 0.05}}"] {
            let host = config(balance, optim, "sharded");
            let before = by_entry(&learner::<F>(&host, &Solo), &start::<F>(&host));
            let (alone, coef) = train::<F>(&host, &Solo, 1);
            let alone = flatten(&alone);
            for (reduction, size, accumulate) in
                [("sharded", 1, 1), ("sharded", 1, 2), ("sharded", 2, 1), ("sharded", 3, 1), ("all_reduce", 2, 2)]
            {
                let config = on_tensors(&config(balance, optim, reduction));
                let ranks = Threads::run(size, |comm| train::<F>(&config, &comm, accumulate));
                for (params, c) in &ranks {
                    let what = format!("{balance} {optim} {reduction} W={size} accumulate={accumulate}");
                    assert!(*params == ranks[0].0, "replicas differ: {what}");
                    let d = distance(&alone, &flatten(params), &before);
                    assert!(d <= tolerance, "{what}: {d:e}");
                    let difference = c.iter().zip(&coef).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(difference <= 1e3 * tolerance, "{what}: coefficients {c:?} {coef:?}");
                }
            }
        }
    }
}

#[test]
fn tensors_equal_numbers_in_f64() {
    check::<f64>(1e-12);
}

#[test]
fn tensors_equal_numbers_in_f32() {
    check::<f32>(1e-5);
}

#[test]
fn every_optimizer_is_the_same_on_tensors() {
    tch::set_num_threads(1);
    for optim in [
        "{adam: {weight_decay: 0.1}}",
        "{adamw: {weight_decay: 0.1, clip_norm: 0.01}}",
        "{sgd: {momentum: 0.9, nesterov: true, weight_decay: 0.1}}",
        "{sgd: {}}",
    ] {
        for balance in ["{weighting: {uncertainty: {lr: 0.1}}}", "{surgery: upgrad}"] {
            let host = config(balance, optim, "sharded");
            let (alone, _) = train::<f64>(&host, &Solo, 1);
            let alone = flatten(&alone);
            for size in 1..=3 {
                let config = on_tensors(&host);
                let ranks = Threads::run(size, |comm| train::<f64>(&config, &comm, 1).0);
                let worst = alone.iter().zip(flatten(&ranks[0])).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-9, "{balance} {optim} W={size}: {worst:e}");
            }
        }
    }
}

#[test]
fn a_rank_may_have_no_sample_at_all() {
    tch::set_num_threads(1);
    for balance in BALANCE {
        let host = config(balance, "{sgd: {momentum: 0.9}}", "sharded");
        let before = by_entry(&learner::<f64>(&host, &Solo), &start::<f64>(&host));
        let alone = flatten(&train::<f64>(&host, &Solo, 1).0);
        for config in [on_tensors(&host), host] {
            let ranks = Threads::run(3, |comm| {
                let mut learner = learner::<f64>(&config, &comm);
                for step in 0..STEPS {
                    // Ranks 0 and 2 share the batch, rank 1 has nothing of it.
                    let two = World { rank: comm.world().rank / 2, size: 2, ..World::SOLO };
                    let mut batches = slice(step, two, 1, &config);
                    if comm.world().rank == 1 {
                        batches.iter_mut().for_each(|batch| batch.parts.clear());
                    }
                    assert_eq!(learner.step(step, 0.05, &batches, &comm).unwrap().refused, None);
                }
                by_entry(&learner, &values::<f64>(learner.model.params.flat()))
            });
            assert!(ranks.iter().all(|r| *r == ranks[0]), "replicas differ: {balance}");
            let d = distance(&alone, &ranks[0], &before);
            assert!(d <= 1e-12, "{balance} {:?}: {d:e}", config.train.engine);
        }
    }
}

#[test]
fn a_step_that_cannot_be_made_is_refused() {
    let config = on_tensors(&config("{surgery: sdmgrad}", "{sgd: {}}", "sharded"));
    let mut learner = learner::<f64>(&config, &Solo);
    let mut batches = slice(0, Solo.world(), 1, &config);
    let refused =
        |learner: &mut Learner<f64>, batches: &[Batch]| learner.step(0, 0.1, batches, &Solo).unwrap_err().to_string();
    assert_eq!(refused(&mut learner, &[]), "a step of 0 micro-batches: this balancing needs a multiple of 3, above 0");
    assert!(refused(&mut learner, &batches[..2]).starts_with("a step of 2 micro-batches"));
    let twice = slice(0, Solo.world(), 1, &config).remove(0).parts.remove(0);
    batches[0].parts.push(twice);
    assert_eq!(refused(&mut learner, &batches), "task `a` has targets in two parts of a micro-batch");
}

/// All heads on the last stage, three stages, and segments that end with each: the backward pass goes in pieces.
fn in_pieces(balance: &str, accumulate: usize) -> Config {
    let mut config = config(balance, "{sgd: {momentum: 0.9}}", "sharded");
    config.tasks.iter_mut().for_each(|(_, task)| task.head.stage = None);
    if let polytask::config::Encoder::Mlp(mlp) = &mut config.model.encoder {
        mlp.widths = vec![8, 6, 5];
    }
    config.comm.bucket_mb = 1e-6;
    config.batch.accumulate = accumulate;
    on_tensors(&config)
}

#[test]
fn a_backward_in_pieces_gives_the_same_gradient() {
    tch::set_num_threads(1);
    for balance in [
        "{weighting: {uncertainty: {lr: 0.1}}}",
        "{weighting: gls}",
        "{weighting: {fixed: {b: 0.25}}, scale_heads: false}",
    ] {
        for accumulate in [1, 2] {
            let config = in_pieces(balance, accumulate);
            let whole = {
                let mut whole = config.clone();
                whole.comm.bucket_mb = 25.0;
                whole.train.engine = Engine::Auto;
                flatten(&train::<f64>(&whole, &Solo, accumulate).0)
            };
            let cuts = learner::<f64>(&config, &Solo).model.cuts();
            assert_eq!(cuts, [0, 1], "{:?}", learner::<f64>(&config, &Solo).model.params.segments);
            for size in 1..=4 {
                let ranks = Threads::run(size, |comm| train::<f64>(&config, &comm, accumulate).0);
                assert!(ranks.iter().all(|r| *r == ranks[0]));
                let worst = whole.iter().zip(flatten(&ranks[0])).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-12, "{balance} W={size}: {worst:e}");
            }
        }
    }
}

/// Parameters after some steps, and how often each step waited for the device, on rank 0 of one.
fn waits(config: &Config) -> Vec<u64> {
    let mut learner = learner::<f32>(config, &Solo);
    (0..STEPS)
        .map(|step| {
            let before = ffi::reads_here();
            learner.step(step, 0.05, &slice(step, Solo.world(), 1, config), &Solo).unwrap();
            ffi::reads_here() - before
        })
        .collect()
}

#[test]
fn a_step_waits_for_the_device_once() {
    for balance in BALANCE {
        let config = on_tensors(&config(balance, "{adamw: {}}", "sharded"));
        let has = |names: &[&str]| names.iter().any(|name| balance.contains(name));
        let segments = learner::<f32>(&config, &Solo).model.params.segments.len() as u64;
        // A look at a second batch, and products of the representation, take waits of their own.
        if has(&["auto_lambda", "representation"]) {
            continue;
        }
        let mut expected = 1;
        if has(&["graddrop", "trimmed_mean", "excess_mtl", "moco", "db_mtl"]) {
            expected += segments; // methods on the gradients themselves work on the host
        } else if has(NEED_LOSSES) && !balance.contains("surgery:") {
            expected += 1; // weights that follow from this step's losses
        }
        if balance.contains("famo") {
            expected += 1; // losses after the step
        }
        assert_eq!(waits(&config), [expected; STEPS as usize], "{balance}");
    }
}

/// Weightings that must know this step's losses before its backward pass.
const NEED_LOSSES: &[&str] = &["gls", "stch", "cosmos", "pbi", "scale_invariant", "go4align", "ldc_mtl", "famo"];

/// Relative error of the update after some steps.
fn error_of(change: impl Fn(&mut Config), size: usize, balance: &str) -> f64 {
    let host = config(balance, "{sgd: {}}", "sharded");
    let before = by_entry(&learner::<f32>(&host, &Solo), &start::<f32>(&host));
    let exact = flatten(&train::<f32>(&host, &Solo, 1).0);
    let mut rounded = on_tensors(&host);
    change(&mut rounded);
    let ranks = Threads::run(size, |comm| {
        let mut learner = learner::<f32>(&rounded, &comm);
        for step in 0..STEPS {
            learner.step(step, 0.05, &slice(step, comm.world(), 1, &rounded), &comm).unwrap();
        }
        let masters: Vec<f64> = learner.parameters(&comm).unwrap().into_iter().map(f64::from).collect();
        (by_entry(&learner, &masters), ffi::bytes(learner.model.params.flat()))
    });
    assert!(ranks.iter().all(|r| r.0 == ranks[0].0 && r.1 == ranks[0].1), "replicas differ");
    distance(&exact, &ranks[0].0, &before)
}

#[test]
fn sixteen_bits_stay_close_and_replicas_identical() {
    tch::set_num_threads(1);
    for balance in ["{weighting: {uncertainty: {lr: 0.1}}}", "{surgery: mgda}", "{surgery: graddrop}"] {
        for size in 1..=3 {
            // 8 bits of mantissa are 0.4 %; sums of a few such numbers stay within some of that.
            let half = error_of(|c| c.train.precision = Precision::Bf16, size, balance);
            assert!(half > 1e-5 && half < 0.05, "{balance} W={size}: {half}");
            let wire = error_of(|c| c.comm.wire = Wire::Bf16, size, balance);
            assert!(wire < 0.02 && (size == 1 || wire > 1e-5), "{balance} W={size}: {wire}");
        }
    }
}
