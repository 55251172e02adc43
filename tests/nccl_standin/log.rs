//! A line per call, "rank function", in the file that the plan names.

use crate::plan::plan;
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;

thread_local! {
    /// The rank that joined in this thread.
    static RANK: Cell<Option<usize>> = const { Cell::new(None) };
}

pub fn set_rank(rank: usize) {
    RANK.set(Some(rank));
}

/// A call without a communicator.
pub fn call(name: &str) {
    write(RANK.get().map_or("-".into(), |rank| rank.to_string()), name);
}

pub fn call_of(rank: usize, name: &str) {
    write(rank.to_string(), name);
}

fn write(rank: String, name: &str) {
    if let Some(path) = &plan().log {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{rank} {name}\n").as_bytes()).unwrap();
    }
}
