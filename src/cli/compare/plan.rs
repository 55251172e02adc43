//! What is compared with what: the runs of a comparison, in order, and the configuration of each.

use super::methods::Method;
use crate::comm::Collective;
use crate::config::{Balance, Config, Mix};
use crate::data::Split;
use crate::error::{Error, Result};
use crate::train::setup;
use std::path::{Path, PathBuf};

/// Folder of the single-task baselines.
const SINGLE: &str = "single_task";

/// What is known of the data before the first run.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Steps of an epoch of the configuration with all tasks.
    pub steps_per_epoch: u64,
    /// Samples that a step with all tasks takes of a task's source, by task.
    pub samples: Vec<usize>,
    /// What each task is compared on: test, or validation where its source has no test labels.
    pub splits: Vec<Split>,
    /// Whether there is a validation split, by which to choose.
    pub validates: bool,
}

impl Facts {
    /// Reads the data once.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// On all ranks: bad data, or a task that nothing can be compared on.
    pub fn read(config: &Config, comm: &dyn Collective) -> Result<Facts> {
        let dataset = setup::open_data(config, None, comm)?;
        let sampler = dataset.sampler(config)?;
        let samples = |task: &crate::data::TaskInfo| (sampler.samples_of(task.source).round() as usize).max(1);
        let split = |(task, info): (usize, &crate::data::TaskInfo)| {
            let found = [Split::Test, Split::Val].into_iter().find(|split| dataset.n_labels(task, *split) > 0);
            found.ok_or_else(|| {
                Error::Usage(format!(
                    "task `{}` has labels in no test and no validation split, so there is nothing to compare methods on\n  \
                     hint: give its source a `test` or `val` file, or a `split`",
                    info.name
                ))
            })
        };
        Ok(Facts {
            steps_per_epoch: sampler.steps_per_epoch(),
            samples: dataset.tasks().iter().map(samples).collect(),
            splits: dataset.tasks().iter().enumerate().map(split).collect::<Result<_>>()?,
            validates: (0..dataset.n_sources()).any(|source| dataset.n_rows(source, Split::Val) > 0),
        })
    }
}

/// One that takes part.
#[derive(Debug, Clone, PartialEq)]
pub struct Entrant {
    /// Name in tables.
    pub name: String,
    /// Folder of its runs, below the folder of the comparison.
    pub folder: PathBuf,
    /// What it trains.
    pub what: What,
}

/// What an entrant trains.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// All tasks, balanced like this.
    All(Balance),
    /// The task of this index alone.
    Single(usize),
}

/// A run to be made. Without a learning rate it takes the one that was chosen for its entrant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Index of the entrant.
    pub entrant: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Index of the learning rate.
    pub rate: Option<usize>,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The configuration with all tasks; its balancing is not used.
    pub config: Config,
    /// Folder of the comparison.
    pub out: PathBuf,
    /// Methods, then one per task.
    pub entrants: Vec<Entrant>,
    /// Number of methods.
    pub n_methods: usize,
    /// Seeds, the first one being that of the configuration.
    pub seeds: Vec<u64>,
    /// Learning rates to choose from; one where nothing is chosen.
    pub rates: Vec<f64>,
}

impl Plan {
    /// Plans the runs of these methods.
    ///
    /// # Errors
    /// Seeds beyond the largest, learning rates that are none.
    pub fn new(config: Config, methods: Vec<Method>, seeds: u64, rates: &[f64], out: Option<&Path>) -> Result<Plan> {
        let seed = config.run.seed;
        let last = seed.checked_add(seeds.saturating_sub(1));
        let last = last.ok_or_else(|| Error::Usage(format!("there are no {seeds} seeds from `run.seed` {seed} on")))?;
        if let Some(bad) = rates.iter().find(|rate| !(**rate > 0.0 && rate.is_finite())) {
            return Err(Error::Usage(format!("`--tune-lr`: a learning rate must be greater than 0, found {bad}")));
        }
        let mut distinct: Vec<f64> = Vec::new();
        let given = if rates.is_empty() { vec![config.optim.lr()] } else { rates.to_vec() };
        given.into_iter().for_each(|rate| distinct.extend((!distinct.contains(&rate)).then_some(rate)));
        let out = out.map_or_else(|| PathBuf::from("runs").join(format!("compare-{}", config.run.name)), PathBuf::from);
        let n_methods = methods.len();
        let method = |m: Method| Entrant { name: m.name, folder: m.folder.into(), what: What::All(m.balance) };
        let single = |(index, (name, _)): (usize, &(String, _))| Entrant {
            name: format!("{name} alone"),
            folder: Path::new(SINGLE).join(name),
            what: What::Single(index),
        };
        let singles: Vec<Entrant> = config.tasks.iter().enumerate().map(single).collect();
        let entrants = methods.into_iter().map(method).chain(singles).collect();
        Ok(Plan { config, out, entrants, n_methods, seeds: (seed..=last).collect(), rates: distinct })
    }

