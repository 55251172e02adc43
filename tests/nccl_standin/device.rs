//! A device that is a thread: streams run tasks in order, events order streams, and the functions of the CUDA runtime and
//! of libtorch that the program uses speak of these.
//!
//! Stricter than CUDA where CUDA would be silently wasteful: a thread must have chosen its device before it asks anything.

use std::cell::{Cell, OnceCell};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 1;
const NO_CONTEXT: c_int = 201;
const INVALID_HANDLE: c_int = 400;
const NOT_READY: c_int = 600;

/// A queue and its thread. Stays in memory, so that a late use is an error and no crash.
pub struct Stream {
    tasks: Mutex<Option<Sender<Task>>>,
    pending: AtomicU64,
}

pub type Task = Box<dyn FnOnce() + Send>;

/// A mark in a stream: the `recorded`-th mark was set last, the `reached`-th was passed last.
#[derive(Default)]
struct Event {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    recorded: u64,
    reached: u64,
    at: Option<Instant>,
}

thread_local! {
    static DEVICE: Cell<c_int> = const { Cell::new(-1) };
    static LAST: Cell<c_int> = const { Cell::new(SUCCESS) };
    /// The computation of the rank that is this thread.
    static CURRENT: OnceCell<&'static Stream> = const { OnceCell::new() };
}

impl Stream {
    fn start() -> &'static Stream {
        let (tasks, queue) = channel::<Task>();
        let stream: &'static Stream =
            Box::leak(Box::new(Stream { tasks: Mutex::new(Some(tasks)), pending: AtomicU64::new(0) }));
        thread::spawn(move || {
            for task in queue {
                task();
                stream.pending.fetch_sub(1, Ordering::SeqCst);
            }
        });
        stream
    }

    /// The stream of a handle; null is that of the computation.
    ///
    /// # Safety
    /// A handle of ours.
    pub unsafe fn of(handle: *mut c_void) -> &'static Stream {
        if handle.is_null() { current() } else { unsafe { &*handle.cast::<Stream>() } }
    }

    fn handle(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// False if the stream was destroyed.
    pub fn enqueue(&self, task: Task) -> bool {
        let tasks = self.tasks.lock().unwrap();
        self.pending.fetch_add(1, Ordering::SeqCst);
        tasks.as_ref().is_some_and(|tasks| tasks.send(task).is_ok())
    }
}

fn current() -> &'static Stream {
    CURRENT.with(|current| *current.get_or_init(Stream::start))
}

/// Each handle is one reference that is never given back.
unsafe fn event(handle: *mut c_void) -> Arc<Event> {
    let handle = handle.cast_const().cast::<Event>();
    unsafe {
        Arc::increment_strong_count(handle);
        Arc::from_raw(handle)
    }
}

/// As the runtime does, remembers errors for the thread.
fn result(code: c_int) -> c_int {
    if code != SUCCESS {
        LAST.set(code);
    }
    code
}

