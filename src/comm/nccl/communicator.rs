//! The communicator that the rest of the program sees.

use super::checked::{Comm, EARLIER, Progress, Span, poll_until};
use super::error::NcclError;
use super::queue::{Mark, Queue};
use super::raw::{self, StreamHandle};
use super::{NcclOptions, Recorder};
use crate::comm::tensors::{Milestone, TensorCollective};
use crate::comm::{CommError, Traffic};
use crate::world::World;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, CommError>;

/// This rank of an NCCL communicator, made by [`Nccl::connect`].
///
/// After a failure every further exchange fails, and nothing more of NCCL or CUDA is called: what is in flight may never
/// end, and calls that tidy up may not return. The way out is [`crate::comm::Collective::abort`].
///
/// Dropping it is [`Self::close`], with a warning in place of an error.
pub struct Nccl {
    world: World,
    device: Device,
    shared: Arc<Shared>,
    group: RefCell<Group>,
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    deadline: Duration,
    close_deadline: Duration,
    traffic: Traffic,
}

/// Exchanges that were launched and not recorded yet: several within a group.
#[derive(Default)]
struct Group {
    depth: usize,
    launched: Vec<(&'static str, usize)>,
}

/// What the polls of a recorder, on other threads, look at too.
struct Shared {
    /// `None` when closed. NCCL allows one thread at a time.
    comm: Mutex<Option<Comm>>,
    queue: Queue,
    failure: OnceLock<String>,
}

impl Shared {
    fn failed_before(&self) -> Option<String> {
        self.failure.get().map(|words| format!("NCCL has failed before: {words}"))
    }

    /// From now on nothing is called. One reference is never given back, so that streams and events are not freed either.
    fn fail(self: &Arc<Self>, words: String) {
        if self.failure.set(words).is_ok() {
            std::mem::forget(self.clone());
        }
    }

    /// Runs `body` as the only user of the communicator; its failure is the end of it.
    fn with<T>(
        self: &Arc<Self>,
        op: &'static str,
        body: impl FnOnce(&Comm) -> std::result::Result<T, NcclError>,
    ) -> Result<T> {
        self.alive(op)?;
        let guard = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(comm) = &*guard else { return Err(failed(op, "the communicator is closed".into())) };
        body(comm).map_err(|error| {
            self.fail(error.to_string());
            error.during(op)
        })
    }

    fn alive(&self, op: &'static str) -> Result<()> {
        self.failed_before().map_or(Ok(()), |words| Err(failed(op, words)))
    }

    /// Whether `mark` is reached. For other threads: never waits, neither for the device nor for the rank's own thread.
    fn reached(self: &Arc<Self>, mark: &Mark) -> std::result::Result<bool, String> {
        if let Some(words) = self.failed_before() {
            return Err(words);
        }
        let guard = match self.comm.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        // Without the lock the rank's own thread is in a call, and finds errors itself; without a communicator it is closed.
        let state = match guard.as_deref() {
            Some(Some(comm)) => comm.state(EARLIER).map(drop),
            Some(None) | None => Ok(()),
        };
        let found = state.and_then(|()| Ok(mark.query()?));
        found.map_err(|error| {
            self.fail(error.to_string());
            error.to_string()
        })
    }
}

impl Nccl {
    pub(super) fn new(world: World, device: Device, comm: Comm, queue: Queue, options: &NcclOptions) -> Nccl {
        Nccl {
            world,
            device,
            shared: Arc::new(Shared { comm: Mutex::new(Some(comm)), queue, failure: OnceLock::new() }),
            group: RefCell::default(),
            recorder: options.recorder.clone(),
            deadline: options.deadline,
            close_deadline: options.close_deadline,
            traffic: Traffic::default(),
        }
    }

    /// Waits until all exchanges are done, and ends the communicator.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If an exchange has failed, or [`NcclOptions::close_deadline`] has passed. Nothing is freed then.
    pub fn close(self) -> Result<()> {
        self.shut()
    }

