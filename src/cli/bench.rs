//! `polytask bench`.

use super::{ConfigArgs, text, with_world};
use crate::comm::Collective;
use crate::config::{Config, Precision};
use crate::data::{Loader, LoaderOptions};
use crate::error::{Result, exit};
use crate::rng::{Stream, seed};
use crate::train::persist::Stored;
use crate::train::phases::{NAMES, Phase};
use crate::train::{device, setup};
use crate::{ffi, optim};
use clap::Args;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use tch::Device;

/// Takes training steps and reports where their time goes: median, 10th and 90th percentile of the step and of each
/// phase, samples per second, bytes that a rank sends per step (by the program's own count), and peak memory. Writes
/// nothing. Start it under mpirun to time several ranks; rank 0 reports its own times.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Steps to time
    #[arg(long, default_value_t = 100)]
    steps: u64,
    /// Steps before them that are not timed
    #[arg(long, default_value_t = 10)]
    warmup: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Times of every timed step, in milliseconds.
struct Times {
    step: Vec<f64>,
    phases: Vec<[f64; NAMES.len()]>,
    bytes: u64,
    samples: u64,
    shared: usize,
    private: usize,
    /// How often a step waited for the device, at most.
    waits: u64,
    device: Device,
    /// Milliseconds per step of exchanges between devices.
    exchange_ms: Option<f64>,
    memory_mib: Option<f64>,
}

