//! Ranks that die, hang or go astray: the job ends in time, and says who it was.

use crate::process::{ALONE, Output};
use crate::sandbox::{Run, Sandbox};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// `comm.timeout` of these jobs, in seconds.
const TIMEOUT: u64 = 3;

/// A job with faults, and what came of it.
struct Broken {
    sandbox: Sandbox,
    output: Output,
    /// From the last training record to the end of the job.
    took: Duration,
}

/// Trains with a checkpoint after every step until the faults strike.
#[track_caller]
fn broken(ranks: usize, faults: &str) -> Broken {
    let sandbox = Sandbox::new();
    let output = sandbox.shell(&format!(
        "POLYTASK_FAULT={faults} exec mpirun --oversubscribe --bind-to none -n {ranks} $polytask train config.yaml --set \
         run.dir=runs/x --set checkpoint.every=1 --set train.steps=1000 --set comm.timeout={TIMEOUT}"
    ));
    let records = fs::metadata(sandbox.path("runs/x/metrics.jsonl")).and_then(|file| file.modified());
    let last = records.unwrap_or_else(|e| panic!("{faults}: no training record: {e}\n{output}"));
    let took = SystemTime::now().duration_since(last).unwrap_or_default();
    println!("{faults} on {ranks} ranks: ended after {took:.1?}");
    let broken = Broken { sandbox, output, took };
    broken.is_over();
    broken
}

/// Processes whose working directory lies in this folder.
fn processes_in(dir: &Path) -> Vec<String> {
    let dir = dir.canonicalize().expect("a folder");
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let inside = entries.filter(|e| fs::read_link(e.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&dir)));
    inside.map(|e| fs::read_to_string(e.path().join("cmdline")).unwrap_or_default()).collect()
}

impl Broken {
    /// In time, not as a success, with nothing left running, and with the checkpoints from before.
    #[track_caller]
    fn is_over(&self) {
        let output = &self.output;
        assert_ne!(output.code, Some(0), "{output}");
        assert!(self.took < Duration::from_secs(TIMEOUT + 5), "{:?}: {output}", self.took);
        let mut left = processes_in(&self.sandbox.path(""));
        for _ in 0..20 {
            if left.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            left = processes_in(&self.sandbox.path(""));
        }
        assert!(left.is_empty(), "still running: {left:?}\n{output}");
        let run: Run = self.sandbox.run("x");
        assert!(run.latest().step + 1 >= run.last_step(), "{output}");
    }

    /// The watchdog said this, and `doctor` finds the same in the records of these ranks.
    #[track_caller]
    fn was_ended_by_the_watchdog(self, line: &[&str], recorded: &[usize]) -> Sandbox {
        let output =
            self.output.exits_with(70).complains_once(&["error: watchdog: ", "hint: `polytask doctor --flight"]);
        let said = output.stderr.lines().find_map(|l| l.split("error: watchdog: ").nth(1)).expect("a line");
        for part in line {
            assert!(said.contains(part), "`{part}` is missing\n{output}");
        }
        let flight = self.sandbox.path("runs/x/flight");
        for rank in 0..4 {
            let there = flight.join(format!("flight_rank{rank}.json")).exists();
            assert_eq!(there, recorded.contains(&rank), "record of rank {rank}\n{output}");
        }
        let doctor = self.sandbox.polytask(ALONE, "doctor --flight runs/x/flight").exits_with(0);
        assert_eq!(doctor.stdout.lines().next(), Some(said), "{doctor}");
        self.sandbox
    }
}

#[test]
fn a_stopped_rank_is_named_and_does_not_survive() {
    broken(3, "stop@5:1").was_ended_by_the_watchdog(
        &[
            "rank 1 wrote nothing: it is stopped, or its node is gone; ranks 0, 2 have waited ",
            " s in all_reduce (mpi #",
        ],
        &[0, 2],
    );
    broken(2, "stop@3:0").was_ended_by_the_watchdog(&["rank 0 wrote nothing: ", "rank 1 has waited "], &[1]);
}

#[test]
fn a_rank_that_sleeps_is_named_with_its_place_and_the_run_can_go_on() {
    let sandbox = broken(3, "sleep=60@5:1").was_ended_by_the_watchdog(
        &[
            "rank 1 has not entered all_reduce (mpi #",
            "ranks 0, 2 have waited ",
            "; rank 1 was last seen in step 5, data",
        ],
        &[0, 1, 2],
    );
    let run = sandbox.train(3, "x", &["train.steps=8", "checkpoint.every=1"]);
    assert_eq!((run.latest().step, run.last_step()), (8, 8), "the same command continues");
}

#[test]
fn a_rank_that_skips_an_operation_is_named() {
    broken(3, "skip@5:2").was_ended_by_the_watchdog(
        &["rank 2 entered broadcast (mpi #", "ranks 0, 1 entered all_reduce (", "the ranks are out of step"],
        &[0, 1, 2],
    );
}

#[test]
fn a_rank_that_leaves_while_others_stay_is_named() {
    broken(2, "leave@5:1")
        .was_ended_by_the_watchdog(&["rank 1 entered finalize (mpi #", "but rank 0 entered"], &[0, 1]);
}

/// As `scontrol suspend` does it: for longer than the deadline.
#[test]
fn a_job_that_was_suspended_as_a_whole_goes_on() {
    let sandbox = Sandbox::new();
    let mut job = sandbox.start(2, "x", &["train.steps=1000000", &format!("comm.timeout={TIMEOUT}")]);
    let run = sandbox.run("x");
    job.until(|| run.last_step() >= 5);
    (0..2).for_each(|rank| job.signal_rank(rank, "STOP"));
    std::thread::sleep(Duration::from_secs(TIMEOUT + 1));
    (0..2).for_each(|rank| job.signal_rank(rank, "CONT"));
    let before = run.last_step();
    job.until(|| run.last_step() > before + 5);
    job.signal("USR1");
    job.wait_for(Duration::from_secs(20)).exits_with(75);
    assert!(!run.0.join("flight").exists());
}

#[test]
fn a_fault_that_is_none_is_refused() {
    let sandbox = Sandbox::new();
    let output = sandbox.shell("POLYTASK_FAULT=kil@1:0 $polytask train config.yaml").exits_with(2);
    output.complains_once(&["POLYTASK_FAULT: `kil@1:0`: no fault is called `kil`", "hint:"]);
    assert!(!sandbox.path("runs").exists());
}

#[test]
fn a_folder_without_records_is_told() {
    let sandbox = Sandbox::new();
    sandbox.write("flight_rank0.json", "{\"format\":1,");
    let output = sandbox.polytask(ALONE, "doctor --flight .").exits_with(3);
    assert!(output.stdout.contains("left out: flight_rank0.json is no flight record: EOF"), "{output}");
    assert!(output.stdout.contains(". holds no flight records"), "{output}");
    sandbox.polytask(ALONE, "doctor --flight nothing").exits_with(3).complains_once(&["nothing: No such file"]);
}
