//! Constructed records and the sentence each set of them gives; damaged files; and whole worlds of threads.

use super::culprit::{Verdict, judge, named};
use super::flight::{Cause, Flight, OpRecord, PlaneRecord, Records, Seat, belongs, path, write_whole};
use super::*;
use crate::comm::{Collective, Threads, note};
use std::fs;

/// When all constructed records were written.
const AT: f64 = 1e9;

/// A rank that did nothing yet.
fn rank(rank: usize, size: usize) -> Flight {
    Flight {
        format: 1,
        run: "a".into(),
        rank,
        size,
        host: "node".into(),
        hosts: Vec::new(),
        pid: 1,
        at: AT,
        deadline_s: 30.0,
        cause: Cause::Alarm {},
        place: None,
        planes: Vec::new(),
    }
}

impl Flight {
    /// Operations of a plane from number `first` on. The last one has been pending for `waited` seconds, if any.
    fn with(mut self, plane: &str, first: u64, ops: &[(&str, u64)], waited: Option<f64>) -> Self {
        let last = ops.len() - 1;
        let record = |(i, (op, bytes)): (usize, &(&str, u64))| {
            let pending = waited.filter(|_| i == last);
            let begun = AT - pending.unwrap_or(100.0 - i as f64);
            let ended = pending.is_none().then_some(begun + 0.5);
            OpRecord { seq: first + i as u64, op: op.to_string(), bytes: *bytes, begun, ended }
        };
        let ops: Vec<OpRecord> = ops.iter().enumerate().map(record).collect();
        self.planes.push(PlaneRecord { plane: plane.into(), entered: first + last as u64, ops });
        self
    }

    fn seen_in(mut self, step: u64, phase: &str) -> Self {
        self.place = Some(Seat { step, phase: phase.into(), since: AT - 31.0 });
        self
    }

    fn failed(mut self, plane: &str, seq: u64, reason: &str) -> Self {
        self.cause = Cause::Failed { plane: plane.into(), seq, reason: reason.into() };
        self
    }
}

const SUM: (&str, u64) = ("all_reduce", 96);
const SPREAD: (&str, u64) = ("broadcast", 96);

#[track_caller]
fn says(flights: &[Flight], ranks: &[usize], line: &str) {
    let verdict = judge(flights).unwrap();
    assert_eq!((verdict.line.as_str(), verdict.ranks.as_slice()), (line, ranks));
}

#[test]
fn a_rank_outside_of_operations_is_named_with_its_place() {
    let waits = |r, s| rank(r, 3).with("mpi", 41, &[SPREAD, SUM], Some(s)).seen_in(17, "compute");
    let sleeps = rank(1, 3).with("mpi", 41, &[SPREAD], None).seen_in(17, "data");
    says(
        &[waits(0, 30.1), sleeps.clone(), waits(2, 29.7)],
        &[1],
        "rank 1 has not entered all_reduce (mpi #42, 96 B), for which ranks 0, 2 have waited 30 s; rank 1 was last seen \
         in step 17, data",
    );
    let nothing = rank(1, 2);
    let waits = rank(0, 2).with("mpi", 1, &[SUM], Some(30.0));
    says(
        &[waits, nothing],
        &[1],
        "rank 1 has not entered all_reduce (mpi #1, 96 B), for which rank 0 has waited 30 s; rank 1 has not begun to train",
    );
}

#[test]
fn a_rank_that_waits_elsewhere_is_named_with_what_it_waits_for() {
    let main = rank(0, 2).with("mpi", 7, &[SUM], None).with("nccl", 9, &[("all_gather", 4 << 20)], Some(60.0));
    let other = rank(1, 2).with("mpi", 7, &[SUM, SPREAD], Some(59.0)).with("nccl", 8, &[SUM], None);
    says(
        &[main, other],
        &[1],
        "rank 1 has not entered all_gather (nccl #9, 4.2 MB), for which rank 0 has waited 60 s; rank 1 is in broadcast \
         (mpi #8, 96 B)",
    );
}

