//! From facts to findings: what is well, what to look at, what keeps training from running, and the way out.

use super::facts::{Cuda, Facts};
use crate::LIBTORCH_VERSION as TORCH;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Training runs, but slower or with less than it could.
    Warn,
    /// Training does not run as asked.
    Problem,
}

impl Status {
    /// The word at the start of the line.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Problem => "problem",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub status: Status,
    /// What it is about.
    pub topic: &'static str,
    /// What was found.
    pub text: String,
    /// The way out; for every finding that is not ok.
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(topic: &'static str, text: String) -> Finding {
        Finding { status: Status::Ok, topic, text, remedy: None }
    }

    /// Something to look at.
    pub fn warn(topic: &'static str, text: String, remedy: String) -> Finding {
        Finding { status: Status::Warn, topic, text, remedy: Some(remedy) }
    }

    /// Something to mend.
    pub fn problem(topic: &'static str, text: String, remedy: String) -> Finding {
        Finding { status: Status::Problem, topic, text, remedy: Some(remedy) }
    }
}

/// Below this a rank is likely to be killed for its memory.
const LITTLE_MEMORY_MIB: u64 = 1024;
/// Below this a checkpoint may not fit.
const LITTLE_DISK_MIB: u64 = 1024;
/// What Open MPI takes of /dev/shm for a rank, roughly.
const SHM_PER_RANK_MIB: u64 = 16;

/// Judges what was found, in the order of the report.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![libtorch(facts), cuda(&facts.cuda), nccl(facts), mpi(facts), ranks(facts)];
    findings.extend([devices(facts), cores(facts), threads(facts)].into_iter().flatten());
    findings.push(memory(facts));
    findings.extend(disks(facts));
    findings.push(tensorboard(facts));
    findings
}

fn libtorch(facts: &Facts) -> Finding {
    let place = facts.libtorch.lib.as_ref().map_or("an unknown place".into(), |lib| lib.display().to_string());
    match facts.libtorch.version.as_deref() {
        Some(TORCH) => Finding::ok("libtorch", format!("{TORCH} in {place}")),
        Some(other) => Finding::problem(
            "libtorch",
            format!("{other} in {place}, but polytask is made for {TORCH}"),
            "unset LIBTORCH and LD_LIBRARY_PATH, run scripts/setup, build again".into(),
        ),
        None => Finding::warn(
            "libtorch",
            format!("in {place}; its version cannot be told"),
            format!("make sure that it is {TORCH}; scripts/setup installs that one"),
        ),
    }
}

fn cuda(cuda: &Cuda) -> Finding {
    match (cuda.driver, &cuda.library, cuda.devices) {
        (_, _, 1..) => Finding::ok("CUDA", format!("{} devices", cuda.devices)),
        (false, _, 0) => Finding::ok("CUDA", "no NVIDIA driver: training runs on the CPU".into()),
        (true, None, 0) => Finding::warn(
            "CUDA",
            "there is an NVIDIA driver, but this libtorch has no CUDA part: training runs on the CPU".into(),
            "run scripts/setup --pytorch, or set LIBTORCH to a libtorch with CUDA, and build again".into(),
        ),
        (true, Some(Err(words)), 0) => Finding::warn(
            "CUDA",
            format!("there is an NVIDIA driver, but libtorch_cuda.so does not load: {words}"),
            "run scripts/setup --pytorch: it adds the CUDA libraries".into(),
        ),
        (true, Some(Ok(())), 0) => Finding::warn(
            "CUDA",
            "there is an NVIDIA driver, but libtorch can use no device: training runs on the CPU".into(),
            "see whether nvidia-smi lists one, CUDA_VISIBLE_DEVICES hides it, and the driver supports CUDA 13".into(),
        ),
    }
}

fn nccl(facts: &Facts) -> Finding {
    match &facts.nccl {
        Ok(version) => {
            let text = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
            Finding::ok("NCCL", text)
        }
        Err(words) if facts.cuda.devices > 0 => Finding::warn(
            "NCCL",
            format!("does not load: {words}; GPUs would exchange tensors through MPI"),
            "run scripts/setup --pytorch, or put libnccl.so.2 on LD_LIBRARY_PATH".into(),
        ),
        Err(_) => Finding::ok("NCCL", "none, and no GPU that needs it".into()),
    }
}

fn mpi(facts: &Facts) -> Finding {
    let mpi = &facts.mpi;
    if !mpi.built_in {
        return Finding::warn(
            "MPI",
            "not built in: one process only".into(),
            "for several, run scripts/setup and build without --no-default-features".into(),
        );
    }
    let library = mpi.library.clone().unwrap_or_else(|| "an unknown library".into());
    match (&mpi.mpirun, mpi.launcher) {
        (Some(mpirun), _) => Finding::ok("MPI", format!("{library}; {mpirun}")),
        (None, Some((launcher, _))) => Finding::ok("MPI", format!("{library}; started by {launcher}")),
        (None, None) => Finding::warn(
            "MPI",
            format!("{library}, but no mpirun on PATH: one process only, unless srun starts them"),
            "load the module of your MPI, or install openmpi-bin".into(),
        ),
    }
}

