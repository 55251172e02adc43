//! Arguments in, exit code out: everything else is the library.

use clap::Parser;
use polytask::cli::{Arguments, report};
use polytask::data::sources::panic_is_contained;
use polytask::{comm, error::exit};
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
        // Not `eprintln!`, which panics where standard error is closed.
        let _ =
            writeln!(std::io::stderr(), "polytask: internal error on rank {rank}; this is a bug, please report it:");
        usual(info);
        #[cfg(feature = "mpi")]
        comm::mpi::abort_if_connected(exit::BUG);
        #[allow(clippy::disallowed_methods)] // without MPI this is the abort
        std::process::exit(exit::BUG.into());
    }));
}