#[test]
fn a_rank_without_a_record_is_named() {
    let waits = |r| rank(r, 3).with("mpi", 42, &[SUM], Some(30.0));
    says(
        &[waits(0), waits(2)],
        &[1],
        "rank 1 wrote nothing: it is stopped, or its node is gone; ranks 0, 2 have waited 30 s in all_reduce (mpi #42, 96 B)",
    );
    says(
        &[waits(2)],
        &[0, 1],
        "ranks 0, 1 wrote nothing: they are stopped or gone; rank 2 has waited 30 s in all_reduce (mpi #42, 96 B)",
    );
}

#[test]
fn ranks_that_are_out_of_step_are_told_by_the_first_difference() {
    let usual = |r| rank(r, 3).with("mpi", 40, &[SPREAD, SUM, SUM], Some(30.0));
    let skipped = rank(1, 3).with("mpi", 40, &[SPREAD, SPREAD], Some(30.0));
    says(
        &[usual(0), skipped, usual(2)],
        &[1],
        "rank 1 entered broadcast (mpi #41, 96 B), but ranks 0, 2 entered all_reduce (96 B) as that number: the ranks are \
         out of step",
    );
    let smaller = rank(0, 2).with("nccl", 3, &[("all_reduce", 88)], Some(30.0));
    let larger = rank(1, 2).with("nccl", 3, &[SUM], Some(30.0));
    says(
        &[smaller, larger],
        &[1],
        "rank 1 entered all_reduce (nccl #3) with 96 B, but rank 0 with 88 B: the sizes differ",
    );
}

#[test]
fn a_difference_goes_before_a_missing_rank_which_is_told_too() {
    let usual = rank(0, 3).with("mpi", 5, &[SUM], Some(3.0));
    let odd = rank(2, 3).with("mpi", 5, &[("finalize", 0)], Some(3.0));
    says(
        &[usual, odd],
        &[2],
        "rank 2 entered finalize (mpi #5, 0 B), but rank 0 entered all_reduce (96 B) as that number: the ranks are out of \
         step; rank 1 wrote nothing",
    );
}

#[test]
fn a_failed_operation_is_told_in_the_words_of_the_library() {
    let failed = rank(0, 2).with("nccl", 7, &[SUM], Some(2.0)).failed("nccl", 7, "remote process exited");
    let other = rank(1, 2).with("nccl", 7, &[SUM], Some(2.0));
    says(&[failed.clone(), other], &[0], "all_reduce (nccl #7, 96 B) failed on rank 0: remote process exited");
    says(
        &[failed],
        &[1],
        "rank 1 wrote nothing: it is stopped, or its node is gone; rank 0 has waited 2.0 s in all_reduce (nccl #7, 96 B); \
         rank 0 reports: remote process exited",
    );
}

#[test]
fn when_all_ranks_wait_alike_it_is_the_network_or_a_device() {
    let waits = |r| rank(r, 2).with("nccl", 7, &[SUM], Some(30.0));
    let line =
        "all ranks have entered all_reduce (nccl #7, 96 B) and none has left it for 30 s: the network, or a device";
    says(&[waits(0), waits(1)], &[], line);
    let gone_on = rank(1, 2).with("nccl", 7, &[SUM, SUM], Some(29.0));
    says(
        &[waits(0), gone_on],
        &[0],
        "rank 0 is still in all_reduce (nccl #7, 96 B), which rank 1 has left, after 30 s",
    );
}

