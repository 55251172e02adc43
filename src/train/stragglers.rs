//! Ranks that hold the others up, found by what each of them spends by itself.
//!
//! In a synchronous run every step lasts as long as that of the slowest rank: it works while the others wait in collective
//! operations. So only phases in which a rank is alone are compared. The score is that of NVIDIA's resiliency extension
//! (median over ranks / own time), here the other way round: how many times longer than the median of the others.

use super::phases::{NAMES, Phase};
use crate::comm::Collective;
use crate::config::Config;
use crate::error::Result;
use crate::log::RankRecord;
use std::fs;
use std::time::{Duration, Instant};

/// Phases in which a rank waits for nobody.
pub(super) const OWN: [Phase; 5] = [Phase::Data, Phase::Forward, Phase::Backward, Phase::Gram, Phase::Update];

/// Milliseconds of a step by phase of [`OWN`].
pub(super) type OwnMs = [f64; OWN.len()];

/// A rank must lose so many milliseconds per step: below, it is noise.
const LEAST_MS: f64 = 10.0;
/// Windows in a row after which a rank counts as slow, or as fast again.
const WINDOWS: u32 = 3;
/// A rank that stays slow, or is slow again, is told once in this time.
const AGAIN: Duration = Duration::from_secs(600);
/// Most ranks that are told of one window.
const TOLD: usize = 4;

/// Compares ranks over windows of steps; the same on every rank.
pub(super) struct Stragglers {
    /// From how many times the median of the others on; 0: nothing is compared.
    factor: f64,
    hosts: Vec<String>,
    began: Instant,
    judge: Judge,
}

impl Stragglers {
    /// # Collective
    /// All ranks, with the same configuration.
    ///
    /// # Errors
    /// If the collective fails.
    pub fn new(config: &Config, comm: &dyn Collective) -> Result<Stragglers> {
        let factor = if comm.world().size > 1 { config.log.straggler } else { 0.0 };
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hosts = if factor > 0.0 { comm.all_gather_bytes(host.trim().as_bytes())? } else { Vec::new() };
        let hosts = hosts.iter().map(|host| String::from_utf8_lossy(host).into_owned()).collect();
        Ok(Stragglers { factor, hosts, began: Instant::now(), judge: Judge::new(factor, comm.world().size) })
    }

    /// Exchanges what each rank has spent by itself in a step of the window that has just ended, and says what there is to
    /// say of it. `None` where ranks are not compared.
    ///
    /// # Collective
    /// All ranks, after the same step.
    ///
    /// # Errors
    /// If the collective fails.
    pub fn compare(&mut self, own: OwnMs, comm: &dyn Collective) -> Result<Option<(RankRecord, Vec<String>)>> {
        if self.factor <= 0.0 {
            return Ok(None);
        }
        let all = comm.all_gather_bytes(bytemuck::cast_slice(&own))?;
        let all: Vec<OwnMs> = all.iter().map(|bytes| bytemuck::try_pod_read_unaligned(bytes).unwrap_or(own)).collect();
        let scores = scores(&all);
        let news = self.judge.look(&scores, self.began.elapsed());
        let words = news.iter().take(TOLD).map(|news| self.words(news, &scores)).collect();
        Ok(Some((self.judge.record(&scores), words)))
    }

    fn words(&self, news: &News, scores: &[Score]) -> String {
        let (rank, slow) = match *news {
            News::Slow(rank) => (rank, true),
            News::FastAgain(rank) => (rank, false),
        };
        let who = format!("rank {rank} ({})", self.hosts.get(rank).map_or("?", String::as_str));
        let Score { own_ms, others_ms, phase, phase_ms, others_phase_ms } = scores[rank];
        if !slow {
            return format!(
                "{who} no longer holds the others up: {own_ms:.1} ms of its own per step, {others_ms:.1} ms theirs"
            );
        }
        format!(
            "warning: {who} holds the others up: {own_ms:.1} ms of its own per step, {:.1} times the median of the others \
             ({others_ms:.1} ms); most of it in `{}`: {phase_ms:.1} ms, where they take {others_phase_ms:.1} ms\n  hint: {}",
            scores[rank].factor(),
            NAMES[phase as usize],
            look_for(phase)
        )
    }
}

fn look_for(phase: Phase) -> &'static str {
    if phase == Phase::Data {
        "its loader is late: memory that swaps, cores taken by a neighbour on the node, too few of them \
         (`batch.prefetch`, `train.threads`)"
    } else {
        "a throttled or shared GPU (nvidia-smi -q -d PERFORMANCE), another job on the node, fewer cores or threads than the \
         other ranks have (top, `train.threads`); `polytask doctor` on each node shows what differs"
    }
}

