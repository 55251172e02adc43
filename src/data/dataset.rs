//! All samples of all sources and splits in memory, transformed once.

use super::columns::{Columns, check_table, split_of};
use super::features::{Encoder, Features};
use super::fit::{Fitted, FittedTask, TrainSource, fit};
use super::labels::{self, Labels};
use super::sources::{self, Which};
use super::split::{Division, SourceTables, Split, View, divide};
use super::{DataError, InputDims, Part, Sampler};
use crate::config::{self, Config, Kind};
use crate::world::World;

/// What the rest of the program needs to know of a task's data.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskInfo {
    /// Name in the configuration.
    pub name: String,
    /// Index of its source in config order.
    pub source: usize,
    /// Its kind with the options.
    pub kind: Kind,
    /// Number of outputs: 1, classes, or target columns.
    pub outputs: usize,
    /// Names of the outputs: classes of a multi-class task, else target columns.
    pub output_names: Vec<String>,
    /// Regression: `y = target_mean + target_std * output`, per output; else empty.
    pub target_mean: Vec<f64>,
    /// See `target_mean`.
    pub target_std: Vec<f64>,
}

/// All samples in memory.
#[derive(Debug)]
pub struct Dataset {
    sources: Vec<Source>,
    tasks: Vec<TaskInfo>,
    dims: InputDims,
    fitted: Fitted,
}

#[derive(Debug)]
struct Source {
    name: String,
    /// Files of the training split, for messages.
    files: String,
    splits: [Option<Samples>; 3],
}

/// Samples of one split of one source.
#[derive(Debug)]
struct Samples {
    features: Features,
    /// Per task of the source: index of the task, its labels, number of samples with a label.
    labels: Vec<(usize, Labels, usize)>,
}

impl Dataset {
    /// Reads all files and fits the transforms on the training split.
    ///
    /// # Errors
    /// Files that cannot be read, and data that is bad or does not fit the configuration.
    pub fn open(config: &Config) -> Result<Dataset, DataError> {
        Dataset::from_tables(config, read_all(config)?)
    }

    /// Reads all files and applies transforms fitted before (to resume, to evaluate).
    ///
    /// # Errors
    /// As [`open`](Dataset::open), and data that the fitted transforms do not fit.
    pub fn open_with(config: &Config, fitted: &Fitted) -> Result<Dataset, DataError> {
        Dataset::from_tables_with(config, read_all(config)?, fitted)
    }

    /// As [`open`](Dataset::open), from tables in memory: one entry per source, with the columns that it wants.
    ///
    /// # Errors
    /// Data that is bad or does not fit the configuration.
    pub fn from_tables(config: &Config, tables: Vec<SourceTables>) -> Result<Dataset, DataError> {
        let sources = prepare(config, tables)?;
        let mut train = Vec::with_capacity(sources.len());
        for Prepared { name, columns, tables, division } in &sources {
            let none = || DataError::Unfit(format!("source `{name}` has no training rows"));
            train.push(TrainSource { name, columns, train: division.view(tables, Split::Train).ok_or_else(none)? });
        }
        let fitted = fit(config, &train)?;
        encode(config, sources, fitted)
    }

    /// As [`open_with`](Dataset::open_with), from tables in memory.
    ///
    /// # Errors
    /// Data that is bad, or does not fit the configuration or the fitted transforms.
    pub fn from_tables_with(config: &Config, tables: Vec<SourceTables>, fitted: &Fitted) -> Result<Dataset, DataError> {
        encode(config, prepare(config, tables)?, fitted.clone())
    }

    /// What was fitted on the training split; to be saved with the model.
    pub fn fitted(&self) -> &Fitted {
        &self.fitted
    }

    /// Widths of the inputs.
    pub fn dims(&self) -> &InputDims {
        &self.dims
    }

    /// The tasks in config order.
    pub fn tasks(&self) -> &[TaskInfo] {
        &self.tasks
    }

