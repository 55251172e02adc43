//! What can go wrong with NCCL.

use super::library::Version;
use super::raw::{Code, NAMES};
use crate::comm::CommError;
use crate::cuda::CudaError;
use std::time::Duration;

/// NCCL is absent, does not fit, or refused a call.
#[derive(Debug, thiserror::Error)]
pub enum NcclError {
    /// No library could be loaded.
    #[error(
        "NCCL cannot be loaded: {0}\n  hint: the CUDA build of libtorch brings it along (Python package nvidia-nccl-cu13, \
         or cu12); POLYTASK_NCCL may name a libnccl.so.2"
    )]
    Absent(String),
    /// A library lacks a function.
    #[error(
        "{path} has no `{symbol}`\n  hint: it is no NCCL, or a damaged one; expected the libnccl.so.2 that libtorch came with"
    )]
    Symbol {
        /// The library.
        path: String,
        /// The function.
        symbol: &'static str,
    },
    /// A library is too old.
    #[error(
        "{path} is NCCL {found}, expected {} or newer\n  hint: use the libnccl.so.2 that libtorch came with",
        Version::LEAST
    )]
    TooOld {
        /// The library.
        path: String,
        /// Its version.
        found: Version,
    },
    /// A call failed.
    #[error("{call}: {}{}{}", name(*.code), detail(.words), hint(*.code))]
    Call {
        /// The function.
        call: &'static str,
        /// Its result.
        code: Code,
        /// What NCCL says about it; may be empty.
        words: String,
    },
    /// A call did not come to its end.
    #[error("{call} was still in progress after {} s{hint}", .after.as_secs_f64())]
    TimedOut {
        /// The function, or what was waited for.
        call: &'static str,
        /// How long it was waited for.
        after: Duration,
        /// Empty, or what to look at.
        hint: &'static str,
    },
    /// The GPU cannot be used.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The processes, devices or settings do not fit.
    #[error("{0}")]
    Setup(String),
}

impl NcclError {
    /// As the error of an exchange.
    pub(super) fn during(&self, op: &'static str) -> CommError {
        CommError::Failed { op, reason: self.to_string() }
    }
}

fn name(code: Code) -> String {
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or_else(|| format!("unknown result {code}"), ToString::to_string)
}

fn detail(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

fn hint(code: Code) -> &'static str {
    match code {
        1 => "\n  hint: a CUDA call within NCCL failed; NCCL_DEBUG=WARN says which",
        2 => {
            "\n  hint: a system call within NCCL failed; NCCL_DEBUG=INFO says which. NCCL_SOCKET_IFNAME chooses the network; \
             containers need room in /dev/shm"
        }
        6 => "\n  hint: another rank has ended, or the network has failed: look at what the other ranks wrote",
        _ => "\n  hint: NCCL_DEBUG=WARN says more",
    }
}