/// A thread without a device would get a context on device 0.
fn with_device(body: impl FnOnce() -> c_int) -> c_int {
    result(if DEVICE.get() < 0 { NO_CONTEXT } else { body() })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDeviceCount(count: *mut c_int) -> c_int {
    unsafe { *count = 1 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDevice(device: *mut c_int) -> c_int {
    unsafe { *device = DEVICE.get().max(0) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaSetDevice(device: c_int) -> c_int {
    if device != 0 {
        return result(INVALID_VALUE);
    }
    DEVICE.set(device);
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDeviceProperties(properties: *mut u8, _device: c_int) -> c_int {
    let name = b"stand-in\0";
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), properties, name.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaDeviceGetPCIBusId(text: *mut u8, _len: c_int, _device: c_int) -> c_int {
    let id = b"0000:00:00.0\0";
    unsafe { std::ptr::copy_nonoverlapping(id.as_ptr(), text, id.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemGetInfo(free: *mut usize, total: *mut usize) -> c_int {
    with_device(|| {
        unsafe { (*free, *total) = (1 << 30, 2 << 30) };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaDriverGetVersion(version: *mut c_int) -> c_int {
    unsafe { *version = 13000 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaRuntimeGetVersion(version: *mut c_int) -> c_int {
    unsafe { *version = 13000 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamCreateWithFlags(stream: *mut *mut c_void, flags: c_uint) -> c_int {
    with_device(|| {
        if flags != 1 {
            return INVALID_VALUE; // it would wait for the default stream
        }
        unsafe { *stream = Stream::start().handle() };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamDestroy(stream: *mut c_void) -> c_int {
    let tasks = unsafe { Stream::of(stream) }.tasks.lock().unwrap().take();
    result(if tasks.is_some() { SUCCESS } else { INVALID_HANDLE })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamQuery(stream: *mut c_void) -> c_int {
    with_device(|| {
        let pending = unsafe { Stream::of(stream) }.pending.load(Ordering::SeqCst);
        if pending > 0 { NOT_READY } else { SUCCESS }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamWaitEvent(stream: *mut c_void, handle: *mut c_void, _flags: c_uint) -> c_int {
    let event = unsafe { event(handle) };
    let recorded = event.state.lock().unwrap().recorded;
    let wait = move || {
        let state = event.state.lock().unwrap();
        drop(event.changed.wait_while(state, |state| state.reached < recorded).unwrap());
    };
    enqueued(unsafe { Stream::of(stream) }, Box::new(wait))
}

fn enqueued(stream: &Stream, task: Task) -> c_int {
    result(if stream.enqueue(task) { SUCCESS } else { INVALID_HANDLE })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaEventCreateWithFlags(handle: *mut *mut c_void, _flags: c_uint) -> c_int {
    crate::log::call("cudaEventCreateWithFlags");
    with_device(|| {
        unsafe { *handle = Arc::into_raw(Arc::new(Event::default())).cast_mut().cast() };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaEventDestroy(_handle: *mut c_void) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaEventRecord(handle: *mut c_void, stream: *mut c_void) -> c_int {
    let event = unsafe { event(handle) };
    let mark = {
        let mut state = event.state.lock().unwrap();
        state.recorded += 1;
        state.recorded
    };
    let pass = move || {
        let mut state = event.state.lock().unwrap();
        (state.reached, state.at) = (state.reached.max(mark), Some(Instant::now()));
        event.changed.notify_all();
    };
    enqueued(unsafe { Stream::of(stream) }, Box::new(pass))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaEventQuery(handle: *mut c_void) -> c_int {
    with_device(|| {
        let event = unsafe { event(handle) };
        let state = event.state.lock().unwrap();
        if state.reached < state.recorded { NOT_READY } else { SUCCESS }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaEventElapsedTime(ms: *mut f32, start: *mut c_void, end: *mut c_void) -> c_int {
    let [start, end] = [start, end].map(|handle| {
        let event = unsafe { event(handle) };
        let state = event.state.lock().unwrap();
        (state.reached >= state.recorded, state.at)
    });
    result(match (start, end) {
        ((true, Some(start)), (true, Some(end))) => {
            unsafe { *ms = end.duration_since(start).as_secs_f32() * 1e3 };
            SUCCESS
        }
        ((_, None), _) | (_, (_, None)) => INVALID_HANDLE,
        _ => NOT_READY,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaLaunchHostFunc(
    stream: *mut c_void,
    function: extern "C" fn(*mut c_void),
    data: *mut c_void,
) -> c_int {
    let data = data as usize;
    enqueued(unsafe { Stream::of(stream) }, Box::new(move || function(data as *mut c_void)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorName(code: c_int) -> *const c_char {
    match code {
        NO_CONTEXT => c"cudaErrorDeviceUninitialized",
        INVALID_HANDLE => c"cudaErrorInvalidResourceHandle",
        INVALID_VALUE => c"cudaErrorInvalidValue",
        _ => c"cudaErrorUnknown",
    }
    .as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorString(_code: c_int) -> *const c_char {
    c"so says the stand-in".as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaGetLastError() -> c_int {
    LAST.replace(SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aoti_torch_get_current_cuda_stream(_device: i32, stream: *mut *mut c_void) -> i32 {
    unsafe { *stream = current().handle() };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn torch_set_current_cuda_stream(_stream: *mut c_void, _device: i32) -> i32 {
    1 // not needed so far
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn torch_get_cuda_stream_from_pool(_high: bool, _device: i32, stream: *mut *mut c_void) -> i32 {
    unsafe { *stream = Stream::start().handle() };
    0
}
