//! `2n` steps are `n`, a checkpoint, and `n` more, for every balancing: the same bits on as many ranks, the same numbers
//! to rounding on more or fewer.

use super::fixture::{about, config, learner, nothing_fitted, slice};
use super::{BALANCE, STEPS};
use polytask::checkpoint;
use polytask::comm::{Collective, Threads};
use polytask::config::{Config, Engine, Precision, Spike};
use polytask::data::Batch;
use polytask::ffi::{TorchReal, values};
use polytask::train::persist::Stored;
use polytask::train::{Learner, Progress, Refusal};
use std::path::Path;

fn steps<F: Stored>(learner: &mut Learner<F>, config: &Config, steps: std::ops::Range<u64>, comm: &dyn Collective) {
    for step in steps {
        let report = learner.step(step, 0.05, &slice(step, comm.world(), 1, config), comm).unwrap();
        assert_eq!(report.refused, None);
    }
}

fn flat<F: TorchReal>(learner: &Learner<F>) -> Vec<f64> {
    let all = values::<f64>(learner.model.params.flat());
    learner.model.params.entries.iter().flat_map(|e| all[e.range.clone()].to_vec()).collect()
}

/// Trains the first half and writes a checkpoint, as several ranks do.
fn first_half<F: Stored>(config: &Config, size: usize, root: &Path) {
    Threads::run(size, |comm| {
        let mut learner = learner::<F>(config, &comm);
        steps(&mut learner, config, 0..STEPS / 2, &comm);
        let progress = Progress { step: STEPS / 2, ..Progress::default() };
        let snapshot = learner.snapshot(about(config, &nothing_fitted(), &progress), &comm).unwrap();
        if let Some(snapshot) = snapshot {
            checkpoint::write(root, &snapshot).unwrap();
        }
    });
}

fn second_half<F: Stored>(config: &Config, size: usize, root: &Path) -> Vec<f64> {
    let found = checkpoint::latest(root).unwrap().unwrap();
    let all = Threads::run(size, |comm| {
        let mut learner = learner::<F>(config, &comm);
        let from = comm.world().is_main().then_some((found.path.as_path(), &found.snapshot));
        learner.restore(from, &comm).unwrap();
        steps(&mut learner, config, STEPS / 2..STEPS, &comm);
        flat(&learner)
    });
    assert!(all.iter().all(|params| *params == all[0]));
    all.into_iter().next().unwrap()
}

fn check<F: Stored>(change: impl Fn(&mut Config), tolerance: f64) {
    tch::set_num_threads(1);
    for balance in BALANCE {
        let mut config = config(balance, "{adamw: {}}", "sharded");
        change(&mut config);
        let whole = Threads::run(2, |comm| {
            let mut learner = learner::<F>(&config, &comm);
            steps(&mut learner, &config, 0..STEPS, &comm);
            flat(&learner)
        });
        let dir = tempfile::tempdir().unwrap();
        first_half::<F>(&config, 2, dir.path());
        assert!(second_half::<F>(&config, 2, dir.path()) == whole[0], "{balance}: not the same bits");
        for size in [1, 3] {
            let other = second_half::<F>(&config, size, dir.path());
            let worst = other.iter().zip(&whole[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < tolerance, "{balance} on {size} ranks: {worst:e}");
        }
    }
}

#[test]
fn every_balancing_resumes_exactly_and_on_another_number_of_ranks() {
    check::<f64>(|_| (), 1e-9);
}

#[test]
fn on_tensors_too() {
    check::<f64>(|config| config.train.engine = Engine::Tensors, 1e-9);
}

#[test]
fn in_sixteen_bits_the_masters_are_what_resumes() {
    // Rounding differs between numbers of ranks, and Adam makes much of it: only the bits of the same number are promised.
    check::<f32>(|config| config.train.precision = Precision::Bf16, 1.0);
}

#[test]
fn a_run_goes_on_in_the_other_engine() {
    tch::set_num_threads(1);
    for balance in ["{surgery: pcgrad}", "{weighting: {uncertainty: {lr: 0.1}}, surgery: moco}"] {
        let host = config(balance, "{adamw: {}}", "sharded");
        let mut tensors = host.clone();
        tensors.train.engine = Engine::Tensors;
        let dir = tempfile::tempdir().unwrap();
        first_half::<f64>(&host, 2, dir.path());
        let (a, b) = (second_half::<f64>(&host, 2, dir.path()), second_half::<f64>(&tensors, 2, dir.path()));
        let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-9, "{balance}: {worst:e}");
        assert!(host.diff(&tensors).iter().all(|change| change.allowed));
    }
}

/// The batches of a step, with NaN among the inputs of rank 1.
fn bad(step: u64, config: &Config, comm: &dyn Collective) -> Vec<Batch> {
    let mut batches = slice(step, comm.world(), 1, config);
    for input in batches.iter_mut().flat_map(|batch| &mut batch.parts).filter_map(|part| part.inputs.dense.as_mut()) {
        if comm.world().rank == 1 {
            *input = &*input * f64::NAN;
        }
    }
    batches
}

#[test]
fn a_refused_step_leaves_no_trace_and_a_learner_that_went_on_is_taken_back_exactly() {
    tch::set_num_threads(1);
    for engine in [Engine::Auto, Engine::Tensors] {
        for balance in BALANCE {
            let mut config = config(balance, "{adamw: {}}", "sharded");
            config.train.engine = engine;
            config.train.spike = Some(Spike::default());
            let ends = Threads::run(2, |comm| {
                let mut learner = learner::<f64>(&config, &comm);
                steps(&mut learner, &config, 0..1, &comm);
                let progress = Progress { step: 1, ..Progress::default() };
                let snapshot = learner.snapshot(about(&config, &nothing_fitted(), &progress), &comm).unwrap();
                let report = learner.step(1, 0.05, &bad(1, &config, &comm), &comm).unwrap();
                assert!(matches!(report.refused, Some(Refusal::NotFinite(_))), "{balance}: {:?}", report.refused);
                steps(&mut learner, &config, 1..STEPS, &comm);
                let refused = flat(&learner);
                learner.restore(snapshot.as_ref().map(|snapshot| (Path::new(""), snapshot)), &comm).unwrap();
                steps(&mut learner, &config, 1..STEPS, &comm);
                (refused, flat(&learner))
            });
            let whole = Threads::run(2, |comm| {
                let mut learner = learner::<f64>(&config, &comm);
                steps(&mut learner, &config, 0..STEPS, &comm);
                flat(&learner)
            });
            for (refused, back) in ends {
                assert!(refused == whole[0], "{balance} {engine:?}: a refused step left something");
                assert!(back == whole[0], "{balance} {engine:?}: something of later steps was left");
            }
        }
    }
}
