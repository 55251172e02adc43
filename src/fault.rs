//! Fault injection: what `POLYTASK_FAULT` breaks on purpose, so that tests can prove how failures end. The form and the
//! kinds are described in `docs/faults.md`.

use crate::checkpoint::Point;
use crate::comm::watchdog::skip_next_all_reduce;
use crate::error::{Error, Result};
use crate::world::World;
use signal_hook::consts::{SIGKILL, SIGSEGV, SIGSTOP};
use signal_hook::low_level;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The variable that arms faults.
pub const VARIABLE: &str = "POLYTASK_FAULT";

/// In place of a step: the world is connected, and nothing has been loaded.
pub const START: u64 = 0;
/// In place of a step: all is done and on the disk, and the ranks are about to part.
pub const END: u64 = u64::MAX;

const KINDS: &str = "`kill`, `segfault`, `abort`, `panic`, `exit0`, `exit1`, `error`, `leave`, `stop`, `sleep=SECONDS`, `skip`, `ckpt:POINT`, `nan=TASK`, `spike=TASK`";

/// One fault: what happens, at the start of which step (from 1, or [`START`] or [`END`]) or in writing its checkpoint, on
/// which rank.
#[derive(Debug, Clone, PartialEq)]
struct Fault {
    kind: Kind,
    step: u64,
    rank: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// SIGKILL, as the kernel does it when memory is short.
    Kill,
    Segfault,
    Abort,
    Panic,
    /// The process ends with this code, without a word to MPI.
    Exit(i32),
    /// An error that the rank knows to be its own.
    Error,
    /// An error that the rank wrongly takes for one that all ranks share: it leaves in an orderly way.
    Leave,
    /// SIGSTOP: neither dead nor alive.
    Stop,
    Sleep(Duration),
    /// The next small sum is left out.
    Skip,
    /// SIGKILL at an instant of writing the checkpoint of the step: when it comes for this time, from 1.
    Write(Point, u64),
    /// Bad numbers of a task during the step.
    Numbers(String, BadNumbers),
}

/// What becomes of a task's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadNumbers {
    /// The gradient is NaN; the loss is what it was.
    Nan,
    /// Loss and gradient are a million times larger.
    Spike,
}

static ARMED: OnceLock<Vec<Fault>> = OnceLock::new();

/// The step that is being worked on, from 1.
static STEP: AtomicU64 = AtomicU64::new(0);

/// Arms the faults of the variable's text for the rest of the process; `None` or blank: none.
///
/// # Errors
/// [`Error::Usage`] for a text that is no list of faults, or names a rank that does not exist.
pub fn arm(text: Option<&str>, world: World) -> Result<()> {
    let entries = text.unwrap_or_default().split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let faults: Vec<Fault> = entries.map(|entry| parse(entry, world)).collect::<Result<_>>()?;
    if !faults.is_empty() {
        if world.is_main() {
            tracing::warn!("{VARIABLE} is set: this run will break on purpose");
        }
        ARMED.get_or_init(|| faults);
    }
    Ok(())
}

fn parse(entry: &str, world: World) -> Result<Fault> {
    let refuse = |why: String| {
        Err(Error::Usage(format!(
            "{VARIABLE}: `{entry}`: {why}\n  hint: the form is kind@step:rank, as in `kill@10:1`"
        )))
    };
    let Some((kind, (step, rank))) = entry.split_once('@').and_then(|(kind, at)| Some((kind, at.split_once(':')?)))
    else {
        return refuse("not a fault".into());
    };
    let (name, value) = kind.split_once('=').map_or((kind, None), |(name, value)| (name, Some(value)));
    let kind = match (name, value) {
        ("kill", None) => Kind::Kill,
        ("segfault", None) => Kind::Segfault,
        ("abort", None) => Kind::Abort,
        ("panic", None) => Kind::Panic,
        ("exit0", None) => Kind::Exit(0),
        ("exit1", None) => Kind::Exit(1),
        ("error", None) => Kind::Error,
        ("leave", None) => Kind::Leave,
        ("stop", None) => Kind::Stop,
        ("skip", None) => Kind::Skip,
        ("nan", Some(task)) => Kind::Numbers(task.into(), BadNumbers::Nan),
        ("spike", Some(task)) => Kind::Numbers(task.into(), BadNumbers::Spike),
        _ if name.starts_with("ckpt:") => match write(&name["ckpt:".len()..], value) {
            Ok(kind) => kind,
            Err(why) => return refuse(why),
        },
        ("sleep", Some(seconds)) => match seconds.parse().map(Duration::try_from_secs_f64) {
            Ok(Ok(time)) => Kind::Sleep(time),
            _ => return refuse(format!("`{seconds}` is no number of seconds")),
        },
        _ => return refuse(format!("no fault is called `{kind}`, expected {KINDS}")),
    };
    let Some(step) = moment(step) else {
        return refuse(format!("`{step}` is no step; the first one is 1, and there are `start` and `end`"));
    };
    match rank.parse() {
        Ok(rank) if rank < world.size => Ok(Fault { kind, step, rank }),
        _ => refuse(format!("there is no rank `{rank}` in a world of {}", world.size)),
    }
}

