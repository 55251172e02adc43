//! Surgery on sketches: a linear map of the rows, so the number of ranks changes nothing; exact where the sketch is as long as
//! the rows; and what travels is one row.

use super::fixture::{config, learner, slice};
use super::{distance, flatten, train};
use polytask::comm::{Collective, Solo, Threads};
use polytask::config::{Config, Encoder, GramFrom, Sketch};
use polytask::ffi::values;

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

fn start(config: &Config) -> Vec<f64> {
    let learner = learner::<f64>(config, &Solo);
    let flat = values::<f64>(&learner.model.params.flat);
    learner.model.params.entries.iter().flat_map(|e| flat[e.range.clone()].to_vec()).collect()
}

#[test]
fn w_ranks_equal_one_rank_on_sketches() {
    tch::set_num_threads(1);
    for balance in SURGERIES {
        let exact = config(balance, "{sgd: {momentum: 0.9, clip_norm: 0.5}}", "sharded");
        let few = sketched(&exact, 64);
        let alone = flatten(&train::<f64>(&few, &Solo, 1).0);
        for (size, accumulate) in [(1, 2), (2, 1), (3, 1), (4, 1)] {
            let ranks = Threads::run(size, |comm| train::<f64>(&few, &comm, accumulate).0);
            assert!(ranks.iter().all(|r| *r == ranks[0]), "replicas differ: {balance}");
            let d = distance(&alone, &flatten(&ranks[0]), &start(&few));
            assert!(d < 1e-12, "{balance} W={size}: {d:e}");
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
        let ranks = Threads::run(2, |comm| train::<f64>(&sketched(&exact, 4096), &comm, 1).0);
        let d = distance(&expected, &flatten(&ranks[0]), &start(&exact));
        assert!(d < 1e-12, "{balance}: {d:e}");
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
    let (exact, sketched) = (sent(&exact), sent(&sketched(&exact, 64)));
    // Four rows and the parameters against one row, the parameters, and four sketches of 64.
    assert!((sketched as f64) < 0.6 * exact as f64, "{sketched} of {exact} bytes");
}