#[test]
fn ranks_of_several_hosts_are_named_with_theirs() {
    let of = |r, ops: &[(&str, u64)], waited| {
        let hosts = ["n1", "n1", "n2", "n2"].map(String::from).to_vec();
        Flight { hosts, ..rank(r, 4).with("mpi", 7, ops, waited) }
    };
    let waits = |r| of(r, &[SUM], Some(30.0));
    says(
        &[waits(0), waits(1), waits(2)],
        &[3],
        "rank 3 on n2 wrote nothing: it is stopped, or its node is gone; ranks 0-2 have waited 30 s in all_reduce (mpi #7, 96 B)",
    );
    says(
        &[waits(0)],
        &[1, 2, 3],
        "ranks 1-3 wrote nothing: they are stopped or gone; rank 0 has waited 30 s in all_reduce (mpi #7, 96 B)",
    );
    let gone_on = |r| of(r, &[SUM, SUM], Some(29.0));
    says(
        &[waits(0), waits(1), gone_on(2), gone_on(3)],
        &[0, 1],
        "ranks 0, 1 on n1 are still in all_reduce (mpi #7, 96 B), which ranks 2, 3 on n2 have left, after 30 s: the network \
         between them",
    );
    says(
        &[waits(0), gone_on(1), gone_on(2), gone_on(3)],
        &[0],
        "rank 0 on n1 is still in all_reduce (mpi #7, 96 B), which ranks 1-3 have left, after 30 s",
    );
    says(
        &[waits(0), waits(1), waits(2), waits(3)],
        &[],
        "all ranks have entered all_reduce (mpi #7, 96 B) and none has left it for 30 s: the network between n1, n2, or a device",
    );
    let elsewhere = of(3, &[SPREAD], None).seen_in(2, "data");
    let late = |r| of(r, &[SPREAD, SUM], Some(30.0));
    says(
        &[late(0), late(1), late(2), elsewhere],
        &[3],
        "rank 3 on n2 has not entered all_reduce (mpi #8, 96 B), for which ranks 0-2 have waited 30 s; rank 3 was last seen in \
         step 2, data",
    );
}

#[test]
fn without_records_or_waiting_ranks_nothing_is_made_up() {
    assert_eq!(judge(&[]), None);
    let idle = judge(&[rank(0, 1)]);
    assert_eq!(idle, Some(Verdict { line: "no rank was waiting".into(), ranks: Vec::new(), at: None }));
}

#[test]
fn many_ranks_are_named_briefly() {
    assert_eq!(named(&[3]), "rank 3");
    assert_eq!(named(&[0, 1, 2, 5, 7, 8]), "ranks 0-2, 5, 7, 8");
    assert_eq!(named(&(0..40).filter(|r| r % 2 == 0).collect::<Vec<_>>()), "ranks 0, 2, 4, 6, 8, 10 and 14 more");
}

#[test]
fn records_survive_the_disk_and_damaged_ones_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let flights: Vec<Flight> =
        (0..3).map(|r| rank(r, 4).with("mpi", 9, &[SUM, SPREAD], Some(1.5)).seen_in(4, "data")).collect();
    flights.iter().for_each(|flight| flight.write(dir).unwrap());
    assert_eq!(Records::read(dir, None).unwrap(), Records { flights: flights.clone(), left_out: Vec::new() });

    let text = fs::read(path(dir, 1)).unwrap();
    fs::write(path(dir, 1), &text[..text.len() / 2]).unwrap();
    fs::write(path(dir, 3), b"\xff\x00garbage").unwrap();
    fs::write(path(dir, 5), &text).unwrap();
    fs::write(dir.join("flight_rankx.json"), "").unwrap();
    let records = Records::read(dir, None).unwrap();
    assert_eq!(records.flights, [flights[0].clone(), flights[2].clone()]);
    let told = |i: usize, words: &str| assert!(records.left_out[i].starts_with(words), "{:?}", records.left_out);
    told(0, "flight_rank1.json is no flight record: EOF while parsing");
    told(1, "flight_rank3.json is no flight record: expected value");
    told(2, "flight_rank5.json is no flight record: it is of rank 1");
    assert_eq!(records.left_out.len(), 3);
}

