//! The one thing the training loop talks to.

use super::console::Console;
use super::jsonl::{JsonLines, write_atomically};
use super::queue::Flushed;
use super::tensorboard::{Start, TensorBoard};
use super::{EvalRecord, Resumed, RunInfo, Summary, TrainRecord, summary};
use crate::config;
use std::io;
use std::path::{Path, PathBuf};

/// Hands records to every output. Rank 0 owns a live one, the other ranks [`Logger::null`].
pub struct Logger {
    live: Option<Box<Live>>,
}

/// Outputs of rank 0; one that failed is gone.
struct Live {
    run_dir: PathBuf,
    info: RunInfo,
    resumed_from: Option<u64>,
    log: config::Log,
    console: Console,
    jsonl: Option<JsonLines>,
    tensorboard: Option<TensorBoard>,
    lost: Vec<String>,
}

impl Logger {
    /// A logger that says nothing: for every rank but 0.
    pub fn null() -> Logger {
        Logger { live: None }
    }

    /// Opens all outputs in the run directory and prints the header. For a run that is `resumed`, records of
    /// later steps, left by the session that was cut off, are removed or declared void.
    pub fn open(run_dir: &Path, info: RunInfo, resumed: Option<Resumed>, log: &config::Log) -> Logger {
        let console = Console::terminal(&info, resumed.map(|from| from.step));
        Logger::with_console(console, run_dir, info, resumed, log)
    }

    /// [`Logger::open`] with a console of the caller's.
    pub fn with_console(
        console: Console,
        run_dir: &Path,
        info: RunInfo,
        resumed: Option<Resumed>,
        log: &config::Log,
    ) -> Logger {
        let mut live = Live {
            run_dir: run_dir.to_path_buf(),
            info,
            resumed_from: resumed.map(|from| from.step),
            log: log.clone(),
            console,
            jsonl: None,
            tensorboard: None,
            lost: Vec::new(),
        };
        live.console.header(&live.info, &live.run_dir);
        live.open(resumed, true, log.tensorboard);
        Logger { live: Some(Box::new(live)) }
    }

    /// Reports a step.
    pub fn train(&mut self, record: &TrainRecord) {
        let Some(live) = &mut self.live else { return };
        live.console.train(record);
        live.each(|jsonl| jsonl.train(record), |board| board.train(record));
    }

    /// Reports an evaluation.
    pub fn eval(&mut self, record: &EvalRecord) {
        let Some(live) = &mut self.live else { return };
        live.console.eval(record);
        live.each(|jsonl| jsonl.eval(record), |board| board.eval(record));
    }

    /// Goes back in the middle of a run, to the end of a step: records of later ones are removed or declared void. An output
    /// that was lost stays lost.
    pub fn go_back(&mut self, to: Resumed) {
        let Some(live) = &mut self.live else { return };
        // The end of a file writes out what is queued, before the next one voids it.
        live.each(JsonLines::close, TensorBoard::close);
        let (lines, board) = (live.jsonl.take().is_some(), live.tensorboard.take().is_some());
        live.open(Some(to), lines, board);
    }

    /// Has all records so far handed to the system, which keeps them when this process is killed: a run that continues from
    /// a checkpoint repeats what came after it, and nothing of what came before. Never blocks.
    pub fn flush(&mut self) -> Flushed {
        let Some(live) = &mut self.live else { return Flushed::default() };
        let (mut lines, mut points) = (None, None);
        live.each(
            |jsonl| jsonl.flush().map(|promise| lines = Some(promise)),
            |board| board.flush().map(|promise| points = Some(promise)),
        );
        lines.into_iter().chain(points).collect()
    }

    /// Prints a line on the console.
    pub fn message(&mut self, text: &str) {
        if let Some(live) = &mut self.live {
            live.console.say(text);
        }
    }

    /// Ends the run: closes TensorBoard, writes `summary.json`, prints the table of results.
    pub fn finish(&mut self, summary: &Summary) {
        if let Some(live) = &mut self.live {
            live.finish(summary);
        }
    }

    /// What could not be written, one sentence per output; empty if everything is there.
    pub fn lost(&self) -> &[String] {
        self.live.as_ref().map_or(&[], |live| &live.lost)
    }
}

