//! The queue beside that of the computation, and marks in it.

use super::checked::{Comm, EARLIER, poll_until};
use super::error::NcclError;
use super::raw::StreamHandle;
use crate::cuda::{Cuda, CudaError, Event, Stream, elapsed_ms};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A stream, and the events that order it with libtorch's.
pub(super) struct Queue {
    cuda: &'static Cuda,
    stream: Stream,
    forked: Event,
    joined: Event,
    marks: Arc<Pool>,
    /// `None` once the device could not be asked: times are for telemetry, and must not end a run.
    spans: Mutex<Option<Spans>>,
    on_host: bool,
}

/// When the queue was busy: from a fork to the end of the last exchange before the next fork or join.
#[derive(Default)]
struct Spans {
    free: Vec<Event>,
    start: Option<Event>,
    /// The end of the last exchange so far.
    end: Option<Event>,
    ended: VecDeque<(Event, Event)>,
    busy_ms: f64,
}

impl Spans {
    fn mark(&mut self, queue: &Queue) -> Result<Event, CudaError> {
        let event = self.free.pop().map_or_else(|| Event::timed(queue.cuda, queue.stream.device()), Ok)?;
        event.record(&queue.stream)?;
        Ok(event)
    }

    fn begin(&mut self, queue: &Queue) -> Result<(), CudaError> {
        self.start = Some(self.mark(queue)?);
        Ok(())
    }

    fn launched(&mut self, queue: &Queue) -> Result<(), CudaError> {
        match (&self.start, &self.end) {
            (None, _) => {}
            (_, Some(end)) => end.record(&queue.stream)?,
            (_, None) => self.end = Some(self.mark(queue)?),
        }
        Ok(())
    }

    fn close(&mut self) {
        match (self.start.take(), self.end.take()) {
            (Some(start), Some(end)) => self.ended.push_back((start, end)),
            (start, end) => self.free.extend(start.into_iter().chain(end)),
        }
    }

    /// Adds up the spans that the device has passed.
    fn collect(&mut self) -> Result<f64, CudaError> {
        while let Some((start, end)) = self.ended.front() {
            let Some(ms) = elapsed_ms(start, end)? else { break };
            self.busy_ms += f64::from(ms);
            if let Some((start, end)) = self.ended.pop_front() {
                self.free.extend([start, end]);
            }
        }
        Ok(self.busy_ms)
    }
}

impl Queue {
    /// A queue of the thread's current device. `on_host`: the computation is not enqueued anywhere but done by the host, which
    /// therefore waits at the join.
    pub fn new(cuda: &'static Cuda, device: usize, on_host: bool) -> Result<Queue, CudaError> {
        Ok(Queue {
            cuda,
            stream: Stream::new(cuda, device)?,
            forked: Event::new(cuda, device)?,
            joined: Event::new(cuda, device)?,
            marks: Arc::new(Pool { cuda, device, free: Mutex::default() }),
            spans: Mutex::new(Some(Spans::default())),
            on_host,
        })
    }

    /// What NCCL is given.
    pub fn handle(&self) -> StreamHandle {
        self.stream.handle()
    }

    /// What is launched from now on waits for libtorch's stream as it is now.
    pub fn fork(&self) -> Result<(), CudaError> {
        self.cuda.set_device(self.stream.device())?;
        self.timed(|spans, _| {
            spans.close();
            Ok(())
        });
        self.forked.record(&self.computation()?)?;
        self.stream.wait(&self.forked)?;
        self.timed(|spans, queue| spans.begin(queue));
        Ok(())
    }

    /// An exchange, or a group of them, has been launched.
    pub fn launched(&self) {
        self.timed(|spans, queue| spans.launched(queue));
    }

    /// Milliseconds from forks to the ends of the exchanges that follow them, as far as the device has come.
    pub fn busy_ms(&self) -> Option<f64> {
        self.timed(|spans, _| spans.collect())
    }

    fn timed<R>(&self, body: impl FnOnce(&mut Spans, &Queue) -> Result<R, CudaError>) -> Option<R> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        match body(spans.as_mut()?, self) {
            Ok(result) => Some(result),
            Err(error) => {
                tracing::warn!("no more times of exchanges: {error}");
                *spans = None;
                None
            }
        }
    }

    /// libtorch's stream waits for what was launched.
    pub fn join(&self, comm: &Comm, deadline: Duration) -> Result<(), NcclError> {
        self.timed(|spans, _| {
            spans.close();
            spans.collect()
        });
        self.joined.record(&self.stream)?;
        self.wait_for(&self.joined, comm, deadline)
    }

    /// libtorch's stream waits for what was launched before the mark.
    pub fn join_at(&self, mark: &Mark, comm: &Comm, deadline: Duration) -> Result<(), NcclError> {
        mark.event.as_ref().map_or(Ok(()), |event| self.wait_for(event, comm, deadline))
    }

    fn wait_for(&self, event: &Event, comm: &Comm, deadline: Duration) -> Result<(), NcclError> {
        let computation = self.computation()?;
        computation.wait(event)?;
        let done = || comm.state(EARLIER).and_then(|_| Ok(computation.query()?));
        if self.on_host { poll_until(EARLIER, deadline, done) } else { Ok(()) }
    }

    fn computation(&self) -> Result<Stream, CudaError> {
        Stream::current(self.cuda, self.stream.device())
    }

    /// Marks the end of what was launched.
    pub fn mark(&self) -> Result<Mark, CudaError> {
        let mark = self.marks.take()?;
        mark.record(&self.stream)?;
        Ok(mark)
    }

    /// Whether everything launched is done.
    pub fn idle(&self) -> Result<bool, CudaError> {
        self.stream.query()
    }
}

/// Events that are not in use.
pub(super) struct Pool {
    cuda: &'static Cuda,
    device: usize,
    free: Mutex<Vec<Event>>,
}

/// The end of what was launched before: an event that goes back to its pool.
pub(super) struct Mark {
    event: Option<Event>, // `None` only while it is dropped
    pool: Arc<Pool>,
}

impl Pool {
    fn take(self: &Arc<Pool>) -> Result<Mark, CudaError> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let event = free.map_or_else(|| Event::new(self.cuda, self.device), Ok)?;
        Ok(Mark { event: Some(event), pool: self.clone() })
    }
}

impl Mark {
    fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        self.event.as_ref().map_or(Ok(()), |event| event.record(stream))
    }

    /// Whether the device has passed the mark.
    pub fn query(&self) -> Result<bool, CudaError> {
        self.event.as_ref().map_or(Ok(true), Event::query)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).extend(self.event.take());
    }
}
