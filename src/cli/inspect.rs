//! `polytask inspect`.

use super::text;
use crate::checkpoint::{self, CheckpointError, FileInfo, Floats, NamedTensor, Snapshot, Survey, Surveyed};
use crate::config::Config;
use crate::data::Sampler;
use crate::error::{Result, exit};
use crate::train::persist::RunState;
use crate::train::setup::{self, choice_name};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Shows what a checkpoint holds, once every hash is checked; of a run directory, all its checkpoints and whether each can
/// be used. Changes nothing. Exit code 3 if anything is damaged.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The folder of a checkpoint (`step_...`), or a run directory
    #[arg(value_name = "CHECKPOINT|RUN_DIR")]
    path: PathBuf,
    /// Print one JSON object, with every tensor
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let (page, code) = page(&self.path, self.json)?;
        text::print(format_args!("{page}"))?;
        Ok(code)
    }
}

/// What there is to say of a checkpoint or of a run directory, as text or as JSON, and the exit code.
///
/// # Errors
/// If there is no such thing, or a checkpoint asked for by itself is damaged.
pub fn page(path: &Path, json: bool) -> Result<(String, u8)> {
    match root_of(path) {
        Some(root) => survey(&root, json),
        None => checkpoint(path, json),
    }
}

/// All checkpoints of a run.
fn survey(root: &Path, json: bool) -> Result<(String, u8)> {
    let survey = checkpoint::survey(root)?;
    if survey.checkpoints.is_empty() && survey.warnings.is_empty() {
        return Err(bad(root, "holds no checkpoint yet").into());
    }
    let page = match json {
        true => format!("{:#}\n", survey_as_json(root, &survey)),
        false => survey_as_text(root, &survey),
    };
    let good = survey.checkpoints.iter().all(|c| c.damage.is_none()) && survey.warnings.is_empty();
    Ok((page, if good { exit::DONE } else { exit::DATA }))
}

/// One checkpoint.
fn checkpoint(path: &Path, json: bool) -> Result<(String, u8)> {
    if !path.join("MANIFEST.json").exists() {
        let message = "is no checkpoint, nor a run directory\n  hint: a checkpoint is a folder with a MANIFEST.json, such as \
                       runs/adult/checkpoints/step_00001200; a run directory holds `checkpoints/`";
        return Err(bad(path, message).into());
    }
    let snapshot = checkpoint::read(path)?;
    let files = checkpoint::files(path)?;
    let page = match json {
        true => format!("{:#}\n", as_json(path, &snapshot, &files)),
        false => as_text(path, &snapshot, &files),
    };
    Ok((page, exit::DONE))
}

fn bad(path: &Path, message: &str) -> CheckpointError {
    CheckpointError::Bad { path: path.into(), message: message.into() }
}

/// The folder of checkpoints, if the path is that or a run directory.
fn root_of(path: &Path) -> Option<PathBuf> {
    let below = path.join("checkpoints");
    let is_root = path.file_name().is_some_and(|name| name == "checkpoints") && path.is_dir();
    if below.is_dir() { Some(below) } else { is_root.then(|| path.into()) }
}

/// What one tensor comes to.
struct Facts {
    values: usize,
    /// Euclidean norm, in 64 bits.
    norm: f64,
    /// Largest magnitude.
    largest: f64,
    /// Values that are not finite.
    not_finite: usize,
}

impl Facts {
    fn of(data: &Floats) -> Facts {
        match data {
            Floats::F32(values) => Facts::over(values.len(), values.iter().map(|&x| f64::from(x))),
            Floats::F64(values) => Facts::over(values.len(), values.iter().copied()),
        }
    }

    fn over(values: usize, all: impl Iterator<Item = f64>) -> Facts {
        let start = Facts { values, norm: 0.0, largest: 0.0, not_finite: 0 };
        let sums = all.fold(start, |sums, x| Facts {
            norm: sums.norm + x * x,
            largest: sums.largest.max(x.abs()),
            not_finite: sums.not_finite + usize::from(!x.is_finite()),
            ..sums
        });
        Facts { norm: sums.norm.sqrt(), ..sums }
    }

    /// Of several tensors as one.
    fn and(self, other: Facts) -> Facts {
        Facts {
            values: self.values + other.values,
            norm: self.norm.hypot(other.norm),
            largest: self.largest.max(other.largest),
            not_finite: self.not_finite + other.not_finite,
        }
    }

    fn cells(&self) -> Vec<String> {
        let odd =
            if self.not_finite > 0 { format!("{} not finite", text::count(self.not_finite)) } else { String::new() };
        vec![text::count(self.values), format!("{:.4e}", self.norm), format!("{:.4e}", self.largest), odd]
    }

    fn json(&self) -> Value {
        json!({
            "values": self.values,
            "norm": checkpoint::float(self.norm),
            "largest": checkpoint::float(self.largest),
            "not_finite": self.not_finite,
        })
    }
}