    /// Whether learning rates are chosen.
    pub fn tunes(&self) -> bool {
        self.rates.len() > 1
    }

    /// All runs in order. Everybody takes turns, so that a machine that gets slower or faster does so for all alike; the
    /// first seed tries all learning rates.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        for (turn, &seed) in self.seeds.iter().enumerate() {
            let rates: Vec<Option<usize>> = match turn {
                0 => (0..self.rates.len()).map(Some).collect(),
                _ if self.tunes() => vec![None],
                _ => vec![Some(0)],
            };
            for rate in rates {
                slots.extend((0..self.entrants.len()).map(|entrant| Slot { entrant, seed, rate }));
            }
        }
        slots
    }

    /// The run directory of a run.
    pub fn dir(&self, entrant: usize, rate: usize, seed: u64) -> PathBuf {
        self.out
            .join(&self.entrants[entrant].folder)
            .join(format!("lr_{}", self.rates[rate]))
            .join(format!("seed_{seed}"))
    }

    /// The configuration of a run.
    ///
    /// # Errors
    /// A single-task configuration that makes no sense, although the one with all tasks does.
    pub fn config(&self, entrant: usize, rate: usize, seed: u64, facts: &Facts) -> Result<Config> {
        let Entrant { name, folder, what } = &self.entrants[entrant];
        let mut config = match what {
            What::All(balance) => Config { balance: balance.clone(), ..self.config.clone() },
            What::Single(task) => single_task(&self.config, *task, facts),
        };
        config.run.seed = seed;
        config.run.dir = Some(self.dir(entrant, rate, seed));
        let folder: Vec<String> = folder.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        config.run.name = format!("{} lr {} seed {seed}", folder.join(" "), self.rates[rate]);
        config.optim = config.optim.with_lr(self.rates[rate]);
        config.check().map_err(|e| Error::Usage(format!("{name}: {e}")))?;
        Ok(config)
    }
}

/// The baseline of a task: the same encoder (up to the stage of the task's head), the same transforms and splits, and the
/// very samples that the task sees in training among the others, for as many steps and evaluations.
fn single_task(config: &Config, index: usize, facts: &Facts) -> Config {
    let mut single = config.clone();
    let (name, task) = config.tasks[index].clone();
    single.balance = Balance::default();
    if config.train.best_by.rsplit_once('/').is_some_and(|(of, _)| of != name) {
        single.train.best_by = "mean".into();
    }
    if let Some(stage) = task.head.stage {
        single.model.encoder = single.model.encoder.up_to_stage(stage);
    }
    // The other sources stay, for the splits depend on the place of a source, and vocabularies on all of them.
    if config.data.sources.len() > 1 {
        single.batch.per_task = facts.samples[index];
        single.batch.mix = Mix::Only(task.source.clone());
        let steps = |epochs: u64| epochs.saturating_mul(facts.steps_per_epoch);
        single.train.steps = config.train.steps.or(config.train.epochs.map(steps));
        let every = steps(config.train.eval_every_epochs);
        single.train.eval_every_steps = config.train.eval_every_steps.or((every > 0).then_some(every));
    }
    single.tasks = vec![(name, task)];
    single
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Encoder};

    const TWO_SOURCES: &str = "
run: {name: x, seed: 7}
data:
  sources:
    one: {csv: {train: a.csv, numeric: [x]}}
    two: {csv: {train: b.csv, numeric: [x]}}
tasks:
  a: {source: one, target: a, kind: binary, head: {stage: 0}}
  b: {source: two, target: b, kind: binary}