/// Every prefix of a record, and every record with one byte replaced, is read or refused, and what is read is judged.
#[test]
fn nothing_in_a_file_can_break_the_judgement() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    rank(0, 2).with("mpi", 1, &[SUM], Some(3.0)).write(dir).unwrap();
    let text = fs::read(path(dir, 0)).unwrap();
    for at in 0..text.len() {
        for byte in [b'9', b'"'] {
            let mut damaged = text.clone();
            damaged[at] = byte;
            fs::write(path(dir, 0), &damaged).unwrap();
            let records = Records::read(dir, None).unwrap();
            assert_eq!(records.flights.len() + records.left_out.len(), 1);
            let _ = judge(&records.flights);
        }
    }
}

#[test]
fn records_of_an_earlier_job_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let old = Flight { run: "old".into(), at: AT - 500.0, ..rank(1, 2) };
    old.write(dir).unwrap();
    rank(0, 2).write(dir).unwrap();
    let expected = ["flight_rank1.json is of another job"];
    for run in [None, Some("a")] {
        let records = Records::read(dir, run).unwrap();
        assert_eq!(
            (records.flights.as_slice(), records.left_out.as_slice()),
            (&[rank(0, 2)][..], &expected.map(String::from)[..])
        );
    }
    assert_eq!(Records::read(dir, Some("old")).unwrap().flights, [old]);
    assert_eq!(Records::read(dir, Some("none")).unwrap().flights, []);
    assert!(belongs(&path(dir, 1), "old") && !belongs(&path(dir, 1), "a") && !belongs(&path(dir, 7), "a"));
    write_whole(dir, "alarm.json", br#"{"run":"old","rank":1}"#).unwrap();
    assert!(alarm::is_raised(dir, "old") && !alarm::is_raised(dir, "a"));
    assert!(fs::read_dir(dir).unwrap().flatten().all(|e| !e.file_name().to_string_lossy().ends_with(".part")));
}

/// A watchdog that hands over its words instead of ending the process.
fn telling(world: World, dir: &std::path::Path, deadline: Duration) -> (Watchdog, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let options = WatchdogOptions { deadline, dir: dir.into(), buffer: 4 };
    let page = told.clone();
    let end = move |words: &str| page.lock().unwrap().push(words.into());
    (Watchdog::start_as(world, options, Job { run: "a".into(), hosts: Vec::new() }, Box::new(end)), told)
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < limit, "{what} never happens");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_world_with_a_sleeping_rank_is_ended_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let words = Threads::run(3, |comm| {
        let world = comm.world();
        let (watchdog, told) = telling(world, folder.path(), Duration::from_millis(400));
        let comm = Guarded::new(Box::new(comm), watchdog);
        comm.all_reduce_f64(&mut [1.0; 4]).unwrap();
        note(&comm, 17, if world.rank == 1 { "data" } else { "compute" });
        if world.rank == 1 {
            // Asleep in a loader: woken by the files alone.
            wait_until("a record of rank 1", || path(folder.path(), 1).exists());
            wait_until("a record of rank 0", || path(folder.path(), 0).exists());
            std::thread::sleep(Duration::from_secs(1));
        } else {
            // Fails when rank 1 has gone.
            assert!(comm.all_reduce_f64(&mut [1.0; 12]).is_err());
        }
        told.lock().unwrap().clone()
    });
    assert_eq!(words[0].len(), 1, "{words:?}");
    let expected =
        "error: watchdog: rank 1 has not entered all_reduce (mpi #2, 96 B), for which ranks 0, 2 have waited 0.";
    assert!(words[0][0].starts_with(expected), "{words:?}");
    let rest = " s; rank 1 was last seen in step 17, data\n  hint: `polytask doctor --flight ";
    assert!(words[0][0].contains(rest), "{words:?}");
    let records = Records::read(folder.path(), Some("a")).unwrap();
    assert_eq!(records.flights.iter().map(|f| f.rank).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(records.flights[1].cause, Cause::Alarm {});
}