fn shape(tensor: &NamedTensor) -> String {
    format!("[{}]", tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}

fn kind(tensor: &NamedTensor) -> &'static str {
    if matches!(tensor.data, Floats::F32(_)) { "f32" } else { "f64" }
}

/// What the small files tell, as pairs; parts that this program cannot read are left out, their files are listed anyway.
fn about(path: &Path, snapshot: &Snapshot) -> Vec<(&'static str, Value)> {
    let mut facts = vec![("step", json!(snapshot.step))];
    let state: Option<RunState> = setup::part(snapshot, path, "state").ok();
    let config: Option<Config> = setup::part(snapshot, path, "config").ok();
    if let (Some(config), Some(state)) = (&config, &state) {
        facts.extend(epoch(config, state).map(|epoch| ("epoch", json!(epoch))));
    }
    if let Some(state) = &state {
        let progress = &state.progress;
        facts.extend([
            ("samples", json!(progress.samples)),
            ("seconds", json!(progress.seconds)),
            ("updates", json!(state.updates)),
            ("skipped", json!(progress.skipped)),
            ("best_score", json!(progress.best_score)),
            ("best_step", json!(progress.best.first().map(|record| record.step))),
            ("version", json!(state.version)),
        ]);
    }
    if let Some(config) = &config {
        facts.extend([
            ("run", json!(config.run.name)),
            ("seed", json!(config.run.seed)),
            ("tasks", json!(config.tasks.iter().map(|(name, _)| name).collect::<Vec<_>>())),
            ("encoder", json!(choice_name(&config.model.encoder))),
            ("weighting", json!(choice_name(&config.balance.weighting))),
            ("surgery", json!(choice_name(&config.balance.surgery))),
            ("optimizer", json!(choice_name(&config.optim))),
            ("lr", json!(config.optim.lr())),
            ("precision", json!(config.train.precision)),
            ("config_hash", json!(config.hash())),
        ]);
    }
    facts
}

/// Passes over the data: the sizes of the sources lie in the checkpoint, the data need not be there.
fn epoch(config: &Config, state: &RunState) -> Option<f64> {
    // Neither was checked when it was read: a checkpoint may come from anywhere.
    config.check().ok()?;
    let rows = state.source_sizes.iter().map(|&n| u32::try_from(n).ok().map(|n| n as usize));
    let rows: Vec<usize> = rows.collect::<Option<_>>()?;
    let names = config.data.sources.iter().map(|(name, _)| name.as_str());
    let sizes: Vec<(&str, usize)> = names.zip(rows).collect();
    let sampler = Sampler::new(&config.batch, &sizes, config.run.seed).ok()?;
    Some(state.progress.step as f64 / sampler.steps_per_epoch() as f64)
}

fn as_text(path: &Path, snapshot: &Snapshot, files: &[FileInfo]) -> String {
    let mut out = format!("{}: good, every hash fits\n\n", path.display());
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let known = about(path, snapshot).into_iter().filter(|(_, value)| !value.is_null());
    known.for_each(|(name, value)| out += &format!("{name:<12} {}\n", plain(&value)));
    for (stem, tensors) in &snapshot.tensors {
        let parts = files.iter().filter(|file| file.name.starts_with(&format!("{stem}.rank"))).count();
        out += &if parts > 0 { format!("\n{stem}, in {parts} parts\n") } else { format!("\n{stem}.safetensors\n") };
        out += &if stem == "model" { every_tensor(tensors) } else { by_state(tensors) };
    }
    let row = |file: &FileInfo| vec![file.name.clone(), file.sha256.clone(), text::count(file.bytes as usize)];
    let bytes = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    out += &format!("\n{}", text::table(&["file", "sha256", "bytes"], &files.iter().map(row).collect::<Vec<_>>(), 2));
    out + &format!("{} in all\n", mib(bytes))
}

fn every_tensor(tensors: &[NamedTensor]) -> String {
    let row = |tensor: &NamedTensor| {
        [vec![tensor.name.clone(), kind(tensor).into(), shape(tensor)], Facts::of(&tensor.data).cells()].concat()
    };
    let mut rows: Vec<Vec<String>> = tensors.iter().map(row).collect();
    let all = tensors.iter().map(|tensor| Facts::of(&tensor.data)).reduce(Facts::and);
    rows.extend(all.map(|all| [vec!["all".into(), String::new(), String::new()], all.cells()].concat()));
    text::table(&["tensor", "kind", "shape", "values", "norm", "largest", ""], &rows, 3)
}

/// States as large as the parameters, summed up by the first part of their names (`exp_avg.encoder...`).
fn by_state(tensors: &[NamedTensor]) -> String {
    let mut states: Vec<(&str, usize, Facts)> = Vec::new();
    for tensor in tensors {
        let name = tensor.name.split('.').next().unwrap_or_default();
        let facts = Facts::of(&tensor.data);
        match states.pop() {
            Some((last, n, sum)) if last == name => states.push((last, n + 1, sum.and(facts))),
            other => states.extend(other.into_iter().chain([(name, 1, facts)])),
        }
    }
    if states.is_empty() {
        return "no states\n".into();
    }
    let row =
        |(name, n, facts): &(&str, usize, Facts)| [vec![name.to_string(), text::count(*n)], facts.cells()].concat();
    let rows: Vec<Vec<String>> = states.iter().map(row).collect();
    text::table(&["state", "tensors", "values", "norm", "largest", ""], &rows, 1)
}

