//! `2n` steps are `n`, a checkpoint, and `n` more, for every balancing: the same bits on as many ranks, the same numbers
//! to rounding on more or fewer.

use super::fixture::{config, learner, slice};
use super::{BALANCE, STEPS};
use polytask::checkpoint;
use polytask::comm::{Collective, Threads};
use polytask::config::Config;
use polytask::data::Fitted;
use polytask::ffi::numbers;
use polytask::train::{Learner, Progress};
use std::path::Path;

fn nothing_fitted() -> Fitted {
    let empty = r#"{"numeric":[],"dense":[],"bits":[],"categorical":[],"text":null,"image":null,"tasks":[]}"#;
    serde_json::from_str(empty).unwrap_or_else(|e| panic!("{e}"))
}

fn steps(learner: &mut Learner<f64>, config: &Config, steps: std::ops::Range<u64>, comm: &dyn Collective) {
    for step in steps {
        let report = learner.step(step, 0.05, &slice(step, comm.world(), 1, config), comm).unwrap();
        assert_eq!(report.refused, None);
    }
}

fn flat(learner: &Learner<f64>) -> Vec<f64> {
    let all = numbers::<f64>(&learner.model.params.flat);
    learner.model.params.entries.iter().flat_map(|e| all[e.range.clone()].to_vec()).collect()
}

/// Trains the first half and writes a checkpoint, as several ranks do.
fn first_half(config: &Config, size: usize, root: &Path) {
    Threads::run(size, |comm| {
        let mut learner = learner::<f64>(config, &comm);
        steps(&mut learner, config, 0..STEPS / 2, &comm);
        let progress = Progress { step: STEPS / 2, ..Progress::default() };
        let snapshot = learner.snapshot(config, &nothing_fitted(), &progress, &[], &comm).unwrap();
        if let Some(snapshot) = snapshot {
            checkpoint::write(root, &snapshot).unwrap();
        }
    });
}

fn second_half(config: &Config, size: usize, root: &Path) -> Vec<f64> {
    let found = checkpoint::latest(root).unwrap().unwrap();
    let all = Threads::run(size, |comm| {
        let mut learner = learner::<f64>(config, &comm);
        let from = comm.world().is_main().then_some((found.path.as_path(), &found.snapshot));
        learner.restore(from, &comm).unwrap();
        steps(&mut learner, config, STEPS / 2..STEPS, &comm);
        flat(&learner)
    });
    assert!(all.iter().all(|params| *params == all[0]));
    all.into_iter().next().unwrap()
}

#[test]
fn every_balancing_resumes_exactly_and_on_another_number_of_ranks() {
    tch::set_num_threads(1);
    for balance in BALANCE {
        let config = config(balance, "{adamw: {}}", "sharded");
        let whole = Threads::run(2, |comm| {
            let mut learner = learner::<f64>(&config, &comm);
            steps(&mut learner, &config, 0..STEPS, &comm);
            flat(&learner)
        });
        let dir = tempfile::tempdir().unwrap();
        first_half(&config, 2, dir.path());
        assert!(second_half(&config, 2, dir.path()) == whole[0], "{balance}: not the same bits");
        for size in [1, 3] {
            let other = second_half(&config, size, dir.path());
            let worst = other.iter().zip(&whole[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-9, "{balance} on {size} ranks: {worst:e}");
        }
    }
}