/// Whether the world is the one that the launcher made.
fn ranks(facts: &Facts) -> Finding {
    let world = facts.world;
    match facts.mpi.launcher {
        None => Finding::ok("ranks", "1, no launcher".into()),
        Some((launcher, Some(n))) if n != world.size => Finding::problem(
            "ranks",
            format!("{launcher} started {n} processes, but each sees a world of {}", world.size),
            "use the mpirun of the MPI that polytask was built with; with SLURM: srun --mpi=pmix".into(),
        ),
        Some((launcher, _)) => {
            Finding::ok("ranks", format!("{}, {} on this host, started by {launcher}", world.size, world.local_size))
        }
    }
}

fn devices(facts: &Facts) -> Option<Finding> {
    let (devices, ranks) = (facts.cuda.devices, facts.world.local_size);
    (devices > 1 && devices < ranks).then(|| {
        Finding::problem(
            "devices",
            format!("{ranks} ranks on this host, but only {devices} CUDA devices"),
            format!("start at most {devices} ranks per host, or train with --set train.device=cpu"),
        )
    })
}

fn cores(facts: &Facts) -> Option<Finding> {
    let (cores, ranks) = (&facts.cores, facts.world.local_size);
    let text = format!("{} of {} for this process; ranks on this host: {ranks}", cores.usable, cores.online);
    // A rank that is bound to few cores leaves the rest idle.
    if ranks > 1 && cores.usable * ranks < cores.online {
        let remedy = "mpirun binds each rank to one core by default: mpirun --bind-to none (launch/mpirun.sh does so)";
        return Some(Finding::warn("cores", text, remedy.into()));
    }
    if ranks > cores.online {
        let remedy = format!("ranks take turns and wait for each other: start at most {}", cores.online);
        return Some(Finding::warn("cores", text, remedy));
    }
    Some(Finding::ok("cores", text))
}

fn threads(facts: &Facts) -> Option<Finding> {
    let (cores, ranks) = (&facts.cores, facts.world.local_size);
    let share = (cores.online / ranks).max(1);
    let Some(text) = &cores.omp else {
        return Some(Finding::ok("threads", "OMP_NUM_THREADS not set: cores of the host / ranks on the host".into()));
    };
    match text.split(',').next().and_then(|first| first.trim().parse::<usize>().ok()) {
        Some(n) if n >= 1 && n * ranks <= cores.online.max(ranks) => {
            Some(Finding::ok("threads", format!("OMP_NUM_THREADS={n}")))
        }
        Some(n) if n >= 1 => Some(Finding::warn(
            "threads",
            format!(
                "OMP_NUM_THREADS={n} in each of {ranks} ranks, on {} cores: they get in each other's way",
                cores.online
            ),
            format!("export OMP_NUM_THREADS={share}"),
        )),
        _ => Some(Finding::warn(
            "threads",
            format!("OMP_NUM_THREADS={text} is no number of threads"),
            format!("export OMP_NUM_THREADS={share}"),
        )),
    }
}

fn memory(facts: &Facts) -> Finding {
    let Some(mib) = facts.memory_mib else {
        return Finding::ok("memory", "cannot be told".into());
    };
    let text = format!("{} available", size(mib));
    let ranks = facts.world.local_size as u64;
    if mib < LITTLE_MEMORY_MIB * ranks {
        let remedy =
            format!("a rank needs about 1 GiB and its share of the data: start fewer than {ranks}, or ask for more");
        return Finding::warn("memory", text, remedy);
    }
    Finding::ok("memory", text)
}

fn disks(facts: &Facts) -> Vec<Finding> {
    let ranks = facts.world.local_size as u64;
    let judge = |(what, path, free): &(&'static str, std::path::PathBuf, Option<u64>)| {
        let mib = (*free)?;
        let text = format!("{} free in {}", size(mib), path.display());
        Some(match *what {
            "shared memory" if ranks > 1 && mib < SHM_PER_RANK_MIB * ranks => {
                Finding::warn(what, text, "Open MPI keeps its buffers there; in a container: --shm-size=1g".into())
            }
            "runs" if mib < LITTLE_DISK_MIB => {
                Finding::warn(what, text, "checkpoints may not fit: set run.dir to a larger disk".into())
            }
            _ => Finding::ok(what, text),
        })
    };
    facts.disks.iter().filter_map(judge).collect()
}

fn tensorboard(facts: &Facts) -> Finding {
    match &facts.tensorboard {
        Some(path) => Finding::ok("TensorBoard", path.display().to_string()),
        None => Finding::warn(
            "TensorBoard",
            "not found; runs are written for it all the same".into(),
            "run scripts/setup, or pip install tensorboard".into(),
        ),
    }
}