fn as_json(path: &Path, snapshot: &Snapshot, files: &[FileInfo]) -> Value {
    let tensor = |tensor: &NamedTensor| {
        let mut entry = json!({ "name": tensor.name, "kind": kind(tensor), "shape": tensor.shape });
        if let (Value::Object(entry), Value::Object(facts)) = (&mut entry, Facts::of(&tensor.data).json()) {
            entry.extend(facts);
        }
        entry
    };
    let list = |tensors: &Vec<NamedTensor>| Value::Array(tensors.iter().map(tensor).collect());
    let tensors: serde_json::Map<String, Value> =
        snapshot.tensors.iter().map(|(stem, tensors)| (stem.clone(), list(tensors))).collect();
    let files: Vec<Value> =
        files.iter().map(|f| json!({ "name": f.name, "bytes": f.bytes, "sha256": f.sha256 })).collect();
    let about: serde_json::Map<String, Value> =
        about(path, snapshot).into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    json!({ "path": path, "good": true, "about": about, "tensors": tensors, "files": files })
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The step from which a run would continue: as [`checkpoint::latest`] chooses.
fn continues_from(survey: &Survey) -> Option<u64> {
    let good = || survey.checkpoints.iter().filter(|c| c.damage.is_none()).map(|c| c.step);
    let named = survey.latest.unwrap_or(u64::MAX);
    good().filter(|&step| step <= named).max().or_else(|| good().max())
}

fn survey_as_text(root: &Path, survey: &Survey) -> String {
    let marks = |step| {
        let marks = [("latest", survey.latest), ("best", survey.best)];
        marks.iter().filter(|(_, at)| *at == Some(step)).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let row = |c: &Surveyed| {
        let name = c.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        vec![name, if c.damage.is_some() { "damaged" } else { "good" }.into(), marks(c.step), mib(c.bytes)]
    };
    let rows: Vec<Vec<String>> = survey.checkpoints.iter().map(row).collect();
    let mut out = format!("{}\n\n{}", root.display(), text::table(&["checkpoint", "state", "", "size"], &rows, 3));
    let damage = survey.checkpoints.iter().filter_map(|c| c.damage.as_ref()).chain(&survey.warnings);
    damage.for_each(|message| out += &format!("\n{message}"));
    match continues_from(survey) {
        Some(step) => out += &format!("\na run continues from step {step}\n"),
        None => out += "\nno checkpoint here can be used\n",
    }
    out
}

fn survey_as_json(root: &Path, survey: &Survey) -> Value {
    let entry = |c: &Surveyed| json!({ "path": c.path, "step": c.step, "bytes": c.bytes, "good": c.damage.is_none(), "damage": c.damage });
    json!({
        "path": root,
        "checkpoints": survey.checkpoints.iter().map(entry).collect::<Vec<_>>(),
        "latest": survey.latest,
        "best": survey.best,
        "continues_from": continues_from(survey),
        "warnings": survey.warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_tensors_add_up() {
        let (a, b) = (Facts::of(&Floats::F32(vec![3.0, -4.0])), Facts::of(&Floats::F64(vec![12.0])));
        assert_eq!((a.norm, a.largest, a.not_finite), (5.0, 4.0, 0));
        let both = a.and(b);
        assert_eq!((both.values, both.norm, both.largest), (3, 13.0, 12.0));
        let odd = Facts::of(&Floats::F32(vec![f32::NAN, f32::INFINITY, 1.0]));
        assert_eq!((odd.not_finite, odd.cells()[3].as_str()), (2, "2 not finite"));
        assert_eq!(odd.json()["norm"], "nan", "JSON has no NaN");
    }

    #[test]
    fn the_step_to_continue_from_is_the_one_that_the_reader_takes() {
        let at = |step, good: bool| Surveyed {
            path: PathBuf::new(),
            step,
            bytes: 0,
            damage: (!good).then(|| "damaged".to_string()),
        };
        let survey = |latest, checkpoints: &[Surveyed]| {
            let survey = Survey { checkpoints: checkpoints.to_vec(), latest, best: None, warnings: vec![] };
            continues_from(&survey)
        };
        assert_eq!(survey(Some(20), &[at(10, true), at(20, true), at(30, true)]), Some(20));
        assert_eq!(survey(Some(20), &[at(10, true), at(20, false), at(30, true)]), Some(10));
        assert_eq!(survey(Some(20), &[at(10, false), at(20, false), at(30, true)]), Some(30));
        assert_eq!(survey(None, &[at(10, true), at(30, true)]), Some(30));
        assert_eq!(survey(Some(20), &[at(20, false)]), None);
    }
}
