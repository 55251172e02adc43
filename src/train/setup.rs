//! Everything between a configuration and the first step.

use super::guard::faulty;
use super::{Compute, Learner, Recipe, device, together};
use crate::checkpoint::{self, CheckpointError, Snapshot};
use crate::comm::{Collective, agree, threads_by_environment};
use crate::config::{Config, Wire};
use crate::data::{Batch, DataError, Dataset, Fitted, InputDims, Split, TaskInfo};
use crate::error::{Error, Result};
use crate::ffi;
use crate::model::{Model, ModelError, TaskSpec};
use crate::step::losses::{self, TaskLoss};
use crate::step::{ScopeError, forward, probe_scopes};
use crate::train::persist::Stored;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tch::Device;

const SPLITS: [Split; 3] = [Split::Train, Split::Val, Split::Test];

/// Rows per source of the pass that probes the scopes.
const PROBE_ROWS: usize = 8;

/// Whether and from where a run continues.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Resume {
    /// From the latest checkpoint of the run directory, if there is one.
    #[default]
    Auto,
    /// Never: the run directory must not hold a checkpoint.
    Never,
    /// From this checkpoint folder, or from the latest checkpoint of this run directory, while the run directory has no
    /// checkpoint of its own; a checkpoint of the run itself means going back to it.
    From(PathBuf),
}

/// How a run starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Whether and from where it continues.
    pub resume: Resume,
    /// It may continue with a configuration that makes another experiment of it. What changed is logged.
    pub allow_config_change: bool,
}

/// A checkpoint to continue from; on rank 0 alone.
#[derive(Debug)]
pub struct Start {
    /// Its folder.
    pub path: PathBuf,
    /// What it holds; without the states of optimizer and surgery where every rank reads its own.
    pub snapshot: Snapshot,
}

/// Sets the threads of this rank, which libtorch and our own kernels share: `train.threads`, or `OMP_NUM_THREADS`, or the node's
/// cores divided by its ranks.
pub fn set_threads(config: &Config, comm: &dyn Collective) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = (cores / comm.world().local_size).max(1);
    let threads = config.train.threads.or_else(threads_by_environment).unwrap_or(share);
    tch::set_num_threads(threads as i32);
}

/// All ranks were given the same configuration.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// If one was not: names it, and the first key that differs.
pub fn same_config(config: &Config, comm: &dyn Collective) -> Result<()> {
    let mine = serde_json::to_vec(config).unwrap_or_default();
    let all = comm.all_gather_bytes(&mine)?;
    let Some(rank) = all.iter().position(|other| *other != all[0]) else { return Ok(()) };
    let parse = |bytes: &[u8]| serde_json::from_slice::<Config>(bytes).ok();
    let differs = match (parse(&all[0]), parse(&all[rank])) {
        (Some(a), Some(b)) => {
            a.diff(&b).first().map(|c| format!("`{}` is {} on rank 0 and {} there", c.key, c.old, c.new))
        }
        _ => None,
    };
    Err(Error::Usage(format!(
        "rank {rank} was started with another configuration than rank 0: {}\n  hint: start all ranks with the same command, \
         and give all nodes the same file",
        differs.unwrap_or_else(|| "it cannot be compared".into())
    )))
}

/// Finds the checkpoint to continue from and checks that the configuration may continue it.
///
/// # Collective
/// All ranks; the others help rank 0 to verify files.
///
/// # Errors
/// On all ranks: no good checkpoint where one is asked for, or one of another experiment.
pub fn find_start(config: &Config, options: &Options, comm: &dyn Collective) -> Result<Option<Start>> {
    if !comm.world().is_main() {
        together::serve(comm)?;
        return agree(comm, Ok::<_, Error>(None));
    }
    let found = read_start(config, options, &mut |dir| Ok(together::read(dir, comm)?));
    if let Err(e @ Error::Comm(_)) = found {
        return Err(e);
    }
    together::done(comm)?;
    agree(comm, found)
}

/// Reads a folder. The outer error ends the search, the inner one is what is wrong with the folder.
type Read<'a> = &'a mut dyn FnMut(&Path) -> Result<Result<Snapshot, CheckpointError>>;

fn read_start(config: &Config, options: &Options, read: Read<'_>) -> Result<Option<Start>> {
    let root = config.run.dir().join("checkpoints");
    let start = match &options.resume {
        Resume::Never => {
            if let Some(found) = checkpoint::latest(&root)? {
                return Err(Error::Usage(format!(
                    "{} holds a run of {} steps, and `--resume never` would overwrite it\n  hint: choose another `run.dir`, \
                     move the folder away, or continue with `--resume auto`",
                    config.run.dir().display(),
                    found.snapshot.step
                )));
            }
            None
        }
        Resume::Auto => latest(&root, read)?,
        // The same command continues: once this run has checkpoints of its own, they count. Only a checkpoint of this
        // very run is meant as it is: going back.
        Resume::From(dir) if is_inside(dir, &root) => Some(start_from(dir, read)?),
        Resume::From(dir) => match latest(&root, read)? {
            None => Some(start_from(dir, read)?),
            own => own,
        },
    };
    if let Some(start) = &start {
        may_continue(config, start, options.allow_config_change)?;
    }
    Ok(start)
}

