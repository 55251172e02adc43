//! Sections `run`, `train`, `comm`, `checkpoint`, `log`.

use super::TimeSpan;
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
    /// `auto` (a GPU if there is one), `cpu`, `cuda` (the GPU of this rank's place on its node) or `cuda:N`.
    pub device: String,
    /// Kind of parameters and activations.
    pub precision: Precision,
    /// Who computes what follows the backward passes.
    pub engine: Engine,
    /// Let matrix products of 32-bit floats round their factors to TF32 on GPUs that can. Inner products of gradients stay exact.
    pub tf32: bool,
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
    /// What to do when a finite loss or update stands out from those before; `None`: nothing.
    pub spike: Option<Spike>,
    /// Steps in a row that are not taken, the last of which stops the run.
    pub max_skipped: u64,
    /// Rollbacks in a row without a checkpoint beyond the step in question, after which the next one stops the run.
    pub max_rollbacks: u64,
    /// Compare the parameters' checksums over ranks every so many steps (0: never).
    pub replica_check_every: u64,
    /// Threads per rank for libtorch; default: cores of the node / ranks on the node.
    pub threads: Option<usize>,
    /// Stop with a checkpoint before the command has run for so long; the same command continues.
    pub max_time: Option<TimeSpan>,
    /// Time kept free before the end, of `max_time` or of the job, for the last checkpoint; twice the longest one so far if
    /// that is more.
    pub stop_margin: TimeSpan,
}

impl Default for Train {
    fn default() -> Self {
        Train {
            epochs: None,
            steps: None,
            device: "auto".into(),
            precision: Precision::F32,
            engine: Engine::Auto,
            tf32: false,
            eval_every_epochs: 1,
            eval_every_steps: None,
            eval_batch: 1024,
            best_by: "mean".into(),
            patience: None,
            non_finite: NonFinite::Stop,
            spike: None,
            max_skipped: 10,
            max_rollbacks: 3,
            replica_check_every: 100,
            threads: None,
            max_time: None,
            stop_margin: TimeSpan::of(60),
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
    /// Activations and gradients in 16 bits (bfloat16), masters, losses, reduction and optimizer in 32: for GPUs.
    Bf16,
}

/// Who computes what follows the backward passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// Our own kernels on the CPU; libtorch on GPUs and for `bf16`.
    Auto,
    /// Operations of libtorch, on a CPU too: for comparison.
    Tensors,
}

/// In which floats gradients travel between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// As they are summed: in 32 bits, or 64 with `train.precision: f64`.
    F32,
    /// In 16 bits (bfloat16): half the bytes, and sums of 8 bits of mantissa. With tensors alone (GPUs, `bf16`).
    Bf16,
}

/// What to do when a global loss or gradient is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// Stop with exit code 4; the last checkpoint stays.
    Stop,
    /// Skip the step on all ranks, count it, and stop after `max_skipped` in a row.
    Skip,
    /// Go back to the last checkpoint and leave the step out, on all ranks; stop after `max_rollbacks` in a row.
    Rollback,
}

/// When a number stands out from those of the steps before, and what to do then.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spike {
    /// Standard deviations above the mean of the window from which on a number is a spike.
    pub sigmas: f64,
    /// Steps that were taken of which mean and deviation are; half of them must be there before anything is a spike.
    pub window: u64,
    /// What to do about it.
    pub action: SpikeAction,
}

impl Default for Spike {
    fn default() -> Self {
        Spike { sigmas: 6.0, window: 128, action: SpikeAction::Skip }
    }
}

/// What to do about a spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpikeAction {
    /// Say so, and take the step.
    Warn,
    /// As [`NonFinite::Skip`].
    Skip,
    /// As [`NonFinite::Rollback`].
    Rollback,
    /// As [`NonFinite::Stop`].
    Stop,
}

/// Section `comm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Comm {
    /// Who moves the tensors.
    pub backend: Backend,
    /// How per-task gradients are reduced.
    pub reduction: Reduction,
    /// In which floats gradients travel.
    pub wire: Wire,
    /// MiB of 32-bit numbers after which a part of the encoder ends (tensors alone): its gradients are sent off while the
    /// backward pass goes on, its parameters arrive while the next forward pass does.
    pub bucket_mb: f64,
    /// From what surgery's inner products are computed.
    pub gram: GramFrom,
    /// The same bits every time on GPUs too: slower exchanges and kernels.
    pub deterministic: bool,
    /// Seconds that a collective operation may take before the job is ended (0: any time).
    pub timeout: u64,
    /// Seconds that GPUs may take to connect to each other (0: any time).
    pub init_timeout: u64,
}

/// From what surgery's inner products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GramFrom {
    /// The reduced rows: exact, and `(T + 1) / 2T` of the bytes of an all-reduce of all rows.
    Exact,
    /// Random projections of the local rows: an estimate, and the bytes of one row and of `T` sketches.
    Sketch(Sketch),
}

/// Options of [`GramFrom::Sketch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sketch {
    /// Numbers to which a row is projected. The error of a cosine is about `1 / sqrt(dim)`.
    pub dim: usize,
}

impl Default for Sketch {
    fn default() -> Self {
        Sketch { dim: 1 << 16 }
    }
}

impl Comm {
    /// [`Comm::bucket_mb`] as a number of parameters.
    pub fn bucket(&self) -> usize {
        (self.bucket_mb * f64::from(1 << 18)) as usize
    }
}

impl Default for Comm {
    fn default() -> Self {
        Comm {
            backend: Backend::Auto,
            reduction: Reduction::Sharded,
            wire: Wire::F32,
            bucket_mb: 25.0,
            gram: GramFrom::Exact,
            deterministic: false,
            timeout: 600,
            init_timeout: 300,
        }
    }
}

/// Who moves the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// MPI when a launcher started several ranks, nothing otherwise; NCCL for tensors on GPUs.
    Auto,
    /// MPI, also for a world of one; NCCL for tensors on GPUs.
    Mpi,
    /// MPI for what ranks decide, NCCL for tensors, or nothing goes.
    Nccl,
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
    /// Write one when so many minutes have passed since the last one, too.
    pub every_minutes: Option<f64>,
    /// Keep the last so many, besides the best one.
    pub keep: usize,
    /// Keep those for good whose step is a multiple of this (0: none).
    pub keep_every: u64,
    /// Keep the best one by `train.best_by`.
    pub best: bool,
    /// Who writes the states of optimizer and surgery.
    pub layout: Layout,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Checkpoint { every: 0, every_minutes: None, keep: 3, keep_every: 0, best: true, layout: Layout::Auto }
    }
}

/// Who writes the states of optimizer and surgery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Every rank its own, where each has a part of them and all see the run directory; else rank 0.
    Auto,
    /// Rank 0, in whole files.
    Whole,
    /// Every rank its own, or nothing goes.
    Sharded,
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
    /// Warn of a rank that needs so many times as long by itself as the median of the others (0: ranks are not compared).
    pub straggler: f64,
}

impl Default for Log {
    fn default() -> Self {
        Log { every: 20, tensorboard: true, image_every: 10, straggler: 1.5 }
    }
}

fn one() -> u64 {
    1
}
