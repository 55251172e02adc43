//! `metrics.jsonl`: one JSON object a line, for plots and scripts. The format is in `docs/run_directory.md`.

use super::queue::{Out, Promise, Queue};
use super::{EvalRecord, TrainRecord};
use crate::files::{create_anew, open_here};
use serde_json::{Map, Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lines a stalled disk may hold up: of about a kilobyte each, so some 64 MiB.
const ROOM: usize = 1 << 16;
/// Between the name of a file and the process that is writing its new content.
const TEMP: &str = ".tmp-";

/// Appends records to a file; each is with the system as soon as the thread has come to it. Dropping it writes out what is
/// left.
pub struct JsonLines(Queue<String>);

/// The file. Its path is there to notice that somebody removed it under us, which no write reports.
struct Lines {
    out: Box<dyn Write + Send>,
    path: Option<PathBuf>,
}

impl Out<String> for Lines {
    fn write(&mut self, line: String) -> io::Result<()> {
        self.out.write_all(line.as_bytes())?;
        self.out.flush()?;
        match &self.path {
            Some(path) if !path.exists() => Err(io::Error::new(io::ErrorKind::NotFound, "the file has been removed")),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Every line has been, as it was written.
        Ok(())
    }
}

impl JsonLines {
    /// Starts a new file. One that is there already stays as `<name>.old`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> io::Result<JsonLines> {
        if path.symlink_metadata().is_ok() {
            fs::rename(path, beside(path, ".old"))?;
        }
        JsonLines::over(Box::new(create_anew(path)?), Some(path))
    }

    /// Continues a file after step `resume_step`: lines of later steps and what is no whole line are cut, in one move,
    /// so that a crash here leaves the old file or the new one.
    ///
    /// # Errors
    /// The file cannot be read or rewritten.
    pub fn resume(path: &Path, resume_step: u64) -> io::Result<JsonLines> {
        if path.exists() {
            cut(path, resume_step)?;
        }
        let file = open_here(OpenOptions::new().create(true).append(true), path)?;
        JsonLines::over(Box::new(file), Some(path))
    }

    /// Writes to anything; `path`: where the file is, if it is one.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn over(out: Box<dyn Write + Send>, path: Option<&Path>) -> io::Result<JsonLines> {
        let lines = Lines { out, path: path.map(Path::to_path_buf) };
        Queue::start("metrics", lines, ROOM, Duration::from_secs(3600)).map(JsonLines)
    }

    /// Appends a training record. Never blocks.
    ///
    /// # Errors
    /// This or an earlier line is lost.
    pub fn train(&mut self, record: &TrainRecord) -> io::Result<()> {
        self.line(&train(record))
    }

    /// Appends an evaluation. Never blocks.
    ///
    /// # Errors
    /// This or an earlier line is lost.
    pub fn eval(&mut self, record: &EvalRecord) -> io::Result<()> {
        self.line(&eval(record))
    }

    /// Has all lines so far handed to the system. Never blocks.
    ///
    /// # Errors
    /// An earlier line is lost.
    pub fn flush(&mut self) -> io::Result<Promise> {
        self.0.flush()
    }

    /// Writes out what is left.
    ///
    /// # Errors
    /// Something is lost.
    pub fn close(&mut self) -> io::Result<()> {
        self.0.close()
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        self.0.write(format!("{value}\n"))
    }
}

/// A training record as the object of its line. Numbers that are not finite are null, as JSON has none.
pub fn train(record: &TrainRecord) -> Value {
    let some = |values: &[f64]| values.iter().map(|v| Some(*v)).collect::<Vec<_>>();
    let grad_norm = record.grad_norm.as_ref().map(|norms| by_task(&record.tasks, &some(norms)));
    let time_ms: Map<String, Value> = record.time_ms.iter().map(|(phase, ms)| (phase.to_string(), json!(ms))).collect();
    let mut line = json!({
        "kind": "train",
        "step": record.step,
        "epoch": record.epoch,
        "loss": by_task(&record.tasks, &record.loss),
        "weight": by_task(&record.tasks, &some(&record.weight)),
        "coef": by_task(&record.tasks, &some(&record.coef)),
        "grad_norm": grad_norm,
        "conflict_rate": record.conflict_rate,
        "update_norm": record.update_norm,
        "lr": record.lr,
        "time_ms": time_ms,
        "samples_per_s": record.samples_per_s,
        "bytes_per_step": record.bytes_per_step,
        "skipped": record.skipped,
    });
    if let Some(ms) = record.checkpoint_ms {
        line["checkpoint_ms"] = json!(ms);
    }
    if let Some(device) = &record.device {
        line["device_memory_mib"] = json!(device.memory_mib);
        if let Some((ms, exposed)) = device.exchange {
            line["exchange_ms"] = json!(ms);
            line["exposed"] = json!(exposed);
        }
    }
    if let Some(ranks) = &record.ranks {
        let [min, median, max] = ranks.spread();
        line["ranks"] = json!({
            "own_ms": {"min": min, "median": median, "max": max},
            "slowest": ranks.slowest,
            "slowdown": ranks.slowdown,
            "slow": ranks.slow,
        });
    }
    line
}

