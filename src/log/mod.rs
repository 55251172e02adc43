//! What a run tells the world: console, `metrics.jsonl`, TensorBoard.

use serde::Serialize;

/// One training record: the state of the optimization at one step.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// Coefficients `c` `[T]` of the task gradients in the update of the shared parameters.
    pub coef: Vec<f64>,
    /// Norms of the global task gradients `[T]`; `None` for loss-only balancing, which never sees them.
    pub grad_norm: Option<Vec<f64>>,
    /// Cosines of the global task gradients `[T * T]`, row-major.
    pub cosine: Option<Vec<f64>>,
    /// Share of task pairs whose gradients have a negative inner product.
    pub conflict_rate: Option<f64>,
    /// Norm of the whole update before clipping.
    pub update_norm: f64,
    /// Milliseconds per phase of a step (mean over the steps since the last record).
    pub time_ms: Vec<(&'static str, f64)>,
    /// Samples of all ranks per second, since the last record.
    pub samples_per_s: f64,
    /// Bytes one rank sends in a step.
    pub bytes_per_step: u64,
    /// Steps skipped so far because a value was not finite.
    pub skipped: u64,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalRecord {
    /// Steps done.
    pub step: u64,
    /// Passes over the data.
    pub epoch: f64,
    /// `val` or `test`.
    pub split: String,
    /// Per task (in config order) its metrics (in config order); `None`: not defined on this data.
    pub metrics: Vec<(String, Vec<(String, Option<f64>)>)>,
    /// What `train.best_by` makes of them, larger is better; `None`: not defined.
    pub score: Option<f64>,
    /// Whether it is the best so far.
    pub best: bool,
    /// Seconds it took.
    pub seconds: f64,
}
