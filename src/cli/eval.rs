//! `polytask eval`.

use super::restored::{self, RestoreArgs};
use super::{text, with_world};
use crate::comm::{Collective, agree};
use crate::config::Config;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result, exit};
use crate::eval::{Metrics, evaluate, score};
use crate::train::{device, setup};
use clap::{Args, ValueEnum};
use serde_json::json;

/// Evaluates a checkpoint on a split of the run's data, with the transforms that were fitted in training. Runs on any
/// number of ranks, with the same result.
#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    run: RestoreArgs,
    /// Split to evaluate on; default: test, or val where there is no test split
    #[arg(long)]
    split: Option<SplitName>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitName {
    Train,
    Val,
    Test,
}

impl EvalArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let config = self.run.config()?;
        with_world(&config.comm, &self.run.run_dir, |comm| {
            self.evaluate(&config, comm)?;
            Ok(exit::DONE)
        })
    }

    fn evaluate(&self, config: &Config, comm: &dyn Collective) -> Result<()> {
        setup::same_config(config, comm)?;
        setup::set_threads(config, comm);
        let start = self.run.start(comm)?;
        let dataset = agree(
            comm,
            restored::fitted(&start).map_err(Error::from).and_then(|f| Ok(Dataset::open_with(config, &f)?)),
        )?;
        setup::same_data(&dataset, comm)?;
        let split = self.split(&dataset)?;
        let (mut model, losses) = agree(comm, restored::model(config, dataset.dims(), dataset.tasks(), &start))?;
        model.place(model.kind(), device::choose_or_cpu(config, comm)?);
        let batch = config.train.eval_batch;
        let metrics = evaluate(&model, &losses, &dataset, &config.tasks, split, batch, comm)?;
        if comm.world().is_main() {
            let step = start.snapshot.step;
            let score = score(&config.train.best_by, &config.tasks, &metrics);
            if self.json {
                text::print(format_args!("{}\n", as_json(step, split, score, &metrics)))?;
            } else {
                text::print(format_args!("{} at step {step} on {}\n\n", start.path.display(), split.name()))?;
                text::print(format_args!("{}", as_table(config, &dataset, split, &metrics)))?;
                text::print(format_args!("\nscore ({}): {}\n", config.train.best_by, text::number(score)))?;
            }
        }
        Ok(())
    }

    fn split(&self, dataset: &Dataset) -> Result<Split> {
        let has = |split| (0..dataset.n_sources()).any(|s| dataset.n_rows(s, split) > 0);
        let split = match self.split {
            Some(SplitName::Train) => Split::Train,
            Some(SplitName::Val) => Split::Val,
            Some(SplitName::Test) => Split::Test,
            None if has(Split::Test) => Split::Test,
            None => Split::Val,
        };
        if !has(split) {
            let name = split.name();
            return Err(Error::Usage(format!("the data has no {name} split\n  hint: choose one with `--split`")));
        }
        Ok(split)
    }
}

fn as_json(step: u64, split: Split, score: Option<f64>, metrics: &Metrics) -> serde_json::Value {
    let tasks = metrics.iter().map(|(task, values)| {
        let values = values.iter().map(|(name, value)| (name.clone(), json!(value)));
        (task.clone(), serde_json::Value::Object(values.collect()))
    });
    let tasks = serde_json::Value::Object(tasks.collect());
    json!({ "step": step, "split": split.name(), "score": score, "metrics": tasks })
}

fn as_table(config: &Config, dataset: &Dataset, split: Split, metrics: &Metrics) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in metrics.iter().flat_map(|(_, values)| values.iter().map(|(name, _)| name.as_str())) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let rows = metrics.iter().enumerate().map(|(t, (task, values))| {
        let mut row = vec![task.clone(), config.tasks[t].1.source.clone(), text::count(dataset.n_labels(t, split))];
        let value =
            |name: &&str| values.iter().find(|(n, _)| n == name).map_or(String::new(), |(_, v)| text::number(*v));
        row.extend(names.iter().map(value));
        row
    });
    let header: Vec<&str> = ["task", "source", "labels"].into_iter().chain(names.iter().copied()).collect();
    text::table(&header, &rows.collect::<Vec<_>>(), 2)
}
