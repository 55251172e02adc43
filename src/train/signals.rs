//! Asking a run to stop: the handler only sets a flag, the loop looks at step boundaries.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit status after a second interrupt, which stops at once, without a checkpoint.
const IMPATIENT: i32 = 130;

/// Whether somebody asked this process to stop.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Catches USR1 and USR2 (which mpirun forwards at once), and INT, TERM and HUP, from now on. A second INT, TERM or
    /// HUP stops the process at once.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_conditional_shutdown(signal, IMPATIENT, raised.clone())?;
        }
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2] {
            flag::register(signal, raised.clone())?;
        }
        Ok(StopFlag(raised))
    }

    /// Whether a signal has come.
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
