//! Checkpoints written by a thread of their own, while training goes on.
//!
//! The training thread hands over what it has copied and goes on. The thread makes files of it, renames, moves `latest`
//! and `best`, and removes what is old, in this order: whatever ends the process in between, the last whole checkpoint
//! is there. At most one is in flight, so that memory holds one copy at most.
//!
//! Where all ranks write, each has a writer for its own files, and the one of rank 0 does the rest once the ranks have agreed
//! that all files are there: two orders for one checkpoint.

use super::folder::mark_best;
use super::prune::prune_with;
use super::write::{finish, undo, write_share, write_with};
use super::{CheckpointError, FileInfo, Keep, Point, Result, Share, Snapshot};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

/// A checkpoint to be written.
pub struct Order {
    /// Its step.
    pub step: u64,
    /// What to do for it.
    pub work: Work,
}

/// What a writer does for a checkpoint. `best`: whether to mark it as the best one; `keep`: what to keep of the others.
pub enum Work {
    /// All of it.
    Whole {
        /// Makes the snapshot of what was copied. Runs in the writer's thread.
        snapshot: Box<dyn FnOnce() -> Snapshot + Send>,
        #[expect(missing_docs, reason = "told above")]
        best: bool,
        #[expect(missing_docs, reason = "told above")]
        keep: Keep,
    },
    /// The files of this rank.
    Share {
        /// The folder for them.
        temp: PathBuf,
        /// Makes them of what was copied. Runs in the writer's thread.
        share: Box<dyn FnOnce() -> Share + Send>,
    },
    /// The rest, where the files of all ranks are there.
    Finish {
        /// All files.
        files: Vec<FileInfo>,
        #[expect(missing_docs, reason = "told above")]
        best: bool,
        #[expect(missing_docs, reason = "told above")]
        keep: Keep,
    },
}

/// What is on the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The folder of the checkpoint, or the one in which its files are gathered.
    pub path: PathBuf,
    /// The files of this rank, where all ranks write theirs.
    pub files: Vec<FileInfo>,
    /// How long it took, from the order on.
    pub seconds: f64,
    /// What went wrong after it was written: its mark, the removal of others. It loses nothing.
    pub warnings: Vec<String>,
}

/// What became of an order.
#[derive(Debug)]
pub struct Report {
    /// The step.
    pub step: u64,
    /// If it failed, what was there before is still there.
    pub result: Result<Written>,
}

/// Called at every [`Point`] of a write, with the step and how many times this point has come in it (from 1). An error is
/// one of the disk; after the checkpoint is written it does not count.
type Hook = Box<dyn FnMut(u64, Point, u64) -> io::Result<()> + Send>;

/// The writer of one root. Dropping it waits for what is in flight.
pub struct Writer {
    orders: Option<Sender<Order>>,
    reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
    in_flight: Option<u64>,
}

impl Writer {
    /// A writer below `root`, idle. `hook` sees every instant of every write: for tests of crash safety.
    ///
    /// # Errors
    /// If the system has no thread for it.
    pub fn new(root: &Path, hook: Hook) -> io::Result<Writer> {
        let (orders, inbox) = channel();
        let (outbox, reports) = channel();
        let mut desk = Desk { root: root.to_path_buf(), hook, points: Points::default() };
        let work = move || inbox.into_iter().map(|order| desk.fill(order)).try_for_each(|done| outbox.send(done));
        let thread = Builder::new().name("checkpoint".into()).spawn(move || drop(work()))?;
        Ok(Writer { orders: Some(orders), reports, thread: Some(thread), in_flight: None })
    }

    /// Starts a checkpoint. Waits for the one in flight, if there is one, and returns what became of it.
    pub fn start(&mut self, order: Order) -> Option<Report> {
        let before = self.wait();
        self.in_flight = Some(order.step);
        // Refused only by a thread that has panicked, which `wait` reports.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
        before
    }

    /// What became of the checkpoint in flight; `None` if there is none, or it is not finished.
    pub fn poll(&mut self) -> Option<Report> {
        let step = self.in_flight?;
        match self.reports.try_recv() {
            Err(TryRecvError::Empty) => None,
            report => Some(self.landed(step, report.ok())),
        }
    }

    /// Waits for the checkpoint in flight; `None` if there is none.
    pub fn wait(&mut self) -> Option<Report> {
        let step = self.in_flight?;
        let report = self.reports.recv().ok();
        Some(self.landed(step, report))
    }

