//! TensorBoard, by a writer of our own.
//!
//! ```text
//! proto    the messages
//! frame    records with checksums: writing and (distrusting) reading
//! writer   an events file
//! tags     record -> scalars under tags
//! matrix   cosines -> picture (font: its letters)
//! session  configuration, hyper-parameters, dashboard
//! ```
//!
//! A resumed run writes a new file into the same folder, opened by a mark that voids every earlier point of the steps to
//! come: the curve has no gap and no duplicate, whichever of TensorBoard's two readers shows it.

mod font;
pub mod frame;
mod matrix;
pub mod proto;
mod session;
mod tags;
pub mod writer;

use self::proto::{Datum, Metadata, PluginData, Value};
use self::writer::{EventWriter, Sink, events_files};
use super::queue::Promise;
use super::{EvalRecord, Resumed, RunInfo, Status, TrainRecord};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Writes records of one run as TensorBoard events.
pub struct TensorBoard {
    writer: EventWriter,
    /// Tags that have their description already.
    described: BTreeSet<String>,
    tasks: Vec<String>,
    best_score: Option<f64>,
    every: u64,
    image_every: u64,
}

/// Where a run continues, and what it may forget.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start {
    /// The checkpoint it continues from; `None`: a fresh run.
    pub resumed: Option<Resumed>,
    /// Steps between two training records.
    pub every: u64,
    /// Training records between two pictures of the cosine matrix; 0: never.
    pub image_every: u64,
}

impl TensorBoard {
    /// Opens a new events file in `dir`.
    ///
    /// # Errors
    /// The folder or the file cannot be made or written.
    pub fn open(dir: &Path, info: &RunInfo, start: Start) -> io::Result<TensorBoard> {
        let stale = dir.is_dir() && !events_files(dir)?.is_empty();
        TensorBoard::over(Sink::file(dir)?, stale, info, start)
    }

    /// Writes to any sink; `stale`: the folder holds events of an earlier session.
    ///
    /// # Errors
    /// The first records cannot be written.
    pub fn over(sink: Sink, stale: bool, info: &RunInfo, start: Start) -> io::Result<TensorBoard> {
        // The mark voids its own step too, so it stands one after the last step that is kept.
        let first = start.resumed.map(|from| from.step.saturating_add(1)).or(stale.then_some(0));
        let mut board = TensorBoard {
            writer: EventWriter::start(sink, first)?,
            described: BTreeSet::new(),
            tasks: info.task_names(),
            best_score: start.resumed.and_then(|from| from.best_score),
            every: start.every.max(1),
            image_every: start.image_every,
        };
        board.writer.write(start.resumed.map_or(0, |from| from.step), session::head(info))?;
        Ok(board)
    }

    /// Writes a training record.
    ///
    /// # Errors
    /// This or an earlier record is lost.
    pub fn train(&mut self, record: &TrainRecord) -> io::Result<()> {
        let mut values = self.scalars(tags::train(record));
        values.extend(self.picture(record));
        self.writer.write(record.step, values)
    }

    /// Writes an evaluation.
    ///
    /// # Errors
    /// This or an earlier record is lost.
    pub fn eval(&mut self, record: &EvalRecord) -> io::Result<()> {
        let mut scalars = tags::eval(record);
        if record.split == "val" {
            if record.best {
                self.best_score = record.score.or(self.best_score);
            }
            scalars.extend(self.best_score.map(|score| ("eval/val/best_score".into(), score)));
        }
        let values = self.scalars(scalars);
        self.writer.write(record.step, values)
    }

    /// Has all records so far handed to the system. Never blocks.
    ///
    /// # Errors
    /// An earlier record is lost.
    pub fn flush(&mut self) -> io::Result<Promise> {
        self.writer.flush()
    }

    /// Says how the run ended, writes out everything and closes the file.
    ///
    /// # Errors
    /// Something is lost.
    pub fn finish(&mut self, step: u64, status: Status) -> io::Result<()> {
        if let Some(value) = session::tail(status) {
            self.writer.write(step, vec![value])?;
        }
        self.writer.close()
    }

    /// Writes out everything and closes the file, for a session that goes on elsewhere.
    ///
    /// # Errors
    /// Something is lost.
    pub fn close(&mut self) -> io::Result<()> {
        self.writer.close()
    }

    fn scalars(&mut self, scalars: Vec<tags::Scalar>) -> Vec<Value> {
        scalars.into_iter().map(|(tag, value)| self.scalar(tag, value)).collect()
    }

    /// A scalar; the first one of a tag brings its description along.
    fn scalar(&mut self, tag: String, value: f64) -> Value {
        let metadata = self.described.insert(tag.clone()).then(|| Metadata {
            plugin_data: Some(PluginData { plugin_name: "scalars".into(), content: Vec::new() }),
            description: tags::describe(&tag).into(),
            data_class: 1,
        });
        Value { tag, metadata, datum: Some(Datum::Scalar(value as f32)) }
    }

    /// The cosine matrix, on the first training record and every `image_every` records after it: a matter of the step
    /// alone, so that a resumed run shows the same pictures as one that never stopped.
    fn picture(&self, record: &TrainRecord) -> Option<Value> {
        let cosine = record.cosine.as_ref()?;
        let turn = (record.step / self.every).checked_rem(self.image_every)?;
        if turn != 1 % self.image_every {
            return None;
        }
        let image = matrix::picture(&self.tasks, cosine)?;
        Some(Value { tag: "grad/cosine_matrix".into(), metadata: None, datum: Some(Datum::Image(image)) })
    }
}
