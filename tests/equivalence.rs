//! One huge GPU: a step on `W` ranks is the step of one rank on the concatenated batch, for every balancing method,
//! both reductions, uneven slices, ranks without a sample of some task, and missing labels; and all replicas keep the
//! same bits.

#[path = "equivalence/fixture.rs"]
mod fixture;
#[path = "equivalence/layouts.rs"]
mod layouts;
#[path = "equivalence/modes.rs"]
mod modes;
#[path = "equivalence/recompute.rs"]
mod recompute;
#[path = "equivalence/resume.rs"]
mod resume;
#[path = "equivalence/sketched.rs"]
mod sketched;
#[path = "equivalence/tensors.rs"]
mod tensors;

use fixture::{config, learner, slice};
use polytask::comm::{Collective, Number, Solo, Threads};
use polytask::config::Config;
use polytask::ffi::{TorchReal, values};

/// Steps of a run.
const STEPS: u64 = 4;

/// Every balancing choice; a new method is a new row.
const BALANCE: &[&str] = &[
    "{weighting: equal, surgery: none}",
    "{weighting: {fixed: {b: 0.25, c: 3.0}}, surgery: none}",
    "{weighting: {fixed: {b: 0.25, c: 3.0}}, surgery: none, scale_heads: false}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: none}",
    "{weighting: {uncertainty: {lr: 0.1, form: revised}}, surgery: none}",
    "{weighting: random}",
    "{weighting: scale_invariant}",
    "{weighting: {dwa: {temperature: 0.5}}}",
    "{weighting: gls}",
    "{weighting: {imtl_l: {lr: 0.1}}}",
    "{weighting: {stch: {warmup_epochs: 1}}}",
    "{weighting: {stch: {form: linear, preferences: {a: 2}}}}",
    "{weighting: {famo: {lr: 0.1}}}",
    "{weighting: cosmos}",
    "{weighting: pbi}",
    "{weighting: go4align}",
    "{weighting: {ldc_mtl: {lr: 0.1}}}",
    "{weighting: auto_lambda}",
    "{weighting: {auto_lambda: {primary: [b, c]}}, surgery: pcgrad}",
    "{weighting: equal, surgery: pcgrad}",
    "{weighting: {fixed: {b: 0.25, c: 3.0}}, surgery: pcgrad}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad, scale_heads: true}",
    "{surgery: mgda}",
    "{surgery: {mgda: {normalize: loss_l2, apply: normalized}}}",
    "{surgery: {cagrad: {c: 0.4}}}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: nash_mtl}",
    "{surgery: {fairgrad: {alpha: 2}}}",
    "{surgery: upgrad}",
    "{surgery: dualproj}",
    "{surgery: gradvac}",
    "{surgery: imtl_g}",
    "{surgery: aligned_mtl}",
    "{surgery: {aligned_mtl: {scale: median}}}",
    "{weighting: {famo: {lr: 0.1}}, surgery: config}",
    "{surgery: {krum: {n_byzantine: 1, n_selected: 2}}}",
    "{surgery: {gradnorm: {lr: 0.1}}}",
    "{surgery: {sdmgrad: {lr: 0.5}}}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: {modo: {gamma: 0.1}}}",
    "{surgery: graddrop}",
    "{weighting: {fixed: {b: 0.25, c: 3.0}}, surgery: {graddrop: {leak: 0.3}}, scale_heads: true}",
    "{surgery: trimmed_mean}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: {excess_mtl: {eta: 0.1}}}",
    "{surgery: moco}",
    "{weighting: {fixed: {b: 0.25, c: 3.0}}, surgery: db_mtl}",
    "{surgery: pcgrad, smoothing: 0.5}",
    "{weighting: {uncertainty: {lr: 0.1}}, smoothing: 0.5}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad, every: 2}",
    "{surgery: gradvac, scope: per_layer_group}",
    "{surgery: pcgrad, gradients: representation}",
    "{surgery: mgda, gradients: representation}",
    "{surgery: nash_mtl, every: 2}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad, gradients: representation, every: 3}",
    "{weighting: dwa, tasks: alternating}",
    "{surgery: imtl_g, tasks: {grouped: {groups: [[a, b], [b, c, d]]}}}",
    "{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad, tasks: {curriculum: {a: {from: 2}, d: {until: 3}}}}",
];

