//! A trained model of a run directory, for `eval` and `predict`.

use crate::checkpoint::{self, CheckpointError};
use crate::comm::{Collective, agree};
use crate::config::{self, Config, Precision};
use crate::data::{Fitted, InputDims, TaskInfo};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::step::losses::TaskLoss;
use crate::train::persist::load_model;
use crate::train::setup::{self, Start};
use clap::Args;
use std::path::PathBuf;

/// Which checkpoint of which run.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// Directory of the run: it holds `config.yaml` and `checkpoints/`
    pub run_dir: PathBuf,
    /// `best` (falls back to the latest), `latest`, or the folder of a checkpoint
    #[arg(long, value_name = "best|latest|DIR", default_value = "best")]
    pub checkpoint: String,
    /// Override a value of the run's configuration, for example where the data is: `--set data.root=/data`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl RestoreArgs {
    /// The run's configuration with the overrides.
    pub fn config(&self) -> Result<Config> {
        let path = self.run_dir.join("config.yaml");
        if !path.exists() {
            return Err(Error::Usage(format!(
                "{}: no such file, so {} is no run directory\n  hint: give the folder that `polytask train` wrote \
                 (`run.dir`, default runs/<name>)",
                path.display(),
                self.run_dir.display()
            )));
        }
        Ok(config::load(&path, &self.set)?)
    }

    /// The checkpoint, on every rank.
    ///
    /// # Errors
    /// On all ranks alike: none that verifies.
    pub fn start(&self, comm: &dyn Collective) -> Result<Start> {
        agree(comm, self.read())
    }

    fn read(&self) -> Result<Start> {
        let root = self.run_dir.join("checkpoints");
        if self.checkpoint == "best"
            && let Some(path) = checkpoint::best(&root)?
        {
            return Ok(Start { snapshot: checkpoint::read(&path)?, path });
        }
        match self.checkpoint.as_str() {
            "best" | "latest" => setup::read_checkpoint(&self.run_dir),
            dir => setup::read_checkpoint(&PathBuf::from(dir)),
        }
    }
}

/// The transforms that were fitted when the model was trained.
pub(super) fn fitted(start: &Start) -> Result<Fitted, CheckpointError> {
    setup::part(&start.snapshot, &start.path, "transforms")
}

/// The model of a checkpoint, and a loss per task.
pub(super) fn model(
    config: &Config,
    dims: &InputDims,
    tasks: &[TaskInfo],
    start: &Start,
) -> Result<(Model, Vec<Box<dyn TaskLoss>>)> {
    let (mut model, losses) = setup::build_model(config, dims, tasks, 1)?;
    match config.train.precision {
        Precision::F32 => load_model::<f32>(&mut model.params, &start.snapshot, &start.path)?,
        Precision::F64 => load_model::<f64>(&mut model.params, &start.snapshot, &start.path)?,
    }
    Ok((model, losses))
}
