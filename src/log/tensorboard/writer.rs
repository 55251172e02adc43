//! An events file.

use super::frame::frame;
use super::proto::{Event, SessionLog, Summary, Value, What};
use crate::files::{make_dir, open_here};
use crate::log::queue::{Out, Promise, Queue};
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Records a stalled disk may hold up.
const ROOM: usize = 1024;
/// An event is in the file after so long at most.
const FLUSH: Duration = Duration::from_secs(5);
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
}

impl Out<Event> for Sink {
    fn write(&mut self, event: Event) -> io::Result<()> {
        write(self, &event)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        match &self.path {
            Some(path) if !path.exists() => Err(io::Error::new(io::ErrorKind::NotFound, "the file has been removed")),
            _ => Ok(()),
        }
    }
}

/// A queue into an events file. Dropping it writes out what is left.
pub struct EventWriter(Queue<Event>);

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
        let interval = sink.flush;
        Ok(EventWriter(Queue::start("tensorboard", sink, ROOM, interval)?))
    }

    /// Queues values of one step. Never blocks.
    ///
    /// # Errors
    /// An earlier write failed, or the queue is full because the disk stalls: these values are lost.
    pub fn write(&mut self, step: u64, value: Vec<Value>) -> io::Result<()> {
        self.0.write(event(step, What::Summary(Summary { value })))
    }

    /// Has all that was written so far handed to the system at once. Never blocks.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&mut self) -> io::Result<Promise> {
        self.0.flush()
    }

    /// Writes out what is queued and ends the thread.
    ///
    /// # Errors
    /// Something could not be written, or the disk does not answer.
    pub fn close(&mut self) -> io::Result<()> {
        self.0.close()
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
