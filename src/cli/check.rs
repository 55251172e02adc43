//! `polytask check`.

use super::{ConfigArgs, text};
use crate::comm::Solo;
use crate::config::{Config, Engine, Optim, Precision, Reduction, Wire};
use crate::data::{Batch, Dataset, Split};
use crate::error::{Error, Result, exit};
use crate::model::{Params, Rows};
use crate::train::persist::Stored;
use crate::train::setup::{self, choice_name};
use crate::train::{Learner, StepReport, device};
use crate::{ffi, log};
use clap::Args;

/// Checks everything that can be checked before a run: reads the configuration, opens all data, builds the model, proves
/// which task reaches which parameters, and takes one step on a few rows. Prints sources, tasks, parameters and memory.
/// Changes nothing: no run directory, no file.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Rows per source of the trial step
    #[arg(long, default_value_t = 8)]
    rows: usize,
    /// Ranks of the run to plan the memory for
    #[arg(long, default_value_t = 1)]
    ranks: usize,
}

impl CheckArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let config = self.config.load()?;
        ffi::keep_freed_memory();
        log::init(0, 1);
        setup::set_threads(&config, &Solo);
        let dataset = Dataset::open(&config)?;
        match config.train.precision {
            Precision::F32 | Precision::Bf16 => self.check::<f32>(&config, &dataset)?,
            Precision::F64 => self.check::<f64>(&config, &dataset)?,
        }
        Ok(exit::DONE)
    }

    fn check<F: Stored>(&self, config: &Config, dataset: &Dataset) -> Result<()> {
        let sampler = dataset.sampler(config)?;
        text::print(format_args!("{}\n", sources(config, dataset)))?;
        text::print(format_args!("inputs: {}\n\n", inputs(dataset)))?;
        let device = device::choose_or_cpu(config, &Solo)?;
        let mut trial = config.clone();
        if !device.is_cuda() && config.train.device != "cpu" {
            // A login node may lack the GPU of the run: compute as it would.
            trial.train.engine = if config.comm.wire == Wire::F32 { trial.train.engine } else { Engine::Tensors };
        }
        let mut learner = setup::build_learner::<F>(&trial, dataset, device, &Solo)?;
        setup::probe(&learner, dataset)?;
        let independent = config.balance.independent_batches();
        let batches: Vec<Batch> = (0..independent).map(|_| setup::few_rows(dataset, self.rows)).collect();
        let report = learner.step(0, config.optim.lr(), &batches, &Solo)?;
        text::print(format_args!("{}\n", tasks(config, dataset, &report)))?;
        text::print(format_args!("{}\n", parameters(&learner.model.params, config)))?;
        text::print(format_args!("{}\n", self.memory(&learner, config, size_of::<F>())))?;
        let steps = sampler.steps_per_epoch();
        let total = config.train.steps.unwrap_or(config.train.epochs.unwrap_or(0) * steps);
        text::print(format_args!(
            "{} samples a step, {} steps an epoch, {} steps in all; run directory {} (not touched)\n",
            text::count(sampler.samples_per_step()),
            text::count(steps as usize),
            text::count(total as usize),
            config.run.dir().display()
        ))?;
        match report.refused {
            None => text::print(format_args!("all is well\n")),
            Some(refusal) => Err(Error::Guard(format!("the trial step failed: {refusal}"))),
        }
    }

    /// What one rank of the planned run holds, besides the data and the activations of its slice.
    fn memory<F>(&self, learner: &Learner<F>, config: &Config, float: usize) -> String {
        let params = &learner.model.params;
        let ranks = self.ranks.max(1);
        let sharded = config.comm.reduction == Reduction::Sharded;
        let share = if sharded { ranks } else { 1 };
        let states = match &config.optim {
            Optim::Sgd(c) => usize::from(c.momentum > 0.0),
            Optim::Adam(_) | Optim::Adamw(_) => 2,
        };
        let flat = params.len() * float;
        let rows: usize = params.segments.iter().map(|s| s.range.len() * self.rows_of(&s.rows, config) * float).sum();
        // Several ranks keep the reduced rows beside the local ones.
        let reduced = if ranks > 1 { rows / share } else { 0 };
        let mib = |bytes: usize| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let rows = vec![
            vec!["parameters".into(), mib(flat)],
            vec![format!("optimizer ({})", choice_name(&config.optim)), mib(states * flat / share)],
            vec!["task gradients".into(), mib(rows)],
            vec!["reduced task gradients".into(), mib(reduced)],
            vec!["this process now".into(), format!("{:.1}", ffi::peak_rss_mib())],
        ];
        text::table(&[&format!("memory per rank of {ranks}"), "MiB"], &rows, 1)
    }

    fn rows_of(&self, rows: &Rows, config: &Config) -> usize {
        match rows {
            Rows::Shared(scope) if config.balance.surgery != crate::config::Surgery::None => scope.len(),
            _ => 1,
        }
    }
}

