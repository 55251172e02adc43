//! NCCL's functions with their results checked. Every call returns at once; what is in progress is polled, with a deadline.

use super::error::NcclError;
use super::library::Library;
use super::raw::{Code, Config, Handle, ID_BYTES, IN_PROGRESS, SUCCESS, SUM, StreamHandle, UniqueId};
use crate::world::World;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::time::{Duration, Instant};

/// What an error that was found later belongs to.
pub(super) const EARLIER: &str = "an earlier exchange";

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Progress {
    Done,
    /// [`Comm::settle`] must be called before the next use of the communicator.
    Going,
}

impl Library {
    /// The id of a new communicator, to be given to all of its ranks.
    pub(super) fn unique_id(&self) -> Result<UniqueId, NcclError> {
        let mut id = UniqueId([0; ID_BYTES]);
        // SAFETY: `id` is writable.
        let code = unsafe { (self.functions.get_unique_id)(&mut id) };
        self.check("ncclGetUniqueId", code).map(|_| id)
    }

    fn check(&self, call: &'static str, code: Code) -> Result<Progress, NcclError> {
        match code {
            SUCCESS => Ok(Progress::Done),
            IN_PROGRESS => Ok(Progress::Going),
            _ => Err(NcclError::Call { call, code, words: self.last_words() }),
        }
    }

    /// What NCCL says about the last error of this process.
    fn last_words(&self) -> String {
        // SAFETY: the argument is not used by any release so far; the text is NCCL's own and ends with a zero. It may be
        // overwritten by an error of another thread, which is why it is copied at once.
        unsafe {
            let text = (self.functions.last_error)(ptr::null_mut());
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().trim().to_owned() }
        }
    }
}

/// Numbers to be exchanged: where they begin, and how many of which type.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub start: *mut c_void,
    pub count: usize,
    pub kind: c_int,
    pub size: usize,
}

impl Span {
    /// Block `rank` of `ranks` equal ones, which the caller knows to fit.
    fn block(self, world: World) -> Span {
        let count = self.count / world.size;
        // SAFETY: the block lies within the numbers.
        let start = unsafe { self.start.byte_add(world.rank * count * self.size) };
        Span { start, count, ..self }
    }
}

/// A communicator. Used by one thread at a time; dropping it calls nothing.
pub(super) struct Comm {
    library: &'static Library,
    handle: Handle,
    world: World,
}

// SAFETY: NCCL allows any thread to use a communicator, one at a time, which the lock around this type sees to.
unsafe impl Send for Comm {}

impl Comm {
    /// Joins the communicator `id`. The thread's current device becomes that of this rank.
    pub fn join(library: &'static Library, id: UniqueId, world: World, deadline: Duration) -> Result<Comm, NcclError> {
        let mut config = Config::non_blocking();
        let mut handle = ptr::null_mut();
        let (size, rank) = (world.size as c_int, world.rank as c_int);
        let call = "ncclCommInitRankConfig";
        // SAFETY: `handle` and `config` are writable, and NCCL copies the configuration.
        let code = unsafe { (library.functions.init_rank_config)(&mut handle, size, id, rank, &mut config) };
        let going = library.check(call, code)?;
        let comm = Comm { library, handle, world };
        comm.settle(call, going, deadline).map_err(|error| match error {
            NcclError::TimedOut { call, after, .. } => NcclError::TimedOut {
                call,
                after,
                hint: "\n  hint: a rank did not come, or the ranks cannot reach each other: NCCL_SOCKET_IFNAME chooses the \
                       network, NCCL_DEBUG=INFO tells how far each one got",
            },
            error => error,
        })?;
        Ok(comm)
    }

    /// Whether the last call has come to its end, and no exchange has failed since.
    pub fn state(&self, call: &'static str) -> Result<Progress, NcclError> {
        let mut code = SUCCESS;
        // SAFETY: the handle is live, `code` is writable.
        let result = unsafe { (self.library.functions.async_error)(self.handle, &mut code) };
        let _ = self.library.check("ncclCommGetAsyncError", result)?;
        self.library.check(call, code)
    }

    /// Polls until a call has come to its end.
    pub fn settle(&self, call: &'static str, going: Progress, deadline: Duration) -> Result<(), NcclError> {
        if going == Progress::Going {
            poll_until(call, deadline, || Ok(self.state(call)? == Progress::Done))?;
        }
        Ok(())
    }

