//! `polytask doctor --flight DIR`: what ranks did when their watchdogs ended the job.

use crate::cli::text;
use crate::comm::watchdog::culprit::{self, Verdict, named};
use crate::comm::watchdog::flight::{Flight, OpRecord, Records};
use crate::error::{Error, Result, exit};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Operations shown before the one in question.
const BEFORE: u64 = 4;
/// Operations shown after it.
const AFTER: u64 = 2;
/// Rows for ranks that wrote nothing.
const SILENT: usize = 64;

/// Reads the records of a folder: a page about them, and the exit code. It is 0 when they tell anything.
///
/// # Errors
/// If the folder cannot be read.
pub fn report(dir: &Path) -> Result<(String, u8)> {
    let records = Records::read(dir, None).map_err(|source| Error::Io { path: dir.display().to_string(), source })?;
    let left_out: String = records.left_out.iter().map(|why| format!("left out: {why}\n")).collect();
    let Some(verdict) = culprit::judge(&records.flights) else {
        return Ok((format!("{left_out}{} holds no flight records\n", dir.display()), exit::DATA));
    };
    let mut page = format!("{}\n\n{}", verdict.line, ranks(&records.flights));
    if let Some((plane, seq)) = &verdict.at {
        page += &around(&records.flights, plane, *seq);
    }
    if !left_out.is_empty() {
        page += &format!("\n{left_out}");
    }
    Ok((page, code(&verdict)))
}

fn code(verdict: &Verdict) -> u8 {
    if verdict.at.is_some() || !verdict.ranks.is_empty() { exit::DONE } else { exit::DATA }
}

/// A row per rank; of those that wrote nothing, the first ones.
fn ranks(flights: &[Flight]) -> String {
    let size = flights.first().map_or(0, |flight| flight.size);
    let by_rank: BTreeMap<usize, &Flight> = flights.iter().map(|flight| (flight.rank, flight)).collect();
    let mut silent = (0..size).filter(|rank| !by_rank.contains_key(rank));
    let named: Vec<usize> = silent.by_ref().take(SILENT).collect();
    let nothing = |rank: usize| (rank, [&rank.to_string(), "wrote nothing", "", "", "", ""].map(String::from).to_vec());
    let mut rows: Vec<_> = by_rank.iter().map(|(rank, flight)| (*rank, row(flight))).collect();
    rows.extend(named.into_iter().map(nothing));
    rows.sort_by_key(|(rank, _)| *rank);
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
    let table = text::table(&["rank", "host", "last completed", "pending", "for", "last seen in"], &rows, 6);
    match silent.count() {
        0 => table,
        more => format!("{table}and {more} more ranks wrote nothing\n"),
    }
}

fn row(flight: &Flight) -> Vec<String> {
    let operations = || flight.planes.iter().flat_map(|p| p.ops.iter().map(move |op| (p.plane.as_str(), op)));
    let completed = operations().filter_map(|(plane, op)| Some((op.ended?, plane, op)));
    let last = completed.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, plane, op)| short(plane, op));
    let pending = flight.planes.iter().filter_map(|p| Some((p.plane.as_str(), flight.pending(&p.plane)?)));
    let oldest = pending.min_by(|a, b| a.1.begun.total_cmp(&b.1.begun));
    let none = || "-".to_string();
    vec![
        flight.rank.to_string(),
        flight.host.clone(),
        last.unwrap_or_else(none),
        oldest.map_or_else(none, |(plane, op)| short(plane, op)),
        oldest.map_or_else(none, |(_, op)| format!("{:.1} s", flight.age(op))),
        flight.place.as_ref().map_or_else(none, |seat| format!("step {}, {}", seat.step, seat.phase)),
    ]
}

fn short(plane: &str, op: &OpRecord) -> String {
    format!("{} {plane} #{}", op.op, op.seq)
}

