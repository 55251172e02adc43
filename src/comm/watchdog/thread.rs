//! The thread that watches: it asks after enqueued operations, looks at the clock, and looks out for alarms of other ranks.

use super::flight::Cause;
use super::ring::Ring;
use super::{Shared, alarm, leave};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest time between two looks.
const PERIOD: Duration = Duration::from_millis(250);

/// Nothing has to have moved for this long before files of other ranks are looked for: file systems are shared.
const STILL: Duration = Duration::from_secs(3);

/// Least time that this thread must have been away to conclude that the whole process was suspended.
const SUSPENDED: Duration = Duration::from_millis(2500);

/// Watches until the last handle is gone, or something is wrong, which ends the job.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut watch = Watch::new(shared.options.deadline, shared.now());
    let lookout = Arc::new(Lookout::default());
    let mut is_looking = false;
    loop {
        std::thread::sleep(watch.period);
        if shared.stopped() {
            return;
        }
        let failed = ask(shared);
        let seen = match failed {
            Some(cause) => Seen::Stuck(cause),
            None => {
                watch.leaving = watch.leaving.or_else(|| leave::told().then(|| shared.now()));
                watch.look(shared.now(), &shared.ring())
            }
        };
        lookout.wanted.store(seen == Seen::Still, Ordering::Relaxed);
        if seen == Seen::Still && !is_looking {
            is_looking = Lookout::spawn(lookout.clone(), shared.clone());
        }
        match seen {
            Seen::Stuck(cause) => return alarm::raise(shared, cause),
            _ if lookout.found.load(Ordering::Relaxed) => return alarm::raise(shared, Cause::Alarm {}),
            _ => {}
        }
    }
}

/// Asks after enqueued operations, in order, until one of each plane is not done. The buffer is not held meanwhile.
fn ask(shared: &Shared) -> Option<Cause> {
    let planes = shared.ring().planes.len();
    for plane in 0..planes {
        loop {
            let Some((seq, poll)) = shared.ring().take_poll(plane) else { break };
            match poll() {
                Ok(true) => shared.ring().end(plane, seq, shared.now()),
                Ok(false) => {
                    shared.ring().keep_poll(plane, seq, poll);
                    break;
                }
                Err(reason) => {
                    return Some(Cause::Failed { plane: shared.ring().planes[plane].name.into(), seq, reason });
                }
            }
        }
    }
    None
}

/// What a look at the operations tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    /// Operations come and go.
    Moving,
    /// Nothing has moved for a while.
    Still,
    /// An operation has taken too long, or has failed.
    Stuck(Cause),
}

/// The clock's side of the watchdog.
pub(super) struct Watch {
    deadline: Duration,
    pub period: Duration,
    still: Duration,
    last_look: Duration,
    last_moves: u64,
    last_moved: Duration,
    /// No operation counts as having begun before.
    resumed: Duration,
    /// Since when this process knows that it is to go.
    pub leaving: Option<Duration>,
}

impl Watch {
    pub fn new(deadline: Duration, now: Duration) -> Watch {
        Watch {
            deadline,
            period: PERIOD.min(deadline / 8),
            still: STILL.min(deadline / 4),
            last_look: now,
            last_moves: 0,
            last_moved: now,
            resumed: Duration::ZERO,
            leaving: None,
        }
    }

    /// Judges what is pending now.
    pub fn look(&mut self, now: Duration, ring: &Ring) -> Seen {
        // This thread only sleeps: when it was away for long, so was everything here, and mostly the whole job.
        if now.saturating_sub(self.last_look) > SUSPENDED.max(10 * self.period) {
            self.resumed = now;
        }
        self.last_look = now;
        if ring.moves != self.last_moves {
            (self.last_moves, self.last_moved) = (ring.moves, now);
        }
        if let Some((plane, op)) = ring.oldest_pending() {
            let begun = op.begun.max(self.resumed);
            let hurry = self.leaving.zip(leave::patience(ring)).map(|(told, time)| begun.max(told) + time);
            if now >= hurry.unwrap_or(Duration::MAX).min(begun + self.deadline) {
                return Seen::Stuck(Cause::Expired { plane: plane.into(), seq: op.seq });
            }
        }
        if now.saturating_sub(self.last_moved) >= self.still { Seen::Still } else { Seen::Moving }
    }
}

