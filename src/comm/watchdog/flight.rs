//! Flight records: what each rank did last, as files `flight_rank<r>.json`.

use super::Shared;
use super::ring::{Op, Plane};
use crate::files::{create_anew, make_dir};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Version of the format; it only grows.
const FORMAT: u32 = 1;
/// Larger files are no flight records.
const LARGEST: u64 = 64 << 20;
/// More ranks than any job has.
const MOST_RANKS: usize = 1 << 20;
/// More planes than any rank has.
const MOST_PLANES: usize = 16;

/// What one rank wrote. Times are seconds since 1970 by the clock of its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flight {
    /// Version of the format.
    pub format: u32,
    /// Name of the job, the same on all ranks. Stands near the start, where it is looked for.
    pub run: String,
    /// The rank.
    pub rank: usize,
    /// Number of ranks.
    pub size: usize,
    /// Its host.
    pub host: String,
    /// Hosts by rank, where the ranks are on several; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Its process.
    pub pid: u32,
    /// When the record was written.
    pub at: f64,
    /// Seconds that an operation may take.
    pub deadline_s: f64,
    /// Why it was written.
    pub cause: Cause,
    /// Where the rank was outside of operations.
    pub place: Option<Seat>,
    /// Operations by plane.
    pub planes: Vec<PlaneRecord>,
}

/// Why a rank wrote its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An operation took longer than the deadline.
    Expired {
        /// Its plane.
        plane: String,
        /// Its number.
        seq: u64,
    },
    /// An enqueued operation failed.
    Failed {
        /// Its plane.
        plane: String,
        /// Its number.
        seq: u64,
        /// The words of the library below.
        reason: String,
    },
    /// Another rank raised the alarm.
    Alarm {},
}

/// Where a rank was outside of operations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seat {
    /// Step it was working on.
    pub step: u64,
    /// What it did there.
    pub phase: String,
    /// Since when.
    pub since: f64,
}

/// Operations of one plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaneRecord {
    /// Name of the plane.
    pub plane: String,
    /// Number of the last operation that this rank has entered.
    pub entered: u64,
    /// The last operations, in order.
    pub ops: Vec<OpRecord>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpRecord {
    /// Number in the plane.
    pub seq: u64,
    /// Name.
    pub op: String,
    /// Bytes, the same on all ranks; 0 where ranks may differ.
    pub bytes: u64,
    /// When the rank entered it.
    pub begun: f64,
    /// When it ended; `None`: it has not.
    pub ended: Option<f64>,
}

impl Flight {
    /// The record of this rank as of now.
    pub(super) fn of(shared: &Shared, cause: Cause) -> Flight {
        let epoch = shared.epoch.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = |since: Duration| (epoch + since).as_secs_f64();
        let now = at(shared.now());
        let ring = shared.ring();
        Flight {
            format: FORMAT,
            run: shared.run.clone(),
            rank: shared.world.rank,
            size: shared.world.size,
            host: host(),
            hosts: shared.hosts.clone(),
            pid: std::process::id(),
            at: now,
            deadline_s: shared.options.deadline.as_secs_f64(),
            cause,
            place: ring.place.map(|p| Seat { step: p.step, phase: p.phase.into(), since: at(p.since) }),
            planes: ring.planes.iter().map(|plane| plane_record(plane, at)).collect(),
        }
    }

    /// Operations of a plane.
    pub fn plane(&self, name: &str) -> Option<&PlaneRecord> {
        self.planes.iter().find(|plane| plane.plane == name)
    }

    /// Number of the last operation of a plane that the rank has entered.
    pub fn entered(&self, plane: &str) -> u64 {
        self.plane(plane).map_or(0, |plane| plane.entered)
    }

    /// The oldest operation of a plane that has not ended.
    pub fn pending(&self, plane: &str) -> Option<&OpRecord> {
        self.plane(plane)?.ops.iter().find(|op| op.ended.is_none())
    }

    /// An operation by its number, if it is still remembered.
    pub fn op(&self, plane: &str, seq: u64) -> Option<&OpRecord> {
        self.plane(plane)?.ops.iter().find(|op| op.seq == seq)
    }

