//! Ranks as MPI processes. The only file that knows the MPI binding.
//!
//! All calls come from the thread that connected. MPI's own error handler stays `MPI_ERRORS_ARE_FATAL`: an error
//! inside MPI ends the job with MPI's message, so operations here return errors for our own checks only.

use super::{Collective, CommError, Traffic};
use crate::world::World;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

type Result<T> = std::result::Result<T, CommError>;

/// Elements of one MPI call: its counts are 32-bit.
const MAX_COUNT: usize = 1 << 30;

static CONNECTED: AtomicBool = AtomicBool::new(false);

/// This rank of the MPI world. Dropping it waits for all ranks (`MPI_Finalize`): on an error that other ranks do
/// not share, call [`Collective::abort`] instead.
pub struct Mpi {
    world: World,
    comm: SimpleCommunicator,
    scratch: RefCell<(Vec<f32>, Vec<f64>)>,
    traffic: Traffic,
    _universe: Universe, // last: finalises after `comm` is gone
}

impl Mpi {
    /// Starts MPI and finds this rank's place.
    ///
    /// # Collective
    /// All processes that the launcher started.
    ///
    /// # Errors
    /// If MPI was started before in this process.
    pub fn connect() -> Result<Mpi> {
        let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Multiple)
            .ok_or_else(|| CommError::Launch("MPI was already initialised in this process".into()))?;
        CONNECTED.store(true, Ordering::SeqCst);
        let comm = universe.world();
        let node = comm.split_shared(comm.rank());
        let world = World {
            rank: comm.rank() as usize,
            size: comm.size() as usize,
            local_rank: node.rank() as usize,
            local_size: node.size() as usize,
        };
        Ok(Mpi { world, comm, scratch: RefCell::default(), traffic: Traffic::default(), _universe: universe })
    }

    fn sum<F: Equivalence + Copy>(&self, data: &mut [F], scratch: &mut Vec<F>) {
        scratch.clear();
        scratch.extend_from_slice(data);
        for (send, recv) in scratch.chunks(MAX_COUNT).zip(data.chunks_mut(MAX_COUNT)) {
            self.comm.all_reduce_into(send, recv, SystemOperation::sum());
        }
    }

    fn scatter<F: Equivalence>(&self, op: &'static str, send: &[F], recv: &mut [F]) -> Result<()> {
        self.fits(op, send.len(), recv.len())?;
        self.comm.reduce_scatter_block_into(send, recv, SystemOperation::sum());
        Ok(())
    }

    fn gather<F: Equivalence + Copy>(&self, data: &mut [F], scratch: &mut Vec<F>) -> Result<()> {
        let len = data.len() / self.world.size;
        self.fits("all_gather", data.len(), len)?;
        scratch.clear();
        scratch.extend_from_slice(&data[self.world.rank * len..(self.world.rank + 1) * len]);
        self.comm.all_gather_into(&scratch[..], data);
        Ok(())
    }

    fn fits(&self, op: &'static str, whole: usize, block: usize) -> Result<()> {
        if whole != block * self.world.size || whole > MAX_COUNT * 2 - 1 {
            let reason = format!("{whole} elements in blocks of {block} over {} ranks", self.world.size);
            return Err(CommError::Failed { op, reason });
        }
        Ok(())
    }
}

/// Ends the whole job at once, from any thread; used by the panic hook. Returns if MPI was never started.
pub fn abort_if_connected(code: u8) {
    if CONNECTED.load(Ordering::SeqCst) {
        // SAFETY: MPI is initialised with MPI_THREAD_MULTIPLE and not finalised before the process ends on this path.
        unsafe { mpi::ffi::MPI_Abort(mpi::ffi::RSMPI_COMM_WORLD, code.into()) };
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        CONNECTED.store(false, Ordering::SeqCst);
    }
}

impl Collective for Mpi {
    fn world(&self) -> World {
        self.world
    }
    fn barrier(&self) -> Result<()> {
        self.comm.barrier();
        Ok(())
    }
    fn all_reduce_f64(&self, data: &mut [f64]) -> Result<()> {
        self.traffic.all_reduce(self.world, size_of_val(data));
        self.sum(data, &mut self.scratch.borrow_mut().1);
        Ok(())
    }
    fn all_reduce_f32(&self, data: &mut [f32]) -> Result<()> {
        self.traffic.all_reduce(self.world, size_of_val(data));
        self.sum(data, &mut self.scratch.borrow_mut().0);
        Ok(())
    }
    fn reduce_scatter_f32(&self, send: &[f32], recv: &mut [f32]) -> Result<()> {
        self.traffic.one_way(self.world, size_of_val(send));
        self.scatter("reduce_scatter", send, recv)
    }
    fn reduce_scatter_f64(&self, send: &[f64], recv: &mut [f64]) -> Result<()> {
        self.traffic.one_way(self.world, size_of_val(send));
        self.scatter("reduce_scatter", send, recv)
    }
    fn all_gather_f32(&self, data: &mut [f32]) -> Result<()> {
        self.traffic.one_way(self.world, size_of_val(data));
        self.gather(data, &mut self.scratch.borrow_mut().0)
    }
    fn all_gather_f64(&self, data: &mut [f64]) -> Result<()> {
        self.traffic.one_way(self.world, size_of_val(data));
        self.gather(data, &mut self.scratch.borrow_mut().1)
    }
    fn broadcast(&self, data: &mut Vec<u8>) -> Result<()> {
        let root = self.comm.process_at_rank(0);
        let mut len = data.len() as u64;
        root.broadcast_into(&mut len);
        data.resize(len as usize, 0);
        for part in data.chunks_mut(MAX_COUNT) {
            root.broadcast_into(part);
        }
        Ok(())
    }
    fn broadcast_f64(&self, data: &mut [f64]) -> Result<()> {
        self.comm.process_at_rank(0).broadcast_into(data);
        Ok(())
    }
    fn all_gather_bytes(&self, data: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut lengths = vec![0u64; self.world.size];
        self.comm.all_gather_into(&(data.len() as u64), &mut lengths[..]);
        let total: u64 = lengths.iter().sum();
        if total > i32::MAX as u64 {
            let reason = format!("{total} bytes over all ranks, more than one message holds");
            return Err(CommError::Failed { op: "all_gather_bytes", reason });
        }
        let counts: Vec<i32> = lengths.iter().map(|&n| n as i32).collect();
        let starts: Vec<i32> = counts.iter().scan(0, |at, &n| Some(std::mem::replace(at, *at + n))).collect();
        // The pointer of an empty Rust buffer of bytes is 1, which is MPI_IN_PLACE: never hand MPI such a buffer.
        let mut all = vec![0u8; total.max(1) as usize];
        let data = if data.is_empty() { &[0u8][..0] } else { data };
        self.comm.all_gather_varcount_into(data, &mut PartitionMut::new(&mut all[..], &counts[..], &starts[..]));
        Ok(starts.iter().zip(&counts).map(|(&at, &n)| all[at as usize..(at + n) as usize].to_vec()).collect())
    }
    fn abort(&self, code: u8) -> ! {
        self.comm.abort(code.into())
    }
    fn bytes_sent(&self) -> u64 {
        self.traffic.bytes()
    }
}
