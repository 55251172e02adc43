//! After SIGTERM: a rank that is told to go, and waits for one that is gone already, must not wait for the deadline.
//!
//! `srun` answers the death of a rank with SIGTERM to the others, which catch it to finish their step, and with SIGKILL
//! half a minute later. They would wait all that time for the dead one.

use super::ring::Ring;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Least time that an operation may go on after the signal.
const LEAST: Duration = Duration::from_secs(4);

static TOLD: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The flag that the handler of SIGTERM raises.
pub fn told_to_leave() -> Arc<AtomicBool> {
    TOLD.clone()
}

/// Whether SIGTERM has come.
pub(super) fn told() -> bool {
    TOLD.load(Ordering::Relaxed)
}

/// How long the oldest pending operation may go on after the signal: twice as long as any operation took so far, and a
/// few seconds at least. `None`: as long as ever, because ranks rightly wait for one that starts, writes or evaluates.
pub(super) fn patience(ring: &Ring) -> Option<Duration> {
    let in_step = ring.place.is_some_and(|place| matches!(place.phase, "data" | "compute"));
    let ops = ring.planes.iter().flat_map(|plane| &plane.ops);
    let longest = ops.filter_map(|op| Some(op.ended?.saturating_sub(op.begun))).max().unwrap_or_default();
    in_step.then(|| LEAST.max(2 * longest))
}

#[cfg(test)]
mod tests {
    use super::super::ring::Place;
    use super::*;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_operation_may_take_twice_as_long_as_the_longest_so_far() {
        let mut ring = Ring::new(10);
        assert_eq!(patience(&ring), None, "one may read a large checkpoint");
        ring.place = Some(Place { step: 1, phase: "data", since: s(0) });
        assert_eq!(patience(&ring), Some(LEAST));
        for (begun, ended) in [(0, 1), (10, 19), (20, 21)] {
            let (plane, seq) = ring.begin("mpi", "all_reduce", 8, s(begun));
            ring.end(plane, seq, s(ended));
        }
        ring.begin("mpi", "all_reduce", 8, s(22));
        assert_eq!(patience(&ring), Some(s(18)));
    }

    #[test]
    fn nobody_hurries_a_rank_that_writes_a_checkpoint() {
        let mut ring = Ring::new(10);
        for (phase, expected) in [("compute", Some(LEAST)), ("checkpoint", None), ("evaluation", None)] {
            ring.place = Some(Place { step: 3, phase, since: s(0) });
            assert_eq!(patience(&ring), expected, "{phase}");
        }
    }
}