/// The operations of a plane around a number: what they were, who entered them, who left them.
fn around(flights: &[Flight], plane: &str, seq: u64) -> String {
    let mut page = format!("\noperations around {plane} #{seq}:\n");
    for number in seq.saturating_sub(BEFORE).max(1)..=seq.saturating_add(AFTER) {
        let entered: Vec<(usize, &OpRecord)> =
            flights.iter().filter_map(|f| Some((f.rank, f.op(plane, number)?))).collect();
        let mut kinds: Vec<(&str, u64)> = entered.iter().map(|(_, op)| (op.op.as_str(), op.bytes)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for (name, bytes) in kinds {
            let alike = || entered.iter().filter(|(_, op)| op.op == name && op.bytes == bytes);
            let ranks: Vec<usize> = alike().map(|(rank, _)| *rank).collect();
            let inside: Vec<usize> = alike().filter(|(_, op)| op.ended.is_none()).map(|(rank, _)| *rank).collect();
            let still = if inside.is_empty() { String::new() } else { format!(", not left by {}", named(&inside)) };
            let mark = if number == seq { ">" } else { " " };
            // Writing to a string does not fail.
            let _ = writeln!(
                page,
                "{mark} #{number:<8} {name:<18} {:>10}  entered by {}{still}",
                culprit::size(bytes),
                named(&ranks)
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn write(dir: &Path, rank: usize, place: &serde_json::Value, ops: &serde_json::Value) {
        let entered = ops.as_array().map_or(0, Vec::len);
        let planes = json!([{"plane": "mpi", "entered": entered, "ops": ops}]);
        let record = json!({"format": 1, "run": "a", "rank": rank, "size": 3, "host": "n1", "pid": 7, "at": 130.0,
            "deadline_s": 30.0, "cause": {"alarm": {}}, "place": place, "planes": planes});
        fs::write(dir.join(format!("flight_rank{rank}.json")), record.to_string()).unwrap();
    }

    #[test]
    fn the_page_names_the_rank_and_shows_the_last_operations() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let first = json!({"seq": 1, "op": "broadcast", "bytes": 8, "begun": 99.0, "ended": 99.5});
        let second = json!({"seq": 2, "op": "all_reduce", "bytes": 96, "begun": 99.75, "ended": null});
        write(dir, 0, &json!({"step": 17, "phase": "compute", "since": 99.5}), &json!([first, second]));
        write(dir, 1, &json!({"step": 17, "phase": "data", "since": 99.5}), &json!([first]));
        write(dir, 2, &json!(null), &json!([first, second]));
        let (page, code) = report(dir).unwrap();
        insta::assert_snapshot!(page, @r"
        rank 1 has not entered all_reduce (mpi #2, 96 B), for which ranks 0, 2 have waited 30 s; rank 1 was last seen in step 17, data

        rank  host  last completed    pending            for     last seen in
        0     n1    broadcast mpi #1  all_reduce mpi #2  30.2 s  step 17, compute
        1     n1    broadcast mpi #1  -                  -       step 17, data
        2     n1    broadcast mpi #1  all_reduce mpi #2  30.2 s  -

        operations around mpi #2:
          #1        broadcast                 8 B  entered by ranks 0-2
        > #2        all_reduce               96 B  entered by ranks 0, 2, not left by ranks 0, 2
        ");
        assert_eq!(code, exit::DONE);

        fs::write(dir.join("flight_rank1.json"), "{").unwrap();
        let (page, code) = report(dir).unwrap();
        assert!(page.starts_with("rank 1 wrote nothing: ") && code == exit::DONE, "{page}");
        assert!(
            page.contains("\n1     wrote nothing\n") && page.contains("\nleft out: flight_rank1.json is no"),
            "{page}"
        );
    }

    #[test]
    fn records_that_tell_nothing_are_no_success() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(report(folder.path()).unwrap().1, exit::DATA);
        for rank in 0..3 {
            write(folder.path(), rank, &json!(null), &json!([]));
        }
        let (page, code) = report(folder.path()).unwrap();
        assert!(page.starts_with("no rank was waiting\n") && code == exit::DATA, "{page}");
        assert!(matches!(report(&folder.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn a_record_that_claims_a_million_ranks_makes_no_page_of_a_million_lines() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1, &json!(null), &json!([]));
        let file = folder.path().join("flight_rank1.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"size\":3", "\"size\":1048576")).unwrap();
        let (page, code) = report(folder.path()).unwrap();
        assert!(page.contains("\n64    wrote nothing\nand 1048511 more ranks wrote nothing\n"), "{page}");
        assert!(page.starts_with("ranks 0, 2-1048575 wrote nothing") && code == exit::DONE, "{page}");

        let many = json!([{"plane": "mpi", "entered": 0, "ops": []}]).to_string();
        let planes = format!("[{}]", vec![&many[1..many.len() - 1]; 17].join(","));
        fs::write(&file, text.replace(&many, &planes)).unwrap();
        let (page, code) = report(folder.path()).unwrap();
        assert!(page.starts_with("left out: flight_rank1.json is no flight record: 17 planes\n") && code == exit::DATA);
    }
}
