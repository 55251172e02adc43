//! Checkpoints as folders of safetensors and JSON: atomic to write, verified to read.
//!
//! ```text
//! checkpoints/
//! ├── step_00001200/
//! │   ├── model.safetensors   one file per entry of `Snapshot::tensors`
//! │   ├── optim.safetensors
//! │   ├── state.json          one file per entry of `Snapshot::json`
//! │   └── MANIFEST.json       step, and size and SHA-256 of every other file
//! ├── latest                  name of the folder to resume from
//! └── best                    name of the folder of the best evaluation
//! ```
//!
//! Where all ranks write, `optim` and `balance` are cut into a file per rank ([`Piece`]); whoever reads gets the same tensors.
//!
//! **A crash at any instant leaves a checkpoint that opens.** A folder is written under a temporary name, synced to
//! disk file by file, renamed, and only then named by `latest`; what was there before is not touched until then.
//! [`latest`] trusts no folder whose sizes and hashes do not fit its manifest, and falls back to an older one.
//! Rank 0 writes, or all ranks write their [`Share`] of it, each from a thread of its own ([`Writer`]) while training goes on;
//! any number of ranks reads, all of it ([`read()`]) or ranges ([`Archive`]).

mod archive;
mod durable;
mod folder;
mod manifest;
mod pieces;
mod point;
mod prune;
mod read;
mod state;
mod survey;
mod tensors;
#[cfg(test)]
mod tests;
mod write;
mod writer;

pub use archive::Archive;
pub use folder::{best, continue_from, mark_best};
pub use manifest::FileInfo;
pub use pieces::Piece;
pub use point::Point;
pub use prune::{Keep, clear, prune};
pub use read::{Candidates, Found, latest, read, verify};
pub use state::{State, float, floats, read_float, read_floats};
pub use survey::{Survey, Surveyed, files, survey};
pub use write::{Share, begin, finish, make_root, undo, write, write_share, write_with};
pub use writer::{Order, Report, Work, Writer, Written};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    /// A rank could not write its part.
    #[error("rank {rank}: {message}")]
    OnRank {
        /// The rank.
        rank: usize,
        /// Its words, which name the file.
        message: String,
    },
}

impl CheckpointError {
    /// Whether the disk did not give what may be there, and good: an I/O error that says nothing about the content. A file that
    /// is missing, cut off or of another kind is as good as damaged.
    pub fn is_unread(&self) -> bool {
        matches!(self, CheckpointError::Io { source, .. } if !damage(source.kind()))
    }

    /// For `map_err`: an I/O error of this file or folder.
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError + '_ {
        move |source| CheckpointError::Io { path: path.to_path_buf(), source }
    }

    fn bad(path: &Path, message: impl Into<String>) -> CheckpointError {
        CheckpointError::Bad { path: path.to_path_buf(), message: message.into() }
    }
}

/// Whether an I/O error is one of what lies on the disk.
fn damage(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    matches!(kind, NotFound | UnexpectedEof | InvalidData | IsADirectory | NotADirectory)
}

type Result<T> = std::result::Result<T, CheckpointError>;

/// Numbers of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Floats {
    /// 32-bit.
    F32(Vec<f32>),
    /// 64-bit.
    F64(Vec<f64>),
}

impl Floats {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Floats::F32(values) => values.len(),
            Floats::F64(values) => values.len(),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