fn sources(config: &Config, dataset: &Dataset) -> String {
    let rows: Vec<Vec<String>> = config
        .data
        .sources
        .iter()
        .enumerate()
        .map(|(s, (name, source))| {
            let count = |split| text::count(dataset.n_rows(s, split));
            vec![name.clone(), choice_name(source), count(Split::Train), count(Split::Val), count(Split::Test)]
        })
        .collect();
    text::table(&["source", "format", "train", "val", "test"], &rows, 2)
}

fn inputs(dataset: &Dataset) -> String {
    let dims = dataset.dims();
    let mut parts = Vec::new();
    if dims.dense > 0 {
        parts.push(format!("{} dense", dims.dense));
    }
    if !dims.categories.is_empty() {
        let values: usize = dims.categories.iter().sum();
        parts.push(format!("{} categorical ({values} values)", dims.categories.len()));
    }
    if dims.vocab > 0 {
        parts.push(format!("text ({} words)", text::count(dims.vocab)));
    }
    if let Some([c, h, w]) = dims.image {
        parts.push(format!("image {c} x {h} x {w}"));
    }
    parts.join(", ")
}

fn tasks(config: &Config, dataset: &Dataset, report: &StepReport) -> String {
    let row = |(t, (name, task)): (usize, &(String, crate::config::Task))| {
        let labels = |split| text::count(dataset.n_labels(t, split));
        vec![
            name.clone(),
            task.source.clone(),
            choice_name(&task.kind),
            dataset.tasks()[t].outputs.to_string(),
            labels(Split::Train),
            labels(Split::Val),
            labels(Split::Test),
            text::number(report.losses[t]),
            report.gram.as_ref().map_or("-".into(), |g| text::number(Some(g.norms()[t]))),
        ]
    };
    let rows: Vec<Vec<String>> = config.tasks.iter().enumerate().map(row).collect();
    text::table(&["task", "source", "kind", "outputs", "train", "val", "test", "loss", "gradient"], &rows, 3)
}

fn parameters(params: &Params, config: &Config) -> String {
    let name = |t: &usize| config.tasks[*t].0.as_str();
    let mut rows = Vec::new();
    for segment in &params.segments {
        let entries = &params.entries[params.entries_in(segment)];
        let n = |scope: Option<usize>| -> usize {
            let mine = entries.iter().filter(|e| scope.is_none_or(|t| e.scope == [t]));
            mine.map(|e| e.range.len()).sum()
        };
        match &segment.rows {
            Rows::Shared(scope) if scope.len() == params.n_tasks => {
                rows.push(vec!["all tasks".into(), text::count(n(None))]);
            }
            Rows::Shared(scope) => {
                let names: Vec<&str> = scope.iter().map(name).collect();
                rows.push(vec![names.join(", "), text::count(n(None))]);
            }
            Rows::Private(owned) => {
                let mut tasks: Vec<usize> = owned.iter().map(|(t, _)| *t).collect();
                tasks.dedup();
                tasks.sort_unstable();
                tasks.dedup();
                rows.extend(tasks.iter().map(|t| vec![name(t).to_string(), text::count(n(Some(*t)))]));
            }
        }
    }
    rows.push(vec!["in all".into(), text::count(params.n_shared() + params.n_private())]);
    text::table(&["reached by", "parameters"], &rows, 1)
}
