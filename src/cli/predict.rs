//! `polytask predict`.

use super::restored::{self, RestoreArgs};
use super::text;
use crate::config::{Config, Kind};
use crate::data::{Column, TaskInfo, Unlabelled, check_predictions_path, task_infos, write_predictions};
use crate::error::{Error, Result, exit};
use crate::eval::predictions;
use crate::train::{device, setup};
use crate::{comm::Solo, ffi, log};
use clap::Args;
use std::path::PathBuf;

/// Predicts every task of a source for the rows of a file, in their order. The file needs the source's input columns and
/// may hold others. Binary tasks give a probability `<task>`; multi-class tasks the class `<task>` and probabilities
/// `<task>.<class>`; tasks with several columns give `<task>.<column>`; regression is in original units.
#[derive(Debug, Args)]
pub struct PredictArgs {
    #[command(flatten)]
    run: RestoreArgs,
    /// File with the rows: .csv, .tsv (.gz too), .parquet, .jsonl, .arff, arrays
    #[arg(long, value_name = "FILE")]
    source: PathBuf,
    /// Where to write: .csv, .parquet or .jsonl
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Source of the configuration whose columns and tasks are meant; needed if there are several
    #[arg(long = "as", value_name = "NAME")]
    like: Option<String>,
}

impl PredictArgs {
    pub(super) fn run(&self) -> Result<u8> {
        ffi::keep_freed_memory();
        log::init(0, 1);
        check_predictions_path(&self.out)?;
        let config = self.run.config()?;
        setup::set_threads(&config, &Solo);
        let source = self.source_index(&config)?;
        let start = self.run.start(&Solo)?;
        let fitted = restored::fitted(&start)?;
        let rows = Unlabelled::open(&config, source, &self.source, &fitted)?;
        let tasks = task_infos(&config, &fitted)?;
        let (mut model, losses) = restored::model(&config, &fitted.dims(), &tasks, &start)?;
        model.place(model.kind(), device::choose_or_cpu(&config, &Solo)?);
        let wanted: Vec<usize> = (0..tasks.len()).filter(|&t| tasks[t].source == source).collect();
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); wanted.len()];
        let _no_grad = tch::no_grad_guard();
        for part in rows.parts(config.train.eval_batch) {
            let stages = model.represent(&part.inputs, false);
            for (&t, values) in wanted.iter().zip(&mut values) {
                values.extend(predictions(losses[t].as_ref(), &tasks[t], &model.output(t, &stages, false)));
            }
        }
        let columns: Vec<(String, Column)> =
            wanted.iter().zip(values).flat_map(|(&t, values)| columns(&tasks[t], &values)).collect();
        write_predictions(&self.out, &columns)?;
        text::print(format_args!("{}: {} rows, {} columns\n", self.out.display(), rows.len(), columns.len()))?;
        Ok(exit::DONE)
    }

    fn source_index(&self, config: &Config) -> Result<usize> {
        let names: Vec<&str> = config.data.sources.iter().map(|(name, _)| name.as_str()).collect();
        let list = || names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        match &self.like {
            Some(like) => names.iter().position(|name| name == like).ok_or_else(|| {
                Error::Usage(format!("`--as {like}`: the run has no such source\n  hint: its sources are {}", list()))
            }),
            None if names.len() == 1 => Ok(0),
            None => Err(Error::Usage(format!(
                "the run has {} sources\n  hint: say which one the file is like with `--as`: {}",
                names.len(),
                list()
            ))),
        }
    }
}

/// Columns of one task from its predictions `[n, outputs]`.
fn columns(task: &TaskInfo, values: &[f64]) -> Vec<(String, Column)> {
    let output = |k: usize| Column::F64(values.iter().skip(k).step_by(task.outputs).copied().collect());
    let named = |k: usize| (format!("{}.{}", task.name, task.output_names[k]), output(k));
    match task.kind {
        Kind::Multiclass(_) => {
            let best = values.chunks_exact(task.outputs).map(|row| {
                let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
                task.output_names[best].clone()
            });
            let class = (task.name.clone(), Column::Text(best.collect()));
            std::iter::once(class).chain((0..task.outputs).map(named)).collect()
        }
        _ if task.outputs == 1 => vec![(task.name.clone(), output(0))],
        _ => (0..task.outputs).map(named).collect(),
    }
}