/// How a rank compares with the others.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    /// Milliseconds of its own per step.
    own_ms: f64,
    /// Median of those of the others.
    others_ms: f64,
    /// The phase in which it loses most, with its time and the median of the others.
    phase: Phase,
    phase_ms: f64,
    others_phase_ms: f64,
}

impl Score {
    /// How many times longer than the others.
    fn factor(&self) -> f64 {
        // Below a microsecond there is nothing to be compared.
        self.own_ms / self.others_ms.max(1e-3)
    }
}

fn scores(all: &[OwnMs]) -> Vec<Score> {
    let column = |of: &dyn Fn(&OwnMs) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let sum = |ms: &OwnMs| ms.iter().sum::<f64>();
    let (totals, phases) = (column(&sum), std::array::from_fn::<_, { OWN.len() }, _>(|p| column(&|ms| ms[p])));
    let score = |ms: &OwnMs| {
        let others = |p: usize| median_without(&phases[p], ms[p]);
        let lost = |p: &usize| ms[*p] - others(*p);
        let worst = (0..OWN.len()).max_by(|a, b| lost(a).total_cmp(&lost(b))).unwrap_or_default();
        Score {
            own_ms: sum(ms),
            others_ms: median_without(&totals, sum(ms)),
            phase: OWN[worst],
            phase_ms: ms[worst],
            others_phase_ms: others(worst),
        }
    };
    all.iter().map(score).collect()
}

/// The median of sorted values without one that is `value`.
fn median_without(sorted: &[f64], value: f64) -> f64 {
    let gone = sorted.partition_point(|x| x.total_cmp(&value).is_lt());
    let n = sorted.len().saturating_sub(1);
    let at = |i: usize| sorted[if i < gone { i } else { i + 1 }];
    match n {
        0 => value,
        n if n % 2 == 1 => at(n / 2),
        n => f64::midpoint(at(n / 2 - 1), at(n / 2)),
    }
}

/// Something to be said of a rank.
#[derive(Debug, Clone, Copy, PartialEq)]
enum News {
    Slow(usize),
    FastAgain(usize),
}

/// What is known of a rank from the windows so far.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    is_slow: bool,
    /// Windows in a row that say otherwise.
    against: u32,
    told: Option<Duration>,
}

/// Makes verdicts of windows: one slow window is an accident, several in a row are a slow rank.
struct Judge {
    factor: f64,
    known: Vec<Known>,
    windows: u64,
}

impl Judge {
    fn new(factor: f64, ranks: usize) -> Judge {
        Judge { factor, known: vec![Known::default(); ranks], windows: 0 }
    }

    /// Takes a window into account at this time since training began.
    fn look(&mut self, scores: &[Score], now: Duration) -> Vec<News> {
        self.windows += 1;
        // In the first window every rank warms up as it likes.
        if self.windows == 1 {
            return Vec::new();
        }
        let mut news = Vec::new();
        for (rank, (known, score)) in self.known.iter_mut().zip(scores).enumerate() {
            let slow = score.factor() >= self.factor && score.own_ms - score.others_ms >= LEAST_MS;
            known.against = if slow == known.is_slow { 0 } else { known.against + 1 };
            let turns = known.against >= WINDOWS;
            if turns {
                (known.is_slow, known.against) = (slow, 0);
            }
            let due = known.told.is_none_or(|told| now.saturating_sub(told) >= AGAIN);
            if known.is_slow && slow && due {
                known.told = Some(now);
                news.push(News::Slow(rank));
            } else if turns && !slow {
                news.push(News::FastAgain(rank));
            }
        }
        news
    }

