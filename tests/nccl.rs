//! The NCCL layer on machines without GPUs: everything above the library, with a stand-in that moves host memory and fails
//! on demand. Ranks are threads; under mpirun they are processes.

#[path = "nccl/connecting.rs"]
mod connecting;
#[path = "nccl/data.rs"]
mod data;
#[path = "nccl/exchanging.rs"]
mod exchanging;
#[path = "nccl/failing.rs"]
mod failing;
#[path = "nccl/records.rs"]
mod records;
#[path = "nccl/standin.rs"]
mod standin;

use polytask::comm::nccl::{Nccl, NcclOptions};
use polytask::comm::{Collective, Threads};
use std::time::Duration;
use tch::Device;

/// Deadlines that a test can wait for.
fn quick() -> NcclOptions {
    NcclOptions {
        init_deadline: Duration::from_secs(10),
        deadline: Duration::from_secs(10),
        close_deadline: Duration::from_millis(300),
        ..NcclOptions::default()
    }
}

/// Runs `body` on so many ranks, joined by the stand-in, as threads.
fn ranks<R: Send>(size: usize, options: &NcclOptions, body: impl Fn(&Nccl, usize) -> R + Sync) -> Vec<R> {
    Threads::run(size, |control| {
        let nccl = Nccl::connect(&control, Device::Cpu, options).unwrap();
        let result = body(&nccl, control.world().rank);
        control.barrier().unwrap();
        result
    })
}
