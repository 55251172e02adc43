//! Queues of work on a device.

use super::raw::STREAM_NON_BLOCKING;
use super::{Cuda, CudaError, Event, Result};
use std::ffi::c_void;
use std::ptr;

/// A queue of one device. Work of one stream runs in order; work of two streams is ordered by [`Event`]s alone.
pub struct Stream {
    cuda: &'static Cuda,
    handle: *mut c_void,
    device: usize,
    owned: bool,
}

// SAFETY: a handle may be used by any thread; the runtime takes its own locks.
unsafe impl Send for Stream {}
// SAFETY: as above; no method changes the fields.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream of our own, without implicit order with any other.
    ///
    /// # Errors
    /// If the device cannot be used.
    pub fn new(cuda: &'static Cuda, device: usize) -> Result<Stream> {
        let mut handle = ptr::null_mut();
        cuda.on(device, || {
            // SAFETY: `handle` is writable.
            let result = unsafe { (cuda.api.runtime.create_stream)(&mut handle, STREAM_NON_BLOCKING) };
            cuda.check("cudaStreamCreateWithFlags", result)
        })?;
        Ok(Stream { cuda, handle, device, owned: true })
    }

    /// The stream on which libtorch's operations of the calling thread run: the default stream unless somebody changed it.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn current(cuda: &'static Cuda, device: usize) -> Result<Stream> {
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` is writable.
        let result = unsafe { (cuda.api.torch.current_stream)(device as i32, &mut handle) };
        by_torch("aoti_torch_get_current_cuda_stream", result)?;
        Ok(Stream { cuda, handle, device, owned: false })
    }

    /// One of libtorch's own side streams: 32 of each priority, handed out in turn.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn from_pool(cuda: &'static Cuda, device: usize, high_priority: bool) -> Result<Stream> {
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` is writable.
        let result = unsafe { (cuda.api.torch.stream_from_pool)(high_priority, device as i32, &mut handle) };
        by_torch("torch_get_cuda_stream_from_pool", result)?;
        Ok(Stream { cuda, handle, device, owned: false })
    }

    /// libtorch's operations of the calling thread run on this stream from now on.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn make_current(&self) -> Result<()> {
        // SAFETY: the handle is that of a live stream of this device.
        let result = unsafe { (self.cuda.api.torch.set_current_stream)(self.handle, self.device as i32) };
        by_torch("torch_set_current_cuda_stream", result)
    }

    /// Work enqueued from now on waits for what `event` was last recorded after. The host does not wait.
    ///
    /// # Errors
    /// If the runtime reports an error, which may be one of earlier work.
    pub fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: both handles are live.
        let result = unsafe { (self.cuda.api.runtime.wait_event)(self.handle, event.handle(), 0) };
        self.cuda.check("cudaStreamWaitEvent", result)
    }

    /// Whether everything enqueued so far is done.
    ///
    /// # Errors
    /// If the runtime reports an error, which may be one of earlier work.
    pub fn query(&self) -> Result<bool> {
        // A thread without a device would get a context on device 0, whichever this one is.
        self.cuda.set_device(self.device)?;
        // SAFETY: the handle is live.
        self.cuda.check_ready("cudaStreamQuery", unsafe { (self.cuda.api.runtime.query_stream)(self.handle) })
    }

    /// The `cudaStream_t`. Null is the default stream.
    pub fn handle(&self) -> *mut c_void {
        self.handle
    }

    /// The device.
    pub fn device(&self) -> usize {
        self.device
    }
}

impl Drop for Stream {
    /// Returns at once; the runtime frees the stream when its work is done.
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: made by `new`, destroyed once.
            unsafe { (self.cuda.api.runtime.destroy_stream)(self.handle) };
        }
    }
}

fn by_torch(call: &'static str, result: i32) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(CudaError::Torch(call)) }
}
