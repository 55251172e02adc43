//! What a run tells the world: console, `metrics.jsonl`, TensorBoard, `summary.json`.
//!
//! ```text
//! record     what the training loop reports
//! Logger     hands each record to all of:
//!   console      a progress bar or plain lines, a line per evaluation, a table at the end
//!   jsonl        metrics.jsonl, one object a line
//!   tensorboard  events files
//!   queue        the threads that write these two
//!   summary      summary.json at the end
//! messages   warnings and errors of every rank, on standard error
//! ```
//!
//! Nothing here may fail a training run: an output that cannot be written warns once and stays silent from then on, the
//! others go on, and [`Logger::lost`] says at the end what is missing.

pub mod console;
pub mod jsonl;
mod logger;
mod messages;
pub mod queue;
mod record;
#[cfg(test)]
mod samples;
mod summary;
pub mod tensorboard;

pub use logger::Logger;
pub use messages::init;
pub use queue::Flushed;
pub use record::{
    DeviceRecord, EvalRecord, HParam, RankRecord, Resumed, RunInfo, Status, Summary, TaskInfo, TaskMetrics, TrainRecord,
};
pub use summary::config_hash;
