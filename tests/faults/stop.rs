//! Asked to stop: whoever is asked, by which signal, and whatever the run is doing, all ranks stop after the same step with a
//! checkpoint, and the same command continues to the same bits.

use crate::kills::same;
use crate::process::{ALONE, Job, start_alone_with, start_parts};
use crate::sandbox::{Run, Sandbox, timeless, train_args};
use std::time::{Duration, Instant};

/// Far more than it takes to finish a step and to write a checkpoint, on a busy machine too.
const SOON: Duration = Duration::from_secs(60);

/// Adam's moments, log-variances, projections drawn at random, dropout, a best score; no end in sight.
const ENDLESS: [&str; 6] = [
    "optim={adamw: {lr: 0.01}}",
    "balance={weighting: {uncertainty: {lr: 0.1}}, surgery: pcgrad}",
    "model.encoder.mlp.dropout=0.3",
    "train.eval_every_steps=7",
    "checkpoint.every=5",
    "train.steps=1000000",
];

/// A run that is stopped again and again.
struct Case {
    sandbox: Sandbox,
    ranks: usize,
    set: Vec<&'static str>,
    run: Run,
}

impl Case {
    fn new(ranks: usize, set: &[&'static str]) -> Case {
        let sandbox = Sandbox::new();
        let run = sandbox.run("stopped");
        Case { sandbox, ranks, set: [&ENDLESS, set].concat(), run }
    }

    fn start(&self) -> Job {
        self.sandbox.start(self.ranks, "stopped", &self.set)
    }

    /// With faults armed.
    fn start_with(&self, fault: &str) -> Job {
        let (dir, args) = (self.sandbox.path(""), train_args("stopped", &self.set));
        match self.ranks {
            ALONE => start_alone_with(&dir, ("POLYTASK_FAULT", fault), &args),
            ranks => {
                let (ranks, fault) = (ranks.to_string(), format!("POLYTASK_FAULT={fault}"));
                start_parts(&dir, &[(&["-n", &ranks, "-x", &fault], &args)])
            }
        }
    }

    /// Starts, and waits until some more steps are done.
    fn started(&self) -> Job {
        let (mut job, from) = (self.start(), self.run.last_step());
        job.until(|| self.run.last_step() >= from + 3);
        job
    }

    /// The job has stopped as it should; after which step.
    #[track_caller]
    fn has_stopped(&self, job: Job) -> u64 {
        let output = job.wait_for(SOON).exits_with(75);
        assert!(!output.stderr.contains("error:"), "{output}");
        let step = self.run.latest().step;
        assert_eq!(self.steps(), (1..=step).collect::<Vec<_>>(), "records up to the checkpoint, and no further");
        let summary = self.run.json("summary.json");
        assert_eq!((&summary["status"], &summary["steps"]), (&"stopped".into(), &step.into()));
        step
    }

    fn steps(&self) -> Vec<u64> {
        let records = self.run.metrics();
        records.iter().filter(|line| line["kind"] == "train").filter_map(|line| line["step"].as_u64()).collect()
    }

    /// Trains some steps more, and the same in one go: no difference.
    #[track_caller]
    fn continues_exactly(&self) {
        let end = format!("train.steps={}", self.run.latest().step + 9);
        let set = [&self.set[..], &[&end]].concat();
        self.sandbox.train(self.ranks, "stopped", &set);
        let whole = self.sandbox.train(self.ranks, "whole", &set);
        same(&self.run.latest(), &whole.latest());
        let records = |run: &Run| run.metrics().iter().map(timeless).collect::<Vec<_>>();
        assert_eq!(records(&self.run), records(&whole));
    }
}

#[test]
fn a_single_process_is_stopped_by_each_signal() {
    let case = Case::new(ALONE, &[]);
    for signal in ["USR1", "USR2", "INT", "HUP"] {
        let job = case.started();
        job.signal(signal);
        case.has_stopped(job);
    }
    case.continues_exactly();
}

#[cfg(feature = "mpi")]
#[test]
fn each_signal_to_one_rank_stops_all_of_them() {
    let case = Case::new(2, &[]);
    for (rank, signal) in [(1, "USR1"), (0, "USR2"), (1, "TERM"), (0, "INT"), (1, "HUP")] {
        let job = case.started();
        job.signal_rank(rank, signal);
        case.has_stopped(job);
    }
    case.continues_exactly();
}

/// mpirun passes USR2 on. TERM, INT and HUP it answers by ending the ranks within two seconds, in which they may get to write
/// a checkpoint or not.
#[cfg(feature = "mpi")]
#[test]
fn each_signal_to_mpirun_ends_the_job_and_loses_little() {
    let case = Case::new(2, &[]);
    let job = case.started();
    job.signal("USR2");
    case.has_stopped(job);
    for signal in ["TERM", "INT", "HUP"] {
        let job = case.started();
        job.signal(signal);
        let output = job.wait_for(SOON);
        assert_ne!(output.code, Some(0), "{signal}: {output}");
        let (kept, last) = (case.run.latest().step, case.run.last_step());
        assert!(last <= kept + 10, "{signal}: {last} steps are done, {kept} are in the checkpoint");
    }
    case.continues_exactly();
}

#[cfg(feature = "mpi")]
#[test]
fn a_signal_before_the_first_step_stops_after_it() {
    let case = Case::new(2, &[]);
    // Listening, connected, and data still to be read: the lock comes just before.
    let lock = case.run.0.join("lock");
    let mut job = case.start_with("sleep=3@1:0");
    job.until(|| lock.metadata().is_ok_and(|file| file.len() > 0));
    job.signal_rank(1, "USR1");
    assert_eq!(case.has_stopped(job), 1);
    case.continues_exactly();
}

#[cfg(feature = "mpi")]
#[test]
fn a_signal_during_an_evaluation_lets_it_finish() {
    let case = Case::new(2, &["train.eval_every_steps=4", "train.eval_batch=1", "checkpoint.every=1000"]);
    for file in ["one.csv", "two.csv"] {
        let text = case.sandbox.read(file);
        let (head, rows) = text.split_once('\n').expect("a head");
        case.sandbox.write(file, &format!("{head}\n{}", rows.repeat(50)));
    }
    let mut job = case.start();
    job.until(|| case.run.last_step() >= 4);
    job.signal("USR1");
    let step = case.has_stopped(job);
    assert!([4, 5].contains(&step), "stopped after step {step}");
    let evaluations = case.run.metrics().iter().filter(|line| line["kind"] == "eval" && line["split"] == "val").count();
    assert_eq!(evaluations, 1, "it is whole, and none has begun since");
    case.continues_exactly();
}

#[cfg(feature = "mpi")]
#[test]
fn a_signal_during_a_checkpoint_stops_with_another_one() {
    // Large enough to be seen while it is written.
    let case = Case::new(2, &["model.encoder.mlp.widths=[400, 400]", "checkpoint.every=3"]);
    let root = case.run.0.join("checkpoints");
    let is_writing = || {
        let names = std::fs::read_dir(&root).into_iter().flatten().flatten();
        names.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".tmp-step_"))
    };
    let mut job = case.start();
    job.until(is_writing);
    job.signal("USR1");
    let step = case.has_stopped(job);
    assert!(step >= 3 && !is_writing(), "stopped after step {step}");
    case.continues_exactly();
}

