//! Which world the launcher made, and how to join it.

use super::{Collective, CommError, Solo};
use crate::config::Backend;
use crate::world::World;

/// Variables by which launchers tell a process that it is one of several.
const MARKS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"];

/// Whether a launcher (mpirun, srun) started this process as one of several.
pub fn launched() -> bool {
    MARKS.iter().any(|name| std::env::var_os(name).is_some())
        || (std::env::var_os("SLURM_PROCID").is_some() && number("SLURM_STEP_NUM_TASKS").is_some_and(|n| n > 1))
}

/// This process's rank as the launcher tells it, before anything is connected; 0 without a launcher.
pub fn rank_by_launcher() -> usize {
    ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"].iter().find_map(|name| number(name)).unwrap_or(0)
}

/// This process's place as the launcher tells it, before anything is connected.
pub fn world_by_launcher() -> World {
    let first = |names: &[&str], none| names.iter().find_map(|name| number(name)).unwrap_or(none);
    World {
        rank: rank_by_launcher(),
        size: launched_size().unwrap_or(1),
        local_rank: first(&["OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID"], 0),
        local_size: first(&["OMPI_COMM_WORLD_LOCAL_SIZE"], 1),
    }
}

/// The job's name at its scheduler, for people: `SLURM_JOB_ID`, `PBS_JOBID`, `LSB_JOBID` or `JOB_ID`.
pub fn job_by_launcher() -> Option<String> {
    let jobs = ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"];
    jobs.iter().find_map(|name| std::env::var(name).ok().filter(|job| !job.trim().is_empty()))
}

/// Threads per rank as the user's environment wants them (`OMP_NUM_THREADS`).
pub fn threads_by_environment() -> Option<usize> {
    number("OMP_NUM_THREADS").filter(|&n| n > 0)
}

/// Whether several ranks are to share a GPU: NCCL allows it where every rank has been given a host identity of its own.
pub fn shares_gpus() -> bool {
    std::env::var_os("NCCL_HOSTID").is_some()
}

/// Joins the world. Without a launcher this is a world of one and MPI is never touched.
///
/// # Errors
/// [`CommError::Launch`] when the launcher made another world than MPI sees, or MPI is needed and not built in.
pub fn connect(backend: Backend) -> Result<Box<dyn Collective>, CommError> {
    match backend {
        Backend::Solo if launched_size().unwrap_or(1) > 1 => Err(CommError::Launch(format!(
            "`comm.backend: solo` under a launcher that started {} processes: each would train alone and write the \
             same files\n  hint: start one process, or use `comm.backend: auto`",
            launched_size().unwrap_or(1)
        ))),
        Backend::Solo => Ok(Box::new(Solo)),
        Backend::Auto if !launched() => Ok(Box::new(Solo)),
        Backend::Auto | Backend::Mpi | Backend::Nccl => connect_mpi(),
    }
}

#[cfg(feature = "mpi")]
fn connect_mpi() -> Result<Box<dyn Collective>, CommError> {
    let comm = super::mpi::Mpi::connect()?;
    let size = comm.world().size;
    match launched_size() {
        Some(expected) if expected != size => Err(CommError::Launch(format!(
            "the launcher started {expected} processes but MPI sees a world of {size}\n  hint: the launcher and the MPI \
             library do not speak to each other; use the mpirun of the MPI that polytask was built with, or \
             `srun --mpi=pmix`"
        ))),
        _ => Ok(Box::new(comm)),
    }
}

#[cfg(not(feature = "mpi"))]
fn connect_mpi() -> Result<Box<dyn Collective>, CommError> {
    Err(CommError::Launch(
        "this polytask was built without MPI, so it cannot join a world of several processes\n  hint: build it with \
         the default features, or start a single process"
            .into(),
    ))
}

/// Processes of the job as the launcher tells.
fn launched_size() -> Option<usize> {
    number("OMPI_COMM_WORLD_SIZE").or_else(|| number("SLURM_STEP_NUM_TASKS"))
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.trim().parse().ok()
}
