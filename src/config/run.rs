//! Sections `run`, `train`, `comm`, `checkpoint`, `log`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Section `run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Name shown in logs and TensorBoard.
    pub name: String,
    /// Every random choice of the run derives from it.
    #[serde(default = "one")]
    pub seed: u64,
    /// Run directory; default `runs/<name>`. Relative to the working directory.
    #[serde(default)]
    pub dir: Option<PathBuf>,
}

impl Run {
    /// The run directory.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| PathBuf::from("runs").join(&self.name))
    }
}

/// Section `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// Passes over the data. An epoch is `ceil(samples of all sources / samples of a global step)` steps.
    pub epochs: Option<u64>,
    /// Optimizer steps; wins over `epochs`.
    pub steps: Option<u64>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Kind of parameters and activations.
    pub precision: Precision,
    /// Evaluate on the validation split every so many epochs (0: only at the end).
    pub eval_every_epochs: u64,
    /// Evaluate every so many steps instead, when set.
    pub eval_every_steps: Option<u64>,
    /// Samples per rank in one evaluation forward pass.
    pub eval_batch: usize,
    /// What decides which checkpoint is `best`: `mean` of the tasks' first metrics, or `task/metric`.
    pub best_by: String,
    /// Stop early once `best_by` has not improved for so many evaluations.
    pub patience: Option<u64>,
    /// What to do when a global loss or gradient is not finite.
    pub non_finite: NonFinite,
    /// Compare the parameters' checksums over ranks every so many steps (0: never).
    pub replica_check_every: u64,
    /// Threads per rank for libtorch; default: cores of the node / ranks on the node.
    pub threads: Option<usize>,
}

impl Default for Train {
    fn default() -> Self {
        Train {
            epochs: None,
            steps: None,
            device: "auto".into(),
            precision: Precision::F32,
            eval_every_epochs: 1,
            eval_every_steps: None,
            eval_batch: 1024,
            best_by: "mean".into(),
            patience: None,
            non_finite: NonFinite::Stop,
            replica_check_every: 100,
            threads: None,
        }
    }
}

/// Kind of parameters and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 64-bit floats: for tests of exactness, slow.
    F64,
}

/// What to do when a global loss or gradient is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// Stop with exit code 4; the last checkpoint stays.
    Stop,
    /// Skip the step on all ranks, count it, and stop after 10 in a row.
    Skip,
}

/// Section `comm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Comm {
    /// Who moves the tensors.
    pub backend: Backend,
    /// How per-task gradients are reduced.
    pub reduction: Reduction,
    /// Seconds that a collective operation may take before the job is ended (0: any time).
    pub timeout: u64,
    /// Seconds that GPUs may take to connect to each other (0: any time).
    pub init_timeout: u64,
}

impl Default for Comm {
    fn default() -> Self {
        Comm { backend: Backend::Auto, reduction: Reduction::Sharded, timeout: 600, init_timeout: 300 }
    }
}

/// Who moves the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// MPI when a launcher started several ranks, nothing otherwise.
    Auto,
    /// MPI, also for a world of one.
    Mpi,
    /// No communication: a world of one.
    Solo,
}

/// How per-task gradients are reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Reduce-scatter along the parameters, balance and optimize on the shard, all-gather the parameters.
    Sharded,
    /// All-reduce the whole `J`; every rank does all the work. The plain mode that tests compare with.
    AllReduce,
}

/// Section `checkpoint`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Write one every so many steps (0: only at evaluations and at the end).
    pub every: u64,
    /// Keep the last so many, besides the best one.
    pub keep: usize,
    /// Keep the best one by `train.best_by`.
    pub best: bool,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Checkpoint { every: 0, keep: 3, best: true }
    }
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A `train` record every so many steps.
    pub every: u64,
    /// Write TensorBoard events.
    pub tensorboard: bool,
    /// The cosine matrix as a picture every so many `train` records (0: never).
    pub image_every: u64,
}

impl Default for Log {
    fn default() -> Self {
        Log { every: 20, tensorboard: true, image_every: 10 }
    }
}

fn one() -> u64 {
    1
}
