//! A stand-in for `libnccl.so.2` and the CUDA runtime that moves host memory between threads and processes, for tests on
//! machines without GPUs. Streams are threads.
//!
//! It keeps NCCL's rules where breaking them would go unnoticed on the host: communicators do not block, exchanges run later
//! and in order, a call while another is in progress is refused, groups are launched at their end, and buffers overlap only
//! as in-place exchanges may. The variable `STANDIN_NCCL` makes it fail, see `plan.rs`.
//!
//! Built by the tests with `rustc --crate-type cdylib`; it uses the standard library alone.
#![allow(non_snake_case, clippy::missing_safety_doc)]

mod comm;
mod device;
mod log;
mod numbers;
mod plan;
mod wire;

use comm::{Comm, Op};
use device::Stream;
use numbers::{Kind, Numbers};
use plan::plan;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;
use wire::What;

pub type Code = c_int;
pub const SUCCESS: Code = 0;
pub const INTERNAL_ERROR: Code = 3;
pub const INVALID_ARGUMENT: Code = 4;
pub const INVALID_USAGE: Code = 5;
pub const REMOTE_ERROR: Code = 6;
pub const IN_PROGRESS: Code = 7;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [u8; 128]);

/// The part of `ncclConfig_t` that is looked at.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

/// A group of the calling thread.
#[derive(Default)]
struct Group {
    depth: usize,
    /// The first error within it.
    error: Code,
    ops: Vec<(&'static Comm, Op)>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
    static VERSION: Cell<c_int> = const { Cell::new(0) };
}

static LAST_ERROR: Mutex<Option<&'static CString>> = Mutex::new(None);

/// Remembers why, and returns the code.
pub fn fail(code: Code, words: impl Into<String>) -> Code {
    let words = CString::new(words.into()).unwrap();
    *LAST_ERROR.lock().unwrap() = Some(Box::leak(Box::new(words)));
    code
}

/// The bus id to take for that of a GPU, or null.
#[unsafe(no_mangle)]
pub extern "C" fn polytask_standin_bus_id() -> *const c_char {
    plan().bus.as_ref().map_or(std::ptr::null(), |text| text.as_ptr())
}

/// The version that the calling thread will be told.
#[unsafe(no_mangle)]
pub extern "C" fn polytask_standin_set_version(version: c_int) {
    VERSION.set(version);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> Code {
    let own = VERSION.get();
    unsafe { *version = if own > 0 { own } else { plan().version } };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> Code {
    log::call("ncclGetUniqueId");
    if let Some(code) = plan().id_error {
        return fail(code, "no network");
    }
    unsafe { (*id).0 = wire::listen() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetLastError(_comm: *mut c_void) -> *const c_char {
    LAST_ERROR.lock().unwrap().map_or(c"".as_ptr(), |text| text.as_ptr())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut *mut c_void,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const Config,
) -> Code {
    let (ranks, rank) = (ranks as usize, rank as usize);
    log::set_rank(rank);
    log::call("ncclCommInitRankConfig");
    let config = unsafe { &*config };
    if (config.size, config.magic, config.blocking) != (80, 0xcafe_beef, 0) || config.version < 22800 {
        return fail(INVALID_ARGUMENT, "expected the configuration of 2.28, not blocking");
    }
    if let Some(code) = plan().init_error.filter(|(_, on)| *on == rank).map(|(code, _)| code) {
        return fail(code, "no route to host");
    }
    unsafe { *comm = Comm::join(ranks, rank, id.0) };
    IN_PROGRESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(comm: *mut c_void, code: *mut Code) -> Code {
    let comm = unsafe { Comm::of(comm) };
    log::call_of(comm.rank, "ncclCommGetAsyncError");
    unsafe { *code = comm.state() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommFinalize(comm: *mut c_void) -> Code {
    let comm = unsafe { Comm::of(comm) };
    log::call_of(comm.rank, "ncclCommFinalize");
    comm.begin()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDestroy(comm: *mut c_void) -> Code {
    let comm = unsafe { Comm::of(comm) };
    log::call_of(comm.rank, "ncclCommDestroy");
    comm.destroy()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(comm: *mut c_void) -> Code {
    log::call_of(unsafe { Comm::of(comm) }.rank, "ncclCommAbort");
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> Code {
    log::call("ncclGroupStart");
    GROUP.with_borrow_mut(|group| group.depth += 1);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> Code {
    log::call("ncclGroupEnd");
    let group = GROUP.with_borrow_mut(|group| {
        group.depth -= 1;
        if group.depth == 0 { std::mem::take(group) } else { Group::default() }
    });
    if group.error != SUCCESS {
        return group.error;
    }
    let comms: Vec<&Comm> = group.ops.iter().map(|(comm, _)| *comm).collect();
    for (comm, op) in group.ops {
        comm.enqueue(op);
    }
    comms.iter().map(|comm| comm.begin()).max().unwrap_or(SUCCESS)
}

/// Launches, or adds to the group that is open.
unsafe fn launch(
    name: &'static str,
    comm: *mut c_void,
    what: What,
    send: *const c_void,
    recv: *mut c_void,
    numbers: Numbers,
    stream: *mut c_void,
) -> Code {
    let comm = unsafe { Comm::of(comm) };
    log::call_of(comm.rank, name);
    let code = comm.check(what, send, recv, numbers);
    GROUP.with_borrow_mut(|group| {
        if code != SUCCESS {
            if group.error == SUCCESS {
                group.error = code;
            }
            return code;
        }
        let stream = unsafe { Stream::of(stream) };
        let op = Op { what, send: send as usize, recv: recv as usize, numbers, stream };
        if group.depth > 0 {
            group.ops.push((comm, op));
            return SUCCESS;
        }
        comm.enqueue(op);
        comm.begin()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllReduce(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    kind: c_int,
    sum: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> Code {
    match Kind::of(kind) {
        Some(kind) if sum == 0 => unsafe {
            launch("ncclAllReduce", comm, What::AllReduce, send, recv, Numbers { count, kind }, stream)
        },
        _ => fail(INVALID_ARGUMENT, "expected a sum of floats"),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclReduceScatter(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    kind: c_int,
    sum: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> Code {
    match Kind::of(kind) {
        Some(kind) if sum == 0 => unsafe {
            launch("ncclReduceScatter", comm, What::ReduceScatter, send, recv, Numbers { count, kind }, stream)
        },
        _ => fail(INVALID_ARGUMENT, "expected a sum of floats"),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllGather(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    kind: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> Code {
    match Kind::of(kind) {
        Some(kind) => unsafe {
            launch("ncclAllGather", comm, What::AllGather, send, recv, Numbers { count, kind }, stream)
        },
        None => fail(INVALID_ARGUMENT, "expected floats"),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclBroadcast(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    kind: c_int,
    root: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> Code {
    match Kind::of(kind) {
        Some(kind) if root == 0 => unsafe {
            launch("ncclBroadcast", comm, What::Broadcast, send, recv, Numbers { count, kind }, stream)
        },
        _ => fail(INVALID_ARGUMENT, "expected floats of rank 0"),
    }
}
