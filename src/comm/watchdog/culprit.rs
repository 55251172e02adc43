//! Who waits for whom: from the records of all ranks to one sentence.

use super::flight::{Cause, Flight, OpRecord};
use std::collections::{BTreeMap, BTreeSet};

/// What the records tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// One sentence, without a full stop.
    pub line: String,
    /// The ranks for which others wait, or which differ from the others; empty when all ranks wait alike.
    pub ranks: Vec<usize>,
    /// Plane and number of the operation in question.
    pub at: Option<(String, u64)>,
}

/// Judges records of one job; `None` when there are none.
pub fn judge(flights: &[Flight]) -> Option<Verdict> {
    let case = Case::new(flights)?;
    let mut verdict = case
        .out_of_step()
        .or_else(|| case.absent())
        .or_else(|| case.failed())
        .or_else(|| case.left_behind())
        .or_else(|| case.all_alike())
        .unwrap_or_else(|| Verdict { line: "no rank was waiting".into(), ranks: Vec::new(), at: None });
    let told = std::mem::take(&mut verdict.line);
    verdict.line = [told].into_iter().chain(case.also(&verdict.ranks)).collect::<Vec<_>>().join("; ");
    Some(verdict)
}

/// The operation for which ranks wait, and how each rank stands to it.
struct Case<'a> {
    flights: &'a [Flight],
    /// Ranks without a record.
    missing: Vec<usize>,
    /// Rank and operation that have waited for longest, and their plane.
    longest: Option<(&'a Flight, &'a str, &'a OpRecord)>,
}

