//! Marks in a stream.

use super::raw::{EVENT_TIMED, EVENT_UNTIMED};
use super::{Cuda, Result, Stream};
use std::ffi::{c_uint, c_void};
use std::ptr;

/// A mark in a stream: done when all work enqueued before it is done. Can be recorded again and again.
pub struct Event {
    cuda: &'static Cuda,
    handle: *mut c_void,
    device: usize,
}

// SAFETY: a handle may be used by any thread; the runtime takes its own locks.
unsafe impl Send for Event {}
// SAFETY: as above; no method changes the fields.
unsafe impl Sync for Event {}

impl Event {
    /// An event without a time, the cheap kind.
    ///
    /// # Errors
    /// If the device cannot be used.
    pub fn new(cuda: &'static Cuda, device: usize) -> Result<Event> {
        Event::with_flags(cuda, device, EVENT_UNTIMED)
    }

    /// An event that remembers when it was reached, for [`elapsed_ms`].
    ///
    /// # Errors
    /// If the device cannot be used.
    pub fn timed(cuda: &'static Cuda, device: usize) -> Result<Event> {
        Event::with_flags(cuda, device, EVENT_TIMED)
    }

    fn with_flags(cuda: &'static Cuda, device: usize, flags: c_uint) -> Result<Event> {
        let mut handle = ptr::null_mut();
        cuda.on(device, || {
            // SAFETY: `handle` is writable.
            let result = unsafe { (cuda.api.runtime.create_event)(&mut handle, flags) };
            cuda.check("cudaEventCreateWithFlags", result)
        })?;
        Ok(Event { cuda, handle, device })
    }

    /// Marks the end of what `stream`, of the same device, holds now.
    ///
    /// # Errors
    /// If the runtime reports an error, which may be one of earlier work.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both handles are live.
        let result = unsafe { (self.cuda.api.runtime.record_event)(self.handle, stream.handle()) };
        self.cuda.check("cudaEventRecord", result)
    }

    /// Whether the device has passed the mark; `true` if it was never recorded. Any thread may ask; this makes the device
    /// the current one of that thread.
    ///
    /// # Errors
    /// If the runtime reports an error, which may be one of earlier work.
    pub fn query(&self) -> Result<bool> {
        // A thread without a device would get a context on device 0, whichever this one is.
        self.cuda.set_device(self.device)?;
        // SAFETY: the handle is live.
        self.cuda.check_ready("cudaEventQuery", unsafe { (self.cuda.api.runtime.query_event)(self.handle) })
    }

    pub(super) fn handle(&self) -> *mut c_void {
        self.handle
    }
}

impl Drop for Event {
    /// Returns at once; the runtime frees the event when it has been reached.
    fn drop(&mut self) {
        // SAFETY: made by `with_flags`, destroyed once.
        unsafe { (self.cuda.api.runtime.destroy_event)(self.handle) };
    }
}

/// Milliseconds on the device between two timed events, or `None` while it has not passed both.
///
/// # Errors
/// If one of the events has no time or was never recorded, or earlier work failed.
pub fn elapsed_ms(start: &Event, end: &Event) -> Result<Option<f32>> {
    let mut elapsed = 0.0;
    // SAFETY: both handles are live, `elapsed` is writable.
    let result = unsafe { (start.cuda.api.runtime.elapsed)(&mut elapsed, start.handle, end.handle) };
    Ok(start.cuda.check_ready("cudaEventElapsedTime", result)?.then_some(elapsed))
}
