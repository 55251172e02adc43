//! The learner as a snapshot, and back. A snapshot does not depend on `W`.

use super::{Learner, Progress};
use crate::checkpoint::{CheckpointError, Floats, NamedTensor, Snapshot};
use crate::comm::{Collective, CommError, Number};
use crate::config::Config;
use crate::data::Fitted;
use crate::error::Result;
use crate::ffi::{self, TorchReal};
use crate::model::{Entry, Params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Most steps and updates of a run: numbers up to here can be counted on, and multiplied by a batch.
const MOST: u64 = 1 << 40;

/// Floats that know how to lie in a checkpoint.
pub trait Stored: TorchReal + Number {
    /// Numbers as a checkpoint holds them.
    fn store(values: &[Self]) -> Floats;
    /// Numbers of a checkpoint, of either kind.
    fn read(floats: &Floats) -> Vec<Self>;
}

macro_rules! stored {
    ($t:ty, $variant:ident) => {
        impl Stored for $t {
            fn store(values: &[Self]) -> Floats {
                Floats::$variant(values.to_vec())
            }
            fn read(floats: &Floats) -> Vec<Self> {
                match floats {
                    Floats::F32(v) => v.iter().map(|&x| x as $t).collect(),
                    Floats::F64(v) => v.iter().map(|&x| x as $t).collect(),
                }
            }
        }
    };
}
stored!(f32, F32);
stored!(f64, F64);

/// A file of tensors in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    /// Parameters by name.
    Model,
    /// States of the optimizer, `state.name`.
    Optim,
    /// States of surgery that are as large as `J`, `state.name`; shared parameters only.
    Balance,
}

impl File {
    /// Those with states, of which every rank has a part.
    pub(super) const STATES: [File; 2] = [File::Optim, File::Balance];

    /// The first part of its name.
    pub(super) fn stem(self) -> &'static str {
        match self {
            File::Model => "model",
            File::Optim => "optim",
            File::Balance => "balance",
        }
    }

    /// Whether the file has something to say about a parameter.
    fn holds(self, params: &Params, entry: &Entry) -> bool {
        self != File::Balance || params.is_shared(entry)
    }
}

/// The small state of a run, `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Counters and best evaluation.
    pub progress: Progress,
    /// State of weighting and surgery.
    pub balancer: Value,
    /// Small state of surgery that needs the gradients themselves; its large state is in `balance.safetensors`.
    #[serde(default)]
    pub shard: Value,
    /// What the guard against spikes has seen: a window per task, then that of the norm of the update.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spikes: Vec<Vec<f64>>,
    /// Updates made by the optimizer.
    pub updates: u64,
    /// Training rows per source: another number would change the sample order.
    pub source_sizes: Vec<u64>,
    /// Version of polytask that wrote it.
    pub version: String,
}

impl RunState {
    /// Whether a run can go on from these counters, in a checkpoint of this step.
    pub(super) fn check(&self, step: u64) -> Result<(), String> {
        let progress = &self.progress;
        if progress.step != step {
            return Err(format!("is of step {}, and the checkpoint of step {step}", progress.step));
        }
        for (name, found, most) in [
            ("step", progress.step, MOST),
            ("samples", progress.samples, MOST << 20),
            ("skipped", progress.skipped, MOST),
            ("skipped_in_a_row", progress.skipped_in_a_row, MOST),
            ("evaluations_since_best", progress.evaluations_since_best, MOST),
            ("updates", self.updates, MOST),
        ] {
            if found > most {
                return Err(format!("`{name}` is {found}, more than any run comes to"));
            }
        }
        match [&self.balancer, &self.shard].into_iter().map(largest_count).max() {
            Some(found) if found > MOST => {
                Err(format!("the balancing method has counted {found}, more than any run comes to"))
            }
            _ => Ok(()),
        }
    }
}

/// The largest whole number in a value: methods count steps, and write everything else with a decimal point.
fn largest_count(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or_default(),
        Value::Array(items) => items.iter().map(largest_count).max().unwrap_or_default(),
        Value::Object(entries) => entries.values().map(largest_count).max().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
    }
}

/// The parameters of a snapshot by name, in PyTorch's terms: `{name: tensor}`.
pub fn model_tensors<F: Stored>(params: &Params, flat: &[F]) -> Vec<NamedTensor> {
    params.entries.iter().map(|e| named::<F>(&e.name, e, flat)).collect()
}