batch: {per_task: 16, mix: proportional}
model: {encoder: {mlp: {widths: [8, 4]}}}
balance: {surgery: pcgrad}
train: {epochs: 3, best_by: a/auc}
";

    fn load(sets: &[&str]) -> Config {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        config::load_str("x.yaml", TWO_SOURCES, &sets).unwrap()
    }

    fn plan(seeds: u64, rates: &[f64]) -> Plan {
        let method = |name: &str| Method { name: name.into(), folder: name.into(), balance: Balance::default() };
        Plan::new(load(&[]), vec![method("equal"), method("m")], seeds, rates, None).unwrap()
    }

    fn facts() -> Facts {
        Facts { steps_per_epoch: 10, samples: vec![20, 12], splits: vec![Split::Test, Split::Val], validates: true }
    }

    #[test]
    fn entrants_take_turns_and_the_first_seed_tries_all_learning_rates() {
        let slots = |plan: Plan| -> Vec<(usize, u64, Option<usize>)> {
            plan.slots().iter().map(|s| (s.entrant, s.seed, s.rate)).collect()
        };
        let turn = |seed: u64, rate: Option<usize>| (0..4).map(move |entrant| (entrant, seed, rate));
        let expected: Vec<_> = turn(7, Some(0)).chain(turn(8, Some(0))).collect();
        assert_eq!(slots(plan(2, &[])), expected);
        let expected: Vec<_> = turn(7, Some(0)).chain(turn(7, Some(1))).chain(turn(8, None)).collect();
        assert_eq!(slots(plan(2, &[0.1, 0.2, 0.1])), expected);
        assert_eq!(plan(1, &[0.1]).rates, [0.1]);
        assert_eq!(plan(1, &[]).rates, [1e-3], "the configuration's own");
    }

    #[test]
    fn seeds_and_learning_rates_that_are_none_are_refused() {
        let of = |config: Config, seeds, rates: &[f64]| Plan::new(config, Vec::new(), seeds, rates, None).unwrap_err();
        assert!(of(load(&["run.seed=18446744073709551615"]), 2, &[]).to_string().contains("there are no 2 seeds"));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(of(load(&[]), 1, &[0.1, bad]).to_string().contains("must be greater than 0"), "{bad}");
        }
    }

    #[test]
    fn a_run_of_a_method_differs_in_balancing_seed_and_learning_rate() {
        let plan = plan(2, &[0.1, 3e-4]);
        let config = plan.config(1, 1, 8, &facts()).unwrap();
        let keys: Vec<String> = plan.config.diff(&config).into_iter().map(|change| change.key).collect();
        assert_eq!(keys, ["run.name", "run.seed", "run.dir", "balance.surgery", "optim.adamw.lr"]);
        assert_eq!(config.run.dir.unwrap(), Path::new("runs/compare-x/m/lr_0.0003/seed_8"));
        assert_eq!(config.run.name, "m lr 0.0003 seed 8");
    }

    #[test]
    fn a_single_task_trains_on_its_own_samples_for_as_long() {
        let plan = plan(1, &[]);
        let a = plan.config(2, 0, 7, &facts()).unwrap();
        assert_eq!(a.tasks, plan.config.tasks[..1]);
        assert_eq!(a.balance, Balance::default());
        assert_eq!((a.batch.per_task, a.batch.mix), (20, Mix::Only("one".into())));
        assert_eq!((a.train.steps, a.train.eval_every_steps, a.train.best_by.as_str()), (Some(30), Some(10), "a/auc"));
        assert_eq!(a.data, plan.config.data);
        let Encoder::Mlp(mlp) = &a.model.encoder else { panic!("{:?}", a.model) };
        assert_eq!(mlp.widths, [8], "what lies behind its head is nobody's");
        let b = plan.config(3, 0, 7, &facts()).unwrap();
        assert_eq!((b.batch.per_task, b.batch.mix), (12, Mix::Only("two".into())));
        assert_eq!((b.train.best_by.as_str(), &b.model), ("mean", &plan.config.model));
        assert_eq!(b.run.dir.unwrap(), Path::new("runs/compare-x/single_task/b/lr_0.001/seed_7"));
    }

    #[test]
    fn with_one_source_nothing_but_the_tasks_goes() {
        let sets = ["tasks.b.source=one", "data.sources={one: {csv: {train: a.csv, numeric: [x]}}}", "balance={}"];
        let plan = Plan::new(load(&sets), Vec::new(), 1, &[], None).unwrap();
        let b = plan.config(1, 0, 7, &facts()).unwrap();
        let keys: Vec<String> = plan.config.diff(&b).into_iter().map(|change| change.key).collect();
        assert_eq!(keys, ["run.name", "run.dir", "tasks.a", "train.best_by"]);
    }

    #[test]
    fn encoders_end_after_a_stage() {
        let cut = |yaml: &str, stage: usize| load(&[&format!("model.encoder={yaml}")]).model.encoder.up_to_stage(stage);
        let load = |yaml: &str| load(&[&format!("model.encoder={yaml}")]).model.encoder;
        assert_eq!(cut("{mlp: {widths: [8, 4, 2]}}", 1), load("{mlp: {widths: [8, 4]}}"));
        assert_eq!(cut("{mlp: {widths: [8, 4, 2]}}", 2), load("{mlp: {widths: [8, 4, 2]}}"));
        let cnn = |channels: &[usize], widths: &[usize]| {
            Encoder::Cnn(config::Cnn { channels: channels.into(), widths: widths.into(), ..config::Cnn::default() })
        };
        assert_eq!(cnn(&[4, 8], &[16, 8]).up_to_stage(0), cnn(&[4], &[]));
        assert_eq!(cnn(&[4, 8], &[16, 8]).up_to_stage(1), cnn(&[4, 8], &[]));
        assert_eq!(cnn(&[4, 8], &[16, 8]).up_to_stage(2), cnn(&[4, 8], &[16]));
        let bag = |widths: &[usize]| {
            Encoder::EmbeddingBag(config::EmbeddingBag { widths: widths.into(), ..config::EmbeddingBag::default() })
        };
        assert_eq!((bag(&[8, 4]).up_to_stage(0), bag(&[8, 4]).up_to_stage(1)), (bag(&[]), bag(&[8])));
    }
}