fn moment(step: &str) -> Option<u64> {
    match step {
        "start" => Some(START),
        "end" => Some(END),
        _ => step.parse().ok().filter(|step| (START + 1..END).contains(step)),
    }
}

/// `POINT` and `POINT=N`.
fn write(point: &str, nth: Option<&str>) -> std::result::Result<Kind, String> {
    let names = || Point::ALL.map(|p| format!("`{}`", p.name())).join(", ");
    let found = Point::ALL.into_iter().find(|p| p.name() == point);
    let found = found.ok_or_else(|| format!("no instant of writing is called `{point}`, expected {}", names()))?;
    match nth.map_or(Ok(1), str::parse) {
        Ok(nth) if nth > 0 => Ok(Kind::Write(found, nth)),
        _ => Err(format!("`{}` is no number of times", nth.unwrap_or_default())),
    }
}

/// Lets happen what is armed for the `nth` time of this instant in writing the checkpoint of this step. Never returns if
/// something is.
pub fn strike_writing(step: u64, point: Point, nth: u64, world: World) {
    let armed = ARMED.get().into_iter().flatten();
    let here = |fault: &&Fault| (fault.step, fault.rank) == (step, world.rank) && fault.kind == Kind::Write(point, nth);
    armed.filter(here).for_each(|_| signal(SIGKILL));
}

/// Lets happen what is armed for the start of this step (from 1, or [`START`] or [`END`]) on this rank.
///
/// # Errors
/// Those of the kinds `error` and `leave`.
///
/// # Panics
/// On `panic`.
pub fn strike(step: u64, world: World) -> Result<()> {
    STEP.store(step, Ordering::Relaxed);
    let armed = ARMED.get().into_iter().flatten();
    armed.filter(|fault| fault.step == step && fault.rank == world.rank).try_for_each(Fault::happen)
}

/// Tasks whose numbers are to be bad in some step on this rank.
///
/// # Errors
/// [`Error::Usage`] for a task, on any rank, that is not among `tasks`.
pub fn tasks_with_bad_numbers(tasks: &[String], world: World) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for fault in ARMED.get().into_iter().flatten() {
        let Kind::Numbers(task, _) = &fault.kind else { continue };
        let Some(index) = tasks.iter().position(|name| name == task) else {
            let names: Vec<String> = tasks.iter().map(|name| format!("`{name}`")).collect();
            let hint = format!("hint: the tasks are {}", names.join(", "));
            return Err(Error::Usage(format!("{VARIABLE}: no task is called `{task}`\n  {hint}")));
        };
        if fault.rank == world.rank && !found.contains(&index) {
            found.push(index);
        }
    }
    Ok(found)
}

/// What is to become of a task's numbers in the step that is being worked on, on this rank.
pub fn bad_numbers(task: &str, world: World) -> Option<BadNumbers> {
    let here = (STEP.load(Ordering::Relaxed), world.rank);
    ARMED.get().into_iter().flatten().find_map(|fault| match &fault.kind {
        Kind::Numbers(name, how) if name == task && (fault.step, fault.rank) == here => Some(*how),
        _ => None,
    })
}

impl Fault {
    fn happen(&self) -> Result<()> {
        let words = || match self.step {
            START => format!("{VARIABLE} at the start"),
            END => format!("{VARIABLE} at the end"),
            step => format!("{VARIABLE} at the start of step {step}"),
        };
        match &self.kind {
            Kind::Kill => signal(SIGKILL),
            // The first one meets a handler that expects the faulty instruction to be tried again.
            Kind::Segfault => (0..10).for_each(|_| signal(SIGSEGV)),
            Kind::Abort => low_level::abort(),
            Kind::Panic => panic!("{}", words()),
            Kind::Exit(code) => low_level::exit(*code),
            Kind::Error => return Err(Error::Io { path: words(), source: std::io::Error::other("injected") }),
            Kind::Leave => return Err(Error::Usage(format!("{}: injected", words()))),
            Kind::Stop => signal(SIGSTOP),
            Kind::Sleep(time) => std::thread::sleep(*time),
            Kind::Skip => skip_next_all_reduce(),
            // Not at the start of a step: `strike_writing`, `bad_numbers`.
            Kind::Write(..) | Kind::Numbers(..) => {}
        }
        Ok(())
    }
}

