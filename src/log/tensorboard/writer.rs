//! An events file and the thread that writes it: training never waits for a disk, and never fails because of one.

use super::frame::frame;
use super::proto::{Event, SessionLog, Summary, Value, What};
use crate::files::{make_dir, open_here};
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Events a stalled disk may hold up before they are dropped.
const QUEUE: usize = 1024;
/// An event is in the file after so long at most.
const FLUSH: Duration = Duration::from_secs(5);
/// How long the end of a run waits for a stalled disk.
const CLOSE: Duration = Duration::from_secs(20);
/// How long a checkpoint waits for one.
const HAND_OVER: Duration = Duration::from_secs(3);
/// Number of the next file of this process: two writers in one second never share a name.
static FILES: AtomicU64 = AtomicU64::new(0);

/// Where events go. The path is there to notice that somebody removed the file under us, which no write reports.
pub struct Sink {
    /// Receives whole records.
    pub out: Box<dyn Write + Send>,
    /// The file, when there is one.
    pub path: Option<PathBuf>,
    /// Longest time an event waits in the buffer.
    pub flush: Duration,
}

impl Sink {
    /// A new, uniquely named events file in a folder, which is made if missing.
    ///
    /// # Errors
    /// The folder cannot be made or listed, or the file cannot be created.
    pub fn file(dir: &Path) -> io::Result<Sink> {
        make_dir(dir)?;
        let (file, path) = create_unique(dir)?;
        Ok(Sink { out: Box::new(BufWriter::new(file)), path: Some(path), flush: FLUSH })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        match &self.path {
            Some(path) if !path.exists() => Err(io::Error::new(io::ErrorKind::NotFound, "the file has been removed")),
            _ => Ok(()),
        }
    }
}

/// What the thread is asked to do.
enum Item {
    Write(Event),
    /// Hand everything so far to the system, and say so.
    Flush(Sender<()>),
}

/// The promise that what was written up to some moment will be with the system, which outlives this process.
#[derive(Debug)]
pub struct Flushed(Option<Receiver<()>>);

impl Flushed {
    /// Where there is nothing to wait for.
    pub fn nothing() -> Flushed {
        Flushed(None)
    }

    /// Waits for it; a file that is lost, and a disk that stalls, are waited for no longer than a checkpoint may be late.
    pub fn wait(self) {
        // An error: the file is lost, of which the next write tells, or the time is up.
        let _ = self.0.map(|done| done.recv_timeout(HAND_OVER));
    }
}

/// A queue into an events file. Dropping it writes out what is left.
pub struct EventWriter {
    queue: Option<SyncSender<Item>>,
    done: Receiver<io::Result<()>>,
}

impl EventWriter {
    /// Starts a file: version first, then, if `session_start` is given, the mark that voids earlier points of that step
    /// and later ones.
    ///
    /// # Errors
    /// The first records cannot be written, or no thread can be started.
    pub fn start(mut sink: Sink, session_start: Option<u64>) -> io::Result<EventWriter> {
        write(&mut sink, &event(0, What::FileVersion("brain.Event:2".into())))?;
        if let Some(step) = session_start {
            write(&mut sink, &event(step, What::SessionLog(SessionLog { status: 1 })))?;
        }
        sink.flush()?;
        let (queue, items) = mpsc::sync_channel(QUEUE);
        let (report, done) = mpsc::channel();
        std::thread::Builder::new().name("tensorboard".into()).spawn(move || {
            let result = drain(&items, &mut sink);
            drop(items);
            // The other end is gone when closing timed out: then nobody wants to know.
            let _ = report.send(result);
        })?;
        Ok(EventWriter { queue: Some(queue), done })
    }

