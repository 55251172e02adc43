//! A run that is killed at any instant of writing a checkpoint, or finds its files damaged, or its disk full, never loses
//! more than the work since the last whole checkpoint, and ends with the bits of a run that nothing has happened to. One that
//! meets bad numbers does with them what it was told, on all ranks alike.

#[path = "faults/damage.rs"]
mod damage;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/flips.rs"]
mod flips;
#[path = "faults/guards.rs"]
mod guards;
#[path = "faults/inspect.rs"]
mod inspect;
#[path = "faults/kills.rs"]
mod kills;
#[path = "faults/loader.rs"]
mod loader;
#[path = "faults/memory.rs"]
mod memory;
#[path = "faults/numbers.rs"]
mod numbers;
#[allow(dead_code, reason = "all of it is used by the tests under mpirun")]
#[path = "mpirun/process.rs"]
mod process;
#[path = "faults/read_only.rs"]
mod read_only;
#[path = "faults/retention.rs"]
mod retention;
#[allow(dead_code, reason = "all of it is used by the tests under mpirun")]
#[path = "mpirun/sandbox.rs"]
mod sandbox;
#[cfg(feature = "mpi")]
#[path = "faults/shares.rs"]
mod shares;
#[path = "faults/stop.rs"]
mod stop;
#[path = "faults/stragglers.rs"]
mod stragglers;
#[path = "faults/telemetry.rs"]
mod telemetry;