fn named<F: Stored>(name: &str, entry: &Entry, flat: &[F]) -> NamedTensor {
    NamedTensor { name: name.into(), shape: entry.shape.clone(), data: F::store(&flat[entry.range.clone()]) }
}

/// What a checkpoint says of a run besides what the learner holds.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// What was configured.
    pub config: &'a Config,
    /// Vocabularies and statistics of the data.
    pub fitted: &'a Fitted,
    /// Counters and best evaluation.
    pub progress: &'a Progress,
    /// Training rows per source.
    pub source_sizes: &'a [u64],
}

/// A copy of all that a checkpoint holds, not cut into tensors yet: that takes time, and no learner.
pub struct Gathered<F> {
    step: u64,
    /// File, prefix of the names in it, flat vector.
    vectors: Vec<(File, String, Vec<F>)>,
    places: Vec<Place>,
    json: BTreeMap<String, Value>,
}

/// Where a parameter lies in the flat vectors.
pub(super) struct Place {
    pub name: String,
    pub shape: Vec<usize>,
    range: Range<usize>,
    pub shared: bool,
}

impl Place {
    pub fn of(params: &Params, entry: &Entry) -> Place {
        Place {
            name: entry.name.clone(),
            shape: entry.shape.clone(),
            range: entry.range.clone(),
            shared: params.is_shared(entry),
        }
    }
}

/// Tensors and small state of a checkpoint, by file stem.
type Parts = (BTreeMap<String, Vec<NamedTensor>>, BTreeMap<String, Value>);

impl<F: Stored> Gathered<F> {
    /// Cuts the vectors into named tensors.
    pub fn snapshot(self) -> Snapshot {
        let step = self.step;
        let (mut tensors, json) = self.parts();
        // There may be no states; there is a file of them.
        tensors.entry(File::Optim.stem().into()).or_default();
        Snapshot { step, tensors, json }
    }

    /// As [`Self::snapshot`], of files that have something in them.
    pub(super) fn parts(self) -> Parts {
        let mut tensors: BTreeMap<String, Vec<NamedTensor>> = BTreeMap::new();
        for (file, prefix, flat) in self.vectors {
            let held = self.places.iter().filter(|place| file != File::Balance || place.shared);
            let named = held.map(|place| NamedTensor {
                name: format!("{prefix}{}", place.name),
                shape: place.shape.clone(),
                data: F::store(&flat[place.range.clone()]),
            });
            tensors.entry(file.stem().to_string()).or_default().extend(named);
        }
        (tensors, self.json)
    }
}

impl<F: Stored> Learner<F> {
    /// Everything the run needs to continue, as flat vectors: what holds training up. `None` on ranks other than 0.
    ///
    /// # Collective
    /// All ranks: the optimizer's shards are gathered.
    ///
    /// # Errors
    /// If a collective fails.
    pub fn gather(&self, about: About<'_>, comm: &dyn Collective) -> Result<Option<Gathered<F>>> {
        let mut vectors = Vec::new();
        for (file, name, shard) in self.shards() {
            let whole = self.gather_shard(&shard, comm)?;
            if comm.world().is_main() {
                vectors.push((file, format!("{name}."), whole));
            }
        }
        let Some(model) = self.parameters_on_main(comm)? else { return Ok(None) };
        vectors.push((File::Model, String::new(), model));
        Ok(Some(self.gathered(vectors, about)))
    }