impl Live {
    /// Opens what is wanted of the two outputs; records of steps after that of `resumed` are removed or declared void.
    fn open(&mut self, resumed: Option<Resumed>, lines: bool, board: bool) {
        if lines {
            let path = self.run_dir.join("metrics.jsonl");
            let opened = crate::files::make_dir(&self.run_dir).and_then(|()| match resumed {
                Some(from) => JsonLines::resume(&path, from.step),
                None => JsonLines::create(&path),
            });
            self.jsonl = self.keep("metrics.jsonl", opened);
        }
        if board {
            let config::Log { every, image_every, .. } = self.log;
            let board = TensorBoard::open(&self.board_dir(), &self.info, Start { resumed, every, image_every });
            self.tensorboard = self.keep("tensorboard/", board);
        }
    }

    fn each(
        &mut self,
        jsonl: impl FnOnce(&mut JsonLines) -> io::Result<()>,
        board: impl FnOnce(&mut TensorBoard) -> io::Result<()>,
    ) {
        if let Some(Err(error)) = self.jsonl.as_mut().map(jsonl) {
            self.jsonl = None;
            self.lose("metrics.jsonl", &error);
        }
        if let Some(Err(error)) = self.tensorboard.as_mut().map(board) {
            self.tensorboard = None;
            self.lose("tensorboard/", &error);
        }
    }

    fn finish(&mut self, summary: &Summary) {
        if let Some(Err(error)) = self.tensorboard.take().map(|mut board| board.finish(summary.steps, summary.status)) {
            self.lose("tensorboard/", &error);
        }
        if let Some(Err(error)) = self.jsonl.take().map(|mut jsonl| jsonl.close()) {
            self.lose("metrics.jsonl", &error);
        }
        let value = summary::summary(&self.info, summary, self.resumed_from, &self.lost);
        let written = write_atomically(&self.run_dir.join("summary.json"), format!("{value:#}\n").as_bytes());
        self.keep("summary.json", written);
        self.console.finish(summary);
        let board = self.board_dir();
        if board.is_dir() {
            self.console.say(&format!("look at it: tensorboard --logdir {}", board.display()));
        }
        for lost in &self.lost {
            self.console.say(&format!("incomplete: {lost}"));
        }
    }

    fn keep<T>(&mut self, what: &str, result: io::Result<T>) -> Option<T> {
        result.map_err(|error| self.lose(what, &error)).ok()
    }

    /// Warns once per output, since an output is dropped when it fails.
    fn lose(&mut self, what: &str, error: &io::Error) {
        let path = self.run_dir.join(what);
        let text = format!("{}: {error}; training goes on without this output", path.display());
        tracing::warn!("{text}");
        self.lost.push(text);
    }

    fn board_dir(&self) -> PathBuf {
        self.run_dir.join("tensorboard")
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::samples::{eval_record, run_info, train_record};
    use super::super::tensorboard::frame::events;
    use super::super::tensorboard::writer::events_files;
    use super::*;
    use serde_json::Value;
    use std::fs;

    const TASKS: [&str; 2] = ["a", "b"];

    fn logger(dir: &Path, resume_step: Option<u64>) -> Logger {
        let info = run_info(&TASKS);
        let console = Console::plain(Box::new(io::sink()), 100, &info, resume_step);
        Logger::with_console(console, dir, info, resume_step.map(at), &config::Log { every: 1, ..Default::default() })
    }

    fn at(step: u64) -> Resumed {
        Resumed { step, best_score: Some(0.625) }
    }

    fn steps(logger: &mut Logger, steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            logger.train(&train_record(step, &TASKS));
            logger.eval(&eval_record(step, "val", &[("a", Some(0.5)), ("b", Some(0.25))]));
        }
    }

    fn summary() -> Summary {
        let best = vec![eval_record(8, "val", &[("a", Some(0.5))]), eval_record(8, "test", &[("a", Some(0.25))])];
        Summary {
            status: Status::Done,
            steps: 8,
            epochs: 0.2,
            samples: 1024,
            seconds: 2.5,
            skipped: 0,
            last: best.clone(),
            best,
        }
    }