#[test]
fn enqueued_operations_are_asked_after_in_order_and_their_failure_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (watchdog, told) = telling(World::SOLO, folder.path(), Duration::from_secs(2));
    let answers: Vec<_> = (0..3).map(|_| Arc::new(Mutex::new(Ok(false)))).collect();
    let asked = Arc::new(Mutex::new(Vec::new()));
    for (i, answer) in answers.iter().enumerate() {
        let (answer, asked) = (answer.clone(), asked.clone());
        let poll = move || {
            asked.lock().unwrap().push(i);
            answer.lock().unwrap().clone()
        };
        watchdog.begin_async("nccl", "all_reduce", 8, Box::new(poll));
    }
    let last_asked = || asked.lock().unwrap().last().copied();
    wait_until("the first question", || last_asked() == Some(0));
    *answers[1].lock().unwrap() = Ok(true);
    *answers[0].lock().unwrap() = Ok(true);
    wait_until("the third question", || last_asked() == Some(2));
    assert!(asked.lock().unwrap().is_sorted(), "only the oldest is asked after");
    *answers[2].lock().unwrap() = Err("remote process exited".into());
    wait_until("the end", || !told.lock().unwrap().is_empty());
    let words = told.lock().unwrap().clone();
    assert!(words[0].contains("all_reduce (nccl #3, 8 B) failed on rank 0: remote process exited"), "{words:?}");
}

#[test]
fn a_folder_that_cannot_be_written_still_ends_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let world = World { rank: 1, size: 2, local_rank: 1, local_size: 2 };
    let (watchdog, told) = telling(world, &file, Duration::from_millis(200));
    let ticket = watchdog.begin("mpi", "barrier", 0);
    wait_until("the end", || !told.lock().unwrap().is_empty());
    ticket.end();
    let words = told.lock().unwrap().clone();
    let expected = "error: watchdog: rank 1 has waited 0.";
    assert!(words[0].starts_with(expected), "{words:?}");
    assert!(words[0].contains(" s in barrier (mpi #1) (no flight record could be written into "), "{words:?}");
}

#[test]
fn a_watchdog_without_a_deadline_and_one_that_is_gone_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (off, told) = telling(World::SOLO, folder.path(), Duration::ZERO);
    off.note(1, "data");
    off.begin("mpi", "barrier", 0).end();
    off.begin_async("nccl", "all_reduce", 8, Box::new(|| Err("asked".into())));

    let (gone, told_too) = telling(World::SOLO, folder.path(), Duration::from_millis(100));
    let held = Arc::new(());
    let event = held.clone();
    gone.begin_async("nccl", "all_reduce", 8, Box::new(move || Ok(Arc::strong_count(&event) == 0)));
    let other = gone.clone();
    drop(gone);
    assert_eq!(Arc::strong_count(&held), 2, "the last handle counts");
    drop(other);
    wait_until("the question being dropped", || Arc::strong_count(&held) == 1);
    std::thread::sleep(Duration::from_millis(300));
    assert!(told.lock().unwrap().is_empty() && told_too.lock().unwrap().is_empty());
    assert!(
        fs::read_dir(folder.path()).unwrap().next().is_none(),
        "a folder is made only when there is something to write"
    );
}

/// What an operation costs: `cargo test --lib -- --ignored --nocapture what_recording_costs`.
#[test]
#[ignore = "a measurement"]
fn what_recording_costs() {
    let folder = tempfile::tempdir().unwrap();
    let (watchdog, _) = telling(World::SOLO, folder.path(), Duration::from_secs(600));
    const N: u32 = 1_000_000;
    let start = Instant::now();
    (0..N).for_each(|_| watchdog.begin("mpi", "all_reduce", 96).end());
    println!("begin and end: {:?}", start.elapsed() / N);
    let start = Instant::now();
    (0..N).for_each(|i| watchdog.note(u64::from(i), "data"));
    println!("note: {:?}", start.elapsed() / N);
}
