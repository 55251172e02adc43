//! The program as its users start it: real processes, alone and under mpirun, in temporary folders.
//!
//! Without MPI these tests are not built. Where MPI is built in but mpirun is missing they fail and say so: a test that
//! cannot run does not pass.
#![cfg(feature = "mpi")]

#[path = "mpirun/commands.rs"]
mod commands;
#[path = "mpirun/compare.rs"]
mod compare;
#[path = "mpirun/deaths.rs"]
mod deaths;
#[path = "mpirun/equal.rs"]
mod equal;
#[path = "mpirun/failures.rs"]
mod failures;
#[path = "mpirun/nccl.rs"]
mod nccl;
#[path = "mpirun/process.rs"]
mod process;
#[path = "mpirun/resume.rs"]
mod resume;
#[path = "mpirun/sandbox.rs"]
mod sandbox;
#[path = "mpirun/shipped.rs"]
mod shipped;
#[allow(dead_code, reason = "most of it is for the tests of the layer itself")]
#[path = "nccl/standin.rs"]
mod standin;
#[path = "mpirun/traffic.rs"]
mod traffic;
#[path = "mpirun/watchdog.rs"]
mod watchdog;