/// Parameters by name after some steps, and the coefficients of the last one.
fn train<F: TorchReal + Number>(config: &Config, comm: &dyn Collective, accumulate: usize) -> (Vec<Vec<F>>, Vec<f64>) {
    let mut learner = learner::<F>(config, comm);
    let mut coef = Vec::new();
    for step in 0..STEPS {
        let report = learner.step(step, 0.05, &slice(step, comm.world(), accumulate, config), comm).unwrap();
        assert_eq!(report.refused, None);
        coef = report.coefficients.mean().unwrap_or_default();
    }
    let flat = values::<F>(learner.model.params.flat());
    (learner.model.params.entries.iter().map(|e| flat[e.range.clone()].to_vec()).collect(), coef)
}

fn flatten<F: TorchReal>(params: &[Vec<F>]) -> Vec<f64> {
    params.iter().flatten().map(|x| x.to_f64()).collect()
}

/// Largest difference relative to the length of the update.
fn distance(a: &[f64], b: &[f64], start: &[f64]) -> f64 {
    let update = a.iter().zip(start).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt() / update
}

fn check<F: TorchReal + Number>(tolerance: f64) {
    tch::set_num_threads(1);
    for balance in BALANCE {
        for optim in ["{sgd: {momentum: 0.9, weight_decay: 0.01}}", "{sgd: {clip_norm: 0.05}}"] {
            let start = {
                let config = config(balance, optim, "sharded");
                let learner = learner::<F>(&config, &Solo);
                let flat = values::<F>(learner.model.params.flat());
                let params: Vec<Vec<F>> =
                    learner.model.params.entries.iter().map(|e| flat[e.range.clone()].to_vec()).collect();
                flatten(&params)
            };
            let (alone, coef) = train::<F>(&config(balance, optim, "sharded"), &Solo, 1);
            let alone = flatten(&alone);
            assert!(alone.iter().all(|x| x.is_finite()));
            for reduction in ["sharded", "all_reduce"] {
                let config = config(balance, optim, reduction);
                for (size, accumulate) in [(1, 3), (2, 1), (3, 1), (4, 1), (2, 2)] {
                    let ranks = Threads::run(size, |comm| train::<F>(&config, &comm, accumulate));
                    for (rank, (params, c)) in ranks.iter().enumerate() {
                        let what =
                            format!("{balance} {optim} {reduction} W={size} accumulate={accumulate} rank {rank}");
                        assert!(*params == ranks[0].0, "replicas differ: {what}");
                        let d = distance(&alone, &flatten(params), &start);
                        assert!(d <= tolerance, "{what}: {d:e}");
                        let difference = c.iter().zip(&coef).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                        assert!(difference <= 1e3 * tolerance, "{what}: coefficients {c:?} {coef:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn w_ranks_equal_one_rank_in_f64() {
    check::<f64>(1e-12);
}

#[test]
fn w_ranks_equal_one_rank_in_f32() {
    check::<f32>(1e-5);
}

#[test]
fn adam_keeps_replicas_identical() {
    // Adam divides by the root of squared gradients, which blows rounding up where a gradient is nearly zero: replicas
    // must have the same bits all the same, and the sharded optimizer must equal the whole one.
    tch::set_num_threads(1);
    for reduction in ["sharded", "all_reduce"] {
        let config =
            config("{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}", "{adamw: {weight_decay: 0.1}}", reduction);
        let (alone, _) = train::<f64>(&config, &Solo, 1);
        for size in 2..=4 {
            let ranks = Threads::run(size, |comm| train::<f64>(&config, &comm, 1).0);
            assert!(ranks.iter().all(|r| *r == ranks[0]));
            let (a, b) = (flatten(&alone), flatten(&ranks[0]));
            let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-9, "{reduction} W={size}: {worst:e}");
        }
    }
}