fn size(mib: u64) -> String {
    if mib >= 10 * 1024 { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Cores, Libtorch, Mpi};
    use super::*;
    use crate::world::World;

    /// A machine where everything is as it should be: two ranks on four cores.
    fn healthy() -> Facts {
        Facts {
            world: World { rank: 0, size: 2, local_rank: 0, local_size: 2 },
            host: "node1".into(),
            libtorch: Libtorch { lib: Some("/opt/torch/lib".into()), version: Some("2.11.0".into()) },
            cuda: Cuda { driver: false, library: None, devices: 0 },
            nccl: Err("libnccl.so.2: cannot open shared object file".into()),
            mpi: Mpi {
                built_in: true,
                library: Some("Open MPI v4.1.4".into()),
                mpirun: Some("mpirun (Open MPI) 4.1.4".into()),
                launcher: Some(("mpirun (Open MPI)", Some(2))),
            },
            cores: Cores { online: 4, usable: 4, omp: Some("2".into()) },
            memory_mib: Some(16_000),
            disks: vec![("runs", ".".into(), Some(50_000)), ("shared memory", "/dev/shm".into(), Some(8_000))],
            tensorboard: Some("/usr/bin/tensorboard".into()),
        }
    }

    #[test]
    fn a_healthy_machine_has_nothing_to_look_at() {
        let findings = judge(&healthy());
        assert!(findings.iter().all(|f| f.status == Status::Ok && f.remedy.is_none()), "{findings:#?}");
    }

    /// Breaks one thing; exactly one finding must change, to this status, with these words in text and remedy.
    #[track_caller]
    fn breaks(change: impl FnOnce(&mut Facts), topic: &str, status: Status, text: &str, remedy: &str) {
        let mut facts = healthy();
        change(&mut facts);
        let findings = judge(&facts);
        let bad: Vec<_> = findings.iter().filter(|f| f.status != Status::Ok).collect();
        let [found] = bad[..] else { panic!("expected one finding that is not ok: {bad:#?}") };
        assert_eq!((found.topic, found.status), (topic, status), "{found:?}");
        assert!(found.text.contains(text), "{found:?}");
        assert!(found.remedy.as_deref().is_some_and(|r| r.contains(remedy)), "{found:?}");
    }

    #[test]
    fn each_fault_is_named_with_its_remedy() {
        use Status::{Problem, Warn};
        breaks(|f| f.libtorch.version = Some("2.9.1".into()), "libtorch", Problem, "2.9.1 in", "scripts/setup");
        breaks(|f| f.libtorch.version = None, "libtorch", Warn, "cannot be told", "2.11.0");
        breaks(|f| f.cuda.driver = true, "CUDA", Warn, "no CUDA part", "--pytorch");
        let unloadable = Some(Err("libcudnn.so.9: cannot open shared object file".into()));
        breaks(
            |f| f.cuda = Cuda { driver: true, library: unloadable, devices: 0 },
            "CUDA",
            Warn,
            "libcudnn.so.9",
            "--pytorch",
        );
        breaks(
            |f| f.cuda = Cuda { driver: true, library: Some(Ok(())), devices: 0 },
            "CUDA",
            Warn,
            "no device",
            "nvidia-smi",
        );
        breaks(
            |f| f.cuda = Cuda { driver: true, library: Some(Ok(())), devices: 2 },
            "NCCL",
            Warn,
            "libnccl.so.2",
            "LD_LIBRARY_PATH",
        );
        breaks(|f| f.mpi.built_in = false, "MPI", Warn, "one process only", "--no-default-features");
        breaks(
            |f| (f.mpi.mpirun, f.mpi.launcher, f.world) = (None, None, World::SOLO),
            "MPI",
            Warn,
            "no mpirun on PATH",
            "openmpi-bin",
        );
        breaks(|f| f.mpi.launcher = Some(("srun", Some(8))), "ranks", Problem, "started 8 processes", "--mpi=pmix");
        breaks(|f| f.cores.usable = 1, "cores", Warn, "1 of 4 for", "--bind-to none");
        breaks(|f| f.cores = Cores { online: 1, usable: 1, omp: None }, "cores", Warn, "1 of 1 for", "at most 1");
        breaks(|f| f.cores.omp = Some("4".into()), "threads", Warn, "4 in each of 2 ranks", "OMP_NUM_THREADS=2");
        breaks(|f| f.cores.omp = Some("all".into()), "threads", Warn, "no number", "OMP_NUM_THREADS=2");
        breaks(|f| f.memory_mib = Some(1500), "memory", Warn, "1500 MiB", "fewer than 2");
        breaks(|f| f.disks[0].2 = Some(100), "runs", Warn, "100 MiB free", "run.dir");
        breaks(|f| f.disks[1].2 = Some(30), "shared memory", Warn, "30 MiB free", "--shm-size");
        breaks(|f| f.tensorboard = None, "TensorBoard", Warn, "not found", "pip install tensorboard");
    }

    #[test]
    fn more_ranks_than_devices_is_a_problem() {
        let mut facts = healthy();
        facts.world = World { rank: 0, size: 4, local_rank: 0, local_size: 4 };
        facts.cuda = Cuda { driver: true, library: Some(Ok(())), devices: 2 };
        let found = judge(&facts).into_iter().find(|f| f.topic == "devices").unwrap();
        assert_eq!(found.status, Status::Problem);
        assert!(found.remedy.unwrap().contains("at most 2 ranks"));
    }
}