impl BenchArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let config = self.config.load()?;
        with_world(&config.comm, &config.run.dir(), |comm| {
            setup::same_config(&config, comm)?;
            setup::set_threads(&config, comm);
            let times = match config.train.precision {
                Precision::F32 | Precision::Bf16 => self.measure::<f32>(&config, comm)?,
                Precision::F64 => self.measure::<f64>(&config, comm)?,
            };
            if comm.world().is_main() {
                self.print(&times, comm)?;
            }
            Ok(exit::DONE)
        })
    }

    fn measure<F: Stored>(&self, config: &Config, comm: &dyn Collective) -> Result<Times> {
        let dataset = Arc::new(setup::open_data(config, None, comm)?);
        let device = device::choose(config, comm)?;
        let mut learner = setup::build_learner::<F>(config, &dataset, device, comm)?;
        let sampler = dataset.sampler(config)?;
        let samples = sampler.samples_per_step() as u64;
        let world = comm.world();
        let mut loader = Loader::new(dataset, sampler, LoaderOptions::of(config, world, device))?;
        let params = &learner.model.params;
        let (shared, private) = (params.n_shared(), params.n_private());
        let (step, phases) = (Vec::new(), Vec::new());
        let (exchange_ms, memory_mib) = (None, None);
        let mut times =
            Times { step, phases, bytes: 0, samples, shared, private, waits: 0, device, exchange_ms, memory_mib };
        let mut exchanged_ms = None;
        for step in 0..self.warmup + self.steps {
            comm.barrier()?;
            if step == self.warmup {
                exchanged_ms = learner.exchange_ms();
            }
            let (start, sent, waits) = (Instant::now(), learner.bytes_sent(comm), ffi::reads_here());
            let (batches, wait_ms) = loader.next()?;
            ffi::seed_torch(seed(config.run.seed, Stream::Model, step, world.rank as u64));
            let lr = optim::lr(&config.schedule, config.optim.lr(), step, self.warmup + self.steps);
            let report = learner.step(step, lr, &batches, comm)?;
            drop(batches);
            if step >= self.warmup {
                times.step.push(start.elapsed().as_secs_f64() * 1e3);
                let mut phases = report.phases.0;
                phases[Phase::Data as usize] += wait_ms;
                times.phases.push(phases);
                times.bytes = learner.bytes_sent(comm) - sent;
                times.waits = times.waits.max(ffi::reads_here() - waits);
            }
        }
        let spent = learner.exchange_ms().zip(exchanged_ms).map(|(now, before)| now - before);
        times.exchange_ms = spent.map(|ms| ms / self.steps.max(1) as f64);
        learner.close_exchange();
        times.memory_mib = device::memory_mib(device);
        Ok(times)
    }

    fn print(&self, times: &Times, comm: &dyn Collective) -> Result<()> {
        let step = quantiles(times.step.clone());
        let phases: Vec<(&str, [f64; 3])> = NAMES
            .iter()
            .enumerate()
            .map(|(k, &name)| (name, quantiles(times.phases.iter().map(|p| p[k]).collect())))
            .collect();
        let samples_per_s = times.samples as f64 / (step[0] / 1e3);
        let peak = ffi::peak_rss_mib();
        if self.json {
            let entry = |q: [f64; 3]| json!({ "median": q[0], "p10": q[1], "p90": q[2] });
            let by_phase: serde_json::Map<String, serde_json::Value> =
                phases.iter().map(|(name, q)| (name.to_string(), entry(*q))).collect();
            let object = json!({
                "steps": self.steps,
                "ranks": comm.world().size,
                "threads": tch::get_num_threads(),
                "parameters": { "shared": times.shared, "private": times.private },
                "step_ms": entry(step),
                "phase_ms": by_phase,
                "samples_per_s": samples_per_s,
                "bytes_per_step": times.bytes,
                "peak_rss_mib": peak,
                "device": device::name(times.device),
                "syncs_per_step": times.waits,
                "device_memory_mib": times.memory_mib,
                "exchange_ms": times.exchange_ms,
                "exposed": times.exposed(&phases),
            });
            return text::print(format_args!("{object}\n"));
        }
        let row = |name: &str, q: [f64; 3]| {
            let mut row = vec![name.to_string()];
            row.extend(q.iter().map(|ms| format!("{ms:.3}")));
            row.push(format!("{:.1} %", 100.0 * q[0] / step[0]));
            row
        };
        let mut rows: Vec<Vec<String>> = phases.iter().map(|(name, q)| row(name, *q)).collect();
        rows.push(row("step", step));
        text::print(format_args!("{}", text::table(&["ms", "median", "p10", "p90", "share"], &rows, 1)))?;
        text::print(format_args!(
            "\n{} steps on {} ranks with {} threads each, {} shared and {} private parameters\n",
            self.steps,
            comm.world().size,
            tch::get_num_threads(),
            text::count(times.shared),
            text::count(times.private)
        ))?;
        text::print(format_args!(
            "{samples_per_s:.0} samples/s, {} bytes sent per rank and step, {peak:.0} MiB at most\n",
            text::count(times.bytes as usize)
        ))?;
        if let Some(memory) = times.memory_mib {
            let (name, waits) = (device::name(times.device), times.waits);
            text::print(format_args!("{name}: {memory:.0} MiB in use, {waits} waits of the host per step\n"))?;
        }
        match (times.exchange_ms, times.exposed(&phases)) {
            (Some(ms), Some(share)) => {
                text::print(format_args!("exchanges: {ms:.3} ms per step, {:.1} % of it exposed\n", 100.0 * share))
            }
            _ => Ok(()),
        }
    }
}

impl Times {
    /// Share of the exchanges between devices for which the computation waited.
    fn exposed(&self, phases: &[(&str, [f64; 3])]) -> Option<f64> {
        let waited = phases[Phase::Reduce as usize].1[0] + phases[Phase::Gather as usize].1[0];
        self.exchange_ms.filter(|ms| *ms > 0.0).map(|ms| (waited / ms).min(1.0))
    }
}

/// Median, 10th and 90th percentile (nearest rank).
fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values.get(((values.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(f64::NAN);
    [at(0.5), at(0.1), at(0.9)]
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantiles_of_a_hundred() {
        assert_eq!(super::quantiles((0..=100).rev().map(f64::from).collect()), [50.0, 10.0, 90.0]);
    }
}