    fn record(&self, scores: &[Score]) -> RankRecord {
        let slowest = (0..scores.len()).max_by(|&a, &b| scores[a].own_ms.total_cmp(&scores[b].own_ms)).unwrap_or(0);
        RankRecord {
            own_ms: scores.iter().map(|score| score.own_ms).collect(),
            slowest,
            slowdown: scores.get(slowest).map_or(1.0, Score::factor),
            slow: (0..self.known.len()).filter(|&rank| self.known[rank].is_slow).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Threads;
    use proptest::prelude::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Ranks that spend so much in `forward`, and 1 ms in each other phase.
    fn forward(ms: &[f64]) -> Vec<Score> {
        scores(&ms.iter().map(|ms| [1.0, *ms, 1.0, 1.0, 1.0]).collect::<Vec<_>>())
    }

    #[test]
    fn a_rank_is_compared_with_the_median_of_the_others_phase_by_phase() {
        let all = [[1.0, 10.0, 20.0, 1.0, 2.0], [1.0, 12.0, 22.0, 1.0, 2.0], [31.0, 10.0, 20.0, 1.0, 2.0]];
        let found = scores(&all);
        assert_eq!((found[2].own_ms, found[2].others_ms, found[2].phase), (64.0, 36.0, Phase::Data));
        assert_eq!((found[2].phase_ms, found[2].others_phase_ms), (31.0, 1.0));
        assert_eq!((found[0].others_ms, found[0].factor()), (51.0, 34.0 / 51.0));
        // Of two ranks the other one is the median.
        let pair = forward(&[10.0, 40.0]);
        assert_eq!((pair[1].factor(), pair[0].factor(), pair[1].phase), (44.0 / 14.0, 14.0 / 44.0, Phase::Forward));
    }

    proptest! {
        #[test]
        fn the_median_without_a_value_is_that_of_the_rest(values in prop::collection::vec(0.0..9.0f64, 2..12), at in any::<prop::sample::Index>()) {
            let mut rest = values.clone();
            let value = rest.remove(at.index(values.len()));
            rest.sort_by(f64::total_cmp);
            let middle = rest.len() / 2;
            let expected = if rest.len() % 2 == 1 { rest[middle] } else { f64::midpoint(rest[middle - 1], rest[middle]) };
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            prop_assert_eq!(median_without(&sorted, value), expected);
        }
    }

    /// What is said over windows in which one of three ranks takes so long.
    fn news(windows: &[f64], apart: u64) -> Vec<(usize, News)> {
        let mut judge = Judge::new(1.5, 3);
        let look = |(i, ms): (usize, &f64)| {
            let told = judge.look(&forward(&[20.0, *ms, 22.0]), seconds(apart * i as u64));
            told.into_iter().map(move |news| (i, news)).collect::<Vec<_>>()
        };
        windows.iter().enumerate().flat_map(look).collect()
    }

    #[test]
    fn a_rank_is_told_after_some_windows_in_a_row_and_when_it_is_over() {
        let slow = 60.0;
        assert_eq!(news(&[slow; 4], 1), [(3, News::Slow(1))], "the first window does not count");
        assert_eq!(news(&[20.0, slow, slow, 20.0, slow, slow, 20.0], 1), [], "never three in a row");
        let over = [20.0, slow, slow, slow, 20.0, 20.0, 20.0, 20.0];
        assert_eq!(news(&over, 1), [(3, News::Slow(1)), (6, News::FastAgain(1))]);
        assert_eq!(news(&[20.0; 9], 1), []);
    }

    #[test]
    fn a_rank_that_stays_slow_is_told_again_every_so_often() {
        let told: Vec<usize> = news(&[60.0; 20], 100).into_iter().map(|(window, _)| window).collect();
        assert_eq!(told, [3, 9, 15]);
        let wavering = [60.0, 60.0, 60.0, 60.0, 20.0, 20.0, 20.0, 60.0, 60.0, 60.0, 60.0];
        assert_eq!(news(&wavering, 1), [(3, News::Slow(1)), (6, News::FastAgain(1))], "not twice in a minute");
    }

    #[test]
    fn a_few_milliseconds_are_no_matter() {
        let mut judge = Judge::new(1.5, 2);
        for window in 0..9 {
            assert_eq!(judge.look(&forward(&[1.0, 10.0]), seconds(window)), [], "twice as slow, by 9 ms");
        }
        assert_eq!(judge.record(&forward(&[1.0, 10.0])).slow, [0; 0]);
    }

    #[test]
    fn all_ranks_see_the_same_and_name_host_and_phase() {
        let config = crate::config::load_str(
            "a.yaml",
            "{run: {name: a}, data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}, model: {encoder: mlp}, \
             tasks: {t: {source: s, target: y, kind: binary}}, train: {steps: 1}}",
            &[],
        )
        .unwrap();
        let told = Threads::run(3, |comm| {
            let mut stragglers = Stragglers::new(&config, &comm).unwrap();
            let backward = if comm.world().rank == 2 { 90.0 } else { 30.0 };
            let windows = (0..4).map(|_| stragglers.compare([0.0, 10.0, backward, 0.0, 0.0], &comm).unwrap().unwrap());
            windows.last().unwrap()
        });
        let (record, words) = &told[0];
        assert!(told.iter().all(|other| other == &told[0]));
        assert_eq!((record.slowest, record.slowdown, &record.slow), (2, 2.5, &vec![2]));
        assert_eq!(record.own_ms, [40.0, 40.0, 100.0]);
        let start = "warning: rank 2 (";
        let end = ") holds the others up: 100.0 ms of its own per step, 2.5 times the median of the others (40.0 ms); most of \
                   it in `backward`: 90.0 ms, where they take 30.0 ms\n  hint: a throttled or shared GPU";
        assert!(words.len() == 1 && words[0].starts_with(start) && words[0].contains(end), "{words:?}");
    }
}
