//! Checkpoints as folders of safetensors and JSON: atomic to write, verified to read.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A checkpoint that cannot be written, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The folder is no complete checkpoint, or its content does not fit.
    #[error("{}: {message}", path.display())]
    Bad {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and the way out.
        message: String,
    },
}

/// Numbers of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Floats {
    /// 32-bit.
    F32(Vec<f32>),
    /// 64-bit.
    F64(Vec<f64>),
}

/// A named tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Readable name, as in PyTorch (`encoder.layers.0.weight`).
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Floats,
}

/// Everything a run needs to continue as if it had never stopped. Free of `W`: any number of ranks reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Steps done.
    pub step: u64,
    /// Tensors by file stem (`model`, `optim`), in order.
    pub tensors: BTreeMap<String, Vec<NamedTensor>>,
    /// Small state by file stem (`state`: balancer, sampler, best so far; `transforms`: fitted data transforms;
    /// `config`: resolved configuration).
    pub json: BTreeMap<String, serde_json::Value>,
}
