//! What rank 0 prints: a header, progress, a line per evaluation, a table at the end.

mod report;
pub mod table;
pub mod terminal;

use self::table::{clock, count, number};
use super::{EvalRecord, RunInfo, Summary, TaskInfo, TrainRecord};
use console::measure_text_width;
use indicatif::ProgressBar;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Shortest time between two plain progress lines.
const QUIET: Duration = Duration::from_secs(2);

/// Prints a run. Printing never fails: who closes the pipe does not stop the training.
pub struct Console {
    out: Box<dyn Write + Send>,
    bar: Option<ProgressBar>,
    width: usize,
    tasks: Vec<TaskInfo>,
    total_steps: u64,
    /// Steps done when this session started.
    first_step: u64,
    started: Instant,
    last_line: Option<Instant>,
}

impl Console {
    /// The terminal, with a progress bar where there is one.
    pub fn terminal(info: &RunInfo, resume_step: Option<u64>) -> Console {
        let bar = terminal::bar(info.total_steps, resume_step.unwrap_or(0));
        Console { bar, ..Console::plain(Box::new(terminal::Stdout), terminal::width(), info, resume_step) }
    }

    /// Plain lines, to anything.
    pub fn plain(out: Box<dyn Write + Send>, width: usize, info: &RunInfo, resume_step: Option<u64>) -> Console {
        Console {
            out,
            bar: None,
            width,
            tasks: info.tasks.clone(),
            total_steps: info.total_steps,
            first_step: resume_step.unwrap_or(0),
            started: Instant::now(),
            last_line: None,
        }
    }

    /// Says what is about to run.
    pub fn header(&mut self, info: &RunInfo, run_dir: &Path) {
        let plural = |n: usize, word: &str| format!("{} {word}{}", count(n as u64), if n == 1 { "" } else { "s" });
        let (shared, private) = (info.n_params_shared, info.n_params_private);
        let facts = [
            format!("polytask {}", env!("CARGO_PKG_VERSION")),
            format!("run {}", info.name),
            plural(info.tasks.len(), "task"),
            format!("{} shared + {} task parameters", count(shared), count(private)),
            plural(info.world_size, "rank"),
            info.device.clone(),
        ];
        self.say(&facts.join(" · "));
        self.say(&format!("writing to {}", run_dir.display()));
        if self.first_step > 0 {
            self.say(&format!("continuing after step {} of {}", self.first_step, self.total_steps));
        }
    }

    /// Moves the progress bar, or prints a line if the last one is long enough ago.
    pub fn train(&mut self, record: &TrainRecord) {
        let skipped = if record.skipped > 0 { format!("  skipped {}", record.skipped) } else { String::new() };
        let loss = number(mean(record.loss.iter().flatten().copied()));
        let speed = count(record.samples_per_s.max(0.0).round() as u64);
        if let Some(bar) = &self.bar {
            bar.set_position(record.step);
            bar.set_message(format!("epoch {:.1}  loss {loss}  {speed} samples/s{skipped}", record.epoch));
            return;
        }
        let last = record.step >= self.total_steps;
        if !last && self.last_line.is_some_and(|line| line.elapsed() < QUIET) {
            return;
        }
        self.last_line = Some(Instant::now());
        let (step, eta, lr) = (self.step(record.step), self.eta(record.step), number(Some(record.lr)));
        let epoch = record.epoch;
        self.say(&format!("{step}  epoch {epoch:6.2}  loss {loss}  lr {lr}  {speed} samples/s  eta {eta}{skipped}"));
    }

    /// Prints an evaluation on one line: every task's first metric, or where that gets too wide, mean and worst.
    pub fn eval(&mut self, record: &EvalRecord) {
        let best = if record.best { " best" } else { "     " };
        let head = format!(
            "{}  epoch {:6.2}  {:4} score {}{best}",
            self.step(record.step),
            record.epoch,
            record.split,
            number(record.score)
        );
        let tail = format!("  ({:.1} s)", record.seconds);
        let room = self.width.saturating_sub(measure_text_width(&head) + measure_text_width(&tail));
        let full = each_task(record);
        let middle = if measure_text_width(&full) <= room { full } else { self.extremes(record) };
        self.say(&format!("{head}{middle}{tail}"));
    }

    /// Prints anything.
    pub fn say(&mut self, text: &str) {
        // A closed pipe must not stop a run.
        let _ = self.out.write_all(format!("{text}\n").as_bytes());
    }

    /// Ends the progress bar and prints the table of results.
    pub fn finish(&mut self, summary: &Summary) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let text = report::report(summary, self.width);
        self.say(text.trim_end());
    }

    fn step(&self, step: u64) -> String {
        let digits = self.total_steps.to_string().len();
        format!("step {step:digits$}/{}", self.total_steps)
    }

    fn eta(&self, step: u64) -> String {
        let done = step.saturating_sub(self.first_step).max(1);
        let left = self.total_steps.saturating_sub(step);
        clock(self.started.elapsed().as_secs_f64() / done as f64 * left as f64)
    }

    /// Mean and worst task of every metric that is some task's first.
    fn extremes(&self, record: &EvalRecord) -> String {
        let mut groups: Vec<(&str, Vec<(&str, f64)>)> = Vec::new();
        for (task, name, value) in firsts(record).filter_map(|(t, n, v)| Some((t, n, v?))) {
            match groups.iter_mut().find(|(metric, _)| *metric == name) {
                Some((_, tasks)) => tasks.push((task, value)),
                None => groups.push((name, vec![(task, value)])),
            }
        }
        let group = |(metric, tasks): &(&str, Vec<(&str, f64)>)| {
            let sign = if self.higher_is_better(metric) { 1.0 } else { -1.0 };
            let worst = tasks.iter().min_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)))?;
            let mean = number(mean(tasks.iter().map(|(_, value)| *value)));
            Some(format!("  {metric} mean {mean} worst {} {}", number(Some(worst.1)), worst.0))
        };
        groups.iter().filter_map(group).collect()
    }

    fn higher_is_better(&self, metric: &str) -> bool {
        let mut known = self.tasks.iter().flat_map(|task| &task.metrics);
        known.find(|m| m.name() == metric).is_none_or(|m| m.higher_is_better())
    }
}

fn each_task(record: &EvalRecord) -> String {
    firsts(record).map(|(task, metric, value)| format!("  {task} {metric} {}", number(value))).collect()
}

/// Every task's first metric.
fn firsts(record: &EvalRecord) -> impl Iterator<Item = (&str, &str, Option<f64>)> {
    record
        .metrics
        .iter()
        .filter_map(|(task, metrics)| metrics.first().map(|(name, value)| (task.as_str(), name.as_str(), *value)))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0u32), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

#[cfg(test)]
mod tests;
