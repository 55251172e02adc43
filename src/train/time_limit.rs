//! Stopping in time: a run that knows when it will be ended stops itself early enough to write a checkpoint.

use super::StopFlag;
use crate::config::{TimeSpan, Train};
use std::time::{Duration, Instant};

/// A checkpoint may take this many times as long as the longest one so far.
const CHECKPOINT_SAFETY: u32 = 2;

/// When this session of a run must be over, and what it has learned about how long things take.
///
/// The caller brings the clock: every question comes with its moment.
#[derive(Debug)]
pub struct TimeLimit {
    /// The session is ended from outside, or must be over, at this moment; `None`: never.
    end: Option<Instant>,
    margin: Duration,
    /// Moment of the last question, unless this is the first one.
    asked: Option<Instant>,
    longest_turn: Duration,
    longest_checkpoint: Duration,
}

impl TimeLimit {
    /// The earlier of `train.max_time` after the start of the command and the end of the job, if its launcher tells.
    pub fn new(config: &Train, stop: &StopFlag, now: Instant) -> Self {
        let limit = |span: TimeSpan| stop.began().unwrap_or(now).checked_add(span.duration());
        let of_config = config.max_time.and_then(limit);
        Self::ending(of_config.into_iter().chain(stop.job_end()).min(), config.stop_margin.duration())
    }

    fn ending(end: Option<Instant>, margin: Duration) -> Self {
        TimeLimit { end, margin, asked: None, longest_turn: Duration::ZERO, longest_checkpoint: Duration::ZERO }
    }

    /// Whether a run that goes on might not be able to write a checkpoint in time. To be asked once per step.
    ///
    /// Until the next question a turn may pass as long as the longest one so far (a step, perhaps an evaluation and a
    /// checkpoint); after it there must be time for the margin, or for a checkpoint if that takes longer. The turn before the
    /// first question does not count: the first step of a session is slower than the others.
    pub fn is_near(&mut self, now: Instant) -> bool {
        if let Some(asked) = self.asked.replace(now) {
            self.longest_turn = self.longest_turn.max(now.saturating_duration_since(asked));
        }
        let margin = self.margin.max(CHECKPOINT_SAFETY * self.longest_checkpoint);
        self.end.is_some_and(|end| end.saturating_duration_since(now) <= self.longest_turn + margin)
    }

    /// A checkpoint has been written, or tried.
    pub fn checkpoint_took(&mut self, time: Duration) {
        self.longest_checkpoint = self.longest_checkpoint.max(time);
    }

    /// Why the run stops, for its log.
    pub fn words(&self, now: Instant) -> String {
        let left = self.end.map_or(Duration::ZERO, |end| end.saturating_duration_since(now));
        let (turn, checkpoint) = (self.longest_turn.as_secs_f64(), self.longest_checkpoint.as_secs_f64());
        format!(
            "the time is nearly up: {} left, steps took up to {turn:.1} s, checkpoints {checkpoint:.1} s",
            TimeSpan::of(left.as_secs())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TimeSpan;

    /// A clock that tests set by hand, in seconds.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    fn limit(end: u64, margin: u64) -> (Clock, TimeLimit) {
        let clock = Clock(Instant::now());
        let limit = TimeLimit::ending(Some(clock.at(end)), Duration::from_secs(margin));
        (clock, limit)
    }

    #[test]
    fn a_run_without_a_limit_goes_on() {
        let mut limit = TimeLimit::ending(None, Duration::from_secs(60));
        assert!(!limit.is_near(Instant::now() + Duration::from_secs(1 << 30)));
    }

    #[test]
    fn the_margin_and_one_turn_must_fit_in() {
        let (clock, mut limit) = limit(100, 20);
        let near: Vec<bool> = [10, 20, 30, 40, 50, 60, 69, 70].map(|s| limit.is_near(clock.at(s))).to_vec();
        assert_eq!(near, [false, false, false, false, false, false, false, true], "100 - 20 - a turn of 10 s");
    }

    #[test]
    fn the_longest_turn_counts_and_the_first_does_not() {
        let (clock, mut limit) = limit(200, 10);
        // 50 s until the first question, a turn of 25 s, then turns of a second.
        let near = [50, 51].into_iter().chain(76..=200).find(|&s| limit.is_near(clock.at(s)));
        assert_eq!(near, Some(165), "200 - 10 - 25");
    }

    #[test]
    fn a_slow_checkpoint_needs_twice_its_time() {
        let (clock, mut limit) = limit(100, 10);
        limit.checkpoint_took(Duration::from_secs(30));
        limit.checkpoint_took(Duration::from_secs(1));
        assert!(!limit.is_near(clock.at(39)) && limit.is_near(clock.at(40)));
    }

    #[test]
    fn after_the_end_it_is_near() {
        let (clock, mut limit) = limit(5, 0);
        assert!(!limit.is_near(clock.at(4)) && limit.is_near(clock.at(1000)));
        assert!(limit.words(clock.at(1000)).starts_with("the time is nearly up: 00:00:00 left"));
    }

    #[test]
    fn the_earlier_of_the_two_ends_counts() {
        let now = Instant::now();
        let config = |seconds| Train { max_time: seconds, stop_margin: TimeSpan::of(0), ..Train::default() };
        let job = |seconds| StopFlag::default().with_job_end(now + Duration::from_secs(seconds));
        let end = |config: &Train, stop: &StopFlag| TimeLimit::new(config, stop, now).end.map(|end| end - now);
        assert_eq!(end(&config(None), &StopFlag::default()), None);
        assert_eq!(end(&config(None), &job(7)), Some(Duration::from_secs(7)));
        assert_eq!(end(&config(Some(TimeSpan::of(5))), &StopFlag::default()), Some(Duration::from_secs(5)));
        assert_eq!(end(&config(Some(TimeSpan::of(5))), &job(7)), Some(Duration::from_secs(5)));
        assert_eq!(end(&config(Some(TimeSpan::of(9))), &job(7)), Some(Duration::from_secs(7)));
    }
}
