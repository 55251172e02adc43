//! Arguments in, exit code out: everything else is the library.

use clap::Parser;
use polytask::cli::{Arguments, report};
use polytask::comm;
use polytask::data::sources::panic_is_contained;
use polytask::error::{self, exit};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    abort_all_on_panic();
    let code = arguments.run().unwrap_or_else(|e| report(&e, comm::rank_by_launcher()));
    ExitCode::from(code)
}

/// A panic is our bug: say which rank, then end the whole job. Unwinding instead would finalise MPI, which waits for
/// ranks that wait for this one.
fn abort_all_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if panic_is_contained() {
            return; // a damaged file made a library panic, and the reader turns that into an error
        }
        let rank = comm::rank_by_launcher();
        // Most calls of libtorch panic where they fail, and memory that is not there is no bug.
        if let Some(text) = error::shortage(words(info)) {
            let _ = writeln!(std::io::stderr(), "[rank {rank}] error: {text}");
            end(exit::DATA);
        }
        // Not `eprintln!`, which panics where standard error is closed.
        let _ =
            writeln!(std::io::stderr(), "polytask: internal error on rank {rank}; this is a bug, please report it:");
        usual(info);
        end(exit::BUG);
    }));
}

/// What a panic says.
fn words<'a>(info: &'a std::panic::PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// Ends the whole job.
fn end(code: u8) {
    #[cfg(feature = "mpi")]
    comm::mpi::abort_if_connected(code);
    #[allow(clippy::disallowed_methods)] // without MPI this is the abort
    std::process::exit(code.into());
}