/// Whether a checkpoint is one of the run with this root.
fn is_inside(dir: &Path, root: &Path) -> bool {
    matches!((dir.canonicalize(), root.canonicalize()), (Ok(dir), Ok(root)) if dir.starts_with(&root))
}

fn latest(root: &Path, read: Read<'_>) -> Result<Option<Start>> {
    let mut candidates = checkpoint::Candidates::below(root)?;
    while let Some(path) = candidates.next() {
        let snapshot = read(&path)?;
        if let Some(found) = candidates.judge(path, snapshot)? {
            found.warnings.iter().for_each(|w| tracing::warn!("{w}"));
            return Ok(Some(Start { path: found.path, snapshot: found.snapshot }));
        }
    }
    candidates.none_left()?;
    Ok(None)
}

/// Reads a checkpoint folder, or the latest checkpoint of a run directory.
///
/// # Errors
/// If there is none that verifies.
pub fn read_checkpoint(dir: &Path) -> Result<Start> {
    start_from(dir, &mut |dir| Ok(checkpoint::read(dir)))
}

fn start_from(dir: &Path, read: Read<'_>) -> Result<Start> {
    let root = dir.join("checkpoints");
    if root.is_dir() {
        let none = || CheckpointError::Bad { path: root.clone(), message: "holds no checkpoint yet".into() };
        return Ok(latest(&root, read)?.ok_or_else(none)?);
    }
    Ok(Start { path: dir.into(), snapshot: read(dir)?? })
}

/// A changed configuration may continue only if no change makes it another experiment, or the user wants it so.
fn may_continue(config: &Config, start: &Start, allow_config_change: bool) -> Result<()> {
    let old: Config = part(&start.snapshot, &start.path, "config")?;
    let changes = old.diff(config);
    let refused: Vec<String> = changes
        .iter()
        .filter(|change| !change.allowed)
        .map(|change| format!("  {}: {} -> {}", change.key, change.old, change.new))
        .collect();
    let (path, refused) = (start.path.display(), refused.join("\n"));
    if refused.is_empty() {
        return Ok(());
    }
    if allow_config_change {
        tracing::warn!("{path} continues with another configuration, as --allow-config-change says:\n{refused}");
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the configuration is not the one of {path}, which it would continue:\n{refused}\n  hint: choose another `run.dir` for \
         another experiment, take the changes back, or add `--allow-config-change` to go on all the same"
    )))
}

/// A JSON part of a snapshot as a type.
///
/// # Errors
/// If it is missing or another type.
pub fn part<T: for<'de> Deserialize<'de>>(snapshot: &Snapshot, path: &Path, stem: &str) -> Result<T, CheckpointError> {
    let bad = |message: String| CheckpointError::Bad { path: path.join(format!("{stem}.json")), message };
    let value = snapshot.json.get(stem).ok_or_else(|| bad("missing from the checkpoint".into()))?;
    Deserialize::deserialize(value).map_err(|e| bad(e.to_string()))
}

/// Reads the data: with the transforms of `start` if there is one, else with transforms fitted on the training split.
///
/// # Collective
/// All ranks; `start` on rank 0 alone.
///
/// # Errors
/// On all ranks: bad data on any rank.
pub fn open_data(config: &Config, start: Option<&Start>, comm: &dyn Collective) -> Result<Dataset> {
    let fitted: Result<Option<Fitted>> =
        start.map(|s| part(&s.snapshot, &s.path, "transforms")).transpose().map_err(Error::from);
    let mut bytes = serde_json::to_vec(&agree(comm, fitted)?).unwrap_or_default();
    comm.broadcast(&mut bytes)?;
    let fitted: Option<Fitted> = serde_json::from_slice(&bytes)
        .map_err(|e| CheckpointError::Bad { path: "transforms.json".into(), message: e.to_string() })?;
    let dataset = agree(
        comm,
        match &fitted {
            Some(fitted) => Dataset::open_with(config, fitted),
            None => Dataset::open(config),
        },
    )?;
    same_data(&dataset, comm)?;
    Ok(dataset)
}

