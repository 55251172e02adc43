//! The subcommands of the program, a file each.

pub mod balance;
pub mod bench;
pub mod check;
mod compare;
pub mod doctor;
mod eval;
pub mod inspect;
mod methods;
mod predict;
mod restored;
mod stop;
mod text;
mod train;

use crate::comm::watchdog::{WatchdogOptions, guard};
use crate::comm::{self, Collective};
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::{fault, ffi, log};
use clap::{Args, Parser, Subcommand};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Train one shared-encoder model on many tasks, on one rank or many: balancing methods act on the global per-task
/// gradients, runs resume exactly.
#[derive(Debug, Parser)]
#[command(name = "polytask", version, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Start it alone for one rank, or under a launcher for several:
  mpirun -n 4 polytask train CONFIG        srun --mpi=pmix polytask train CONFIG

Exit codes:
  0   done
  2   wrong usage or configuration; doctor: it has found a problem
  3   data, files of the run, or too little memory
  4   training stopped by its own guard (divergence, values that are not finite)
  70  a bug, or a failure of communication
  75  stopped early with a checkpoint: run the same command again to continue
  130 ended at once by a second Ctrl-C or TERM";

#[derive(Debug, Subcommand)]
enum Command {
    /// Train, or continue training, into the run directory
    Train(train::TrainArgs),
    /// Train several balancing methods, with several seeds, and every task alone, and compare them in a table
    Compare(compare::CompareArgs),
    /// Evaluate a checkpoint of a run
    Eval(eval::EvalArgs),
    /// Show what a checkpoint holds, or which checkpoints of a run can be used
    Inspect(inspect::InspectArgs),
    /// Predict for the rows of a file: CSV, Parquet or JSON lines
    Predict(predict::PredictArgs),
    /// Check a configuration: open the data, build the model, run one step on a few rows; changes nothing
    Check(check::CheckArgs),
    /// Time training steps and their phases; writes nothing
    Bench(bench::BenchArgs),
    /// List the balancing methods with their options and defaults, or print all about one
    Methods(methods::MethodsArgs),
    /// Balance a Jacobian from a file (.npy): coefficients, direction and conflicts of any method
    Balance(balance::BalanceArgs),
    /// Look for what is wrong with libtorch, CUDA, NCCL, MPI, cores and disks, and say how to mend it
    Doctor(doctor::DoctorArgs),
}

/// The configuration with its overrides.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration, a YAML file; docs/config.md lists every key
    pub config: PathBuf,
    /// Override one value, for example `--set optim.adamw.lr=3e-4`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// Reads the configuration, and prepares what must be prepared before any thread runs.
    fn load(&self) -> Result<Config> {
        let config = config::load(&self.config, &self.set)?;
        if config.comm.deterministic {
            comm::nccl::make_deterministic().map_err(|e| Error::Usage(e.to_string()))?;
        }
        Ok(config)
    }
}

impl Arguments {
    /// Runs the command; returns the exit code.
    ///
    /// # Errors
    /// What ended it, for [`report`]. Failures that other ranks may not know of never return: they end the job.
    pub fn run(&self) -> Result<u8> {
        match &self.command {
            Command::Train(args) => args.run(),
            Command::Compare(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Predict(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Bench(args) => args.run(),
            Command::Methods(args) => args.run(),
            Command::Balance(args) => args.run(),
            Command::Doctor(args) => args.run(),
        }
    }
}

/// Prints on standard error. If nobody can read it, there is nobody left to tell.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{}", text::plain(text));
}

/// How long other ranks leave it to rank 0 to report an error that it most likely has too: mpirun takes up to two seconds
/// to end the job.
const RANK_0_FIRST: Duration = Duration::from_secs(5);

/// Prints an error and returns its exit code. Errors that all ranks share are printed by rank 0 alone: the launcher ends
/// the job as soon as it fails. A rank that is still there after a while has an error of its own.
pub fn report(error: &Error, rank: usize) -> u8 {
    if rank == 0 {
        complain(&format!("error: {error}"));
    } else {
        if !error.is_local() {
            std::thread::sleep(RANK_0_FIRST);
        }
        complain(&format!("[rank {rank}] error: {error}"));
    }
    error.exit_code()
}

/// Joins the world, runs `body`, and ends the whole job at once if this rank failed alone. A watchdog does the same if a
/// rank is stuck, and leaves flight records in `dir`.
fn with_world(config: &config::Comm, dir: &Path, body: impl FnOnce(&dyn Collective) -> Result<u8>) -> Result<u8> {
    ffi::keep_freed_memory();
    let comm = comm::connect(config.backend)?;
    let world = comm.world();
    log::init(world.rank, world.size);
    let faults = std::env::var(fault::VARIABLE).ok();
    let deadline = Duration::from_secs(config.timeout);
    let options = WatchdogOptions { deadline, dir: dir.join("flight"), ..WatchdogOptions::default() };
    let comm = guard(comm, options)?;
    let body = || -> Result<u8> {
        fault::arm(faults.as_deref(), world)?;
        fault::strike(fault::START, world)?;
        let code = body(comm.as_ref())?;
        fault::strike(fault::END, world)?;
        Ok(code)
    };
    match body() {
        Err(error) if error.is_local() => {
            let code = report(&error, world.rank);
            comm.abort(code)
        }
        Err(error) if world.is_main() => {
            // Printed before the ranks part, which they do together.
            let code = report(&error, 0);
            Ok(code)
        }
        Err(error) => Ok(error.exit_code()),
        Ok(code) => Ok(code),
    }
}
