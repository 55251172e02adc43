//! `polytask compare`.
//!
//! ```text
//! methods   what is written on the command line -> section `balance`, by the loader of configurations
//! plan      the runs and their order, the configuration of each
//! results   what came of a run, read from its run directory
//! report    numbers over seeds, against single tasks and equal weights
//! table     the numbers as Markdown and CSV
//! ```
//!
//! There is no state beside the run directories: a run that has come to its end is recognised by its `summary.json`, one
//! that has not is continued by `train` itself. So the same command continues a comparison that was ended at any instant.

mod methods;
mod plan;
mod report;
mod results;
#[cfg(test)]
mod samples;
mod table;

use super::{ConfigArgs, stop, text, with_world};
use crate::comm::{Collective, agree, agree_on_sum};
use crate::config::{self, Balance, Config};
use crate::error::{Error, Result, exit};
use crate::log::jsonl::write_atomically;
use crate::train::{Options, StopFlag, device, setup, train};
use clap::Args;
use plan::{Facts, Plan, Slot};
use report::{Known, Report};
use results::Outcome;
use std::path::{Path, PathBuf};

/// Trains CONFIG with several balancing methods and several seeds, and every task alone, and makes a table of it: each
/// task's metrics, delta-m against the single tasks in both usual definitions, step times relative to equal weights.
///
/// Equal weights are always among the methods. Every run has a run directory of its own below the folder of the
/// comparison, `runs/compare-<run.name>`, where `comparison.md` and `comparison.csv` grow with every run. The same
/// command continues a comparison that was stopped or killed; more seeds, methods or learning rates add runs to it.
/// Signals stop it as they stop `train`, with exit code 75. docs/compare.md says more.
#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Methods: names of weightings and surgeries, WEIGHTING+SURGERY, NAME@representation for gradients of the
    /// representation, or YAML of section `balance` in braces; for example
    /// `uncertainty,pcgrad,uncertainty+pcgrad,{weighting: {uncertainty: {lr: 0.1}}}`
    #[arg(long, value_name = "METHOD,..")]
    methods: Vec<String>,
    /// Seeds per method: `run.seed` and those after it
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Learning rates to choose from, for each method and each single task by its validation score with the first seed;
    /// default: that of CONFIG for all
    #[arg(long, value_name = "LR,..", value_delimiter = ',')]
    tune_lr: Vec<f64>,
    /// Folder of the comparison; default: `runs/compare-<run.name>`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the runs in their order; train and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl CompareArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let plan = self.plan()?;
        let stop = stop::listen()?;
        with_world(&plan.config.comm, &plan.out, |comm| {
            same_plan(&plan, comm)?;
            if self.dry_run {
                return if comm.world().is_main() { dry_run(&plan) } else { Ok(exit::DONE) };
            }
            device::choose(&plan.config, comm)?;
            setup::set_threads(&plan.config, comm);
            if comm.world().is_main() {
                agree(comm, claim(&plan))?;
            } else {
                agree(comm, Ok::<_, Error>(()))?;
            }
            let facts = Facts::read(&plan.config, comm)?;
            if plan.tunes() && !facts.validates {
                return Err(Error::Usage(
                    "`--tune-lr` chooses by the validation score, and the data has no validation split\n  hint: give the \
                     sources a `val` file or a `split`, or leave `--tune-lr` out"
                        .into(),
                ));
            }
            Comparison { plan: &plan, facts, known: Known::new(), stop: &stop, comm }.run()
        })
    }

    fn plan(&self) -> Result<Plan> {
        let mut config = self.config.load()?;
        let load = |more: &[String]| config::load(&self.config.config, &[&self.config.set, more].concat());
        let methods = methods::parse(&self.methods, &load)?;
        config.balance = Balance::default();
        Plan::new(config, methods, self.seeds, &self.tune_lr, self.out.as_deref())
    }
}

/// All ranks were given the same comparison.
fn same_plan(plan: &Plan, comm: &dyn Collective) -> Result<()> {
    setup::same_config(&plan.config, comm)?;
    let all = comm.all_gather_bytes(format!("{plan:?}").as_bytes())?;
    match all.iter().position(|other| *other != all[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::Usage(format!(
            "rank {rank} was started with other methods, seeds, learning rates or another folder than rank 0\n  hint: \
             start all ranks with the same command"
        ))),
    }
}

fn dry_run(plan: &Plan) -> Result<u8> {
    let slots = plan.slots();
    for (i, slot) in slots.iter().enumerate() {
        let dir = match slot.rate {
            Some(rate) => plan.dir(slot.entrant, rate, slot.seed),
            None => plan
                .out
                .join(&plan.entrants[slot.entrant].folder)
                .join("lr_<chosen>")
                .join(format!("seed_{}", slot.seed)),
        };
        let what = describe(plan, slot, slot.rate);
        text::print(format_args!("{:>4}  {what}  {}\n", i + 1, dir.display()))?;
    }
    text::print(format_args!("{} runs; nothing was trained\n", slots.len()))?;
    Ok(exit::DONE)
}

fn describe(plan: &Plan, slot: &Slot, rate: Option<usize>) -> String {
    let rate = rate.map_or("the chosen learning rate".into(), |rate| format!("learning rate {}", plan.rates[rate]));
    format!("{}, {rate}, seed {}", plan.entrants[slot.entrant].name, slot.seed)
}

