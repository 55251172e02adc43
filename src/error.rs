//! The one error type that leaves the library, and the exit code each kind has.

mod memory;

pub use memory::shortage;

use crate::comm::CommError;
use tch::TchError;

/// Anything that ends a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the configuration is wrong. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A configuration that does not parse or make sense. Exit code 2.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Data that cannot be read or does not fit the configuration. Exit code 3.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// Training stopped itself (divergence, non-finite values). Exit code 4.
    #[error("{0}")]
    Guard(String),
    /// A checkpoint that cannot be written, read or used. Exit code 3.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// Another rank failed, and this one stops with it. The exit code is that rank's.
    #[error("rank {rank}: {message}")]
    Elsewhere {
        /// The rank that failed.
        rank: usize,
        /// Its words.
        message: String,
        /// Its exit code.
        code: u8,
    },
    /// Ranks cannot talk to each other, exit code 70; or were launched in a way that cannot work, exit code 2.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// A file of the run directory cannot be read or written. Exit code 3.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// libtorch found no memory for an operation. Exit code 3.
    #[error("{0}")]
    Memory(String),
    /// libtorch refused an operation: our bug. Exit code 70.
    #[error("libtorch: {0}")]
    Torch(TchError),
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Error {
        match shortage(&error.to_string()) {
            Some(words) => Error::Memory(words),
            None => Error::Torch(error),
        }
    }
}

/// The documented exit codes.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Wrong usage or configuration.
    pub const USAGE: u8 = 2;
    /// Data, files of the run, or too little memory.
    pub const DATA: u8 = 3;
    /// Training stopped by its own guard.
    pub const GUARD: u8 = 4;
    /// Our bug.
    pub const BUG: u8 = 70;
    /// Stopped early with a checkpoint: run the same command again to continue.
    pub const AGAIN: u8 = 75;
}

impl Error {
    /// Whether other ranks may not know of it, so that the job must be aborted rather than left.
    pub fn is_local(&self) -> bool {
        match self {
            Error::Comm(e) => matches!(e, CommError::Failed { .. }),
            Error::Memory(_) | Error::Torch(_) | Error::Io { .. } => true,
            Error::Data(e) => {
                matches!(e, crate::data::DataError::Loader(_) | crate::data::DataError::Stalled { .. })
            }
            _ => false,
        }
    }

    /// The exit code of this kind of error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Config(_) | Error::Comm(CommError::Launch(_)) => exit::USAGE,
            Error::Data(_) | Error::Checkpoint(_) | Error::Io { .. } | Error::Memory(_) => exit::DATA,
            Error::Guard(_) => exit::GUARD,
            Error::Elsewhere { code, .. } => *code,
            Error::Comm(CommError::Failed { .. }) | Error::Torch(_) => exit::BUG,
        }
    }
}

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;