/// Asleep in a step, the run cannot answer the first signal.
#[test]
fn a_second_signal_stops_a_single_process_at_once() {
    for signals in [["INT", "INT"], ["TERM", "TERM"], ["TERM", "INT"]] {
        let case = Case::new(ALONE, &["train.eval_every_steps=1000"]);
        let mut job = case.start_with("sleep=100@3:0");
        job.until(|| case.run.last_step() >= 2);
        interrupt(&job, signals, Job::signal);
        let asked = Instant::now();
        job.wait_for(Duration::from_secs(20)).exits_with(130);
        println!("{signals:?}: gone after {:?}", asked.elapsed());
    }
}

#[cfg(feature = "mpi")]
#[test]
fn a_second_signal_to_one_rank_ends_the_job_at_once() {
    let case = Case::new(2, &["train.eval_every_steps=1000"]);
    let mut job = case.start_with("sleep=100@3:0");
    job.until(|| case.run.last_step() >= 2);
    interrupt(&job, ["TERM", "TERM"], |job, name| job.signal_rank(1, name));
    job.wait_for(Duration::from_secs(20)).exits_with(130);
}

/// Two signals; the system would make one of two that come together.
fn interrupt(job: &Job, signals: [&str; 2], send: impl Fn(&Job, &str)) {
    send(job, signals[0]);
    std::thread::sleep(Duration::from_millis(300));
    send(job, signals[1]);
}
