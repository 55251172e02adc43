//! polytask trains one shared-encoder model on many tasks, data-parallel over many ranks, and does the multi-task
//! arithmetic on the **global** per-task gradients.
#![warn(missing_docs)]

pub mod balance;
pub mod checkpoint;
pub mod cli;
pub mod comm;
pub mod config;
pub mod data;
pub mod error;
pub mod eval;
pub mod ffi;
pub mod kernel;
pub mod log;
pub mod model;
pub mod optim;
pub mod rng;
pub mod step;
pub mod train;
pub mod world;

pub use error::{Error, Result};

/// Version of libtorch that this build is made for.
pub const LIBTORCH_VERSION: &str = "2.11.0";
