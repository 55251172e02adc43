//! A communicator: a queue of exchanges, and a thread that runs them in order.

use crate::numbers::Numbers;
use crate::plan::{Place, plan};
use crate::wire::{What, Wire};
use crate::{Code, IN_PROGRESS, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR, SUCCESS, fail};
use std::ffi::c_void;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
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
    pub completed: AtomicU64,
    launched: AtomicU64,
    /// Calls of each exchange, to find the one that is to fail.
    calls: Mutex<[u64; 4]>,
    queue: Mutex<Option<Sender<Op>>>,
}

/// An exchange that was launched. Addresses are numbers, so that they may go to the thread.
pub struct Op {
    pub what: What,
    pub send: usize,
    pub recv: usize,
    pub numbers: Numbers,
}

impl Comm {
    /// # Safety
    /// `comm` came from `join` and was not destroyed.
    pub unsafe fn of(comm: *mut c_void) -> &'static Comm {
        unsafe { &*comm.cast::<Comm>() }
    }

    /// Starts joining, in a thread of its own. Communicators stay in memory, so that a late question is harmless.
    pub fn join(ranks: usize, rank: usize, id: [u8; 128]) -> *mut c_void {
        let (queue, ops) = channel();
        let comm: &'static Comm = Box::leak(Box::new(Comm {
            rank,
            ranks,
            joined: AtomicBool::new(false),
            going: AtomicU32::new(plan().in_progress),
            error: AtomicI32::new(SUCCESS),
            completed: AtomicU64::new(0),
            launched: AtomicU64::new(0),
            calls: Mutex::default(),
            queue: Mutex::new(Some(queue)),
        }));
        thread::spawn(move || comm.work(id, &ops));
        std::ptr::from_ref(comm).cast_mut().cast()
    }

    /// Ends the thread when the queue is empty.
    ///
    /// # Safety
    /// As [`Self::of`].
    pub unsafe fn destroy(comm: *mut c_void) -> Code {
        let comm = unsafe { Comm::of(comm) };
        match comm.queue.lock().unwrap().take() {
            Some(_) => SUCCESS,
            None => fail(INVALID_ARGUMENT, "the communicator was destroyed before"),
        }
    }

    /// Whether this exchange may be launched.
    pub fn check(&self, what: What, send: *const c_void, recv: *mut c_void, numbers: Numbers) -> Code {
        let nth = {
            let mut calls = self.calls.lock().unwrap();
            calls[what as usize] += 1;
            calls[what as usize]
        };
        if self.going.load(Ordering::SeqCst) > 0 || !self.joined.load(Ordering::SeqCst) {
            let words = "Attempt to use communicator before the previous operation returned ncclSuccess";
            return fail(INVALID_ARGUMENT, words);
        }
        if self.queue.lock().unwrap().is_none() {
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

    pub fn enqueue(&self, op: Op) {
        self.launched.fetch_add(1, Ordering::SeqCst);
        self.queue.lock().unwrap().as_ref().unwrap().send(op).unwrap();
    }

    /// A call was made: it may stay in progress for a while.
    pub fn begin(&self) -> Code {
        self.going.store(plan().in_progress, Ordering::SeqCst);
        if plan().in_progress > 0 { IN_PROGRESS } else { SUCCESS }
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

    /// The thread.
    fn work(&self, id: [u8; 128], ops: &Receiver<Op>) {
        if plan().hang.as_ref().is_some_and(|place| place.name == "init" && place.rank == self.rank) {
            hang();
        }
        let mut wire = match Wire::join(self.ranks, self.rank, id) {
            Ok(wire) => wire,
            Err(error) => return self.broken(&error),
        };
        self.joined.store(true, Ordering::SeqCst);
        let mut runs = [0; 4];
        for op in ops {
            runs[op.what as usize] += 1;
            if plan().hang.as_ref().is_some_and(|place| self.is_at(place, op.what, runs[op.what as usize])) {
                hang();
            }
            thread::sleep(plan().delay);
            if plan().async_error == Some(self.completed.load(Ordering::SeqCst) + 1) {
                return self.broken(&io::Error::other("a cable was pulled"));
            }
            if let Err(error) = unsafe { op.run(&mut wire, self.rank, self.ranks) } {
                return self.broken(&error);
            }
            self.completed.fetch_add(1, Ordering::Release);
        }
    }

    fn broken(&self, error: &io::Error) {
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

fn hang() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
