//! polytask trains one shared-encoder model on many tasks, data-parallel over many ranks, and does the multi-task
//! arithmetic on the **global** per-task gradients.
//!
//! # Who may use whom
//!
//! A module is a stage of the data flow, and uses go one way. `tests/architecture.rs` reads both tables and fails on
//! anything else outside tests; where not everything may be used, one `crate::` path per `use` keeps that readable.
//!
//! | module | may use |
//! |---|---|
//! | `config`, `world`, `rng`, `kernel`, `ffi` | nothing |
//! | `data` | `config`, `world`, `rng` |
//! | `model`, `comm`, `optim`, `log` | `config`, `world`, `rng`, `kernel`, `ffi` |
//! | `step` | `config`, `world`, `rng`, `kernel`, `ffi`, `data`, `model` |
//! | `balance` | `config`, `world`, `rng`, `kernel`, `comm` |
//! | `eval` | `config`, `world`, `rng`, `kernel`, `ffi`, `data`, `model`, `step`, `comm` |
//! | `checkpoint` | `config`, `world`, `rng`, `comm` |
//! | `error`, `train`, `cli` | everything |
//!
//! | what | looked for in | only in |
//! |---|---|---|
//! | `anyhow::` | everything | `main.rs` |
//! | `mpi::` (rsmpi) | everything | `comm/mpi.rs` |
//! | `torch_sys::` | everything | `ffi.rs` |
//! | `unsafe` | everything | `ffi.rs`, `kernel/`, `comm/` |
//! | `env::var`, `env::var_os`, `env::vars` | everything | `comm/`, `cli/`, `log/`, `config/` |
//! | `tch::` | `balance/`, `checkpoint/`, `config/`, `eval/metrics/`, `rng.rs`, `world.rs` | nothing |
//! | `crate::comm` | `balance/` | `balance/global.rs` |
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
