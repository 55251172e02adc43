//! Parameters that are on their way from other ranks while the next forward pass has begun.
//!
//! After a step each rank has new values for its blocks of the flat buffer, and the others' arrive by an exchange that runs
//! beside the computation. A forward pass waits, stage by stage, for what the stage needs; whoever asks for the buffer waits
//! for all of it. Nobody else may look at a parameter's values.

use std::cell::RefCell;
use std::collections::VecDeque;

/// What is on its way, in the order in which it arrives.
#[derive(Default)]
pub struct Arrivals {
    queue: RefCell<VecDeque<Arrival>>,
}

/// A part of the buffer.
struct Arrival {
    /// The first stage that needs it.
    stage: usize,
    /// Lets the computation wait for it, and for everything before it.
    join: Box<dyn FnOnce()>,
}

impl Arrivals {
    /// One more part, which arrives after all others; `stage` is the first that needs it. `join` lets all computation that
    /// follows wait for it; an exchange that fails is told by the next one.
    pub fn expect(&self, stage: usize, join: Box<dyn FnOnce()>) {
        self.queue.borrow_mut().push_back(Arrival { stage, join });
    }

    /// Waits for what stages up to this one need.
    pub fn until(&self, stage: usize) {
        let last = {
            let mut queue = self.queue.borrow_mut();
            let n = queue.iter().rposition(|arrival| arrival.stage <= stage).map_or(0, |last| last + 1);
            queue.drain(..n).next_back()
        };
        // It stands for all before it.
        if let Some(last) = last {
            (last.join)();
        }
    }

    /// Waits for everything.
    pub fn all(&self) {
        self.until(usize::MAX);
    }

    /// The stages of `n` before which there is something to wait for, beside the first.
    pub fn stops(&self, n: usize) -> Vec<usize> {
        let mut stops: Vec<usize> = self.queue.borrow().iter().map(|arrival| arrival.stage).collect();
        stops.retain(|stage| (1..n).contains(stage));
        stops.sort_unstable();
        stops.dedup();
        stops
    }
}

impl Drop for Arrivals {
    /// The buffer goes too, and its memory to the computation that follows.
    fn drop(&mut self) {
        self.all();
    }
}

impl std::fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stages: Vec<usize> = self.queue.borrow().iter().map(|arrival| arrival.stage).collect();
        f.debug_tuple("Arrivals").field(&stages).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn one_wait_covers_what_came_before_and_nothing_that_comes_later() {
        let (arrivals, joined) = (Arrivals::default(), Rc::new(RefCell::new(Vec::new())));
        let expect = |name: char, stage: usize| {
            let joined = joined.clone();
            arrivals.expect(stage, Box::new(move || joined.borrow_mut().push(name)));
        };
        let seen = || joined.borrow().iter().collect::<String>();
        // Whatever the order of stages.
        [('a', 0), ('b', 2), ('c', 1), ('d', 5), ('e', usize::MAX)].into_iter().for_each(|(name, at)| expect(name, at));
        assert_eq!(arrivals.stops(8), [1, 2, 5]);
        assert_eq!(arrivals.stops(5), [1, 2]);
        arrivals.until(0);
        assert_eq!(seen(), "a");
        arrivals.until(1);
        assert_eq!(seen(), "ac", "b has arrived before c");
        arrivals.until(4);
        assert_eq!(seen(), "ac");
        assert_eq!(arrivals.stops(8), [5]);
        arrivals.all();
        arrivals.all();
        assert_eq!(seen(), "ace");
    }
}
