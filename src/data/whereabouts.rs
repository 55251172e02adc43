//! Where the making of batches is, for whoever waits for it or has to tell how it ended.

use super::Dataset;
use std::fmt::{self, Display};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Rows that are named.
const NAMED: usize = 3;

/// What is being made now, shared by the thread that makes it and the one that waits.
#[derive(Debug)]
pub(super) struct Whereabouts {
    /// By source, its name and files.
    sources: Vec<String>,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    /// From 1; 0: nothing was begun.
    step: u64,
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    source: usize,
    n_rows: usize,
    first: Vec<u32>,
}

impl Whereabouts {
    pub fn new(dataset: &Dataset) -> Self {
        let source = |s: usize| match dataset.source_files(s) {
            "" => format!("source `{}`", dataset.source_name(s)),
            files => format!("source `{}` ({files})", dataset.source_name(s)),
        };
        Whereabouts { sources: (0..dataset.n_sources()).map(source).collect(), now: Mutex::default() }
    }

    /// The batch of this step (from 1) is begun.
    pub fn begin(&self, step: u64) {
        *self.now() = Now { step, part: None };
    }

    /// These rows of the training split of a source are being gathered for it.
    pub fn gather(&self, source: usize, rows: &[u32]) {
        let first = rows[..rows.len().min(NAMED)].to_vec();
        self.now().part = Some(Part { source, n_rows: rows.len(), first });
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let now = self.now();
        write!(f, "the batch of step {}", now.step)?;
        let Some(Part { source, n_rows, first }) = &now.part else {
            return write!(f, " of {}", self.sources.join(" and "));
        };
        let more = if *n_rows > first.len() { ", .." } else { "" };
        let first: Vec<String> = first.iter().map(u32::to_string).collect();
        write!(f, ", training rows {}{more} ({n_rows} in all) of {}", first.join(", "), self.sources[*source])
    }
}