fn signal(number: i32) {
    if let Err(e) = low_level::raise(number) {
        tracing::error!("{VARIABLE}: signal {number} cannot be raised: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: World = World { rank: 0, size: 3, local_rank: 0, local_size: 3 };

    #[test]
    fn a_fault_is_a_kind_a_step_and_a_rank() {
        let fault = |kind, step, rank| Fault { kind, step, rank };
        assert_eq!(parse("kill@10:1", THREE).unwrap(), fault(Kind::Kill, 10, 1));
        assert_eq!(parse("exit1@1:0", THREE).unwrap(), fault(Kind::Exit(1), 1, 0));
        assert_eq!(parse("abort@start:2", THREE).unwrap(), fault(Kind::Abort, START, 2));
        assert_eq!(parse("kill@end:0", THREE).unwrap(), fault(Kind::Kill, END, 0));
        assert_eq!(parse("sleep=1.5@2:2", THREE).unwrap(), fault(Kind::Sleep(Duration::from_millis(1500)), 2, 2));
        assert_eq!(parse("nan=a.b@4:2", THREE).unwrap(), fault(Kind::Numbers("a.b".into(), BadNumbers::Nan), 4, 2));
        assert_eq!(parse("spike=a@4:2", THREE).unwrap(), fault(Kind::Numbers("a".into(), BadNumbers::Spike), 4, 2));
        assert_eq!(parse("ckpt:renamed@4:0", THREE).unwrap(), fault(Kind::Write(Point::Renamed, 1), 4, 0));
        assert_eq!(parse("ckpt:file_filled=3@4:1", THREE).unwrap(), fault(Kind::Write(Point::FileFilled, 3), 4, 1));
    }

    #[test]
    fn what_is_no_fault_is_refused_with_its_words() {
        for (text, expected) in [
            ("kill", "POLYTASK_FAULT: `kill`: not a fault"),
            ("kill@1", "`kill@1`: not a fault"),
            ("kil@1:0", "no fault is called `kil`, expected `kill`, `segfault`"),
            ("kill=3@1:0", "no fault is called `kill=3`"),
            ("nan@1:0", "no fault is called `nan`"),
            ("sleep@1:0", "no fault is called `sleep`"),
            ("sleep=-1@1:0", "`-1` is no number of seconds"),
            ("sleep=nan@1:0", "`nan` is no number of seconds"),
            ("stop@0:0", "`0` is no step; the first one is 1, and there are `start` and `end`"),
            ("stop@18446744073709551615:0", "`18446744073709551615` is no step"),
            ("stop@1:3", "there is no rank `3` in a world of 3"),
            ("ckpt:rename@4:0", "no instant of writing is called `rename`, expected `temp_made`, `file_filled`"),
            ("ckpt:renamed=0@4:0", "`0` is no number of times"),
            ("ckpt@4:0", "no fault is called `ckpt`"),
            ("skip@2:1, stop@x:1", "`stop@x:1`: `x` is no step"),
        ] {
            let error = arm(Some(text), THREE).unwrap_err();
            assert!(matches!(error, Error::Usage(_)) && error.to_string().contains(expected), "{text}: {error}");
            assert!(error.to_string().ends_with("hint: the form is kind@step:rank, as in `kill@10:1`"), "{error}");
        }
        assert!(arm(None, THREE).is_ok() && arm(Some(" "), THREE).is_ok());
        assert!(ARMED.get().is_none(), "nothing was armed");
    }

    #[test]
    fn errors_are_told_as_local_or_as_shared() {
        let happen = |kind| Fault { kind, step: 7, rank: 0 }.happen();
        assert!(happen(Kind::Sleep(Duration::ZERO)).is_ok());
        let (local, shared) = (happen(Kind::Error).unwrap_err(), happen(Kind::Leave).unwrap_err());
        assert!(local.is_local() && !shared.is_local());
        assert_eq!(local.to_string(), "POLYTASK_FAULT at the start of step 7: injected");
    }
}