    fn landed(&mut self, step: u64, report: Option<Report>) -> Report {
        self.in_flight = None;
        report.unwrap_or_else(|| {
            let panicked = io::Error::other("the thread that writes checkpoints has panicked");
            Report {
                step,
                result: Err(CheckpointError::Io { path: super::folder::name(step).into(), source: panicked }),
            }
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(Report { step, result: Err(e) }) = self.wait() {
            tracing::warn!("no checkpoint at step {step}: {e}");
        }
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the hook, and by whoever waited for the checkpoint.
            let _ = thread.join();
        }
    }
}

/// Where orders are worked off.
struct Desk {
    root: PathBuf,
    hook: Hook,
    points: Points,
}

/// How many times each point has come in the checkpoint of a step.
#[derive(Default)]
struct Points {
    step: u64,
    times: BTreeMap<Point, u64>,
}

impl Points {
    /// Counts a point.
    fn nth(&mut self, point: Point) -> u64 {
        let times = self.times.entry(point).or_default();
        *times += 1;
        *times
    }

    /// The hook of a write that counts for the hook of a writer.
    fn with<'a>(&'a mut self, hook: &'a mut Hook) -> impl FnMut(Point) -> io::Result<()> + 'a {
        move |point| hook(self.step, point, self.nth(point))
    }
}

impl Desk {
    fn fill(&mut self, Order { step, work }: Order) -> Report {
        let began = Instant::now();
        if self.points.step != step || !matches!(work, Work::Finish { .. }) {
            self.points = Points { step, times: BTreeMap::new() };
        }
        let result = match work {
            Work::Whole { snapshot, best, keep } => {
                let snapshot = snapshot();
                let written = write_with(&self.root, &snapshot, &mut self.points.with(&mut self.hook));
                drop(snapshot);
                written.map(|path| self.tidy(path, best, keep))
            }
            Work::Share { temp, share } => {
                let written = write_share(&temp, share(), &mut self.points.with(&mut self.hook));
                // Whether the folder goes is for all ranks to say.
                let written = written.map(|files| Written { path: temp, files, seconds: 0.0, warnings: Vec::new() });
                return Report { step, result: timed(written, began) };
            }
            Work::Finish { files, best, keep } => {
                let written = finish(&self.root, step, files, &mut self.points.with(&mut self.hook));
                written.map(|path| self.tidy(path, best, keep))
            }
        };
        if result.is_err() {
            undo(&self.root, step);
        }
        Report { step, result: timed(result, began) }
    }

    /// Marks a checkpoint just written if it is the best, and removes old ones. Failing here loses no checkpoint.
    fn tidy(&mut self, path: PathBuf, best: bool, keep: Keep) -> Written {
        let (root, step) = (&self.root, self.points.step);
        let marked = if best { mark_best(root, step) } else { Ok(()) };
        let mut at = |point| drop((self.hook)(step, point, self.points.nth(point)));
        at(Point::BestMarked);
        let pruned = prune_with(root, keep, &mut || at(Point::Unnamed)).map(drop);
        at(Point::Pruned);
        let warnings = [marked, pruned].into_iter().filter_map(Result::err).map(|e| e.to_string()).collect();
        Written { path, files: Vec::new(), seconds: 0.0, warnings }
    }
}

fn timed(result: Result<Written>, began: Instant) -> Result<Written> {
    result.map(|written| Written { seconds: began.elapsed().as_secs_f64(), ..written })
}

#[cfg(test)]
mod tests {
    use super::super::{best, latest};
    use super::*;
    use std::fs;
    use std::sync::mpsc::{Sender, channel};
    use tempfile::TempDir;

    fn order(step: u64, best: bool) -> Order {
        let keep = Keep::last(2);
        let snapshot = move || Snapshot {
            step,
            tensors: BTreeMap::new(),
            json: [("state".to_string(), serde_json::json!(step))].into(),
        };
        Order { step, work: Work::Whole { snapshot: Box::new(snapshot), best, keep } }
    }

    fn idle() -> (TempDir, Writer) {
        let root = tempfile::tempdir().unwrap();
        let writer = Writer::new(root.path(), Box::new(|_, _, _| Ok(()))).unwrap();
        (root, writer)
    }

    type Seen = (u64, Point, u64);

