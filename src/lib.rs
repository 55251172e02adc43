//! polytask trains one shared-encoder model on many tasks, data-parallel over many ranks, and does the multi-task
//! arithmetic on the **global** per-task gradients.
#![warn(missing_docs)]

pub mod checkpoint;
pub mod comm;
pub mod config;
pub mod data;
pub mod error;
pub mod eval;
pub mod ffi;
pub mod log;
pub mod rng;
pub mod world;

pub use error::{Error, Result};
