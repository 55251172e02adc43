//! A collective whose every operation is recorded.

use super::alarm;
use super::flight;
use super::{Job, Ticket, Watchdog, WatchdogOptions};
use crate::comm::{Collective, CommError};
use crate::world::World;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

type Result<T> = std::result::Result<T, CommError>;

/// Name of the plane of what ranks exchange through host memory.
const PLANE: &str = "mpi";

/// The fault that [`skip_next_all_reduce`] injects.
static SKIP: AtomicBool = AtomicBool::new(false);

/// Fault injection: this process leaves out its next small sum, as a bug would that lets one rank take another branch.
pub fn skip_next_all_reduce() {
    SKIP.store(true, Ordering::Relaxed);
}

/// Puts a collective of two ranks and more under a watchdog of its own. A world of one, and a deadline of zero, need none.
///
/// # Collective
/// All ranks; rank 0 gives this job a name, by which records of an earlier one in the same folder are told apart. Ranks on
/// several hosts tell each other where they are.
///
/// # Errors
/// If the collective fails.
pub fn guard(inner: Box<dyn Collective>, options: WatchdogOptions) -> Result<Box<dyn Collective>> {
    let world = inner.world();
    if world.size == 1 || options.deadline.is_zero() {
        return Ok(inner);
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut name = format!("{:x}-{:x}", since_1970.as_millis(), std::process::id()).into_bytes();
    inner.broadcast(&mut name)?;
    let run = String::from_utf8_lossy(&name).into_owned();
    let several = world.local_size < world.size;
    let hosts = if several { inner.all_gather_bytes(flight::host().as_bytes())? } else { Vec::new() };
    let hosts = hosts.iter().map(|host| String::from_utf8_lossy(host).into_owned()).collect();
    let watchdog = Watchdog::start_as(world, options, Job { run, hosts }, Box::new(alarm::end_job));
    Ok(Box::new(Guarded::new(inner, watchdog)))
}

/// Any collective, under a watchdog.
pub struct Guarded {
    // In this order: dropping `inner` may wait for all ranks, and is an operation, too.
    inner: Box<dyn Collective>,
    last: Option<Ticket>,
    watchdog: Watchdog,
}

impl Guarded {
    /// Records the operations of `inner`.
    pub fn new(inner: Box<dyn Collective>, watchdog: Watchdog) -> Guarded {
        Guarded { inner, last: None, watchdog }
    }

    fn begin(&self, op: &'static str, bytes: usize) -> Ticket {
        self.watchdog.begin(PLANE, op, bytes as u64)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.last = Some(self.begin("finalize", 0));
    }
}

impl Collective for Guarded {
    fn world(&self) -> World {
        self.inner.world()
    }
    fn barrier(&self) -> Result<()> {
        let _ticket = self.begin("barrier", 0);
        self.inner.barrier()
    }
    fn all_reduce_f64(&self, data: &mut [f64]) -> Result<()> {
        if SKIP.load(Ordering::Relaxed) && SKIP.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let _ticket = self.begin("all_reduce", size_of_val(data));
        self.inner.all_reduce_f64(data)
    }
    fn all_reduce_f32(&self, data: &mut [f32]) -> Result<()> {
        let _ticket = self.begin("all_reduce", size_of_val(data));
        self.inner.all_reduce_f32(data)
    }
    fn reduce_scatter_f32(&self, send: &[f32], recv: &mut [f32]) -> Result<()> {
        let _ticket = self.begin("reduce_scatter", size_of_val(send));
        self.inner.reduce_scatter_f32(send, recv)
    }
    fn reduce_scatter_f64(&self, send: &[f64], recv: &mut [f64]) -> Result<()> {
        let _ticket = self.begin("reduce_scatter", size_of_val(send));
        self.inner.reduce_scatter_f64(send, recv)
    }
    fn all_gather_f32(&self, data: &mut [f32]) -> Result<()> {
        let _ticket = self.begin("all_gather", size_of_val(data));
        self.inner.all_gather_f32(data)
    }
    fn all_gather_f64(&self, data: &mut [f64]) -> Result<()> {
        let _ticket = self.begin("all_gather", size_of_val(data));
        self.inner.all_gather_f64(data)
    }
    fn broadcast(&self, data: &mut Vec<u8>) -> Result<()> {
        let _ticket = self.begin("broadcast_bytes", 0);
        self.inner.broadcast(data)
    }
    fn broadcast_f64(&self, data: &mut [f64]) -> Result<()> {
        let _ticket = self.begin("broadcast", size_of_val(data));
        self.inner.broadcast_f64(data)
    }
    fn all_gather_bytes(&self, data: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _ticket = self.begin("all_gather_bytes", 0);
        self.inner.all_gather_bytes(data)
    }
    fn abort(&self, code: u8) -> ! {
        self.inner.abort(code)
    }
    fn bytes_sent(&self) -> u64 {
        self.inner.bytes_sent()
    }
    fn watchdog(&self) -> Option<&Watchdog> {
        Some(&self.watchdog)
    }
}
