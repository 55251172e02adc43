//! A rank that ends, in whatever way and whenever: the job is over within seconds, is no success, says why, and continues
//! to the bits of a run that nothing has happened to.

use crate::sandbox::{Run, Sandbox};
use std::time::{Duration, Instant, SystemTime};

/// From the death of a rank to the end of its job, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Of the start of three jobs beside each other, where that counts too.
const START: Duration = Duration::from_secs(20);
const SET: [&str; 2] = ["checkpoint.every=2", "train.steps=8"];

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    Start,
    Middle,
    End,
}

impl Moment {
    const ALL: [Moment; 3] = [Moment::Start, Moment::Middle, Moment::End];

    fn step(self) -> &'static str {
        match self {
            Moment::Start => "start",
            Moment::Middle => "5",
            Moment::End => "end",
        }
    }

    /// The rank that dies: not the same one always.
    fn rank(self) -> usize {
        usize::from(self != Moment::End)
    }

    /// As messages call it.
    fn words(self) -> &'static str {
        match self {
            Moment::Start => "at the start",
            Moment::Middle => "at the start of step 5",
            Moment::End => "at the end",
        }
    }
}

/// How long the job lived on: the last thing that every job does before these faults is to write these files.
fn lived_on(run: &Run, moment: Moment, began: Instant) -> Duration {
    let file = match moment {
        Moment::Start => return began.elapsed(),
        Moment::Middle => "metrics.jsonl",
        Moment::End => "summary.json",
    };
    let written = std::fs::metadata(run.0.join(file)).and_then(|file| file.modified());
    let written = written.unwrap_or_else(|e| panic!("{file}: {e}"));
    SystemTime::now().duration_since(written).unwrap_or_default()
}

/// A kind of death, and what the job says about it.
#[track_caller]
fn dies(kind: &str, said: impl Fn(Moment) -> String + Sync) {
    let sandbox = Sandbox::new();
    let whole = sandbox.train(2, "whole", &SET);
    // Only a rank that hangs is a matter of time.
    let timeout = if kind == "stop" { 5 } else { 600 };
    let prove = &|moment: Moment| {
        let (name, rank) = (format!("{kind}-{}", moment.step()), moment.rank());
        let run = sandbox.run(&name);
        let began = Instant::now();
        let fault = format!("{kind}@{}:{rank}", moment.step());
        let set = SET.map(|value| format!(" --set {value}")).concat();
        let output = sandbox.shell(&format!(
            "POLYTASK_FAULT={fault} exec mpirun --oversubscribe --bind-to none -n 2 $polytask train config.yaml --set \
             run.dir=runs/{name} --set comm.timeout={timeout}{set}"
        ));
        let took = lived_on(&run, moment, began);
        println!("{kind} of rank {rank} {}: over after {took:.1?}", moment.words());
        assert_ne!(output.code, Some(0), "{output}");
        let limit = AT_ONCE + if moment == Moment::Start { START } else { Duration::ZERO };
        assert!(took < limit, "{took:?}: {output}");
        let said = said(moment);
        assert!(output.stderr.contains(&said), "`{said}` is missing\n{output}");

        sandbox.train(2, &name, &SET);
        assert_eq!(run.latest().tensors, whole.latest().tensors, "{name}");
    };
    // Side by side: most of the time goes into waiting for launchers.
    std::thread::scope(|scope| Moment::ALL.into_iter().for_each(|moment| drop(scope.spawn(move || prove(moment)))));
}

#[test]
fn killed() {
    dies("kill", |_| "signal 9".into());
}

#[test]
fn crashed() {
    dies("segfault", |_| "signal 11".into());
}

#[test]
fn aborted() {
    dies("abort", |_| "signal 6".into());
}

/// MPI calls it an abnormal end, whatever the code.
#[test]
fn gone_without_a_word() {
    dies("exit0", |_| "exited".into());
    dies("exit1", |_| "exit".into());
}

#[test]
fn panicked() {
    dies("panic", |moment| format!("POLYTASK_FAULT {}", moment.words()));
}

#[test]
fn failed() {
    dies("error", |moment| format!("error: POLYTASK_FAULT {}: injected", moment.words()));
}

/// Not dead, and of no use: the watchdog of the other rank sees to it.
#[test]
fn stopped() {
    dies("stop", |moment| {
        format!("error: watchdog: rank {} wrote nothing: it is stopped, or its node is gone", moment.rank())
    });
}