/// Looks for the alarm file on a thread of its own: a file system that hangs must not stop the clock.
#[derive(Default)]
struct Lookout {
    wanted: AtomicBool,
    found: AtomicBool,
}

impl Lookout {
    /// Whether the thread could be started.
    fn spawn(lookout: Arc<Lookout>, shared: Arc<Shared>) -> bool {
        let body = move || {
            while !shared.stopped() && !lookout.found.load(Ordering::Relaxed) {
                if lookout.wanted.load(Ordering::Relaxed) && alarm::is_raised(&shared.options.dir, &shared.run) {
                    lookout.found.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(2 * PERIOD);
            }
        };
        std::thread::Builder::new().name("watchdog-files".into()).spawn(body).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::Place;
    use super::*;

    fn s(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    fn expired(plane: &str, seq: u64) -> Seen {
        Seen::Stuck(Cause::Expired { plane: plane.into(), seq })
    }

    /// Looks every 0.25 s until something is seen that is not `Moving` or `Still`.
    fn until_stuck(watch: &mut Watch, from: f64, ring: &Ring) -> (f64, Seen) {
        let times = (1..10_000).map(|i| from + 0.25 * f64::from(i));
        for at in times {
            let seen = watch.look(s(at), ring);
            if matches!(seen, Seen::Stuck(_)) {
                return (at, seen);
            }
        }
        panic!("nothing is ever stuck")
    }

    #[test]
    fn the_deadline_counts_from_entering_the_operation() {
        let mut ring = Ring::new(10);
        let mut watch = Watch::new(s(30.0), s(0.0));
        let (plane, seq) = ring.begin("mpi", "all_reduce", 8, s(1.0));
        assert_eq!(watch.look(s(1.5), &ring), Seen::Moving);
        ring.end(plane, seq, s(2.0));
        ring.begin("nccl", "all_gather", 8, s(2.0));
        ring.begin("mpi", "all_reduce", 8, s(2.1));
        assert_eq!(until_stuck(&mut watch, 1.5, &ring), (32.0, expired("nccl", 1)));
    }

    #[test]
    fn nothing_moving_for_a_while_is_told_from_being_stuck() {
        let ring = Ring::new(10);
        let mut watch = Watch::new(s(600.0), s(0.0));
        let seen: Vec<Seen> = (1..=14).map(|i| watch.look(s(0.25 * f64::from(i)), &ring)).collect();
        assert_eq!(seen[..11], vec![Seen::Moving; 11][..]);
        assert_eq!(
            seen[11..],
            vec![Seen::Still; 3][..],
            "after three seconds, and for as long as no operation is pending"
        );
    }

    #[test]
    fn a_process_that_was_suspended_gets_a_fresh_deadline() {
        let mut ring = Ring::new(10);
        let mut watch = Watch::new(s(30.0), s(0.0));
        ring.begin("mpi", "all_reduce", 8, s(0.1));
        assert_eq!(watch.look(s(0.25), &ring), Seen::Moving);
        assert!(!matches!(watch.look(s(3600.0), &ring), Seen::Stuck(_)), "the laptop slept for an hour");
        assert_eq!(until_stuck(&mut watch, 3600.0, &ring), (3630.0, expired("mpi", 1)));
    }

    #[test]
    fn after_a_sigterm_nobody_waits_for_the_deadline() {
        let mut ring = Ring::new(10);
        ring.place = Some(Place { step: 1, phase: "compute", since: s(0.0) });
        let mut watch = Watch::new(s(600.0), s(0.0));
        let (plane, seq) = ring.begin("mpi", "all_reduce", 8, s(1.0));
        ring.end(plane, seq, s(4.0));
        ring.begin("mpi", "all_reduce", 8, s(5.0));
        assert!(!matches!(watch.look(s(7.0), &ring), Seen::Stuck(_)));
        watch.leaving = Some(s(7.0));
        assert_eq!(until_stuck(&mut watch, 7.0, &ring), (13.0, expired("mpi", 2)), "twice 3 s after the signal");
    }

    #[test]
    fn a_thread_that_is_a_little_late_gives_no_grace() {
        let mut ring = Ring::new(10);
        let mut watch = Watch::new(s(3.0), s(0.0));
        ring.begin("mpi", "barrier", 0, s(0.1));
        watch.look(s(1.5), &ring);
        assert_eq!(watch.look(s(3.2), &ring), expired("mpi", 1));
    }
}
