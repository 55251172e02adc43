//! `polytask doctor --flight DIR`: what ranks did when their watchdogs ended the job.

use crate::cli::text;
use crate::comm::watchdog::culprit::{self, Verdict, named};
use crate::comm::watchdog::flight::{Flight, OpRecord, Records};
use crate::error::{Error, Result, exit};
use std::fmt::Write;
use std::path::Path;

/// Operations shown before the one in question.
const BEFORE: u64 = 4;
/// Operations shown after it.
const AFTER: u64 = 2;

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

/// A row per rank.
fn ranks(flights: &[Flight]) -> String {
    let size = flights.first().map_or(0, |flight| flight.size);
    let rows: Vec<Vec<String>> = (0..size)
        .map(|rank| match flights.iter().find(|flight| flight.rank == rank) {
            Some(flight) => row(flight),
            None => [&rank.to_string(), "wrote nothing", "", "", "", ""].map(String::from).to_vec(),
        })
        .collect();
    text::table(&["rank", "host", "last completed", "pending", "for", "last seen in"], &rows, 6)
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