    /// A writer that stops at every point until it is told to go on.
    fn stepwise() -> (TempDir, Writer, Receiver<Seen>, Sender<()>) {
        let root = tempfile::tempdir().unwrap();
        let (seen, points) = channel();
        let (go, gate) = channel();
        let hook = move |step, point, nth| {
            seen.send((step, point, nth)).unwrap();
            // Nobody left at the gate: go on.
            let _ = gate.recv();
            Ok(())
        };
        let writer = Writer::new(root.path(), Box::new(hook)).unwrap();
        (root, writer, points, go)
    }

    fn latest_step(root: &TempDir) -> Option<u64> {
        latest(root.path()).unwrap().map(|found| found.snapshot.step)
    }

    #[test]
    fn checkpoints_are_written_marked_and_pruned_in_the_background() {
        let (root, mut writer) = idle();
        assert!(writer.poll().is_none() && writer.wait().is_none());
        assert!(writer.start(order(1, true)).is_none());
        for step in 2..=4 {
            let before = writer.start(order(step, false)).unwrap();
            assert_eq!((before.step, before.result.unwrap().warnings), (step - 1, vec![]));
        }
        assert_eq!(writer.wait().unwrap().step, 4);
        assert!(writer.wait().is_none(), "told once");
        assert_eq!(latest_step(&root), Some(4));
        let kept = [1, 3, 4].map(|step| root.path().join(super::super::folder::name(step)));
        assert!(kept.iter().all(|path| path.is_dir()));
        assert_eq!(best(root.path()).unwrap(), Some(kept[0].clone()));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 5);
    }

    #[test]
    fn the_caller_goes_on_while_a_checkpoint_is_written_and_sees_it_when_it_is_whole() {
        let (root, mut writer, points, go) = stepwise();
        writer.start(order(7, true));
        let mut seen = Vec::new();
        while seen.last() != Some(&Point::Pruned) {
            let (step, point, nth) = points.recv().unwrap();
            assert_eq!((step, nth), (7, 1 + seen.iter().filter(|p| **p == point).count() as u64));
            assert!(writer.poll().is_none(), "{point:?}: not finished");
            let whole = point >= Point::Renamed;
            assert_eq!(latest_step(&root), whole.then_some(7), "{point:?}");
            seen.push(point);
            go.send(()).unwrap();
        }
        assert!(writer.wait().unwrap().result.is_ok());
        let never = [Point::OldMovedAside, Point::Unnamed];
        seen.dedup();
        assert!(Point::ALL.iter().all(|p| seen.contains(p) != never.contains(p)), "{seen:?}");
    }

    #[test]
    fn dropping_the_writer_finishes_what_is_in_flight() {
        let (root, mut writer, points, go) = stepwise();
        writer.start(order(7, false));
        points.recv().unwrap();
        drop(go);
        drop(writer);
        assert_eq!(latest_step(&root), Some(7));
    }

    #[test]
    fn a_failed_write_is_reported_and_the_next_one_is_made() {
        let (root, mut writer) = idle();
        fs::write(root.path().join("step_00000002"), "in the way").unwrap();
        writer.start(order(1, false));
        writer.start(order(2, false));
        let report = writer.start(order(3, false)).unwrap();
        let error = report.result.unwrap_err().to_string();
        assert!(report.step == 2 && error.contains("step_00000002"), "{error}");
        assert!(writer.wait().unwrap().result.is_ok());
        assert_eq!(latest_step(&root), Some(3));
    }

    #[test]
    fn an_error_of_the_hook_is_one_of_the_disk() {
        let root = tempfile::tempdir().unwrap();
        let full = |step, point, nth| match (step, point, nth) {
            (2, Point::FileFilled, 1) | (3, Point::Pruned, 1) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        };
        let mut writer = Writer::new(root.path(), Box::new(full)).unwrap();
        (1..=2).for_each(|step| drop(writer.start(order(step, false))));
        let error = writer.wait().unwrap().result.unwrap_err().to_string();
        assert!(error.contains("step_00000002"), "{error}");
        assert_eq!(latest_step(&root), Some(1));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "nothing half-made stays");
        writer.start(order(3, false));
        assert!(writer.wait().unwrap().result.is_ok(), "it was written already");
    }

    #[test]
    fn what_fails_after_the_write_is_a_warning() {
        let (root, mut writer) = idle();
        fs::create_dir(root.path().join("best")).unwrap();
        writer.start(order(1, true));
        let written = writer.wait().unwrap().result.unwrap();
        assert_eq!(written.warnings.len(), 1, "{:?}", written.warnings);
        assert_eq!(latest_step(&root), Some(1));
    }
}