    /// Number of sources.
    pub fn n_sources(&self) -> usize {
        self.sources.len()
    }

    /// Name of a source.
    pub fn source_name(&self, source: usize) -> &str {
        &self.sources[source].name
    }

    /// The files of a source's training split, for messages; empty where there are none.
    pub fn source_files(&self, source: usize) -> &str {
        &self.sources[source].files
    }

    /// Number of samples of a split; 0 where the source has no such split.
    pub fn n_rows(&self, source: usize, split: Split) -> usize {
        self.samples(source, split).map_or(0, |s| s.features.len())
    }

    /// Number of samples of a split of the task's source that have at least one label of the task.
    pub fn n_labels(&self, task: usize, split: Split) -> usize {
        let samples = self.tasks.get(task).and_then(|info| self.samples(info.source, split));
        let found = samples.and_then(|s| s.labels.iter().find(|(t, ..)| *t == task));
        found.map_or(0, |(_, _, n)| *n)
    }

    /// The sampler of the training split.
    ///
    /// # Errors
    /// A mixture that does not fit the sources.
    pub fn sampler(&self, config: &Config) -> Result<Sampler, DataError> {
        let size = |s: usize| (self.source_name(s), self.n_rows(s, Split::Train));
        let sizes: Vec<_> = (0..self.n_sources()).map(size).collect();
        Sampler::new(&config.batch, &sizes, config.run.seed)
    }

    /// Some samples as tensors.
    ///
    /// # Panics
    /// For a split that the source does not have, or a row that the split does not have.
    pub fn gather(&self, source: usize, split: Split, rows: &[u32]) -> Part {
        let Some(samples) = self.samples(source, split) else {
            panic!("source `{}` has no {} split", self.source_name(source), split.name());
        };
        Part {
            source,
            len: rows.len(),
            inputs: samples.features.gather(rows),
            targets: samples.labels.iter().map(|(task, labels, _)| labels.gather(*task, rows)).collect(),
        }
    }

    /// This rank's contiguous slice of a split, in order, in parts of at most `batch` samples. Nothing where the source
    /// has no such split or the slice is empty.
    pub fn eval_batches(
        &self,
        source: usize,
        split: Split,
        world: World,
        batch: usize,
    ) -> impl Iterator<Item = Part> + '_ {
        let slice = world.slice(self.n_rows(source, split));
        chunks(slice.start, slice.end, batch).map(move |rows| self.gather(source, split, &rows))
    }

    fn samples(&self, source: usize, split: Split) -> Option<&Samples> {
        self.sources.get(source)?.splits[split as usize].as_ref()
    }
}

/// The rows `start .. end` in runs of at most `batch`.
pub(crate) fn chunks(start: usize, end: usize, batch: usize) -> impl Iterator<Item = Vec<u32>> {
    let batch = batch.max(1);
    (start..end).step_by(batch).map(move |at| (at as u32..(at + batch).min(end) as u32).collect())
}

/// A source that has been read and divided.
struct Prepared {
    name: String,
    columns: Columns,
    tables: SourceTables,
    division: Division,
}

fn read_all(config: &Config) -> Result<Vec<SourceTables>, DataError> {
    let root = config.data.root.as_deref();
    let one = |(index, (_, source)): (usize, &(String, config::Source))| {
        let columns = Columns::all(config, index);
        let read = |which, wanted| sources::read(source, which, root, wanted);
        Ok(SourceTables {
            train: read(Which::Train, &columns.wanted)?,
            val: read(Which::Val, columns.without_split())?,
            test: read(Which::Test, columns.without_split())?,
            all: read(Which::All, &columns.wanted)?,
        })
    };
    config.data.sources.iter().enumerate().map(one).collect()
}