impl<'a> Case<'a> {
    fn new(flights: &'a [Flight]) -> Option<Case<'a>> {
        let size = flights.first()?.size;
        let there: BTreeSet<usize> = flights.iter().map(|flight| flight.rank).collect();
        let missing = (0..size).filter(|rank| !there.contains(rank)).collect();
        let pending = flights.iter().flat_map(|f| {
            f.planes.iter().filter_map(move |plane| Some((f, plane.plane.as_str(), f.pending(&plane.plane)?)))
        });
        let longest = pending.max_by(|a, b| a.0.age(a.2).total_cmp(&b.0.age(b.2)));
        Some(Case { flights, missing, longest })
    }

    /// Ranks that wait in a plane, with the operation each waits in.
    fn waiting(&self, plane: &str) -> Vec<(usize, &'a OpRecord)> {
        self.flights.iter().filter_map(|f| Some((f.rank, f.pending(plane)?))).collect()
    }

    /// Two ranks called different operations under the same number.
    fn out_of_step(&self) -> Option<Verdict> {
        let (plane, seq) = first_difference(self.flights)?;
        let mut groups: BTreeMap<(&str, u64), Vec<usize>> = BTreeMap::new();
        for flight in self.flights {
            if let Some(op) = flight.op(&plane, seq) {
                groups.entry((op.op.as_str(), op.bytes)).or_default().push(flight.rank);
            }
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        // Most ranks first; of equal groups the one with the lowest rank.
        groups.sort_by_key(|(_, ranks)| (usize::MAX - ranks.len(), ranks[0]));
        let (((usual, bytes), most), others) = groups.split_first()?;
        let one_name = others.iter().all(|((op, _), _)| op == usual);
        let odd: Vec<String> = others
            .iter()
            .map(|((op, bytes), ranks)| match one_name {
                true => format!("{} entered {usual} ({plane} #{seq}) with {}", named(ranks), size(*bytes)),
                false => format!("{} entered {op} ({plane} #{seq}, {})", named(ranks), size(*bytes)),
            })
            .collect();
        let rest = match one_name {
            true => format!("{} with {}: the sizes differ", named(most), size(*bytes)),
            false => {
                format!("{} entered {usual} ({}) as that number: the ranks are out of step", named(most), size(*bytes))
            }
        };
        let mut ranks: Vec<usize> = others.iter().flat_map(|(_, ranks)| ranks.iter().copied()).collect();
        ranks.sort_unstable();
        Some(Verdict { line: format!("{}, but {rest}", odd.join(", ")), ranks, at: Some((plane, seq)) })
    }

    /// Ranks that wrote nothing.
    fn absent(&self) -> Option<Verdict> {
        if self.missing.is_empty() {
            return None;
        }
        let is =
            if self.missing.len() == 1 { "it is stopped, or its node is gone" } else { "they are stopped or gone" };
        let line = format!("{} wrote nothing: {is}", self.placed(&self.missing));
        let waited = self.longest.map(|(_, plane, _)| self.waited(plane));
        let line = waited.map_or(line.clone(), |waited| format!("{line}; {waited}"));
        let at = self.longest.map(|(_, plane, op)| (plane.to_string(), op.seq));
        Some(Verdict { line, ranks: self.missing.clone(), at })
    }

    /// An enqueued operation that failed.
    fn failed(&self) -> Option<Verdict> {
        let (flight, plane, seq, reason) = self.failures().next()?;
        let what = flight.op(plane, seq).map_or_else(|| format!("{plane} #{seq}"), |op| described(plane, op));
        let line = format!("{what} failed on rank {}: {reason}", flight.rank);
        Some(Verdict { line, ranks: vec![flight.rank], at: Some((plane.to_string(), seq)) })
    }

    fn failures(&self) -> impl Iterator<Item = (&'a Flight, &'a str, u64, &'a str)> {
        self.flights.iter().filter_map(|flight| match &flight.cause {
            Cause::Failed { plane, seq, reason } => Some((flight, plane.as_str(), *seq, reason.as_str())),
            Cause::Expired { .. } | Cause::Alarm {} => None,
        })
    }

    /// Ranks that have not entered what others wait in; or, if all have, ranks still in what others have left.
    fn left_behind(&self) -> Option<Verdict> {
        let (_, plane, _) = self.longest?;
        let waiting = self.waiting(plane);
        let latest = waiting.iter().map(|(_, op)| op.seq).max()?;
        let is_waiting = |rank: usize| waiting.iter().any(|(r, _)| *r == rank);
        let outside: Vec<&Flight> =
            self.flights.iter().filter(|f| f.entered(plane) < latest && !is_waiting(f.rank)).collect();
        if let Some(least) = outside.iter().map(|f| f.entered(plane).saturating_add(1)).min() {
            let ranks: Vec<usize> = outside.iter().map(|f| f.rank).collect();
            let (_, op) = waiting.iter().find(|(_, op)| op.seq >= least)?;
            let has = if ranks.len() == 1 { "has" } else { "have" };
            let waiters: Vec<usize> = waiting.iter().map(|(rank, _)| *rank).collect();
            let have = if waiters.len() == 1 { "has" } else { "have" };
            let seconds = self.seconds(plane);
            let line = format!(
                "{} {has} not entered {}, for which {} {have} waited {seconds}; {}",
                self.placed(&ranks),
                described(plane, op),
                named(&waiters),
                outside.iter().take(4).map(|f| whereabouts(f, plane)).collect::<Vec<_>>().join("; ")
            );
            return Some(Verdict { line, ranks, at: Some((plane.to_string(), op.seq)) });
        }
        self.still_inside(plane, &waiting)
    }

    /// Ranks that are still in an operation that others have left.
    fn still_inside(&self, plane: &str, waiting: &[(usize, &OpRecord)]) -> Option<Verdict> {
        let first = waiting.iter().map(|(_, op)| op.seq).min()?;
        let inside: Vec<usize> = waiting.iter().filter(|(_, op)| op.seq == first).map(|(rank, _)| *rank).collect();
        let left: Vec<usize> = self.flights.iter().map(|f| f.rank).filter(|rank| !inside.contains(rank)).collect();
        if left.is_empty() {
            return None;
        }
        let (_, op) = waiting.iter().find(|(_, op)| op.seq == first)?;
        let (is, have) = (if inside.len() == 1 { "is" } else { "are" }, if left.len() == 1 { "has" } else { "have" });
        let apart = match (self.host_of(&inside), self.host_of(&left)) {
            (Some(here), Some(there)) if here != there => ": the network between them",
            _ => "",
        };
        let line = format!(
            "{} {is} still in {}, which {} {have} left, after {}{apart}",
            self.placed(&inside),
            described(plane, op),
            self.placed(&left),
            self.seconds(plane)
        );
        Some(Verdict { line, ranks: inside, at: Some((plane.to_string(), first)) })
    }

    /// All ranks wait in the same operation.
    fn all_alike(&self) -> Option<Verdict> {
        let (_, plane, op) = self.longest?;
        let line = format!(
            "all ranks have entered {} and none has left it for {}: the network{}, or a device",
            described(plane, op),
            self.seconds(plane),
            self.between_hosts()
        );
        Some(Verdict { line, ranks: Vec::new(), at: Some((plane.to_string(), op.seq)) })
    }

    /// What the main sentence has not said: ranks without a record, failures.
    fn also(&self, told: &[usize]) -> Vec<String> {
        // A record may claim any number of ranks: no list of them is searched for each.
        let told: BTreeSet<usize> = told.iter().copied().collect();
        let silent: Vec<usize> = self.missing.iter().copied().filter(|rank| !told.contains(rank)).collect();
        let mut also: Vec<String> = Vec::new();
        if !silent.is_empty() {
            also.push(format!("{} wrote nothing", named(&silent)));
        }
        let failures = self.failures().filter(|(f, ..)| !told.contains(&f.rank));
        also.extend(failures.take(2).map(|(f, _, _, reason)| format!("rank {} reports: {reason}", f.rank)));
        also
    }

    /// ` between node1, node2`, if the job is on several hosts.
    fn between_hosts(&self) -> String {
        let hosts: BTreeSet<&str> = self.flights.iter().flat_map(|f| &f.hosts).map(String::as_str).collect();
        if hosts.len() < 2 {
            return String::new();
        }
        let more = if hosts.len() > 4 { ", ..." } else { "" };
        format!(" between {}{more}", hosts.into_iter().take(4).collect::<Vec<_>>().join(", "))
    }

    /// The host of these ranks, if the job has several and they are all on the same.
    fn host_of(&self, ranks: &[usize]) -> Option<&'a str> {
        let hosts = &self.flights.first()?.hosts;
        let first = hosts.get(*ranks.first()?)?;
        ranks.iter().all(|rank| hosts.get(*rank) == Some(first)).then_some(first)
    }

    /// `rank 1 on node7`, where that says more than `rank 1`.
    fn placed(&self, ranks: &[usize]) -> String {
        self.host_of(ranks).map_or_else(|| named(ranks), |host| format!("{} on {host}", named(ranks)))
    }

    /// `ranks 0, 2 have waited 30 s in all_reduce (mpi #42, 96 B)`.
    fn waited(&self, plane: &str) -> String {
        let waiting = self.waiting(plane);
        let ranks: Vec<usize> = waiting.iter().map(|(rank, _)| *rank).collect();
        let have = if ranks.len() == 1 { "has" } else { "have" };
        let op = waiting.first().map(|(_, op)| described(plane, op)).unwrap_or_default();
        format!("{} {have} waited {} in {op}", named(&ranks), self.seconds(plane))
    }

    /// For how long a rank has waited at most in this plane.
    fn seconds(&self, plane: &str) -> String {
        let ages = self.flights.iter().filter_map(|f| Some(f.age(f.pending(plane)?)));
        seconds(ages.fold(0.0, f64::max))
    }
}

/// The first number under which two ranks remember different operations, or different sizes.
fn first_difference(flights: &[Flight]) -> Option<(String, u64)> {
    let mut seen: BTreeMap<(u64, &str), &OpRecord> = BTreeMap::new();
    let mut first: Option<(u64, &str)> = None;
    for flight in flights {
        for plane in &flight.planes {
            for op in &plane.ops {
                let key = (op.seq, plane.plane.as_str());
                let usual = *seen.entry(key).or_insert(op);
                if (usual.op != op.op || usual.bytes != op.bytes) && first.is_none_or(|first| key < first) {
                    first = Some(key);
                }
            }
        }
    }
    first.map(|(seq, plane)| (plane.to_string(), seq))
}

/// What a rank does that others wait for in this plane.
fn whereabouts(flight: &Flight, plane: &str) -> String {
    let rank = flight.rank;
    let elsewhere = flight.planes.iter().filter(|p| p.plane != plane);
    let pending = elsewhere.filter_map(|p| Some(described(&p.plane, flight.pending(&p.plane)?))).next();
    match (pending, &flight.place) {
        (Some(op), _) => format!("rank {rank} is in {op}"),
        (None, Some(seat)) => format!("rank {rank} was last seen in step {}, {}", seat.step, seat.phase),
        (None, None) => format!("rank {rank} has not begun to train"),
    }
}

/// `all_reduce (mpi #42, 96 B)`.
fn described(plane: &str, op: &OpRecord) -> String {
    match op.bytes {
        0 => format!("{} ({plane} #{})", op.op, op.seq),
        bytes => format!("{} ({plane} #{}, {})", op.op, op.seq, size(bytes)),
    }
}

/// A time for people, to the tenth while it is short.
pub fn seconds(s: f64) -> String {
    if s < 9.95 { format!("{s:.1} s") } else { format!("{s:.0} s") }
}

/// Bytes for people, exact while they are few.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..100_000 => format!("{bytes} B"),
        100_000..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// `rank 1`, `ranks 0, 2`, `ranks 0-6, 8`; at most six parts. The ranks ascend.
pub fn named(ranks: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if rank == *last + 1 => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let part = |(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}-{last}"),
    };
    let shown: Vec<String> = runs.iter().take(6).map(part).collect();
    let rest: usize = runs.iter().skip(6).map(|(first, last)| last - first + 1).sum();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{} {}{more}", if ranks.len() == 1 { "rank" } else { "ranks" }, shown.join(", "))
}
