//! A communicator. A thread joins the ranks; exchanges run on the stream that they were launched on.

use crate::device::Stream;
use crate::numbers::Numbers;
use crate::plan::{Place, plan};
use crate::wire::{What, Wire};
use crate::{Code, IN_PROGRESS, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR, SUCCESS, fail};
use std::ffi::c_void;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

pub struct Comm {
    pub rank: usize,
    ranks: usize,
    /// All ranks have come.
    joined: AtomicBool,
    /// Questions that will still be answered with "in progress".
    going: AtomicU32,
    /// `ncclCommGetAsyncError`.
    error: AtomicI32,
    /// Calls and runs of each exchange, to find the one that is to fail.
    calls: Mutex<[u64; 4]>,
    runs: Mutex<[u64; 4]>,
    wire: Mutex<Option<Wire>>,
    destroyed: AtomicBool,
}

/// An exchange that was launched. Addresses are numbers, so that they may go to the thread.
pub struct Op {
    pub what: What,
    pub send: usize,
    pub recv: usize,
    pub numbers: Numbers,
    pub stream: &'static Stream,
}

impl Comm {
    /// # Safety
    /// `comm` came from `join` and was not destroyed.
    pub unsafe fn of(comm: *mut c_void) -> &'static Comm {
        unsafe { &*comm.cast::<Comm>() }
    }

    /// Starts joining, in a thread of its own. Communicators stay in memory, so that a late question is harmless.
    pub fn join(ranks: usize, rank: usize, id: [u8; 128]) -> *mut c_void {
        let comm: &'static Comm = Box::leak(Box::new(Comm {
            rank,
            ranks,
            joined: AtomicBool::new(false),
            going: AtomicU32::new(plan().in_progress),
            error: AtomicI32::new(SUCCESS),
            calls: Mutex::default(),
            runs: Mutex::default(),
            wire: Mutex::new(None),
            destroyed: AtomicBool::new(false),
        }));
        thread::spawn(move || comm.find_all(id));
        std::ptr::from_ref(comm).cast_mut().cast()
    }

    pub fn destroy(&self) -> Code {
        if self.destroyed.swap(true, Ordering::SeqCst) {
            return fail(INVALID_ARGUMENT, "the communicator was destroyed before");
        }
        self.wire.lock().unwrap().take();
        SUCCESS
    }

    /// Whether this exchange may be launched.
    pub fn check(&self, what: What, send: *const c_void, recv: *mut c_void, numbers: Numbers) -> Code {
        let nth = count(&self.calls, what);
        if self.going.load(Ordering::SeqCst) > 0 || !self.joined.load(Ordering::SeqCst) {
            let words = "Attempt to use communicator before the previous operation returned ncclSuccess";
            return fail(INVALID_ARGUMENT, words);
        }
        if self.destroyed.load(Ordering::SeqCst) {
            return fail(INVALID_ARGUMENT, "the communicator was destroyed");
        }
        if plan().error.as_ref().is_some_and(|place| self.is_at(place, what, nth)) {
            return fail(INTERNAL_ERROR, format!("{} number {nth} was to fail", what.name()));
        }
        // Either apart, or in place as NCCL defines it.
        let (sent, received) = what.blocks(self.rank, self.ranks);
        let bytes = numbers.count * numbers.kind.size();
        let (send, recv) = (send as usize, recv as usize);
        let apart = send + sent * bytes <= recv || recv + received * bytes <= send;
        let in_place = match what {
            What::AllReduce | What::Broadcast => recv == send,
            What::ReduceScatter => recv == send + self.rank * bytes,
            What::AllGather => send == recv + self.rank * bytes,
        };
        if apart || in_place { SUCCESS } else { fail(INVALID_ARGUMENT, "buffers overlap") }
    }

    fn is_at(&self, place: &Place, what: What, nth: u64) -> bool {
        (place.name.as_str(), place.nth, place.rank) == (what.name(), nth, self.rank)
    }

    pub fn enqueue(&'static self, op: Op) {
        let stream = op.stream;
        stream.enqueue(Box::new(move || self.run(&op)));
    }

    /// A call was made: it may stay in progress for a while, or for good.
    pub fn begin(&self) -> Code {
        let calls: u64 = self.calls.lock().unwrap().iter().sum();
        let going = if plan().stuck.is_some_and(|nth| calls >= nth) { u32::MAX } else { plan().in_progress };
        self.going.store(going, Ordering::SeqCst);
        if going > 0 { IN_PROGRESS } else { SUCCESS }
    }

    pub fn state(&self) -> Code {
        let error = self.error.load(Ordering::SeqCst);
        if error != SUCCESS {
            return error;
        }
        if !self.joined.load(Ordering::SeqCst) {
            return IN_PROGRESS;
        }
        let before = self.going.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| Some(n.saturating_sub(1)));
        if before.unwrap() > 0 { IN_PROGRESS } else { SUCCESS }
    }

    fn find_all(&self, id: [u8; 128]) {
        if plan().hang.as_ref().is_some_and(|place| place.name == "init" && place.rank == self.rank) {
            hang();
        }
        match Wire::join(self.ranks, self.rank, id) {
            Ok(wire) => *self.wire.lock().unwrap() = Some(wire),
            Err(error) => self.broken(&error),
        }
        self.joined.store(true, Ordering::SeqCst);
    }

    /// On the stream's thread.
    fn run(&self, op: &Op) {
        let nth = count(&self.runs, op.what);
        if plan().hang.as_ref().is_some_and(|place| self.is_at(place, op.what, nth)) {
            hang();
        }
        thread::sleep(plan().delay);
        if plan().async_error == Some(self.runs.lock().unwrap().iter().sum()) {
            self.broken(&io::Error::other("a cable was pulled"));
        }
        let mut wire = self.wire.lock().unwrap();
        let wire = wire.as_mut().expect("the communicator was destroyed before its exchanges were done");
        if let Err(error) = unsafe { op.run(wire, self.rank, self.ranks) } {
            self.broken(&error);
        }
    }

    fn broken(&self, error: &io::Error) -> ! {
        let code = if error.to_string().contains("another exchange") { INVALID_USAGE } else { REMOTE_ERROR };
        self.error.store(fail(code, error.to_string()), Ordering::SeqCst);
        hang(); // connections stay open: the others are left waiting, as with a GPU that no longer answers
    }
}

impl Op {
    /// # Safety
    /// Both buffers live, and nobody else uses them.
    unsafe fn run(&self, wire: &mut Wire, rank: usize, ranks: usize) -> io::Result<()> {
        let bytes = self.what.blocks(rank, ranks).0 * self.numbers.count * self.numbers.kind.size();
        let mine = unsafe { std::slice::from_raw_parts(self.send as *const u8, bytes) }.to_vec();
        let result = wire.exchange(self.what, self.numbers, mine)?;
        unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), self.recv as *mut u8, result.len()) };
        Ok(())
    }
}

/// One more of this kind.
fn count(counts: &Mutex<[u64; 4]>, what: What) -> u64 {
    let mut counts = counts.lock().unwrap();
    counts[what as usize] += 1;
    counts[what as usize]
}

fn hang() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
