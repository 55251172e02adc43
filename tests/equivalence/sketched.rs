//! Surgery on sketches: a linear map of the rows, so the number of ranks changes nothing; exact where the sketch is as long as
//! the rows; and what travels is one row.

use super::fixture::{config, learner, slice};
use super::{distance, flatten, train};
use polytask::comm::{Collective, Solo, Threads};
use polytask::config::{Config, Encoder, Engine, GramFrom, Precision, Sketch, Wire};
use polytask::ffi::{reads_here, values};

const SURGERIES: [&str; 4] = [
    "{surgery: pcgrad}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: upgrad}",
    "{surgery: {cagrad: {c: 0.4}}, scale_heads: true}",
    "{surgery: nash_mtl, every: 2}",
];

fn sketched(config: &Config, dim: usize) -> Config {
    let mut config = config.clone();
    config.comm.gram = GramFrom::Sketch(Sketch { dim });
    config
}

fn on_tensors(config: &Config) -> Config {
    let mut config = config.clone();
    config.train.engine = Engine::Tensors;
    config
}

fn start(config: &Config) -> Vec<f64> {
    let learner = learner::<f64>(config, &Solo);
    let flat = values::<f64>(learner.model.params.flat());
    learner.model.params.entries.iter().flat_map(|e| flat[e.range.clone()].to_vec()).collect()
}

#[test]
fn w_ranks_equal_one_rank_on_sketches() {
    tch::set_num_threads(1);
    for balance in SURGERIES {
        let exact = config(balance, "{sgd: {momentum: 0.9, clip_norm: 0.5}}", "sharded");
        let few = sketched(&exact, 64);
        let alone = flatten(&train::<f64>(&few, &Solo, 1).0);
        for config in [on_tensors(&few), few.clone()] {
            for (size, accumulate) in [(1, 2), (2, 1), (3, 1), (4, 1)] {
                let ranks = Threads::run(size, |comm| train::<f64>(&config, &comm, accumulate).0);
                assert!(ranks.iter().all(|r| *r == ranks[0]), "replicas differ: {balance}");
                let d = distance(&alone, &flatten(&ranks[0]), &start(&few));
                assert!(d < 1e-12, "{balance} {:?} W={size}: {d:e}", config.train.engine);
            }
        }
    }
}

#[test]
fn a_sketch_as_long_as_the_rows_is_exact() {
    tch::set_num_threads(1);
    for balance in SURGERIES {
        let exact = config(balance, "{sgd: {}}", "all_reduce");
        let expected = flatten(&train::<f64>(&exact, &Solo, 1).0);
        // One block, in which no two coordinates meet.
        let long = sketched(&exact, 4096);
        for config in [on_tensors(&long), long] {
            let ranks = Threads::run(2, |comm| train::<f64>(&config, &comm, 1).0);
            let d = distance(&expected, &flatten(&ranks[0]), &start(&exact));
            assert!(d < 1e-12, "{balance} {:?}: {d:e}", config.train.engine);
        }
        // And a short one is not.
        let d = distance(&expected, &flatten(&train::<f64>(&sketched(&exact, 64), &Solo, 1).0), &start(&exact));
        assert!(d > 1e-6 && d < 1.0, "{balance}: {d:e}");
    }
}

#[test]
fn one_row_travels_instead_of_all() {
    let mut exact = config("{surgery: pcgrad}", "{sgd: {}}", "sharded");
    if let Encoder::Mlp(mlp) = &mut exact.model.encoder {
        mlp.widths = vec![64, 64];
    }
    let sent = |config: &Config| {
        Threads::run(2, |comm| {
            learner::<f32>(config, &comm).step(0, 0.05, &slice(0, comm.world(), 1, config), &comm).unwrap();
            comm.bytes_sent()
        })[0]
    };
    let few = sketched(&exact, 64);
    let (exact, few, on_tensors) = (sent(&exact), sent(&few), sent(&on_tensors(&few)));
    // Four rows and the parameters against one row, the parameters, and four sketches of 64.
    assert!((few as f64) < 0.6 * exact as f64, "{few} of {exact} bytes");
    assert_eq!(on_tensors, few);
}

#[test]
fn on_tensors_the_host_waits_for_products_and_for_the_norm() {
    let few = on_tensors(&sketched(&config("{surgery: upgrad}", "{adamw: {}}", "sharded"), 64));
    let mut learner = learner::<f32>(&few, &Solo);
    for step in 0..3 {
        let before = reads_here();
        learner.step(step, 0.05, &slice(step, Solo.world(), 1, &few), &Solo).unwrap();
        assert_eq!(reads_here() - before, 2);
    }
}

#[test]
fn sixteen_bits_are_sketched_in_thirty_two() {
    tch::set_num_threads(1);
    let exact = sketched(&config("{surgery: mgda}", "{sgd: {}}", "sharded"), 64);
    let expected = flatten(&train::<f32>(&exact, &Solo, 1).0);
    type Change = fn(&mut Config);
    let changes: [(Change, f64); 2] =
        [(|c| c.train.precision = Precision::Bf16, 0.1), (|c| c.comm.wire = Wire::Bf16, 0.02)];
    for (change, tolerance) in changes {
        let mut config = on_tensors(&exact);
        change(&mut config);
        for size in 1..=3 {
            let ranks = Threads::run(size, |comm| {
                let mut learner = learner::<f32>(&config, &comm);
                for step in 0..super::STEPS {
                    learner.step(step, 0.05, &slice(step, comm.world(), 1, &config), &comm).unwrap();
                }
                let masters: Vec<f64> = learner.parameters(&comm).unwrap().into_iter().map(f64::from).collect();
                learner.model.params.entries.iter().flat_map(|e| masters[e.range.clone()].to_vec()).collect::<Vec<_>>()
            });
            assert!(ranks.iter().all(|r| *r == ranks[0]), "replicas differ");
            let d = distance(&expected, &ranks[0], &start(&exact));
            assert!(d < tolerance, "W={size}: {d}");
        }
    }
}