    fn shut(&self) -> Result<()> {
        let op = "close";
        self.shared.alive(op)?;
        poll_until("the last exchange", self.close_deadline, || match &*self.lock() {
            Some(comm) => Ok(comm.state(EARLIER)? == Progress::Done && self.shared.queue.idle()?),
            None => Ok(true),
        })
        .and_then(|()| self.lock().take().map_or(Ok(()), |comm| comm.leave(self.close_deadline)))
        .map_err(|error| {
            self.shared.fail(error.to_string());
            error.during(op)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Comm>> {
        self.shared.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Launches one exchange, or adds it to the group that is open.
    fn exchange(
        &self,
        op: &'static str,
        data: &Tensor,
        blocks: usize,
        call: impl FnOnce(&Comm, Span, StreamHandle) -> std::result::Result<Progress, NcclError>,
    ) -> Result<()> {
        self.shared.alive(op)?;
        let span = span(op, data, self.device, blocks)?;
        if span.count == 0 {
            return Ok(());
        }
        let grouped = self.group.borrow().depth > 0;
        self.shared.with(op, |comm| {
            let progress = call(comm, span, self.shared.queue.handle())?;
            if grouped { Ok(()) } else { comm.settle(op, progress, self.deadline) }
        })?;
        self.group.borrow_mut().launched.push((op, span.count * span.size));
        if grouped { Ok(()) } else { self.record() }
    }

    /// Hands what was launched to the recorder.
    fn record(&self) -> Result<()> {
        let launched = std::mem::take(&mut self.group.borrow_mut().launched);
        let Some((op, _)) = launched.first() else { return Ok(()) };
        self.shared.queue.launched();
        let Some(recorder) = &self.recorder else { return Ok(()) };
        let mark = Arc::new(self.mark(op)?);
        for (op, bytes) in launched {
            let (shared, mark) = (self.shared.clone(), mark.clone());
            recorder.begin_async("nccl", op, bytes, Box::new(move || shared.reached(&mark)));
        }
        Ok(())
    }

    /// Marks the end of what was launched.
    fn mark(&self, op: &'static str) -> Result<Mark> {
        self.shared.queue.mark().map_err(|error| {
            self.shared.fail(error.to_string());
            failed(op, error.to_string())
        })
    }

    fn outside_of_groups(&self, op: &'static str) -> Result<()> {
        self.shared.alive(op)?;
        let inside = self.group.borrow().depth > 0;
        if inside { Err(failed(op, "not within a group: nothing of it is launched yet".into())) } else { Ok(()) }
    }
}

/// A mark behind some exchanges, for the rank's own thread.
struct Reached {
    shared: Arc<Shared>,
    mark: Mark,
    deadline: Duration,
}

impl Milestone for Reached {
    fn join(&self) -> Result<()> {
        self.shared.with("join", |comm| {
            self.shared.queue.join_at(&self.mark, comm, self.deadline)?;
            comm.state(EARLIER).map(drop)
        })
    }
}

impl TensorCollective for Nccl {
    fn world(&self) -> World {
        self.world
    }

    fn fork(&self) -> Result<()> {
        self.outside_of_groups("fork")?;
        self.shared.with("fork", |_| Ok(self.shared.queue.fork()?))
    }

    fn join(&self) -> Result<()> {
        self.outside_of_groups("join")?;
        self.shared.with("join", |comm| {
            self.shared.queue.join(comm, self.deadline)?;
            comm.state(EARLIER).map(drop)
        })
    }

    fn milestone(&self) -> Result<Box<dyn Milestone>> {
        self.outside_of_groups("milestone")?;
        let mark = self.mark("milestone")?;
        Ok(Box::new(Reached { shared: self.shared.clone(), mark, deadline: self.deadline }))
    }

    fn all_reduce(&self, data: &Tensor) -> Result<()> {
        self.exchange("all_reduce", data, 1, Comm::all_reduce)?;
        self.traffic.all_reduce(self.world, bytes(data));
        Ok(())
    }

    fn reduce_scatter(&self, data: &Tensor) -> Result<()> {
        self.exchange("reduce_scatter", data, self.world.size, Comm::reduce_scatter)?;
        self.traffic.one_way(self.world, bytes(data));
        Ok(())
    }

    fn all_gather(&self, data: &Tensor) -> Result<()> {
        self.exchange("all_gather", data, self.world.size, Comm::all_gather)?;
        self.traffic.one_way(self.world, bytes(data));
        Ok(())
    }

    fn broadcast(&self, data: &Tensor) -> Result<()> {
        self.exchange("broadcast", data, 1, Comm::broadcast)
    }

    /// A group that fails is never launched, not even in part, and is the end of the communicator.
    fn grouped(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let op = "grouped";
        self.shared.with(op, Comm::group_start)?;
        self.group.borrow_mut().depth += 1;
        // Ending the group would launch what it holds, which ranks whose body went well do not have.
        body().inspect_err(|error| self.shared.fail(error.to_string()))?;
        let outermost = self.group.borrow().depth == 1;
        self.shared.with(op, |comm| {
            let progress = comm.group_end()?;
            if outermost { comm.settle("ncclGroupEnd", progress, self.deadline) } else { Ok(()) }
        })?;
        self.group.borrow_mut().depth -= 1;
        if outermost { self.record() } else { Ok(()) }
    }

    fn busy_ms(&self) -> Option<f64> {
        if self.shared.failed_before().is_some() { None } else { self.shared.queue.busy_ms() }
    }

    fn bytes_sent(&self) -> u64 {
        self.traffic.bytes()
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.shared.failure.get().is_some() {
            return;
        }
        if std::thread::panicking() || self.group.borrow().depth > 0 {
            return self.shared.fail("it was left while in use".into());
        }
        if let Err(error) = self.shut() {
            tracing::warn!("rank {}: the NCCL communicator was not closed: {error}", self.world.rank);
        }
    }
}

fn failed(op: &'static str, reason: String) -> CommError {
    CommError::Failed { op, reason }
}

fn bytes(data: &Tensor) -> usize {
    data.numel() * data.kind().elt_size_in_bytes()
}

/// Where the numbers of a tensor lie, if it can be exchanged in this many equal blocks.
fn span(op: &'static str, data: &Tensor, device: Device, blocks: usize) -> Result<Span> {
    let kind = match data.kind() {
        Kind::Float => raw::FLOAT32,
        Kind::Double => raw::FLOAT64,
        Kind::BFloat16 => raw::BFLOAT16,
        kind => return Err(failed(op, format!("tensors of {kind:?} cannot be exchanged"))),
    };
    if data.device() != device {
        return Err(failed(op, format!("expected a tensor on {device:?}, found one on {:?}", data.device())));
    }
    if !data.is_contiguous() {
        return Err(failed(op, format!("expected a contiguous tensor, found strides {:?}", data.stride())));
    }
    let count = data.numel();
    if !count.is_multiple_of(blocks) {
        return Err(failed(op, format!("{count} numbers cannot be cut into {blocks} equal blocks")));
    }
    Ok(Span { start: data.data_ptr(), count, kind, size: data.kind().elt_size_in_bytes() })
}
