//! `polytask doctor`: what this machine offers, what is wrong with it, and how to mend it; or what a job did that its
//! watchdog ended ([`flight`]).
//!
//! [`facts`] looks around (libraries, launcher, cores, memory, disks) and judges nothing; [`mod@judge`] is a pure function
//! from facts to findings; this file prints them. MPI is never initialised, so that it works where MPI is broken.

pub mod facts;
pub mod flight;
pub mod judge;

pub use facts::Facts;
pub use judge::{Finding, Status, judge};

use super::text;
use crate::error::exit;
use crate::world::World;
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;

/// Looks for what is wrong with libtorch, CUDA, NCCL, MPI, cores and disks, and says how to mend it.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Instead, read the flight records that ranks wrote into DIR (`<run.dir>/flight`) when one of them was stuck, and say who
    /// waited for whom
    #[arg(long, value_name = "DIR")]
    flight: Option<PathBuf>,
}

impl DoctorArgs {
    pub(super) fn run(&self) -> crate::Result<u8> {
        match &self.flight {
            None => run(),
            Some(dir) => {
                let (page, code) = flight::report(dir)?;
                text::print(format_args!("{page}"))?;
                Ok(code)
            }
        }
    }
}

/// `polytask doctor` as a subcommand: in a world as the launcher tells it.
///
/// # Errors
/// When standard output cannot be written.
fn run() -> crate::Result<u8> {
    let world = crate::comm::world_by_launcher();
    let mut page = Vec::new();
    let written = doctor(world, &mut page);
    text::print(format_args!("{}", String::from_utf8_lossy(&page)))?;
    written.map_err(|source| crate::Error::Io { path: "standard output".into(), source })
}

/// Looks around and prints what it finds: on rank 0 everything, on other ranks one line about the rank.
///
/// Returns the exit code: 0, or 2 when there is a problem that keeps training from running.
///
/// # Errors
/// When `out` cannot be written.
pub fn doctor(world: World, out: &mut dyn Write) -> io::Result<u8> {
    let facts = Facts::collect(world);
    if !world.is_main() {
        writeln!(out, "{}", rank_line(&facts))?;
        return Ok(exit::DONE);
    }
    let findings = judge(&facts);
    print(&findings, out)?;
    let problem = findings.iter().any(|f| f.status == Status::Problem);
    Ok(if problem { exit::USAGE } else { exit::DONE })
}

/// What rank 0 cannot know of the others.
fn rank_line(facts: &Facts) -> String {
    let World { rank, size, local_rank, .. } = facts.world;
    format!(
        "rank {rank} of {size}: host {}, local rank {local_rank}, {} cores, {} CUDA devices",
        facts.host, facts.cores.usable, facts.cuda.devices
    )
}

/// Writes one line per finding, its remedy below it, and a sum at the end.
///
/// # Errors
/// When `out` cannot be written.
pub fn print(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        writeln!(out, "{:<8} {:<13} {}", finding.status.name(), finding.topic, finding.text)?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "{:<22} -> {remedy}", "")?;
        }
    }
    let count = |status| findings.iter().filter(|f| f.status == status).count();
    match (count(Status::Problem), count(Status::Warn)) {
        (0, 0) => writeln!(out, "\nAll is well"),
        (0, warnings) => writeln!(out, "\nTraining will run; {warnings} to look at"),
        (problems, _) => writeln!(out, "\nTraining will not run as it should; to mend: {problems}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines_with_their_remedies_and_a_sum() {
        let findings =
            [Finding::ok("cores", "8".into()), Finding::problem("MPI", "no launcher".into(), "load a module".into())];
        let mut out = Vec::new();
        print(&findings, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        ok       cores         8
        problem  MPI           no launcher
                               -> load a module

        Training will not run as it should; to mend: 1
        ");
    }

    #[test]
    fn rank_0_reports_and_others_say_one_line() {
        let mut main = Vec::new();
        doctor(World { rank: 0, size: 2, local_rank: 0, local_size: 2 }, &mut main).unwrap();
        let main = String::from_utf8(main).unwrap();
        assert!(main.contains("libtorch      2.11.0 in "), "{main}");

        let mut other = Vec::new();
        let code = doctor(World { rank: 1, size: 2, local_rank: 1, local_size: 2 }, &mut other).unwrap();
        let other = String::from_utf8(other).unwrap();
        assert!(other.starts_with("rank 1 of 2: host ") && other.lines().count() == 1, "{other}");
        assert_eq!(code, exit::DONE);
    }
}
