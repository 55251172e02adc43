//! Recomputed activations: the step is the same as with kept ones, dropout's masks included, and memory falls.

use super::fixture::{DIM, config, learner, slice};
use super::{BALANCE, distance, flatten, train};
use polytask::comm::{Solo, Threads};
use polytask::config::{Activation, Config, Encoder, Engine, GramFrom, Sketch};
use polytask::data::{Batch, Inputs, Part, Target};
use polytask::ffi::{self, numbers_mut, values};
use polytask::train::Learner;
use polytask::world::World;
use std::process::Command;
use tch::{Device, Kind, Tensor};

/// Stages of the heads: as far apart as they get, all at the end, and a last piece that one task has for itself.
const HEADS: [[Option<usize>; 4]; 3] = [[None, Some(2), Some(0), None], [None; 4], [Some(1), None, Some(2), Some(1)]];

/// Seven stages, so that there are three pieces.
fn deep(balance: &str, heads: [Option<usize>; 4]) -> Config {
    let mut config = config(balance, "{sgd: {momentum: 0.9, weight_decay: 0.01}}", "sharded");
    config.tasks.iter_mut().zip(heads).for_each(|((_, task), stage)| task.head.stage = stage);
    if let Encoder::Mlp(mlp) = &mut config.model.encoder {
        mlp.widths = vec![8, 6, 7, 5, 6, 7, 5];
        mlp.activation = Activation::Tanh;
    }
    config
}

fn recomputed(config: &Config) -> Config {
    let mut config = config.clone();
    config.model.recompute = true;
    config
}

fn start(config: &Config) -> Vec<f64> {
    let learner = learner::<f64>(config, &Solo);
    let flat = values::<f64>(learner.model.params.flat());
    learner.model.params.entries.iter().flat_map(|e| flat[e.range.clone()].to_vec()).collect()
}

/// Both engines on one rank and several, against kept activations on one.
fn check(kept: &Config, what: &str) {
    let alone = flatten(&train::<f64>(kept, &Solo, 1).0);
    for (engine, size, accumulate) in [
        (Engine::Auto, 1, 1),
        (Engine::Auto, 1, 2),
        (Engine::Auto, 2, 1),
        (Engine::Auto, 3, 2),
        (Engine::Tensors, 1, 2),
        (Engine::Tensors, 2, 1),
        (Engine::Tensors, 3, 1),
    ] {
        let mut config = recomputed(kept);
        config.train.engine = engine;
        assert_eq!(learner::<f64>(&config, &Solo).model.pieces(), [0..2, 2..5, 5..7]);
        let ranks = Threads::run(size, |comm| train::<f64>(&config, &comm, accumulate).0);
        assert!(ranks.iter().all(|r| *r == ranks[0]), "replicas differ: {what}");
        let d = distance(&alone, &flatten(&ranks[0]), &start(kept));
        assert!(d < 1e-12, "{what} {engine:?} W={size} accumulate={accumulate}: {d:e}");
    }
}

#[test]
fn recomputed_activations_give_the_same_steps() {
    tch::set_num_threads(1);
    for (k, balance) in BALANCE.iter().filter(|b| !b.contains("representation")).enumerate() {
        let heads = HEADS[k % HEADS.len()];
        check(&deep(balance, heads), &format!("{balance} {heads:?}"));
    }
}

#[test]
fn every_place_of_the_heads_is_the_same() {
    tch::set_num_threads(1);
    for balance in ["{surgery: upgrad}", "{weighting: gls}", "{weighting: {fixed: {b: 0, c: 3}}, scale_heads: false}"] {
        for heads in HEADS {
            // Segments that end with every stage: combined rows travel piece by piece.
            let mut config = deep(balance, heads);
            config.comm.bucket_mb = 1e-6;
            check(&config, &format!("{balance} {heads:?}"));
        }
    }
}

#[test]
fn surgery_on_sketches_is_the_same() {
    tch::set_num_threads(1);
    let mut config = deep("{surgery: upgrad}", HEADS[0]);
    config.comm.gram = GramFrom::Sketch(Sketch { dim: 64 });
    let kept = flatten(&train::<f64>(&config, &Solo, 1).0);
    for engine in [Engine::Auto, Engine::Tensors] {
        config.train.engine = engine;
        let again = Threads::run(2, |comm| train::<f64>(&recomputed(&config), &comm, 2).0);
        let d = distance(&kept, &flatten(&again[0]), &start(&config));
        assert!(d < 1e-12, "{engine:?}: {d:e}");
    }
}

/// Runs an ignored test of this file in a process of its own; returns what it said.
fn alone(words: &[&str]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // Large tensors are mapped one by one: what is resident is what is alive, without holes between.
    command.args(["--exact", "--ignored"]).args(words).env("MALLOC_MMAP_THRESHOLD_", "1000000");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said
}

