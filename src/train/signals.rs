//! Asking a run to stop: the handler only sets a flag, the loop looks at step boundaries.

use crate::comm::watchdog::told_to_leave;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Exit status after a second interrupt, which stops at once, without a checkpoint.
const IMPATIENT: i32 = 130;

/// Whether somebody asked this process to stop, and when it will be ended.
#[derive(Debug, Clone, Default)]
pub struct StopFlag {
    raised: Arc<AtomicBool>,
    began: Option<Instant>,
    job_end: Option<Instant>,
}

impl StopFlag {
    /// Catches USR1 and USR2 (which mpirun forwards at once), and INT, TERM and HUP, from now on. A second INT or TERM
    /// stops the process at once; signals of other kinds before it do not count.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        let armed = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM].into_iter().filter(|&s| !is_ignored(s)) {
            flag::register_conditional_shutdown(signal, IMPATIENT, armed.clone())?;
            flag::register(signal, armed.clone())?;
        }
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2].into_iter().filter(|&s| !is_ignored(s)) {
            flag::register(signal, raised.clone())?;
        }
        if !is_ignored(SIGTERM) {
            flag::register(SIGTERM, told_to_leave())?;
        }
        Ok(StopFlag { raised, began: Some(Instant::now()), job_end: None })
    }

    /// The launcher will end the process at this moment.
    pub fn with_job_end(self, end: Instant) -> Self {
        StopFlag { job_end: Some(end), ..self }
    }

    /// Since when signals are caught: the start of the command.
    pub fn began(&self) -> Option<Instant> {
        self.began
    }

    /// When the launcher will end the process.
    pub fn job_end(&self) -> Option<Instant> {
        self.job_end
    }

    /// Whether a signal has come.
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

/// Whether this process was started with the signal ignored, as `nohup` does with HUP: then it stays ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}