fn prepare(config: &Config, tables: Vec<SourceTables>) -> Result<Vec<Prepared>, DataError> {
    if tables.len() != config.data.sources.len() {
        let (expected, found) = (config.data.sources.len(), tables.len());
        return Err(DataError::Unfit(format!("expected the tables of {expected} sources, found {found}")));
    }
    let one = |(index, tables): (usize, SourceTables)| {
        let (name, source) = &config.data.sources[index];
        let columns = Columns::all(config, index);
        let whole = [&tables.train, &tables.all].into_iter().flatten().map(|t| (t, columns.wanted.as_slice()));
        let own = [&tables.val, &tables.test].into_iter().flatten().map(|t| (t, columns.without_split()));
        for (table, wanted) in whole.chain(own) {
            check_table(name, wanted, table)?;
        }
        let division = divide((index, name), &tables, split_of(source), columns.split)?;
        Ok(Prepared { name: name.clone(), columns, tables, division })
    };
    tables.into_iter().enumerate().map(one).collect()
}

fn encode(config: &Config, prepared: Vec<Prepared>, fitted: Fitted) -> Result<Dataset, DataError> {
    let tasks = task_infos(config, &fitted)?;
    let encoder = Encoder::new(&fitted);
    let mut sources = Vec::with_capacity(prepared.len());
    // One source after the other, so that a table is dropped as soon as its samples are there.
    for source in prepared {
        let mut splits = [None, None, None];
        let files = source.division.view(&source.tables, Split::Train).map(|view| view.table.files());
        for split in Split::ALL {
            if let Some(view) = source.division.view(&source.tables, split) {
                splits[split as usize] = Some(encode_split(config, &source, (split, view), &encoder, &fitted)?);
            }
        }
        sources.push(Source { name: source.name, files: files.unwrap_or_default(), splits });
    }
    Ok(Dataset { sources, tasks, dims: fitted.dims(), fitted })
}

fn encode_split(
    config: &Config,
    source: &Prepared,
    (split, view): (Split, View),
    encoder: &Encoder,
    fitted: &Fitted,
) -> Result<Samples, DataError> {
    let what = format!("the {} split of source `{}`", split.name(), source.name);
    let features = encoder.encode(&what, &source.columns, view)?;
    let mut labels = Vec::with_capacity(source.columns.targets.len());
    for (index, columns) in &source.columns.targets {
        let (name, task) = &config.tasks[*index];
        let target = labels::Column { name, task, columns, view, refuse_nan: source.columns.refuse_nan };
        let found = labels::encode(&target, &fitted.tasks[*index])?;
        let n = found.n_labelled();
        labels.push((*index, found, n));
    }
    Ok(Samples { features, labels })
}

/// The tasks of a configuration with what was fitted for them.
///
/// # Errors
/// Transforms that were fitted for other tasks.
pub fn task_infos(config: &Config, fitted: &Fitted) -> Result<Vec<TaskInfo>, DataError> {
    let names = |list: Vec<&String>| list.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    if !config.tasks.iter().map(|(name, _)| name).eq(fitted.tasks.iter().map(|t| &t.name)) {
        return Err(DataError::Unfit(format!(
            "the configuration has the tasks {}, the model was fitted for {}",
            names(config.tasks.iter().map(|(name, _)| name).collect()),
            names(fitted.tasks.iter().map(|t| &t.name).collect())
        )));
    }
    fitted.check(config)?;
    let one = |((name, task), fitted): (&(String, config::Task), &FittedTask)| {
        let source = config.data.sources.iter().position(|(source, _)| *source == task.source);
        let none = || DataError::Unfit(format!("task `{name}`: there is no source `{}`", task.source));
        Ok(TaskInfo {
            name: name.clone(),
            source: source.ok_or_else(none)?,
            kind: task.kind.clone(),
            outputs: fitted.outputs.len(),
            output_names: fitted.outputs.clone(),
            target_mean: fitted.mean.clone(),
            target_std: fitted.std.clone(),
        })
    };
    config.tasks.iter().zip(&fitted.tasks).map(one).collect()
}

#[cfg(test)]
mod tests;
