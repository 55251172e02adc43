//! What a run says about itself before its first step: its resolved configuration, and the facts for its outputs.

use super::persist::Stored;
use super::setup::choice_name;
use super::{Learner, device};
use crate::comm::Collective;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::make_dir;
use crate::log::{HParam, RunInfo, TaskInfo};

/// Writes the resolved configuration into the run directory.
pub(super) fn write_config(config: &Config) -> Result<()> {
    let dir = config.run.dir();
    let io = |source| Error::Io { path: dir.display().to_string(), source };
    make_dir(&dir).map_err(io)?;
    let yaml = config.to_yaml()?;
    crate::log::jsonl::write_atomically(&dir.join("config.yaml"), yaml.as_bytes()).map_err(io)
}

/// The facts of a run that every output names.
pub(super) fn run_info<F: Stored>(
    config: &Config,
    learner: &Learner<F>,
    total_steps: u64,
    comm: &dyn Collective,
) -> RunInfo {
    let task = |(name, task): &(String, crate::config::Task)| TaskInfo { name: name.clone(), metrics: task.metrics() };
    let number = |x: f64| HParam::Number(x);
    let hparams = [
        ("seed", number(config.run.seed as f64)),
        ("encoder", choice_name(&config.model.encoder).as_str().into()),
        ("weighting", choice_name(&config.balance.weighting).as_str().into()),
        ("surgery", choice_name(&config.balance.surgery).as_str().into()),
        ("optimizer", choice_name(&config.optim).as_str().into()),
        ("lr", number(config.optim.lr())),
        ("schedule", choice_name(&config.schedule).as_str().into()),
        ("per_task", number(config.batch.per_task as f64)),
        ("ranks", number(comm.world().size as f64)),
        ("reduction", choice_name(&config.comm.reduction).as_str().into()),
        ("precision", choice_name(&config.train.precision).as_str().into()),
    ];
    RunInfo {
        name: config.run.name.clone(),
        tasks: config.tasks.iter().map(task).collect(),
        world_size: comm.world().size,
        device: device::name(learner.model.device()),
        n_params_shared: learner.model.params.n_shared() as u64,
        n_params_private: learner.model.params.n_private() as u64,
        total_steps,
        config_yaml: config.to_yaml().unwrap_or_default(),
        hparams: hparams.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        libtorch: crate::LIBTORCH_VERSION.into(),
    }
}
