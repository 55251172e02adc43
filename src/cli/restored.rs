//! A trained model of a run directory, for `eval` and `predict`.

use crate::checkpoint::{self, CheckpointError, Floats};
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
    /// `best` (the latest where none is marked), `latest`, or the folder of a checkpoint
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
    /// On all ranks alike: none that verifies, or not the same one everywhere.
    pub fn start(&self, comm: &dyn Collective) -> Result<Start> {
        let start = agree(comm, self.read())?;
        let all = comm.all_gather_bytes(&fingerprint(&start))?;
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(start),
            Some(rank) => Err(Error::Usage(format!(
                "rank {rank} read another checkpoint than rank 0 ({} at step {} here)\n  hint: a run that still writes \
                 checkpoints moves `best` and `latest`; name one folder with `--checkpoint`",
                start.path.display(),
                start.snapshot.step
            ))),
        }
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

/// What tells two checkpoints apart: the step, and a checksum of the model.
fn fingerprint(start: &Start) -> Vec<u8> {
    let mut sum = crc32fast::Hasher::new();
    for tensor in start.snapshot.tensors.get("model").into_iter().flatten() {
        sum.update(tensor.name.as_bytes());
        match &tensor.data {
            Floats::F32(values) => sum.update(bytemuck::cast_slice(values)),
            Floats::F64(values) => sum.update(bytemuck::cast_slice(values)),
        }
    }
    [&start.snapshot.step.to_le_bytes()[..], &sum.finalize().to_le_bytes()].concat()
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
        Precision::F32 | Precision::Bf16 => load_model::<f32>(&mut model.params, &start.snapshot, &start.path)?,
        Precision::F64 => load_model::<f64>(&mut model.params, &start.snapshot, &start.path)?,
    }
    if config.train.precision == Precision::Bf16 {
        // The parameters as training rounded them for its own evaluations.
        model.place(tch::Kind::BFloat16, model.device());
    }
    Ok((model, losses))
}
