//! What fuzzing does with an input, a function per target: for the targets themselves, and for `tests/fuzz_corpus.rs`,
//! which runs the corpus through the same functions without a fuzzer.
//!
//! Each function panics on what must not happen: a panic of ours, an error that does not name the file, something read
//! back that differs from what was written, memory that the input does not justify.

mod checkpoint;
mod config;
mod events;
mod flight;
mod memory;
mod readers;
mod resume;
mod workplace;

#[allow(unused_imports)] // the fuzzer makes no seeds
pub use checkpoint::entry;

/// What a target does with an input.
type Target = fn(&[u8]);

/// Name and function of every target.
pub const TARGETS: [(&str, Target); 17] = [
    ("arff", readers::arff),
    ("checkpoint", checkpoint::run),
    ("config", config::file),
    ("csv", readers::csv),
    ("csv_gz", readers::csv_gz),
    ("events_read", events::read),
    ("events_write", events::write),
    ("fault", config::fault),
    ("flight", flight::run),
    ("idx", readers::idx),
    ("jsonl", readers::jsonl),
    ("npy", readers::npy),
    ("npz", readers::npz),
    ("overrides", config::overrides),
    ("parquet", readers::parquet),
    ("resume", resume::run),
    ("safetensors", readers::safetensors),
];

/// Runs one input through a target.
///
/// # Panics
/// On a finding, and for a target that is not there.
pub fn run(target: &str, input: &[u8]) {
    let Some((_, function)) = TARGETS.iter().find(|(name, _)| *name == target) else {
        panic!("there is no target `{target}`");
    };
    memory::limited(|| function(input));
}
