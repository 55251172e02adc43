//! polytask trains one shared-encoder model on many tasks, data-parallel over many ranks, and does the multi-task
//! arithmetic on the **global** per-task gradients, exactly as one huge GPU would.
//!
//! # A step
//!
//! ```text
//! data        rank's slice of the global task-balanced batch
//! step        per task: local loss sum and count; gradient rows of the local sums
//! comm        losses [T] by one all-reduce; rows summed over ranks and cut into shards [T, P/W]
//! balance     weights w [T] from losses; G = J Jᵀ from the shards; coefficients c = w * surgery(diag(w) G diag(w))
//! optim       shard of the parameters moved by cᵀ J; gathered on all ranks
//! ```
//!
//! Read `train/mod.rs` (the loop), `train/learner/` (one step), then one file per stage.
//!
//! # Legend
//!
//! `T` tasks, `P` shared parameters, `H` task-specific parameters, `W` ranks, `B` global batch, `J` the `[T, P]` matrix
//! of per-task gradients, `G` its Gram matrix. A "rank" is a process, a "source" a dataset, a "slice" a rank's part of
//! the global batch, a "shard" a rank's part of a vector.
//!
//! # Who may use whom
//!
//! A module is a stage of the data flow, and uses go one way. `tests/architecture.rs` reads both tables and fails on
//! anything else outside tests; where not everything may be used, one `crate::` path per `use` keeps that readable.
//!
//! | module | may use |
//! |---|---|
//! | `config`, `world`, `rng`, `kernel`, `files` | nothing |
//! | `ffi` | `kernel` |
//! | `cuda` | `ffi` |
//! | `data` | `config`, `world`, `rng`, `files`, `ffi` |
//! | `optim` | `config`, `world`, `rng`, `kernel`, `ffi` |
//! | `log` | `config`, `world`, `rng`, `kernel`, `files`, `ffi` |
//! | `model` | `config`, `world`, `rng`, `kernel`, `ffi`, `data` |
//! | `comm` | `config`, `world`, `rng`, `kernel`, `files`, `ffi`, `cuda`, `error` |
//! | `step` | `config`, `world`, `rng`, `kernel`, `ffi`, `data`, `model` |
//! | `balance` | `config`, `world`, `rng`, `kernel`, `comm` |
//! | `eval` | `config`, `world`, `rng`, `kernel`, `ffi`, `data`, `model`, `step`, `comm` |
//! | `checkpoint` | `config`, `world`, `rng`, `files`, `comm` |
//! | `fault` | `world`, `comm`, `checkpoint`, `error` |
//! | `error`, `train`, `cli` | everything |
//!
//! | what | looked for in | only in |
//! |---|---|---|
//! | `anyhow::` | everything | nothing |
//! | `CModule`, `VarStore`, `load_multi` (formats of libtorch, which may hold code) | everything | nothing |
//! | `File::create`, `fs::write`, `create_dir`, `create_dir_all`, `OpenOptions::new`, `temp_dir` | everything | `files.rs`, `log/jsonl.rs`, `log/tensorboard/writer.rs`, `train/lock.rs` |
//! | `mpi::` (rsmpi) | everything | `comm/mpi.rs` |
//! | `torch_sys::` | everything | `ffi/` |
//! | `unsafe` | everything | `ffi/`, `cuda/`, `kernel/`, `comm/`, `cli/doctor/facts.rs` |
//! | `env::var`, `env::var_os`, `env::vars` | everything | `comm/`, `cli/`, `log/`, `config/` |
//! | `tch::` | `balance/`, `checkpoint/`, `config/`, `eval/metrics/`, `rng.rs`, `world.rs` | nothing |
//! | `crate::comm` | `balance/` | `balance/global.rs` |
#![warn(missing_docs)]

pub mod balance;
pub mod checkpoint;
pub mod cli;
pub mod comm;
pub mod config;
pub mod cuda;
pub mod data;
pub mod error;
pub mod eval;
pub mod fault;
pub mod ffi;
pub mod files;
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
