//! `polytask train`.

use super::{ConfigArgs, stop, with_world};
use crate::error::{Result, exit};
use crate::train::{Options, Outcome, Resume, train};
use clap::Args;

/// Reads `CONFIG`, trains into its run directory (`run.dir`, default `runs/<run.name>`), and ends with a table of
/// results. The same command continues a run that was stopped or killed, from its latest checkpoint, to the same
/// result as if it had never stopped.
///
/// USR1, USR2, INT, TERM or HUP stop it after the current step with a checkpoint and exit code 75; under mpirun use
/// USR1 (`kill -USR1 <pid of mpirun>`), which arrives at once. So does the nearing end of `train.max_time`, or of the job
/// (POLYTASK_END_TIME or SLURM_JOB_END_TIME, in seconds since 1970).
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// `auto`: continue from the latest checkpoint of the run directory if there is one. `never`: start anew, and refuse
    /// a run directory that holds a checkpoint. DIR: start from this checkpoint, or from the latest of this other run; once
    /// the run has checkpoints of its own they count, unless DIR is one of them, which goes back to it
    #[arg(long, value_name = "auto|never|DIR", default_value = "auto")]
    resume: String,
    /// Continue although the configuration has changed in what makes another experiment; the changes are printed. What is
    /// saved must still fit: the model, its tasks, the optimizer
    #[arg(long)]
    allow_config_change: bool,
}

impl TrainArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let config = self.config.load()?;
        let resume = match self.resume.as_str() {
            "auto" => Resume::Auto,
            "never" => Resume::Never,
            dir => Resume::From(dir.into()),
        };
        let options = Options { resume, allow_config_change: self.allow_config_change };
        let stop = stop::listen()?;
        with_world(&config.comm, &config.run.dir(), |comm| {
            Ok(match train(&config, &options, &stop, comm)? {
                Outcome::Done => exit::DONE,
                Outcome::Stopped => exit::AGAIN,
            })
        })
    }
}
