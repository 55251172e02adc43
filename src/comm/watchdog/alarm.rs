//! From a stuck operation to the end of the job: records are written, other ranks are woken, one rank says what is wrong.
//!
//! Any rank may be dead, stopped or without a disk at this point, so nothing here waits for another rank without a limit.

use super::Shared;
use super::culprit;
use super::flight::{self, Cause, Flight, Records};
use super::leave;
use crate::error::exit;
use crate::world::World;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// File by which a rank wakes the others.
const ALARM: &str = "alarm.json";

/// How long `MPI_Abort` may take before this process leaves by itself.
const ABORT: Duration = Duration::from_secs(2);

/// Writes this rank's record, gives the other ranks time to write theirs, and ends the job.
pub(super) fn raise(shared: &Arc<Shared>, cause: Cause) {
    let grace = grace(shared.options.deadline, shared.world);
    let worker = {
        let (shared, cause) = (shared.clone(), cause.clone());
        thread::Builder::new().name("watchdog-report".into()).spawn(move || report(&shared, cause, grace))
    };
    // The file system may be what hangs: then the job ends without records.
    let limit = Instant::now() + 3 * grace + 2 * ABORT;
    while let Ok(worker) = &worker
        && Instant::now() < limit
    {
        if worker.is_finished() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let flight = Flight::of(shared, cause);
    tell(shared, &[flight], Some("flight records could not be written in time"));
}

/// How long ranks have to write their records. File systems that are shared between nodes may show new files late (NFS:
/// half a minute), and a rank must not be taken for gone because of that.
fn grace(deadline: Duration, world: World) -> Duration {
    let least = Duration::from_secs(2).min(deadline);
    if world.local_size == world.size || leave::told() {
        least
    } else {
        (deadline / 20).clamp(least, Duration::from_secs(30))
    }
}

fn report(shared: &Shared, cause: Cause, grace: Duration) {
    let (dir, run) = (&shared.options.dir, &shared.run);
    let mine = Flight::of(shared, cause);
    if let Err(e) = mine.write(dir) {
        // Others cannot see this rank, and it may not see them: say what is known here.
        let words = format!("no flight record could be written into {}: {e}", dir.display());
        return tell(shared, &[mine], Some(&words));
    }
    if !is_raised(dir, run) {
        let text = serde_json::json!({ "run": run, "rank": shared.world.rank }).to_string();
        if let Err(e) = flight::write_whole(dir, ALARM, text.as_bytes()) {
            tracing::warn!("the watchdogs of other ranks could not be woken: {e}");
        }
    }
    let present = wait_for_records(shared, grace);
    if present.iter().position(|there| *there).is_some_and(|first| first < shared.world.rank) {
        // The lowest rank with a record speaks, and ends this process while it sleeps here; unless it has died since.
        thread::sleep(grace + ABORT);
    }
    let records = Records::read(dir, Some(run)).unwrap_or_default();
    match records.flights.is_empty() {
        true => tell(shared, &[mine], None),
        false => tell(shared, &records.flights, None),
    }
}

/// Waits until all ranks have written, at most for `grace`; which have.
fn wait_for_records(shared: &Shared, grace: Duration) -> Vec<bool> {
    let limit = Instant::now() + grace;
    let mut present = vec![false; shared.world.size];
    loop {
        for (rank, there) in present.iter_mut().enumerate() {
            *there = *there || flight::belongs(&flight::path(&shared.options.dir, rank), &shared.run);
        }
        if present.iter().all(|there| *there) || Instant::now() >= limit {
            return present;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Whether a rank of this job has raised the alarm.
pub(super) fn is_raised(dir: &Path, run: &str) -> bool {
    flight::belongs(&dir.join(ALARM), run)
}

/// Says who waits for whom, and ends the job.
fn tell(shared: &Shared, flights: &[Flight], lost: Option<&str>) {
    let seen_alone = lost.is_some() && shared.world.size > 1;
    let line = match culprit::judge(flights) {
        // Without the records of others nothing is known of them, least of all that they are gone.
        Some(_) if seen_alone => alone(&flights[0]),
        Some(verdict) => verdict.line,
        None => String::new(),
    };
    let lost = lost.map(|words| format!(" ({words})")).unwrap_or_default();
    let (dir, timeout) = (shared.options.dir.display(), shared.options.deadline.as_secs_f64());
    let several_nodes = shared.world.local_size < shared.world.size && flights.len() < shared.world.size;
    let nodes =
        if several_nodes { "; records of other nodes are seen only in a folder that all nodes share" } else { "" };
    if leave::told() {
        return (shared.end)(&format!(
            "error: watchdog: {line}{lost}\n  hint: SIGTERM has come before: if not from you, then because the launcher saw a \
             rank die; its own words above name the rank"
        ));
    }
    (shared.end)(&format!(
        "error: watchdog: {line}{lost}\n  hint: `polytask doctor --flight {dir}` shows what every rank did last; where a \
         rank may rightly take so long (a large checkpoint, slow storage), raise `comm.timeout` ({timeout} s){nodes}"
    ));
}

/// What one rank knows by itself.
fn alone(flight: &Flight) -> String {
    let only = Flight { size: 1, rank: 0, ..flight.clone() };
    let what = culprit::judge(&[only]).and_then(|verdict| verdict.at);
    let op = what.as_ref().and_then(|(plane, seq)| Some((plane, seq, flight.op(plane, *seq)?)));
    match op {
        Some((plane, seq, op)) => {
            format!(
                "rank {} has waited {} in {} ({plane} #{seq})",
                flight.rank,
                culprit::seconds(flight.age(op)),
                op.op
            )
        }
        None => format!("rank {} was woken by another rank", flight.rank),
    }
}

/// Prints, then ends the whole job: through MPI, or by leaving, which launchers answer by ending the others. NCCL is left
/// alone: aborting it may hang, and the driver cleans up behind a process that is gone.
pub(super) fn end_job(words: &str) {
    let words = words.to_owned();
    // Standard error may be a pipe that nobody reads, and MPI may hang.
    try_for(Duration::from_secs(1), move || drop(writeln!(std::io::stderr(), "{words}")));
    #[cfg(feature = "mpi")]
    try_for(ABORT, || crate::comm::mpi::abort_if_connected(exit::BUG));
    signal_hook::low_level::exit(exit::BUG.into())
}

/// Runs `body` on a thread of its own and goes on when it is done, or after `limit`.
fn try_for(limit: Duration, body: impl FnOnce() + Send + 'static) {
    let limit = Instant::now() + limit;
    if let Ok(thread) = thread::Builder::new().spawn(body) {
        while !thread.is_finished() && Instant::now() < limit {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
