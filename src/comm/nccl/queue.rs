//! The queue beside that of the computation, and marks in it.

use super::checked::{Comm, EARLIER, poll_until};
use super::error::NcclError;
use super::raw::StreamHandle;
use crate::cuda::{Cuda, CudaError, Event, Stream};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where exchanges run.
pub(super) enum Queue {
    /// In host memory, by the stand-in: it exchanges in order and counts what is done.
    Host {
        /// Exchanges launched so far.
        launched: AtomicU64,
    },
    /// On a stream of our own.
    Device(DeviceQueue),
}

/// A stream, and the events that order it with libtorch's.
pub(super) struct DeviceQueue {
    cuda: &'static Cuda,
    stream: Stream,
    forked: Event,
    joined: Event,
    marks: Arc<Pool>,
}

/// The end of what was launched before.
pub(super) enum Mark {
    Host(u64),
    Device(Pooled),
}

impl Queue {
    pub fn on_host() -> Queue {
        Queue::Host { launched: AtomicU64::new(0) }
    }

    pub fn on_device(cuda: &'static Cuda, device: usize) -> Result<Queue, CudaError> {
        Ok(Queue::Device(DeviceQueue {
            cuda,
            stream: Stream::new(cuda, device)?,
            forked: Event::new(cuda, device)?,
            joined: Event::new(cuda, device)?,
            marks: Arc::new(Pool { cuda, device, free: Mutex::default() }),
        }))
    }

    /// What NCCL is given.
    pub fn handle(&self) -> StreamHandle {
        match self {
            Queue::Host { .. } => ptr::null_mut(),
            Queue::Device(queue) => queue.stream.handle(),
        }
    }

    /// One more exchange was launched.
    pub fn count(&self) {
        if let Queue::Host { launched } = self {
            launched.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is launched from now on waits for libtorch's stream as it is now.
    pub fn fork(&self) -> Result<(), CudaError> {
        let Queue::Device(queue) = self else { return Ok(()) };
        queue.cuda.set_device(queue.stream.device())?;
        queue.forked.record(&Stream::current(queue.cuda, queue.stream.device())?)?;
        queue.stream.wait(&queue.forked)
    }

    /// libtorch's stream waits for what was launched. On the host, where computation is not enqueued, the caller does.
    pub fn join(&self, comm: &Comm, deadline: Duration) -> Result<(), NcclError> {
        match self {
            Queue::Host { .. } => poll_until(EARLIER, deadline, || {
                let _ = comm.state(EARLIER)?;
                Ok(self.idle(comm)?)
            }),
            Queue::Device(queue) => {
                queue.joined.record(&queue.stream)?;
                Ok(Stream::current(queue.cuda, queue.stream.device())?.wait(&queue.joined)?)
            }
        }
    }

    /// Marks the end of what was launched.
    pub fn mark(&self) -> Result<Mark, CudaError> {
        match self {
            Queue::Host { launched } => Ok(Mark::Host(launched.load(Ordering::Relaxed))),
            Queue::Device(queue) => {
                let event = queue.marks.take()?;
                event.record(&queue.stream)?;
                Ok(Mark::Device(event))
            }
        }
    }

    /// Whether everything launched is done.
    pub fn idle(&self, comm: &Comm) -> Result<bool, CudaError> {
        match self {
            Queue::Host { launched } => Ok(comm.completed() >= launched.load(Ordering::Relaxed)),
            Queue::Device(queue) => queue.stream.query(),
        }
    }
}

/// Events that are not in use.
pub(super) struct Pool {
    cuda: &'static Cuda,
    device: usize,
    free: Mutex<Vec<Event>>,
}

/// An event that goes back to its pool.
pub(super) struct Pooled {
    event: Option<Event>, // `None` only while it is dropped
    pool: Arc<Pool>,
}

impl Pool {
    fn take(self: &Arc<Pool>) -> Result<Pooled, CudaError> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let event = free.map_or_else(|| Event::new(self.cuda, self.device), Ok)?;
        Ok(Pooled { event: Some(event), pool: self.clone() })
    }
}

impl Pooled {
    fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        self.event.as_ref().map_or(Ok(()), |event| event.record(stream))
    }

    /// Whether the device has passed the mark.
    pub fn query(&self) -> Result<bool, CudaError> {
        self.event.as_ref().map_or(Ok(true), Event::query)
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).extend(self.event.take());
    }
}
