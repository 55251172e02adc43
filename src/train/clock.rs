//! Times on a device: a phase lasts from when the device reaches its start to when it reaches its end.
//!
//! The host only enqueues, so its own clock would give all the time to whoever waits. Marks are read when the device has
//! passed them, at the end of a later step: averages over steps are right, those of a single step are those of the step
//! before.

use super::phases::Phase;
use crate::cuda::{Cuda, CudaError, Event, Stream, elapsed_ms};
use std::cell::RefCell;
use std::collections::VecDeque;

thread_local! {
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

/// Marks in the stream on which this thread computes.
struct Clock {
    cuda: &'static Cuda,
    device: usize,
    /// Marks that are not in use.
    free: Vec<Event>,
    /// Phases whose end the device may not have reached.
    open: VecDeque<Span>,
}

/// A phase from mark to mark.
struct Span {
    phase: Phase,
    /// The phase around it, from which its time is taken.
    around: Option<Phase>,
    start: Event,
    end: Event,
}

/// From now on, phases of this thread are timed on this device.
pub fn time_on(cuda: &'static Cuda, device: usize) {
    CLOCK.set(Some(Clock { cuda, device, free: Vec::new(), open: VecDeque::new() }));
}

/// Marks the start of a phase; `None` without a device.
pub(super) fn start() -> Option<Event> {
    with(Clock::mark)
}

/// Marks the end of a phase.
pub(super) fn end(phase: Phase, start: Event) {
    with(|clock| clock.close(phase, None, start));
}

/// Marks the end of a phase within another.
pub(super) fn end_within(phase: Phase, around: Phase, start: Event) {
    with(|clock| clock.close(phase, Some(around), start));
}

/// Phases whose end the device has reached, with their milliseconds.
pub(super) fn finished() -> Vec<(Phase, f64)> {
    with(Clock::finished).unwrap_or_default()
}

/// Runs `body` with the clock of this thread; a device that cannot be asked is not asked again.
fn with<R>(body: impl FnOnce(&mut Clock) -> Result<R, CudaError>) -> Option<R> {
    CLOCK.with_borrow_mut(|clock| match body(clock.as_mut()?) {
        Ok(result) => Some(result),
        Err(error) => {
            tracing::warn!("no more times of phases: {error}");
            *clock = None;
            None
        }
    })
}

impl Clock {
    fn mark(&mut self) -> Result<Event, CudaError> {
        let event = self.free.pop().map_or_else(|| Event::timed(self.cuda, self.device), Ok)?;
        event.record(&Stream::current(self.cuda, self.device)?)?;
        Ok(event)
    }

    fn close(&mut self, phase: Phase, around: Option<Phase>, start: Event) -> Result<(), CudaError> {
        let end = self.mark()?;
        self.open.push_back(Span { phase, around, start, end });
        Ok(())
    }

    fn finished(&mut self) -> Result<Vec<(Phase, f64)>, CudaError> {
        let mut finished = Vec::new();
        while let Some(span) = self.open.front() {
            let Some(ms) = elapsed_ms(&span.start, &span.end)? else { break };
            finished.push((span.phase, f64::from(ms)));
            finished.extend(span.around.map(|around| (around, -f64::from(ms))));
            if let Some(Span { start, end, .. }) = self.open.pop_front() {
                self.free.extend([start, end]);
            }
        }
        Ok(finished)
    }
}