    /// For how long an operation had lasted when the record was written, in seconds.
    pub fn age(&self, op: &OpRecord) -> f64 {
        (self.at - op.begun).max(0.0)
    }

    /// Writes the record into `dir`, which is made if needed: the whole file, or none.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        write_whole(dir, &file_name(self.rank), &text)
    }
}

/// Name of this host.
pub(super) fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().into()
}

fn plane_record(plane: &Plane, at: impl Fn(Duration) -> f64) -> PlaneRecord {
    let record = |op: &Op| OpRecord {
        seq: op.seq,
        op: op.name.into(),
        bytes: op.bytes,
        begun: at(op.begun),
        ended: op.ended.map(&at),
    };
    PlaneRecord { plane: plane.name.into(), entered: plane.entered, ops: plane.ops.iter().map(record).collect() }
}

fn file_name(rank: usize) -> String {
    format!("flight_rank{rank}.json")
}

/// Path of a rank's record.
pub fn path(dir: &Path, rank: usize) -> PathBuf {
    dir.join(file_name(rank))
}

/// Writes a file under another name first, so that nobody sees half of it.
pub(super) fn write_whole(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    make_dir(dir)?;
    let part = dir.join(format!("{name}.{}.part", std::process::id()));
    let mut file = create_anew(&part)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&part, dir.join(name))
}

/// Whether a file is there and names this job near its start. Cheap, to be asked often.
pub(super) fn belongs(path: &Path, run: &str) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_end(&mut head));
    let mark = format!("\"run\":{}", serde_json::Value::from(run));
    read.is_ok() && head.windows(mark.len()).any(|part| part == mark.as_bytes())
}

/// Records of a folder.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Records {
    /// Records of one job, in the order of ranks.
    pub flights: Vec<Flight>,
    /// What was left out, and why: a sentence each.
    pub left_out: Vec<String>,
}

impl Records {
    /// Reads the records of `run`, or of the latest job that left any. Files that are damaged or of another job are
    /// left out and told.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn read(dir: &Path, run: Option<&str>) -> io::Result<Records> {
        let mut found = Records::default();
        for (rank, name) in candidates(dir)? {
            match read_one(&dir.join(&name), rank) {
                Ok(flight) => found.flights.push(flight),
                Err(why) => found.left_out.push(format!("{name} is no flight record: {why}")),
            }
        }
        found.keep_one_job(run);
        Ok(found)
    }

    fn keep_one_job(&mut self, run: Option<&str>) {
        let latest = self.flights.iter().max_by(|a, b| a.at.total_cmp(&b.at));
        let Some(run) = run.map(String::from).or_else(|| latest.map(|flight| flight.run.clone())) else { return };
        let Some(size) = self.flights.iter().find(|flight| flight.run == run).map(|flight| flight.size) else {
            self.flights.clear();
            return;
        };
        let (kept, others) =
            std::mem::take(&mut self.flights).into_iter().partition(|f| f.run == run && f.size == size);
        self.flights = kept;
        let others: Vec<Flight> = others;
        self.left_out.extend(others.iter().map(|f| format!("{} is of another job", file_name(f.rank))));
    }
}

/// Files that are named like flight records, in the order of ranks.
fn candidates(dir: &Path) -> io::Result<Vec<(usize, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let rank = name.strip_prefix("flight_rank").and_then(|rest| rest.strip_suffix(".json"));
        found.extend(rank.and_then(|rank| rank.parse().ok()).map(|rank| (rank, name.clone())));
    }
    found.sort();
    Ok(found)
}

/// Reads one record; whatever the file holds, the answer is a record or a reason.
fn read_one(path: &Path, rank: usize) -> Result<Flight, String> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err(format!("larger than {} MiB", LARGEST >> 20));
    }
    let flight: Flight = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if flight.rank != rank {
        return Err(format!("it is of rank {}", flight.rank));
    }
    if flight.size > MOST_RANKS || flight.rank >= flight.size {
        return Err(format!("rank {} of {}", flight.rank, flight.size));
    }
    if flight.planes.len() > MOST_PLANES {
        return Err(format!("{} planes", flight.planes.len()));
    }
    Ok(flight)
}
