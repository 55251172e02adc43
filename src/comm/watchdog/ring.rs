//! What a rank has done lately: its operations, numbered per plane, in buffers of fixed length. Plain data with times
//! handed in, so that tests decide what time it is.

use std::collections::VecDeque;
use std::time::Duration;

/// Asks whether an enqueued operation is done; the error is why it never will be.
pub(super) type Poll = Box<dyn Fn() -> Result<bool, String> + Send>;

/// One operation. Times count from the start of the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Op {
    /// Number in its plane, from 1: the same on all ranks for the same operation.
    pub seq: u64,
    pub name: &'static str,
    pub bytes: u64,
    pub begun: Duration,
    pub ended: Option<Duration>,
}

/// Operations of one kind of communication, in the order in which all ranks call them.
pub(super) struct Plane {
    pub name: &'static str,
    /// Number of the last operation that this rank has entered; 0: none yet.
    pub entered: u64,
    pub ops: VecDeque<Op>,
    /// Enqueued operations that are not known to be done, oldest first.
    polls: VecDeque<(u64, Poll)>,
}

impl Plane {
    /// The oldest operation that has not ended.
    pub fn pending(&self) -> Option<&Op> {
        self.ops.iter().find(|op| op.ended.is_none())
    }
}

/// Where a rank is outside of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub step: u64,
    pub phase: &'static str,
    pub since: Duration,
}

/// All planes of a rank.
pub(super) struct Ring {
    pub planes: Vec<Plane>,
    pub place: Option<Place>,
    /// Operations begun and ended so far: stands still when nothing moves.
    pub moves: u64,
    capacity: usize,
}

impl Ring {
    /// Keeps the last `capacity` operations of each plane.
    pub fn new(capacity: usize) -> Ring {
        Ring { planes: Vec::new(), place: None, moves: 0, capacity: capacity.max(1) }
    }

    /// Notes that an operation begins; returns the index of its plane and its number there.
    pub fn begin(&mut self, plane: &'static str, name: &'static str, bytes: u64, now: Duration) -> (usize, u64) {
        let index = self.planes.iter().position(|p| p.name == plane).unwrap_or_else(|| self.add(plane));
        let plane = &mut self.planes[index];
        plane.entered += 1;
        if plane.ops.len() == self.capacity {
            plane.ops.pop_front();
        }
        plane.ops.push_back(Op { seq: plane.entered, name, bytes, begun: now, ended: None });
        self.moves += 1;
        (index, plane.entered)
    }

    fn add(&mut self, name: &'static str) -> usize {
        let ops = VecDeque::with_capacity(self.capacity);
        self.planes.push(Plane { name, entered: 0, ops, polls: VecDeque::new() });
        self.planes.len() - 1
    }

    /// Notes that an operation has ended; one that has left the buffer already is only counted.
    pub fn end(&mut self, plane: usize, seq: u64, now: Duration) {
        let ops = &mut self.planes[plane].ops;
        let at = ops.front().and_then(|first| seq.checked_sub(first.seq));
        if let Some(op) = at.and_then(|at| ops.get_mut(usize::try_from(at).ok()?)) {
            op.ended = Some(now);
        }
        self.moves += 1;
    }

    /// From now on the operation is done when `poll` says so.
    pub fn watch(&mut self, plane: usize, seq: u64, poll: Poll) {
        self.planes[plane].polls.push_back((seq, poll));
    }

    /// Takes the question after the oldest enqueued operation of a plane, to be asked without holding this buffer.
    pub fn take_poll(&mut self, plane: usize) -> Option<(u64, Poll)> {
        self.planes[plane].polls.pop_front()
    }

    /// Gives back a question whose answer was "not yet".
    pub fn keep_poll(&mut self, plane: usize, seq: u64, poll: Poll) {
        self.planes[plane].polls.push_front((seq, poll));
    }

    /// Takes all questions, so that the caller drops what they hold.
    pub fn take_all_polls(&mut self) -> Vec<(u64, Poll)> {
        self.planes.iter_mut().flat_map(|plane| std::mem::take(&mut plane.polls)).collect()
    }

    /// The operation that has been pending for longest: its plane and itself.
    pub fn oldest_pending(&self) -> Option<(&'static str, &Op)> {
        let pending = self.planes.iter().filter_map(|plane| Some((plane.name, plane.pending()?)));
        pending.min_by_key(|(_, op)| op.begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn planes_count_by_themselves_and_the_oldest_leave() {
        let mut ring = Ring::new(3);
        for i in 0..5 {
            let (plane, seq) = ring.begin("mpi", "all_reduce", 8 * i, ms(i));
            ring.end(plane, seq, ms(i + 1));
        }
        assert_eq!(ring.begin("nccl", "all_gather", 1, ms(9)), (1, 1));
        let mpi = &ring.planes[0];
        assert_eq!((mpi.entered, mpi.ops.iter().map(|op| op.seq).collect::<Vec<_>>()), (5, vec![3, 4, 5]));
        assert_eq!(mpi.ops[0], Op { seq: 3, name: "all_reduce", bytes: 16, begun: ms(2), ended: Some(ms(3)) });
        assert_eq!(ring.moves, 11);
    }

    #[test]
    fn the_longest_pending_operation_of_all_planes_is_found() {
        let mut ring = Ring::new(10);
        assert_eq!(ring.oldest_pending(), None);
        let first = ring.begin("mpi", "barrier", 0, ms(1));
        ring.begin("nccl", "broadcast", 4, ms(2));
        ring.begin("mpi", "all_reduce", 8, ms(3));
        assert_eq!(ring.oldest_pending().map(|(plane, op)| (plane, op.seq)), Some(("mpi", 1)));
        ring.end(first.0, first.1, ms(4));
        assert_eq!(ring.oldest_pending().map(|(plane, op)| (plane, op.seq)), Some(("nccl", 1)));
    }

    #[test]
    fn an_operation_that_ends_after_it_left_the_buffer_harms_nothing() {
        let mut ring = Ring::new(1);
        let gone = ring.begin("mpi", "barrier", 0, ms(1));
        let kept = ring.begin("mpi", "barrier", 0, ms(2));
        ring.end(gone.0, gone.1, ms(3));
        assert_eq!(ring.oldest_pending().map(|(_, op)| op.seq), Some(kept.1));
    }
}