/// libtorch's generator on the host is one for the whole process, and other tests seed it too.
#[test]
fn both_passes_draw_the_same_masks() {
    alone(&["recompute::the_update_is_the_gradient_of_the_losses_with_dropout"]);
}

/// Mean losses of a step from these parameters, and where a step of length 1 leads.
fn step(config: &Config, from: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mut learner: Learner<f64> = learner(config, &Solo);
    numbers_mut::<f64>(learner.model.params.flat_mut()).copy_from_slice(from);
    let report = learner.step(0, 1.0, &slice(0, World::SOLO, 2, config), &Solo).unwrap();
    let losses = report.losses.iter().map(|loss| loss.unwrap()).collect();
    (losses, report.coefficients.mean().unwrap(), values::<f64>(learner.model.params.flat()))
}

#[test]
#[ignore = "needs a process of its own, which `both_passes_draw_the_same_masks` gives it"]
fn the_update_is_the_gradient_of_the_losses_with_dropout() {
    tch::set_num_threads(1);
    for balance in ["{surgery: none}", "{surgery: pcgrad}"] {
        for heads in HEADS {
            let mut config = recomputed(&deep(balance, heads));
            config.optim = super::config(balance, "{sgd: {}}", "sharded").optim;
            if let Encoder::Mlp(mlp) = &mut config.model.encoder {
                mlp.dropout = 0.4;
            }
            let learner = learner::<f64>(&config, &Solo);
            let (from, params) = (values::<f64>(learner.model.params.flat()), &learner.model.params);
            let (_, coef, to) = step(&config, &from);
            for entry in params.entries.iter().filter(|e| params.is_shared(e)) {
                // Along the update itself, restricted to one parameter: the slope is its squared length.
                let update: Vec<f64> = from.iter().zip(&to).map(|(a, b)| a - b).collect();
                let square: f64 = update[entry.range.clone()].iter().map(|u| u * u).sum();
                assert!(square > 0.0, "{}", entry.name);
                let length = 1e-5 / square.sqrt();
                let objective = |sign: f64| {
                    let mut moved = from.clone();
                    entry.range.clone().for_each(|i| moved[i] += sign * length * update[i]);
                    step(&config, &moved).0.iter().zip(&coef).map(|(loss, c)| loss * c).sum::<f64>()
                };
                let slope = (objective(1.0) - objective(-1.0)) / (2.0 * length);
                let error = (slope / square - 1.0).abs();
                assert!(error < 1e-4, "{balance} {heads:?} {}: {slope:e}, not {square:e}", entry.name);
            }
        }
    }
}

/// Peak memory of a step with 36 stages of 4 MiB each, for 32768 samples of two of the four tasks.
fn peak_mib(recompute: bool) -> f64 {
    tch::set_num_threads(1);
    let mut config = deep("{surgery: upgrad}", [None; 4]);
    config.model.recompute = recompute;
    if let Encoder::Mlp(mlp) = &mut config.model.encoder {
        mlp.widths = vec![32; 36];
    }
    let n = 1 << 15;
    let column = |width: i64| (Tensor::arange(n * width, (Kind::Float, Device::Cpu)) * 0.37).sin().reshape([n, width]);
    let target =
        |task| Target { task, values: column(1).gt(0.0).to_kind(Kind::Float), mask: None, n_labelled: n as usize };
    let inputs = Inputs { dense: Some(column(DIM as i64)), categorical: None, tokens: None, image: None };
    let part = Part { source: 0, len: n as usize, inputs, targets: vec![target(0), target(2)] };
    let batches = [Batch { parts: vec![part] }];
    let mut learner = learner::<f32>(&config, &Solo);
    assert_eq!(learner.step(0, 0.05, &batches, &Solo).unwrap().refused, None);
    ffi::peak_rss_mib()
}

#[test]
#[ignore = "`recomputed_activations_need_less_memory` runs it in a process of its own"]
fn peak_with_kept_activations() {
    println!("\npeak: {}", peak_mib(false));
}

#[test]
#[ignore = "`recomputed_activations_need_less_memory` runs it in a process of its own"]
fn peak_with_recomputed_activations() {
    println!("\npeak: {}", peak_mib(true));
}

#[test]
fn recomputed_activations_need_less_memory() {
    let peak = |test: &str| -> f64 {
        let said = alone(&[test, "--nocapture"]);
        said.lines().find_map(|line| line.strip_prefix("peak: ")).and_then(|mib| mib.parse().ok()).expect(&said)
    };
    let kept = peak("recompute::peak_with_kept_activations");
    let recomputed = peak("recompute::peak_with_recomputed_activations");
    // Kept are 36 outputs of 4 MiB; of the recomputed ones 5 at cuts and 6 in a piece, besides what either has in flight.
    assert!(kept - recomputed > 70.0, "{kept} MiB with kept activations, {recomputed} MiB with recomputed ones");
}