/// All ranks read the same data: as many rows in every split, and the same transforms fitted to them.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// On all ranks: names the first rank and source that differ from rank 0. Such ranks would end up waiting for each other.
pub fn same_data(dataset: &Dataset, comm: &dyn Collective) -> Result<()> {
    let rows = |s| SPLITS.map(|split| dataset.n_rows(s, split) as u64);
    let mut mine: Vec<u64> = (0..dataset.n_sources()).flat_map(rows).collect();
    mine.push(crc32fast::hash(&serde_json::to_vec(dataset.fitted()).unwrap_or_default()).into());
    let all = comm.all_gather_bytes(bytemuck::cast_slice(&mine))?;
    let Some(rank) = all.iter().position(|other| *other != all[0]) else { return Ok(()) };
    let numbers = |bytes: &[u8]| -> Vec<u64> { bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect() };
    let (theirs, main) = (numbers(&all[rank]), numbers(&all[0]));
    let differs = (0..dataset.n_sources() * SPLITS.len()).find(|&i| theirs.get(i) != main.get(i)).map_or_else(
        || "other values, to which other transforms are fitted".to_string(),
        |i| {
            let (source, split) = (dataset.source_name(i / SPLITS.len()), SPLITS[i % SPLITS.len()].name());
            let n = theirs.get(i).copied().unwrap_or_default();
            format!("{n} {split} rows in source `{source}`, rank 0 has {}", main[i])
        },
    );
    Err(Error::Data(DataError::Unfit(format!(
        "rank {rank} reads other data than rank 0: {differs}\n  hint: give all nodes the same files"
    ))))
}

/// The configured model for these inputs and tasks, and a loss per task.
///
/// # Errors
/// A model that does not fit the inputs.
pub fn build_model(
    config: &Config,
    dims: &InputDims,
    tasks: &[TaskInfo],
    world_size: usize,
) -> Result<(Model, Vec<Box<dyn TaskLoss>>)> {
    let spec = |((_, task), info): (&(String, crate::config::Task), &TaskInfo)| TaskSpec {
        name: info.name.clone(),
        outputs: info.outputs,
        head: task.head.clone(),
    };
    let specs: Vec<TaskSpec> = config.tasks.iter().zip(tasks).map(spec).collect();
    let (precision, seed) = (config.train.precision, config.run.seed);
    let model =
        Model::build(&config.model, dims, &specs, precision, Device::Cpu, seed, world_size, config.comm.bucket())
            .map_err(|e: ModelError| Error::Usage(e.to_string()))?;
    Ok((model, tasks.iter().map(|info| losses::build(&info.kind)).collect()))
}

/// A fresh learner whose parameters are those of rank 0 on all ranks.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// A model that does not fit the inputs.
pub fn build_learner<F: Stored>(
    config: &Config,
    dataset: &Dataset,
    device: Device,
    comm: &dyn Collective,
) -> Result<Learner<F>> {
    let (model, losses) = build_model(config, dataset.dims(), dataset.tasks(), comm.world().size)?;
    if comm.world().size > 1 {
        let mut bytes = ffi::bytes(model.params.flat());
        comm.broadcast(&mut bytes)?;
        let values: Vec<F> = bytes.chunks_exact(size_of::<F>()).map(bytemuck::pod_read_unaligned).collect();
        ffi::write(model.params.flat(), &values);
    }
    let compute = Compute::of(config, device);
    let recipe = Recipe { compute, ..Recipe::of(config, dataset.sampler(config)?.steps_per_epoch()) };
    if compute.wire == Wire::Bf16 && !compute.uses_tensors() {
        return Err(Error::Usage(
            "`comm.wire: bf16` needs tensors, and there is no GPU here\n  hint: leave it out, or use `train.engine: tensors`"
                .into(),
        ));
    }
    let losses = faulty::arm(losses, &recipe.tasks, comm.world())?;
    let mut learner = Learner::assemble(recipe, model, losses, comm);
    if let Some(exchange) = device::exchange(config, device, comm)? {
        learner.exchange_over(exchange);
    }
    Ok(learner)
}

/// A batch of a few training rows of every source, spread over the split so that rare labels have a chance.
pub fn few_rows(dataset: &Dataset, per_source: usize) -> Batch {
    let few = |source: usize| {
        let n = dataset.n_rows(source, Split::Train);
        let wanted = per_source.clamp(1, n.max(1));
        let rows: Vec<u32> = (0..wanted).map(|k| (k * n / wanted) as u32).collect();
        dataset.gather(source, Split::Train, &rows)
    };
    Batch { parts: (0..dataset.n_sources()).map(few).collect() }
}

/// Proves with one backward pass per task that gradients flow where the model says they do, and nowhere else.
///
/// # Errors
/// A parameter whose declared scope is wrong: a bug of the encoder or head.
pub fn probe<F: Stored>(learner: &Learner<F>, dataset: &Dataset) -> Result<()> {
    let all = vec![true; learner.losses.len()];
    let pass = forward(&learner.model, &learner.losses, &few_rows(dataset, PROBE_ROWS), &all, false);
    probe_scopes(&learner.model.params, &pass.terms).map_err(|e| match e {
        ScopeError::Torch(e) => e.into(),
        wrong => Error::Usage(wrong.to_string()),
    })
}

/// The name of a configured choice, without its options.
pub fn choice_name<T: Serialize>(choice: &T) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(map)) => map.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}