    /// Queues values of one step. Never blocks.
    ///
    /// # Errors
    /// An earlier write failed, or the queue is full because the disk stalls: these values are lost.
    pub fn write(&mut self, step: u64, value: Vec<Value>) -> io::Result<()> {
        let Some(queue) = &self.queue else { return Err(io::Error::other("the events file is closed")) };
        match queue.try_send(Item::Write(event(step, What::Summary(Summary { value })))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                // The thread is left to itself: waiting for it would stop the training.
                self.queue = None;
                Err(io::Error::new(io::ErrorKind::TimedOut, "the disk is too slow"))
            }
            Err(TrySendError::Disconnected(_)) => Err(self.fault()),
        }
    }

    /// Has all that was written so far handed to the system at once. Never blocks: that is for [`Flushed::wait`].
    pub fn flush(&mut self) -> Flushed {
        let (done, flushed) = mpsc::channel();
        // Where the queue is full or gone, the next write tells why.
        let sent = self.queue.as_ref().and_then(|queue| queue.try_send(Item::Flush(done)).ok());
        Flushed(sent.map(|()| flushed))
    }

    /// Writes out what is queued and ends the thread.
    ///
    /// # Errors
    /// Something could not be written, or the disk does not answer.
    pub fn close(&mut self) -> io::Result<()> {
        if self.queue.take().is_none() {
            return Ok(());
        }
        match self.done.recv_timeout(CLOSE) {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")),
        }
    }

    /// Why the thread ended.
    fn fault(&mut self) -> io::Error {
        self.queue = None;
        match self.done.recv_timeout(CLOSE) {
            Ok(Err(error)) => error,
            _ => io::Error::other("the writing thread ended"),
        }
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        // Whoever cares about the result has called `close`.
        let _ = self.close();
    }
}

/// The thread: writes events as they come, and flushes so that none waits longer than `sink.flush`.
fn drain(items: &Receiver<Item>, sink: &mut Sink) -> io::Result<()> {
    let mut due: Option<Instant> = None;
    loop {
        let wait = due.map_or(sink.flush, |due| due.saturating_duration_since(Instant::now()));
        match items.recv_timeout(wait) {
            Ok(Item::Write(event)) => {
                write(sink, &event)?;
                due = due.or(Some(Instant::now() + sink.flush));
            }
            Ok(Item::Flush(done)) => {
                sink.flush()?;
                due = None;
                // Who asked need not wait for the answer.
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return sink.flush(),
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            sink.flush()?;
            due = None;
        }
    }
}

fn write(sink: &mut Sink, event: &Event) -> io::Result<()> {
    sink.out.write_all(&frame(&event.encode_to_vec()))
}

fn event(step: u64, what: What) -> Event {
    Event { wall_time: now(), step: step as i64, what: Some(what) }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// `events.out.tfevents.<seconds>.<host>.<pid>.<n>`. TensorBoard reads the files of a folder in the order of their
/// names: the seconds are moved past those of every file already there, so that a file written on resume comes last
/// even if the clock of the new machine is behind.
fn create_unique(dir: &Path) -> io::Result<(File, PathBuf)> {
    let latest = events_files(dir)?.iter().filter_map(|path| seconds(path)).max();
    let second = (now() as u64).max(latest.map_or(0, |s| s.saturating_add(1)));
    let (host, pid) = (host_name(), std::process::id());
    loop {
        let n = FILES.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("events.out.tfevents.{second:010}.{host}.{pid}.{n}"));
        match open_here(OpenOptions::new().write(true).create_new(true), &path) {
            Ok(file) => return Ok((file, path)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// The events files of a folder, in the order in which TensorBoard reads them.
///
/// # Errors
/// The folder cannot be listed.
pub fn events_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    let mut paths: Vec<_> = paths.into_iter().filter(|path| seconds(path).is_some()).collect();
    paths.sort();
    Ok(paths)
}

fn seconds(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("events.out.tfevents.")?.split('.').next()?.parse().ok()
}

/// The machine's name without anything that could upset a path.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    if name.is_empty() { "localhost".into() } else { name }
}

#[cfg(test)]
mod tests;
