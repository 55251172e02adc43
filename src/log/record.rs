//! What the training loop reports: the run, a step, an evaluation, the end.

use crate::config::Metric;
use serde::{Deserialize, Serialize};

/// What is known before the first step.
#[derive(Debug, Clone, PartialEq)]
pub struct RunInfo {
    /// Name of the run.
    pub name: String,
    /// The tasks in config order.
    pub tasks: Vec<TaskInfo>,
    /// Number of ranks, `W`.
    pub world_size: usize,
    /// Device of rank 0 (`cpu`, `cuda:0`).
    pub device: String,
    /// Shared parameters, `P`.
    pub n_params_shared: u64,
    /// Task-specific parameters, `H`.
    pub n_params_private: u64,
    /// Steps of the whole run, those before a resume included.
    pub total_steps: u64,
    /// The resolved configuration.
    pub config_yaml: String,
    /// Hyper-parameters by which runs are compared (seed, methods, learning rate, batch, ranks).
    pub hparams: Vec<(String, HParam)>,
    /// Version of libtorch.
    pub libtorch: String,
}

impl RunInfo {
    /// Names of the tasks `[T]`.
    pub fn task_names(&self) -> Vec<String> {
        self.tasks.iter().map(|task| task.name.clone()).collect()
    }

    /// The metrics of any task, each once, in the order in which they first appear.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut all = Vec::new();
        for metric in self.tasks.iter().flat_map(|task| &task.metrics) {
            if !all.contains(metric) {
                all.push(*metric);
            }
        }
        all
    }
}

/// A task and how it is judged.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskInfo {
    /// Name.
    pub name: String,
    /// Its metrics in config order; the first one is shown in tables.
    pub metrics: Vec<Metric>,
}

/// Value of a hyper-parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum HParam {
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
    /// Yes or no.
    Flag(bool),
}

impl From<f64> for HParam {
    fn from(value: f64) -> HParam {
        HParam::Number(value)
    }
}

impl From<&str> for HParam {
    fn from(value: &str) -> HParam {
        HParam::Text(value.into())
    }
}

impl From<bool> for HParam {
    fn from(value: bool) -> HParam {
        HParam::Flag(value)
    }
}

/// One training record: the state of the optimization at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainRecord {
    /// Steps done, from 1.
    pub step: u64,
    /// Passes over the data, as a fraction.
    pub epoch: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Task names `[T]`.
    pub tasks: Vec<String>,
    /// Mean loss per task `[T]`; `None`: the step held no label of it.
    pub loss: Vec<Option<f64>>,
    /// Weights `w` `[T]`.
    pub weight: Vec<f64>,
    /// Coefficients `c` `[T]` of the task gradients in the update of the shared parameters, averaged over
    /// groups of layers; empty if the update is no combination of them.
    pub coef: Vec<f64>,
    /// Norms of the global task gradients `[T]`; `None` for loss-only balancing, which never sees them.
    pub grad_norm: Option<Vec<f64>>,
    /// Cosines of the global task gradients `[T * T]`, row-major.
    pub cosine: Option<Vec<f64>>,
    /// Share of task pairs whose gradients have a negative inner product.
    pub conflict_rate: Option<f64>,
    /// Norm of the whole update before clipping.
    pub update_norm: f64,
    /// Milliseconds per phase of a step (mean over the steps since the last record). Phases do not overlap and cover
    /// the step: their sum is the time of a step.
    pub time_ms: Vec<(&'static str, f64)>,
    /// Samples of all ranks per second, since the last record.
    pub samples_per_s: f64,
    /// Bytes one rank sends in a step.
    pub bytes_per_step: u64,
    /// Steps skipped so far because a value was not finite.
    pub skipped: u64,
    /// Milliseconds for which checkpoints held training up since the last record; `None`: there was none.
    pub checkpoint_ms: Option<f64>,
    /// What only a device has.
    pub device: Option<DeviceRecord>,
    /// How ranks compare; `None`: one rank, or nobody wants to know.
    pub ranks: Option<RankRecord>,
}

/// What ranks spend by themselves, in phases in which none waits for another.
#[derive(Debug, Clone, PartialEq)]
pub struct RankRecord {
    /// Milliseconds per step, mean since the last record, by rank `[W]`.
    pub own_ms: Vec<f64>,
    /// The rank that needs longest.
    pub slowest: usize,
    /// How many times longer than the median of the others it needs.
    pub slowdown: f64,
    /// Ranks that have been slow for some records in a row.
    pub slow: Vec<usize>,
}

impl RankRecord {
    /// Smallest, median and largest of [`Self::own_ms`]: what can be read of 512 ranks.
    pub fn spread(&self) -> [f64; 3] {
        let mut sorted = self.own_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let n = sorted.len();
        [at(0), f64::midpoint(at(n.saturating_sub(1) / 2), at(n / 2)), at(n.saturating_sub(1))]
    }
}

/// What is known of a device and of the exchange between devices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceRecord {
    /// Memory in use on rank 0's device in MiB, by whomever.
    pub memory_mib: f64,
    /// Milliseconds per step that exchanges took, and the share of it for which the computation waited; `None` on one rank.
    pub exchange: Option<(f64, f64)>,
}

/// A task and its metrics by name; `None`: not defined on this data.
pub type TaskMetrics = (String, Vec<(String, Option<f64>)>);

/// One evaluation. Serializable, so that a checkpoint can keep the best one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Steps done.
    pub step: u64,
    /// Passes over the data.
    pub epoch: f64,
    /// `val` or `test`.
    pub split: String,
    /// Per task (in config order) its metrics (in config order).
    pub metrics: Vec<TaskMetrics>,
    /// What `train.best_by` makes of them, larger is better; `None`: not defined.
    pub score: Option<f64>,
    /// Whether it is the best so far.
    pub best: bool,
    /// Seconds it took.
    pub seconds: f64,
}

/// Where a run goes on, as its checkpoint has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resumed {
    /// Steps done.
    pub step: u64,
    /// Best score on validation so far.
    pub best_score: Option<f64>,
}

/// How a run ended, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// How it ended.
    pub status: Status,
    /// Steps done, those before a resume included.
    pub steps: u64,
    /// Passes over the data, as a fraction.
    pub epochs: f64,
    /// Samples of all ranks that went through the model in training.
    pub samples: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Steps skipped because a value was not finite.
    pub skipped: u64,
    /// Evaluations of the best parameters, one per split; empty: never evaluated.
    pub best: Vec<EvalRecord>,
    /// Evaluations of the final parameters, one per split.
    pub last: Vec<EvalRecord>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All steps are done, or patience ran out.
    Done,
    /// Stopped early with a checkpoint: the same command continues.
    Stopped,
    /// Training stopped itself.
    Failed,
}