    #[test]
    fn a_whole_run_leaves_every_file_of_the_run_directory() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("runs/sample");
        let mut logger = logger(&run, None);
        steps(&mut logger, 1..=8);
        logger.finish(&summary());
        assert!(logger.lost().is_empty());
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 16);
        let written: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap();
        assert_eq!(written["best"]["metrics"]["test"]["a"]["auc"], 0.25);
        assert_eq!((&written["status"], &written["resumed_from"]), (&"done".into(), &Value::Null));
        assert_eq!(written["config_sha256"], super::super::config_hash("run:\n  name: sample\n"));
        let files = events_files(&run.join("tensorboard")).unwrap();
        let bytes = fs::read(&files[0]).unwrap();
        // Version, head, 8 steps, 8 evaluations, end of the session.
        assert_eq!((files.len(), events(&bytes).filter(|e| e.is_ok()).count()), (1, 19));
    }

    #[test]
    fn a_resumed_run_continues_the_files() {
        let dir = tempfile::tempdir().unwrap();
        steps(&mut logger(dir.path(), None), 1..=6);
        let mut resumed = logger(dir.path(), Some(4));
        steps(&mut resumed, 5..=8);
        resumed.finish(&summary());
        let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found: Vec<u64> = lines.iter().filter_map(|line| line["step"].as_u64()).collect();
        assert_eq!(found, (1..=8).flat_map(|step| [step, step]).collect::<Vec<_>>());
        let files = events_files(&dir.path().join("tensorboard")).unwrap();
        let bytes = fs::read(&files[1]).unwrap();
        let second = events(&bytes).nth(1).unwrap().unwrap();
        assert_eq!((files.len(), second.step), (2, 5), "the mark voids steps from 5 on");
        let written: Value = serde_json::from_slice(&fs::read(dir.path().join("summary.json")).unwrap()).unwrap();
        assert_eq!(written["resumed_from"], 4);
    }

    #[test]
    fn a_run_that_is_taken_back_leaves_the_files_of_one_that_was_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let mut logger = logger(dir.path(), None);
        steps(&mut logger, 1..=6);
        logger.go_back(at(4));
        steps(&mut logger, 5..=8);
        logger.finish(&summary());
        assert!(logger.lost().is_empty());
        let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found: Vec<u64> = lines.iter().filter_map(|line| line["step"].as_u64()).collect();
        assert_eq!(found, (1..=8).flat_map(|step| [step, step]).collect::<Vec<_>>());
        let files = events_files(&dir.path().join("tensorboard")).unwrap();
        let second = events(&fs::read(&files[1]).unwrap()).nth(1).unwrap().unwrap();
        assert_eq!((files.len(), second.step), (2, 5), "the mark voids steps from 5 on");
        let written: Value = serde_json::from_slice(&fs::read(dir.path().join("summary.json")).unwrap()).unwrap();
        assert_eq!(written["resumed_from"], Value::Null, "the session itself was not resumed");
    }

    #[test]
    fn an_output_that_was_lost_stays_lost_when_a_run_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut logger = logger(dir.path(), None);
        steps(&mut logger, 1..=2);
        fs::remove_file(dir.path().join("metrics.jsonl")).unwrap();
        steps(&mut logger, 3..=3);
        logger.go_back(at(2));
        steps(&mut logger, 3..=4);
        assert!(!dir.path().join("metrics.jsonl").exists());
        assert_eq!(logger.lost().len(), 1, "{:?}", logger.lost());
    }

    #[test]
    fn a_run_directory_that_cannot_be_written_loses_the_files_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "not a folder").unwrap();
        let mut logger = logger(&file, None);
        steps(&mut logger, 1..=3);
        logger.finish(&summary());
        let lost = logger.lost();
        assert_eq!(lost.len(), 3, "{lost:?}");
        assert!(lost[0].contains("metrics.jsonl: ") && lost[0].ends_with("training goes on without this output"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "not a folder");
    }

    #[test]
    fn files_removed_in_the_middle_are_reported_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut logger = logger(&run, None);
        steps(&mut logger, 1..=2);
        fs::remove_dir_all(&run).unwrap();
        steps(&mut logger, 3..=8);
        logger.finish(&summary());
        let lost = logger.lost().join("\n");
        assert_eq!(logger.lost().len(), 3, "{lost}");
        assert!(lost.contains("has been removed"), "{lost}");
    }

    #[test]
    fn other_ranks_are_silent() {
        let mut logger = Logger::null();
        steps(&mut logger, 1..=2);
        logger.message("x");
        logger.finish(&summary());
        assert!(logger.lost().is_empty());
    }
}
