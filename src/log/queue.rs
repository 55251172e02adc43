//! A queue into a file, and the thread that writes it: no record waits for a disk, and none fails a run. Only the end of a run,
//! and a rollback, wait until all is written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::time::{Duration, Instant};

/// How long the end of a run waits for a stalled disk.
const CLOSE: Duration = Duration::from_secs(20);
/// How long a checkpoint waits for one.
const HAND_OVER: Duration = Duration::from_secs(3);
/// How long the next ones wait for it then, to find out whether it answers again.
const LATE: Duration = Duration::from_millis(100);

/// Where a queue ends.
pub trait Out<T>: Send + 'static {
    /// Writes an item, perhaps into a buffer.
    ///
    /// # Errors
    /// The output is lost.
    fn write(&mut self, item: T) -> io::Result<()>;

    /// Hands everything so far to the system.
    ///
    /// # Errors
    /// The output is lost.
    fn flush(&mut self) -> io::Result<()>;
}

/// A queue into an output. Dropping it writes out what is left.
pub struct Queue<T> {
    items: Option<SyncSender<Item<T>>>,
    done: Receiver<io::Result<()>>,
    /// Whether the last to wait for the disk did so in vain.
    late: Arc<AtomicBool>,
}

/// What the thread is asked to do.
enum Item<T> {
    Write(T),
    /// Flush, and say so.
    Flush(Sender<()>),
}

impl<T: Send + 'static> Queue<T> {
    /// Starts the thread. A stalled disk may hold up so many items (`room`) before the output is given up; none waits in the
    /// buffer of `out` for longer than `interval`.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start(name: &str, mut out: impl Out<T>, room: usize, interval: Duration) -> io::Result<Queue<T>> {
        let (queue, items) = mpsc::sync_channel(room);
        let (report, done) = mpsc::channel();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            let result = drain(&items, &mut out, interval);
            drop(items);
            // The other end is gone when closing timed out: then nobody wants to know.
            let _ = report.send(result);
        })?;
        Ok(Queue { items: Some(queue), done, late: Arc::default() })
    }

    /// Queues an item. Never blocks.
    ///
    /// # Errors
    /// An earlier one could not be written, or the queue is full because the disk stalls: this one is lost.
    pub fn write(&mut self, item: T) -> io::Result<()> {
        self.send(Item::Write(item))
    }

    /// Has all that was queued so far handed to the system at once. Never blocks: that is for [`Flushed::wait`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&mut self) -> io::Result<Promise> {
        let (done, flushed) = mpsc::channel();
        self.send(Item::Flush(done))?;
        Ok(Promise { done: flushed, late: self.late.clone() })
    }

    fn send(&mut self, item: Item<T>) -> io::Result<()> {
        let Some(items) = &self.items else { return Err(io::Error::other("the file is closed")) };
        match items.try_send(item) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                // The thread is left to itself: waiting for it would stop the training.
                self.items = None;
                Err(io::Error::new(io::ErrorKind::TimedOut, "the disk is too slow"))
            }
            Err(TrySendError::Disconnected(_)) => Err(self.fault()),
        }
    }
}

impl<T> Queue<T> {
    /// Writes out what is queued and ends the thread.
    ///
    /// # Errors
    /// Something could not be written, or the disk does not answer.
    pub fn close(&mut self) -> io::Result<()> {
        if self.items.take().is_none() {
            return Ok(());
        }
        match self.done.recv_timeout(CLOSE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the writing thread ended")),
        }
    }

    /// Why the thread ended.
    fn fault(&mut self) -> io::Error {
        self.items = None;
        match self.done.recv_timeout(CLOSE) {
            Ok(Err(error)) => error,
            _ => io::Error::other("the writing thread ended"),
        }
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        // Whoever cares about the result has called `close`.
        let _ = self.close();
    }
}

