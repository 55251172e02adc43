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
        if is_out_of_memory(info) {
            let _ = writeln!(std::io::stderr(), "[rank {rank}] error: {}", OUT_OF_MEMORY);
            end(exit::DATA);
        }
        // Not `eprintln!`, which panics where standard error is closed.
        let _ =
            writeln!(std::io::stderr(), "polytask: internal error on rank {rank}; this is a bug, please report it:");
        usual(info);
        end(exit::BUG);
    }));
}

const OUT_OF_MEMORY: &str = "not enough memory for this step
  hint: a smaller `batch.per_task`, or the same batch in parts (`batch.accumulate`); `train.precision: bf16`, \
                             more ranks, or a GPU or node with more memory; `polytask check` estimates what a rank holds";

/// libtorch's words for memory that is not there, on a GPU or on the host.
fn is_out_of_memory(info: &std::panic::PanicHookInfo<'_>) -> bool {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.is_some_and(|text| text.contains("out of memory") || text.contains("not enough memory: you tried to allocate"))
}

/// Ends the whole job.
fn end(code: u8) {
    #[cfg(feature = "mpi")]
    comm::mpi::abort_if_connected(code);
    #[allow(clippy::disallowed_methods)] // without MPI this is the abort
    std::process::exit(code.into());
}
