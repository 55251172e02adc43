//! Exchange of tensors between GPUs by NCCL: the `libnccl.so.2` that libtorch itself uses, looked up when the program
//! runs, in three layers.
//!
//! * `raw`, `library`: types and functions of `nccl.h`, and where the library is.
//! * `checked`: results instead of codes; what is in progress is polled, with a deadline.
//! * [`Nccl`]: a communicator that cannot be misused, on a stream beside libtorch's (`queue`).
//!
//! NCCL itself knows no deadline, and a rank that has died leaves the others waiting on their devices. So nothing here waits
//! in a call, and a [`Recorder`] is told of every exchange and can ask, from a thread of its own, whether it is done.
//!
//! The entry is [`Nccl::connect`]. Whether a run uses NCCL is decided by its caller.

mod checked;
mod communicator;
mod connect;
mod environment;
mod error;
mod library;
mod queue;
mod raw;
mod roster;

pub use communicator::Nccl;
pub use environment::{DETERMINISTIC, make_deterministic};
pub use error::NcclError;
pub use library::{Library, Version};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Is told of every exchange that is launched.
pub trait Recorder {
    /// An exchange of `bytes` bytes was launched. `poll` may be called from any thread, does not wait, and says whether it
    /// is done, or that it never will be and why. It should be dropped once it has said either.
    fn begin_async(
        &self,
        plane: &'static str,
        op: &'static str,
        bytes: usize,
        poll: Box<dyn Fn() -> Result<bool, String> + Send>,
    );
}

/// How to join and use a communicator.
#[derive(Clone)]
pub struct NcclOptions {
    /// A `libnccl.so.2` to use instead of libtorch's.
    pub library: Option<PathBuf>,
    /// How long joining may take, all ranks together.
    pub init_deadline: Duration,
    /// How long a launch may take on the host.
    pub deadline: Duration,
    /// How long the end may take: exchanges in flight, then the communicator itself.
    pub close_deadline: Duration,
    /// Is told of every exchange.
    pub recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    /// Ask NCCL for the same bits in every run, see [`make_deterministic`].
    pub deterministic: bool,
}

impl Default for NcclOptions {
    fn default() -> NcclOptions {
        NcclOptions {
            library: None,
            init_deadline: Duration::from_secs(300),
            deadline: Duration::from_secs(100),
            close_deadline: Duration::from_secs(10),
            recorder: None,
            deterministic: false,
        }
    }
}