/// Takes the folder for this comparison: writes its configuration, or finds the same one there.
fn claim(plan: &Plan) -> Result<()> {
    let path = plan.out.join("config.yaml");
    if path.exists() {
        return results::same_experiment(&path, &plan.config);
    }
    crate::files::make_dir(&plan.out).map_err(|source| Error::Io { path: plan.out.display().to_string(), source })?;
    write(&path, &plan.config.to_yaml()?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, text.as_bytes()).map_err(|source| Error::Io { path: path.display().to_string(), source })
}

/// A comparison in progress, on every rank.
struct Comparison<'a> {
    plan: &'a Plan,
    facts: Facts,
    known: Known,
    stop: &'a StopFlag,
    comm: &'a dyn Collective,
}

impl Comparison<'_> {
    fn run(mut self) -> Result<u8> {
        let slots = self.plan.slots();
        self.recall(&slots)?;
        for (i, slot) in slots.iter().enumerate() {
            let Some((rate, config)) = self.settle(slot)? else { continue };
            let key = (slot.entrant, rate, slot.seed);
            if self.known.contains_key(&key) {
                continue;
            }
            let outcome = match self.look(&config)? {
                Some(outcome) => outcome,
                None => {
                    if self.asked_to_stop()? {
                        return self.stopped();
                    }
                    let what = describe(self.plan, slot, Some(rate));
                    self.say(&format!("\n[{}/{}] {what}", i + 1, slots.len()))?;
                    match self.train(&config)? {
                        Some(outcome) => outcome,
                        None => return self.stopped(),
                    }
                }
            };
            self.known.insert(key, outcome);
            self.write()?;
        }
        self.write()?;
        if self.comm.world().is_main() {
            let plan = self.plan;
            let markdown = table::markdown(plan, &self.facts, &Report::new(plan, &self.known));
            text::print(format_args!("\n{markdown}\nwritten to {}\n", plan.out.join("comparison.md").display()))?;
        }
        Ok(exit::DONE)
    }

    /// Takes in all runs of earlier sessions, and proves that every run has a configuration that makes sense.
    fn recall(&mut self, slots: &[Slot]) -> Result<()> {
        for slot in slots {
            let Some((rate, config)) = self.settle(slot)? else { continue };
            if let Some(outcome) = self.look(&config)? {
                self.known.insert((slot.entrant, rate, slot.seed), outcome);
            }
        }
        Ok(())
    }

    /// The learning rate and the configuration of a run. `None` while the learning rate is not chosen, which with the
    /// runs in order means that none can be: all that were tried failed.
    fn settle(&self, slot: &Slot) -> Result<Option<(usize, Config)>> {
        let rate = slot.rate.or_else(|| report::choose(self.plan, &self.known, slot.entrant));
        let Some(rate) = rate else { return Ok(None) };
        Ok(Some((rate, self.plan.config(slot.entrant, rate, slot.seed, &self.facts)?)))
    }

    /// Trains a run to its end; `None` if it was stopped before.
    fn train(&self, config: &Config) -> Result<Option<Outcome>> {
        match train(config, &Options::default(), self.stop, self.comm) {
            Ok(crate::train::Outcome::Stopped) => Ok(None),
            Ok(crate::train::Outcome::Done) => {
                let lost = || Error::Io {
                    path: config.run.dir().join("summary.json").display().to_string(),
                    source: std::io::Error::other("the results of the run could not be written"),
                };
                self.look(config)?.ok_or_else(lost).map(Some)
            }
            // A run that diverges is a result. Replicas that differ are none: such a run has no summary.
            Err(Error::Guard(message)) => match self.look(config)? {
                Some(outcome) if outcome.failed => {
                    self.say(&format!("failed: {}", message.lines().next().unwrap_or_default()))?;
                    Ok(Some(outcome))
                }
                _ => Err(Error::Guard(message)),
            },
            Err(error) => Err(error),
        }
    }

    /// What came of a run, as rank 0 finds it.
    fn look(&self, config: &Config) -> Result<Option<Outcome>> {
        let main = self.comm.world().is_main();
        let found = if main { results::read(config, &self.plan.config, &self.facts) } else { Ok(None) };
        let mut bytes = serde_json::to_vec(&agree(self.comm, found)?).unwrap_or_default();
        self.comm.broadcast(&mut bytes)?;
        let unread = |e: serde_json::Error| Error::Io { path: "results of a run".into(), source: e.into() };
        serde_json::from_slice(&bytes).map_err(unread)
    }

    fn asked_to_stop(&self) -> Result<bool> {
        let mut raised = [f64::from(u8::from(self.stop.raised()))];
        agree_on_sum(self.comm, &mut raised)?;
        Ok(raised[0] > 0.0)
    }

    fn stopped(&self) -> Result<u8> {
        let [done, all] = Report::new(self.plan, &self.known).progress;
        self.say(&format!("\nstopped after {done} of {all} runs: run the same command again to continue"))?;
        Ok(exit::AGAIN)
    }

    /// Prints a line, on rank 0.
    fn say(&self, line: &str) -> Result<()> {
        if self.comm.world().is_main() { text::print(format_args!("{line}\n")) } else { Ok(()) }
    }

    /// Writes what is known so far.
    fn write(&self) -> Result<()> {
        let written = if self.comm.world().is_main() {
            let (plan, facts) = (self.plan, &self.facts);
            let report = Report::new(plan, &self.known);
            let markdown = table::markdown(plan, facts, &report);
            write(&plan.out.join("comparison.md"), &markdown)
                .and_then(|()| write(&plan.out.join("comparison.csv"), &table::csv(plan, facts, &report)))
        } else {
            Ok(())
        };
        agree(self.comm, written)
    }
}