/// The thread: writes items as they come, and flushes so that none waits longer than `interval`.
fn drain<T>(items: &Receiver<Item<T>>, out: &mut impl Out<T>, interval: Duration) -> io::Result<()> {
    let mut due: Option<Instant> = None;
    loop {
        let wait = due.map_or(interval, |due| due.saturating_duration_since(Instant::now()));
        match items.recv_timeout(wait) {
            Ok(Item::Write(item)) => {
                out.write(item)?;
                due = due.or(Some(Instant::now() + interval));
            }
            Ok(Item::Flush(done)) => {
                out.flush()?;
                due = None;
                // Who asked need not wait for the answer.
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return out.flush(),
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            out.flush()?;
            due = None;
        }
    }
}

/// The promise of one output that what was queued up to some moment will be with the system, which outlives this process.
#[derive(Debug)]
pub struct Promise {
    done: Receiver<()>,
    late: Arc<AtomicBool>,
}

/// The promises of all outputs.
#[derive(Debug, Default)]
pub struct Flushed(Vec<Promise>);

impl FromIterator<Promise> for Flushed {
    fn from_iter<I: IntoIterator<Item = Promise>>(promises: I) -> Self {
        Flushed(promises.into_iter().collect())
    }
}

impl Flushed {
    /// Waits until they are kept: for an output that is lost not at all, for a disk that stalls as long as a checkpoint may be
    /// late; and hardly at all from then on, until it answers again.
    pub fn wait(self) {
        let end = Instant::now() + HAND_OVER;
        for Promise { done, late } in self.0 {
            let patience = match late.load(Ordering::Relaxed) {
                true => LATE,
                false => end.saturating_duration_since(Instant::now()),
            };
            // Disconnected: the output is lost, of which the next write tells.
            let in_vain = matches!(done.recv_timeout(patience), Err(RecvTimeoutError::Timeout));
            late.store(in_vain, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Remembers what was flushed; its disk can be stopped.
    #[derive(Clone, Default)]
    struct Page {
        gate: Arc<Mutex<()>>,
        buffer: Vec<u32>,
        flushed: Arc<Mutex<Vec<u32>>>,
    }

    impl Out<u32> for Page {
        fn write(&mut self, item: u32) -> io::Result<()> {
            self.buffer.push(item);
            Ok(())
        }
        fn flush(&mut self) -> io::Result<()> {
            drop(self.gate.lock());
            self.flushed.lock().unwrap().append(&mut self.buffer);
            Ok(())
        }
    }

    fn wait(queue: &mut Queue<u32>) -> Duration {
        let start = Instant::now();
        queue.flush().into_iter().collect::<Flushed>().wait();
        start.elapsed()
    }

    #[test]
    fn what_was_asked_for_is_there_when_the_wait_is_over() {
        let page = Page::default();
        let mut queue = Queue::start("test", page.clone(), 16, Duration::from_secs(3600)).unwrap();
        for n in 1..=3 {
            queue.write(n).unwrap();
            let flushed: Flushed = queue.flush().into_iter().collect();
            queue.write(10 * n).unwrap();
            flushed.wait();
            assert!(page.flushed.lock().unwrap().contains(&n));
        }
        assert!(!page.flushed.lock().unwrap().contains(&30), "nothing else is flushed before its time");
        queue.close().unwrap();
        assert_eq!(*page.flushed.lock().unwrap(), [1, 10, 2, 20, 3, 30]);
        assert!(wait(&mut queue) < HAND_OVER, "a file that is closed has nothing to wait for");
    }

    #[test]
    fn a_disk_that_stalls_is_waited_for_once_until_it_answers() {
        let page = Page::default();
        let mut queue = Queue::start("test", page.clone(), 16, Duration::from_secs(3600)).unwrap();
        let stall = page.gate.lock().unwrap();
        queue.write(1).unwrap();
        assert!(wait(&mut queue) >= HAND_OVER);
        assert!(wait(&mut queue) < HAND_OVER / 2 && wait(&mut queue) < HAND_OVER / 2);
        drop(stall);
        let start = Instant::now();
        while queue.late.load(Ordering::Relaxed) {
            wait(&mut queue);
            assert!(start.elapsed() < Duration::from_secs(20), "it answers again, and nobody notices");
        }
        queue.write(2).unwrap();
        wait(&mut queue);
        assert_eq!(*page.flushed.lock().unwrap(), [1, 2]);
    }

    #[test]
    fn a_full_queue_is_an_error_of_flushing_too() {
        let page = Page::default();
        let mut queue = Queue::start("test", page.clone(), 16, Duration::from_secs(3600)).unwrap();
        let stall = page.gate.lock().unwrap();
        let failed = (0..18).find_map(|_| queue.flush().err());
        assert_eq!(failed.unwrap().kind(), io::ErrorKind::TimedOut);
        assert!(queue.write(1).is_err());
        drop(stall);
    }
}