    pub fn all_reduce(&self, data: Span, stream: StreamHandle) -> Result<Progress, NcclError> {
        let Span { start, count, kind, .. } = data;
        // SAFETY: the numbers live until the exchange is done, which callers of `TensorCollective` promise; NCCL exchanges
        // in place where both addresses are equal.
        let code = unsafe { (self.library.functions.all_reduce)(start, start, count, kind, SUM, self.handle, stream) };
        self.library.check("ncclAllReduce", code)
    }

    pub fn reduce_scatter(&self, data: Span, stream: StreamHandle) -> Result<Progress, NcclError> {
        let Span { start, count, kind, .. } = data.block(self.world);
        // SAFETY: as in `all_reduce`; in place means that the result goes to this rank's block.
        let code = unsafe {
            (self.library.functions.reduce_scatter)(data.start, start, count, kind, SUM, self.handle, stream)
        };
        self.library.check("ncclReduceScatter", code)
    }

    pub fn all_gather(&self, data: Span, stream: StreamHandle) -> Result<Progress, NcclError> {
        let Span { start, count, kind, .. } = data.block(self.world);
        // SAFETY: as in `all_reduce`; in place means that this rank's block is sent from where it will be received.
        let code = unsafe { (self.library.functions.all_gather)(start, data.start, count, kind, self.handle, stream) };
        self.library.check("ncclAllGather", code)
    }

    pub fn broadcast(&self, data: Span, stream: StreamHandle) -> Result<Progress, NcclError> {
        let Span { start, count, kind, .. } = data;
        // SAFETY: as in `all_reduce`.
        let code = unsafe { (self.library.functions.broadcast)(start, start, count, kind, 0, self.handle, stream) };
        self.library.check("ncclBroadcast", code)
    }

    /// Collects this thread's exchanges from now on.
    pub fn group_start(&self) -> Result<(), NcclError> {
        // SAFETY: takes nothing.
        self.library.check("ncclGroupStart", unsafe { (self.library.functions.group_start)() }).map(drop)
    }

    /// Launches what was collected.
    pub fn group_end(&self) -> Result<Progress, NcclError> {
        // SAFETY: takes nothing.
        self.library.check("ncclGroupEnd", unsafe { (self.library.functions.group_end)() })
    }

    /// Ends the communicator. Nothing may be in flight.
    ///
    /// # Collective
    /// All ranks.
    pub fn leave(self, deadline: Duration) -> Result<(), NcclError> {
        let call = "ncclCommFinalize";
        // SAFETY: the handle is live, and nothing uses the communicator afterwards but `state` and `destroy`.
        let going = self.library.check(call, unsafe { (self.library.functions.finalize)(self.handle) })?;
        self.settle(call, going, deadline)?;
        // SAFETY: finalised; `self` ends here. What is still in progress then goes on without the handle.
        self.library.check("ncclCommDestroy", unsafe { (self.library.functions.destroy)(self.handle) }).map(drop)
    }
}

/// Asks until the answer is yes; never waits in a call.
pub(super) fn poll_until(
    what: &'static str,
    deadline: Duration,
    mut done: impl FnMut() -> Result<bool, NcclError>,
) -> Result<(), NcclError> {
    let start = Instant::now();
    while !done()? {
        match start.elapsed() {
            elapsed if elapsed > deadline => {
                return Err(NcclError::TimedOut { call: what, after: deadline, hint: "" });
            }
            // A launch takes microseconds: be there when it is done. Whatever takes longer may leave the core to others.
            elapsed if elapsed < Duration::from_millis(1) => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the CUDA build of libtorch the real library is here, and works as far as it does without a GPU.
    #[test]
    fn the_real_library_answers_where_it_is() {
        let library = match Library::open(None) {
            Ok(library) => library,
            Err(absent) => {
                println!("skipped: the real NCCL is not here");
                return assert!(matches!(absent, NcclError::Absent(_)), "{absent}");
            }
        };
        assert!(library.stand_in.is_none() && library.version().major == 2, "{}", library.path());
        let [one, other] = [library.unique_id().unwrap(), library.unique_id().unwrap()];
        assert!(one.0 != other.0 && one.0 != [0; ID_BYTES]);
        match Comm::join(library, one, World::SOLO, Duration::from_secs(60)) {
            Err(NcclError::Call { call, code: 1, words }) => {
                assert_eq!(call, "ncclCommInitRankConfig");
                assert!(words.contains("CUDA driver version is insufficient"), "{words}");
            }
            Err(error) => panic!("{error}"),
            Ok(comm) => comm.leave(Duration::from_secs(60)).unwrap(), // there is a GPU
        }
    }
}