    /// What is written of these vectors, and the small state.
    pub(super) fn gathered(&self, vectors: Vec<(File, String, Vec<F>)>, about: About<'_>) -> Gathered<F> {
        let About { config, fitted, progress, source_sizes } = about;
        let state = RunState {
            progress: progress.clone(),
            balancer: self.balancer.save(),
            shard: self.shard.as_ref().map_or(Value::Null, |method| method.save()),
            spikes: self.judge.save(),
            updates: self.optimizer.updates,
            source_sizes: source_sizes.to_vec(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let params = &self.model.params;
        let json = BTreeMap::from([
            ("state".into(), json(&state)),
            ("transforms".into(), json(fitted)),
            ("config".into(), json(config)),
        ]);
        let places = params.entries.iter().map(|entry| Place::of(params, entry)).collect();
        Gathered { step: progress.step, vectors, places, json }
    }

    /// As [`Self::gather`], as a snapshot.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If a collective fails.
    pub fn snapshot(&self, about: About<'_>, comm: &dyn Collective) -> Result<Option<Snapshot>> {
        Ok(self.gather(about, comm)?.map(Gathered::snapshot))
    }

    /// All states that are sharded: file, name, this rank's part.
    pub(super) fn shards(&self) -> Vec<(File, String, Cow<'_, [F]>)> {
        let optim: Vec<Cow<'_, [F]>> = match self.tensor_states() {
            Some(states) => states.into_iter().map(Cow::Owned).collect(),
            None => vec![Cow::Borrowed(&self.optimizer.first), Cow::Borrowed(&self.optimizer.second)],
        };
        let optim = self.optimizer.states().into_iter().zip(optim);
        let mut all: Vec<_> = optim.map(|(name, shard)| (File::Optim, name.to_string(), shard)).collect();
        if let Some(method) = &self.shard {
            all.extend(method.state().into_iter().map(|(name, shard)| (File::Balance, name, Cow::Borrowed(shard))));
        }
        all
    }

    /// The flat parameters in full precision.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If a collective fails.
    pub fn parameters(&self, comm: &dyn Collective) -> Result<Vec<F>, CommError> {
        self.settle()?;
        match self.masters() {
            Some(shard) => self.gather_shard(&shard, comm),
            None => Ok(ffi::values::<F>(self.model.params.flat())),
        }
    }

    /// As [`Self::parameters`], on rank 0 alone: elsewhere nothing is copied.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If a collective fails.
    pub(super) fn parameters_on_main(&self, comm: &dyn Collective) -> Result<Option<Vec<F>>, CommError> {
        let is_main = comm.world().is_main();
        if !is_main && self.masters().is_none() {
            return Ok(None);
        }
        self.parameters(comm).map(|flat| is_main.then_some(flat))
    }

    /// A vector of the whole flat buffer from all ranks' shards of it.
    fn gather_shard(&self, shard: &[F], comm: &dyn Collective) -> Result<Vec<F>, CommError> {
        let n = self.model.params.len();
        if shard.len() == n {
            // Segments lie end to end: this rank has all of them, and a copy is half the work of zeros and a copy.
            return Ok(shard.to_vec());
        }
        let mut whole = vec![F::default(); n];
        let mut at = 0;
        for segment in &self.model.params.segments {
            let block = self.block(&segment.range, comm);
            whole[block.clone()].copy_from_slice(&shard[at..at + block.len()]);
            at += block.len();
            if block != segment.range {
                F::all_gather(comm, &mut whole[segment.range.clone()])?;
            }
        }
        Ok(whole)
    }
}

/// Puts the parameters of a checkpoint into a model.
///
/// # Errors
/// Names or shapes that do not fit.
pub fn load_model<F: Stored>(params: &mut Params, snapshot: &Snapshot, path: &Path) -> Result<(), CheckpointError> {
    let file = path.join("model.safetensors");
    let tensors = snapshot.tensors.get("model").ok_or_else(|| missing(path, "model.safetensors"))?;
    let values = flat_from::<F>(params, File::Model, tensors, "", &file)?;
    ffi::write(params.flat(), &values);
    Ok(())
}

pub(super) fn flat_from<F: Stored>(
    params: &Params,
    of: File,
    tensors: &[NamedTensor],
    prefix: &str,
    file: &Path,
) -> Result<Vec<F>, CheckpointError> {
    let by_name: BTreeMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut flat = vec![F::default(); params.len()];
    for entry in params.entries.iter().filter(|e| of.holds(params, e)) {
        let name = format!("{prefix}{}", entry.name);
        let tensor = by_name.get(name.as_str());
        fits(&name, tensor.map(|tensor| &tensor.shape[..]), &entry.shape, file)?;
        if let Some(tensor) = tensor {
            flat[entry.range.clone()].copy_from_slice(&F::read(&tensor.data));
        }
    }
    Ok(flat)
}

/// A tensor of a file is there, in the shape that the model needs.
pub(super) fn fits(name: &str, found: Option<&[usize]>, needed: &[usize], file: &Path) -> Result<(), CheckpointError> {
    let what = match found {
        Some(shape) if shape == needed => return Ok(()),
        Some(shape) => format!("has shape {shape:?}, the model needs {needed:?}"),
        None => "is missing".into(),
    };
    let hint = "hint: the model of the configuration is not the one that was saved";
    Err(CheckpointError::Bad { path: file.into(), message: format!("tensor `{name}` {what}\n  {hint}") })
}

pub(super) fn missing(path: &Path, file: &str) -> CheckpointError {
    CheckpointError::Bad { path: path.join(file), message: "missing from the checkpoint".into() }
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
