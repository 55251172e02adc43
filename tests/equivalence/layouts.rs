//! A checkpoint that all ranks write holds the bits of one that rank 0 writes, and any number of ranks continues either.

use super::fixture::{about, config, learner, nothing_fitted, slice};
use polytask::checkpoint::{self, NamedTensor, Snapshot};
use polytask::comm::{Collective, Threads};
use polytask::config::{Config, Engine, Precision};
use polytask::train::persist::Stored;
use polytask::train::{Learner, Progress};
use std::path::{Path, PathBuf};

const STEP: u64 = 2;

fn progress() -> Progress {
    Progress { step: STEP, ..Progress::default() }
}

/// What rank 0 writes alone.
fn whole<F: Stored>(learner: &Learner<F>, config: &Config, comm: &dyn Collective) -> Option<Snapshot> {
    learner.snapshot(about(config, &nothing_fitted(), &progress()), comm).unwrap()
}

/// Writes a checkpoint as all ranks do, and returns its folder.
fn write_shares<F: Stored>(learner: &Learner<F>, config: &Config, root: &Path, comm: &dyn Collective) -> PathBuf {
    let is_main = comm.world().is_main();
    let begun = is_main.then(|| checkpoint::begin(root, STEP, &mut |_| Ok(())).unwrap());
    let mut temp = serde_json::to_vec(&begun).unwrap();
    comm.broadcast(&mut temp).unwrap();
    let temp: PathBuf = serde_json::from_slice(&temp).unwrap();
    let share = learner.cut(about(config, &nothing_fitted(), &progress()), comm).unwrap().share();
    let files = checkpoint::write_share(&temp, share, &mut |_| Ok(())).unwrap();
    let all = comm.all_gather_bytes(&serde_json::to_vec(&files).unwrap()).unwrap();
    let files: Vec<checkpoint::FileInfo> =
        all.iter().flat_map(|bytes| serde_json::from_slice::<Vec<_>>(bytes).unwrap()).collect();
    if is_main {
        checkpoint::finish(root, STEP, files, &mut |_| Ok(())).unwrap();
    }
    comm.barrier().unwrap();
    root.join("step_00000002")
}

/// Name, shape and bits of every tensor, in order.
fn bits(snapshot: &Snapshot) -> Vec<(String, Vec<usize>, Vec<u64>)> {
    let of = |tensor: &NamedTensor| {
        let bits = match &tensor.data {
            checkpoint::Floats::F32(values) => values.iter().map(|x| u64::from(x.to_bits())).collect(),
            checkpoint::Floats::F64(values) => values.iter().map(|x| x.to_bits()).collect(),
        };
        (tensor.name.clone(), tensor.shape.clone(), bits)
    };
    snapshot.tensors.values().flatten().map(of).collect()
}

/// A fresh learner that continues, and what it would write then: whole, and in shares read back.
fn continued<F: Stored>(config: &Config, size: usize, path: &Path, from: &Snapshot) -> [Snapshot; 2] {
    let dir = tempfile::tempdir().unwrap();
    let all = Threads::run(size, |comm| {
        let mut learner = learner::<F>(config, &comm);
        let state = learner.restore(comm.world().is_main().then_some((path, from)), &comm).unwrap();
        assert_eq!((state.progress.step, state.updates), (STEP, STEP));
        let path = write_shares(&learner, config, dir.path(), &comm);
        whole(&learner, config, &comm).map(|whole| [whole, checkpoint::read(&path).unwrap()])
    });
    all.into_iter().next().flatten().unwrap()
}

fn check<F: Stored>(balance: &str, optim: &str, states: usize, change: impl Fn(&mut Config)) {
    tch::set_num_threads(1);
    let mut config = config(balance, optim, "sharded");
    change(&mut config);
    let dir = tempfile::tempdir().unwrap();
    let written = Threads::run(2, |comm| {
        let mut learner = learner::<F>(&config, &comm);
        for step in 0..STEP {
            learner.step(step, 0.05, &slice(step, comm.world(), 1, &config), &comm).unwrap();
        }
        let path = write_shares(&learner, &config, dir.path(), &comm);
        (path, whole(&learner, &config, &comm))
    });
    let (path, Some(expected)) = &written[0] else { panic!("rank 0 has a snapshot") };
    let read = checkpoint::read(path).unwrap();
    assert_eq!((bits(&read), &read.json), (bits(expected), &expected.json), "{balance}, {optim}");
    assert_eq!(read.tensors["optim"].len() / read.tensors["model"].len(), states);
    assert!(bits(&read).iter().any(|(name, _, bits)| !name.starts_with("enc") && bits.iter().any(|&b| b != 0)));

    // As `find_start` leaves it where all ranks see the folder.
    let mut in_place = read.clone();
    in_place.tensors.retain(|stem, _| stem == "model");
    for size in [1, 2, 3] {
        for from in [&in_place, expected] {
            for again in continued::<F>(&config, size, path, from) {
                assert_eq!(bits(&again), bits(expected), "{balance}, {optim} on {size} ranks");
                assert_eq!(again.json["state"], expected.json["state"]);
            }
        }
    }
}

#[test]
fn states_of_every_kind_are_the_same_bits_in_both_layouts_and_on_any_number_of_ranks() {
    check::<f32>("{weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}", "{adamw: {}}", 2, |_| ());
    check::<f64>("{surgery: moco}", "{adamw: {}}", 2, |_| ());
    check::<f32>("{surgery: db_mtl}", "{sgd: {lr: 0.1, momentum: 0.9}}", 1, |_| ());
    check::<f64>("{surgery: none}", "{sgd: {lr: 0.1}}", 0, |_| ());
}

#[test]
fn states_that_are_tensors_too_and_masters_of_sixteen_bits() {
    check::<f64>("{surgery: moco}", "{adamw: {}}", 2, |config| config.train.engine = Engine::Tensors);
    check::<f32>("{surgery: pcgrad}", "{adamw: {}}", 2, |config| config.train.precision = Precision::Bf16);
}

#[test]
fn what_does_not_fit_the_model_is_named_on_all_ranks() {
    let saved = config("{surgery: moco}", "{sgd: {lr: 0.1, momentum: 0.9}}", "sharded");
    let other = config("{surgery: moco}", "{adamw: {}}", "sharded");
    let dir = tempfile::tempdir().unwrap();
    let path =
        Threads::run(2, |comm| write_shares(&learner::<f32>(&saved, &comm), &saved, dir.path(), &comm)).remove(0);
    let mut from = checkpoint::read(&path).unwrap();
    from.tensors.retain(|stem, _| stem == "model");
    let errors = Threads::run(2, |comm| {
        let from = comm.world().is_main().then_some((path.as_path(), &from));
        learner::<f32>(&other, &comm).restore(from, &comm).unwrap_err().to_string()
    });
    let words =
        format!("{}: tensor `exp_avg.encoder.layers.0.weight` is missing", path.join("optim.safetensors").display());
    assert!(errors.iter().all(|error| error.contains(&words) && error.contains("hint: ")), "{errors:?}");
}