/// An evaluation as the object of its line.
pub fn eval(record: &EvalRecord) -> Value {
    json!({
        "kind": "eval",
        "step": record.step,
        "epoch": record.epoch,
        "split": record.split,
        "metrics": metrics(record),
        "score": record.score,
        "best": record.best,
        "seconds": record.seconds,
    })
}

/// The metrics of an evaluation: task, then name, then value, in config order.
pub fn metrics(record: &EvalRecord) -> Value {
    let task = |metrics: &[(String, Option<f64>)]| {
        Value::Object(metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect())
    };
    Value::Object(record.metrics.iter().map(|(name, metrics)| (name.clone(), task(metrics))).collect())
}

fn by_task(tasks: &[String], values: &[Option<f64>]) -> Value {
    Value::Object(tasks.iter().zip(values).map(|(task, value)| (task.clone(), json!(value))).collect())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Rewrites the file with the lines up to `resume_step`.
fn cut(path: &Path, resume_step: u64) -> io::Result<()> {
    let kept = keep(BufReader::new(File::open(path)?), resume_step)?;
    if kept.len() as u64 != fs::metadata(path)?.len() {
        write_atomically(path, &kept)?;
    }
    Ok(())
}

/// The whole lines up to `resume_step`.
fn keep(mut lines: impl BufRead, resume_step: u64) -> io::Result<Vec<u8>> {
    let (mut kept, mut line) = (Vec::new(), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n")
            && let Ok(record) = serde_json::from_slice::<Value>(&line)
            && record["step"].as_u64().is_some_and(|step| step <= resume_step)
        {
            kept.extend_from_slice(&line);
        }
        line.clear();
    }
    Ok(kept)
}

/// Replaces a file in one move: whoever looks sees the old content or the new one, also after a power cut. What writers
/// left beside it when they were killed goes.
///
/// # Errors
/// The content cannot be written beside the file, or the move fails.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    remove_leftovers(path);
    let temporary = beside(path, &format!("{TEMP}{}", std::process::id()));
    let write = || {
        let mut out = BufWriter::new(create_anew(&temporary)?);
        out.write_all(content)?;
        out.into_inner()?.sync_all()?;
        fs::rename(&temporary, path)
    };
    let result = write();
    if result.is_err() {
        // Best effort: the error that is reported is the first one.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Removes what [`write_atomically`] made beside this file in processes that no longer run. Best effort.
fn remove_leftovers(path: &Path) {
    let processes = Path::new("/proc");
    // Where there is no /proc nothing is known, and what is not known to be dead stays.
    let is_dead = |pid: u32| processes.join("self").exists() && !processes.join(pid.to_string()).exists();
    let prefix = beside(path, TEMP);
    let Some((dir, prefix)) = path.parent().zip(prefix.file_name().and_then(|name| name.to_str())) else { return };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
        if pid.is_some_and(is_dead) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{eval_record, train_record};
    use super::*;
    use crate::log::{DeviceRecord, RankRecord};
    use std::sync::{Arc, Mutex};

    #[test]
    fn lines_have_the_documented_form() {
        let mut record = train_record(20, &["a", "b"]);
        record.coef[1] = f64::NAN;
        assert_eq!(
            train(&record).to_string(),
            r#"{"kind":"train","step":20,"epoch":0.5,"loss":{"a":0.5,"b":null},"weight":{"a":1.0,"b":2.0},"#.to_owned()
                + r#""coef":{"a":0.5,"b":null},"grad_norm":{"a":1.5,"b":2.5},"conflict_rate":0.25,"update_norm":0.75,"#
                + r#""lr":0.001,"time_ms":{"forward":4.0,"backward":8.0},"samples_per_s":5120.0,"#
                + r#""bytes_per_step":4096,"skipped":0}"#
        );
        record.grad_norm = None;
        assert_eq!(train(&record)["grad_norm"], Value::Null);
        assert_eq!(
            eval(&eval_record(40, "val", &[("a", Some(0.5)), ("b", None)])).to_string(),
            r#"{"kind":"eval","step":40,"epoch":1.0,"split":"val","metrics":{"a":{"auc":0.5},"b":{"auc":null}},"#
                .to_owned()
                + r#""score":0.5,"best":true,"seconds":0.25}"#
        );
    }

    #[test]
    fn what_a_device_has_is_there_with_a_device_alone() {
        let alone = train(&crate::log::samples::train_record(1, &["a"]));
        assert!(alone.get("device_memory_mib").is_none() && alone.get("exposed").is_none());
        let device = Some(DeviceRecord { memory_mib: 512.0, exchange: Some((4.0, 0.25)) });
        let line = train(&TrainRecord { device, ..crate::log::samples::train_record(1, &["a"]) });
        assert_eq!(
            (&line["device_memory_mib"], &line["exchange_ms"], &line["exposed"]),
            (&json!(512.0), &json!(4.0), &json!(0.25))
        );
    }

    #[test]
    fn ranks_are_a_spread_and_the_slowest_one() {
        let own_ms = vec![4.0, 1.0, 9.0, 3.0];
        let ranks = Some(RankRecord { own_ms, slowest: 2, slowdown: 3.0, slow: vec![2] });
        let line = train(&TrainRecord { ranks, ..train_record(1, &["a"]) }).to_string();
        let end = r#""ranks":{"own_ms":{"min":1.0,"median":3.5,"max":9.0},"slowest":2,"slowdown":3.0,"slow":[2]}}"#;
        assert!(line.ends_with(end), "{line}");
    }

    #[test]
    fn what_killed_writers_left_beside_a_file_goes_with_the_next_write() {
        let dir = tempfile::tempdir().unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let dead = format!("x.json.tmp-{}", gone.id());
        for name in [dead.as_str(), "x.json.tmp-1", "x.json.tmp-copy", "y.json.tmp-0"] {
            fs::write(dir.path().join(name), "half").unwrap();
        }
        write_atomically(&dir.path().join("x.json"), b"whole").unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["x.json", "x.json.tmp-1", "x.json.tmp-copy", "y.json.tmp-0"], "process 1 is alive");
    }

    #[test]
    fn tasks_keep_the_order_of_the_config() {
        let line = train(&train_record(1, &["z", "a", "m"])).to_string();
        assert!(line.contains(r#""weight":{"z":1.0,"a":2.0,"m":3.0}"#), "{line}");
    }

    #[test]
    fn resuming_gives_the_lines_of_a_run_that_never_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
        let run = |out: &mut JsonLines, steps: std::ops::RangeInclusive<u64>| {
            for step in steps {
                out.train(&train_record(step, &["a", "b"])).unwrap();
                if step % 2 == 0 {
                    out.eval(&eval_record(step, "val", &[("a", Some(step as f64))])).unwrap();
                }
            }
        };
        run(&mut JsonLines::create(&whole).unwrap(), 1..=8);
        run(&mut JsonLines::create(&stopped).unwrap(), 1..=7);
        OpenOptions::new().append(true).open(&stopped).unwrap().write_all(br#"{"kind":"train","step":3,"#).unwrap();
        let mut out = JsonLines::resume(&stopped, 4).unwrap();
        run(&mut out, 5..=8);
        drop(out);
        assert_eq!(fs::read_to_string(&stopped).unwrap(), fs::read_to_string(&whole).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
    }

    #[test]
    fn a_torn_last_line_goes_even_if_it_would_parse() {
        let text = "{\"step\":1}\n{\"step\":9}\nrubbish\n{\"step\":2}\n{\"step\":3}";
        assert_eq!(keep(text.as_bytes(), 5).unwrap(), b"{\"step\":1}\n{\"step\":2}\n");
    }

    #[test]
    fn resuming_without_a_file_starts_one_and_a_fresh_start_keeps_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut out = JsonLines::resume(&path, 5).unwrap();
        out.train(&train_record(6, &["a"])).unwrap();
        drop(out);
        JsonLines::create(&path).unwrap().train(&train_record(1, &["a"])).unwrap();
        let steps = |path: PathBuf| {
            let lines = fs::read_to_string(path).unwrap();
            lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].clone()).collect::<Vec<_>>()
        };
        assert_eq!((steps(path.clone()), steps(beside(&path, ".old"))), (vec![json!(1)], vec![json!(6)]));
    }

    #[test]
    fn a_full_disk_and_a_removed_file_are_errors() {
        struct Full(Arc<Mutex<usize>>);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                *self.0.lock().unwrap() += bytes.len();
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let tried = Arc::new(Mutex::new(0));
        // At the next write, or at the end.
        let fault = |mut out: JsonLines| {
            let written = out.train(&train_record(1, &["a"]));
            written.and_then(|()| out.close()).unwrap_err().kind()
        };
        let full = JsonLines::over(Box::new(Full(tried.clone())), None).unwrap();
        assert_eq!(fault(full), io::ErrorKind::StorageFull);
        assert!(*tried.lock().unwrap() > 0);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let out = JsonLines::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(fault(out), io::ErrorKind::NotFound);
    }
}
