//! Looking around: what there is, without judging it.

use crate::ffi;
use crate::world::World;
use libloading::os::unix::Library;
use std::ffi::{c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What was found on this machine, for this rank.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Place of this rank as the program sees it.
    pub world: World,
    /// Name of the host.
    pub host: String,
    /// Folder of the libtorch in use and its version, if they can be told.
    pub libtorch: Libtorch,
    /// GPUs.
    pub cuda: Cuda,
    /// Version of NCCL as it counts (22809 is 2.28.9), or why there is none.
    pub nccl: Result<u32, String>,
    /// MPI.
    pub mpi: Mpi,
    /// Cores and threads.
    pub cores: Cores,
    /// Memory that this process may still use, in MiB.
    pub memory_mib: Option<u64>,
    /// Free space in MiB: what the place is for, the place, how much.
    pub disks: Vec<(&'static str, PathBuf, Option<u64>)>,
    /// Where TensorBoard is.
    pub tensorboard: Option<PathBuf>,
}

/// The libtorch that this process has loaded.
#[derive(Debug, Clone)]
pub struct Libtorch {
    /// Folder of `libtorch_cpu.so`.
    pub lib: Option<PathBuf>,
    /// Version, from the header that lies beside it.
    pub version: Option<String>,
}

/// GPUs and the libraries for them.
#[derive(Debug, Clone)]
pub struct Cuda {
    /// Whether a driver of NVIDIA is loaded in the kernel.
    pub driver: bool,
    /// Whether this libtorch has a CUDA part and it loads: `None` without one, else the loader's words on failure.
    pub library: Option<Result<(), String>>,
    /// Devices that libtorch can use.
    pub devices: usize,
}

/// The message passing library and the launcher.
#[derive(Debug, Clone)]
pub struct Mpi {
    /// Whether this program was built with it.
    pub built_in: bool,
    /// Name and version of the library that is linked.
    pub library: Option<String>,
    /// First line of `mpirun --version`.
    pub mpirun: Option<String>,
    /// Who started this process (`mpirun`, `srun`, ...), and how many processes it says there are.
    pub launcher: Option<(&'static str, Option<usize>)>,
}

/// Cores and threads.
#[derive(Debug, Clone)]
pub struct Cores {
    /// Cores of the machine.
    pub online: usize,
    /// Cores that this process may use (affinity, cgroup).
    pub usable: usize,
    /// `OMP_NUM_THREADS`.
    pub omp: Option<String>,
}

impl Facts {
    /// Looks around.
    pub fn collect(world: World) -> Facts {
        let lib = ffi::libtorch_dir();
        let cuda = cuda();
        Facts {
            world,
            host: read("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".into()),
            nccl: nccl_version(lib.as_deref()),
            cuda,
            libtorch: Libtorch { version: lib.as_deref().and_then(torch_version), lib },
            mpi: mpi(),
            cores: cores(),
            memory_mib: memory_mib(),
            disks: disks(),
            tensorboard: tensorboard(),
        }
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The version that the header beside the libraries states.
fn torch_version(lib: &Path) -> Option<String> {
    let include = lib.parent()?.join("include/torch");
    ["headeronly/version.h", "csrc/api/include/torch/version.h"]
        .iter()
        .find_map(|file| parse_torch_version(&read(include.join(file))?))
}

fn parse_torch_version(header: &str) -> Option<String> {
    let number = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
}

/// Loads the CUDA part of libtorch if there is one, as training does, and asks libtorch for devices.
fn cuda() -> Cuda {
    let library = ffi::load_cuda().map(|found| found.map(drop)).transpose();
    let devices = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    Cuda { driver: Path::new("/proc/driver/nvidia/version").exists(), library, devices }
}

/// The NCCL that libtorch uses: already loaded, or in its place beside libtorch.
fn nccl_version(lib: Option<&Path>) -> Result<u32, String> {
    let beside = lib.and_then(Path::parent).and_then(Path::parent).map(|p| p.join("nvidia/nccl/lib/libnccl.so.2"));
    let path = beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("libnccl.so.2"));
    // SAFETY: the library runs no code of consequence when it is loaded, and ncclGetVersion writes one int.
    unsafe {
        let library = Library::new(path).map_err(|error| loader_words(&error))?;
        let version = library
            .get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"ncclGetVersion\0")
            .map_err(|error| loader_words(&error))?;
        let mut number: c_int = 0;
        match version(&mut number) {
            0 => Ok(u32::try_from(number).unwrap_or(0)),
            code => Err(format!("ncclGetVersion failed with code {code}")),
        }
    }
}

/// The dynamic loader's own sentence.
fn loader_words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn mpi() -> Mpi {
    Mpi { built_in: cfg!(feature = "mpi"), library: mpi_library(), mpirun: mpirun_version(), launcher: launcher() }
}

/// `MPI_Get_library_version` of the library that this program is linked to; the one call allowed before `MPI_Init`.
fn mpi_library() -> Option<String> {
    // Longer than MPI_MAX_LIBRARY_VERSION_STRING of Open MPI (256) and MPICH (8192).
    let mut text = vec![0u8; 16384];
    let mut len: c_int = 0;
    // SAFETY: the signature is fixed by the MPI standard, and the buffer is as long as it asks for.
    let code = unsafe {
        let this = Library::this();
        let version =
            this.get::<unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int>(b"MPI_Get_library_version\0").ok()?;
        version(text.as_mut_ptr().cast(), &mut len)
    };
    text.truncate(usize::try_from(len).ok()?);
    let text = String::from_utf8_lossy(&text);
    (code == 0).then(|| text.split(", package").next().unwrap_or(&text).trim().to_owned())
}

fn mpirun_version() -> Option<String> {
    let output = Command::new("mpirun").arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// What the environment says about who started this process.
fn launcher() -> Option<(&'static str, Option<usize>)> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let has = |name| std::env::var_os(name).is_some();
    if has("OMPI_COMM_WORLD_SIZE") {
        Some(("mpirun (Open MPI)", number("OMPI_COMM_WORLD_SIZE")))
    } else if has("SLURM_PROCID") && number("SLURM_NTASKS").is_some_and(|n| n > 1) {
        Some(("srun", number("SLURM_NTASKS")))
    } else if has("PMI_RANK") {
        Some(("mpiexec (PMI)", number("PMI_SIZE")))
    } else {
        has("PMIX_RANK").then_some(("a PMIx launcher", None))
    }
}

fn cores() -> Cores {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let online = read("/sys/devices/system/cpu/online").and_then(|list| parse_cpu_list(&list)).unwrap_or(usable);
    Cores { online, usable, omp: std::env::var("OMP_NUM_THREADS").ok() }
}

/// Number of CPUs in a list of the kernel: `0-3,8` is 5.
fn parse_cpu_list(list: &str) -> Option<usize> {
    let range = |part: &str| -> Option<usize> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (last + 1).checked_sub(first)
    };
    list.split(',').map(range).sum()
}

/// Available memory, and no more than the cgroup still allows.
fn memory_mib() -> Option<u64> {
    let meminfo = read("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024;
    let group = |file: &str| read(format!("/sys/fs/cgroup/{file}"))?.parse::<u64>().ok();
    let left = group("memory.max").zip(group("memory.current")).map(|(max, now)| max.saturating_sub(now) >> 20);
    Some(left.map_or(available, |left| left.min(available)))
}

fn disks() -> Vec<(&'static str, PathBuf, Option<u64>)> {
    let places = [("runs", PathBuf::from(".")), ("shared memory", PathBuf::from("/dev/shm")), ("cache", cache())];
    places.into_iter().map(|(what, path)| (what, path.clone(), free_mib(&path))).collect()
}

/// Where `scripts/setup` keeps libtorch.
fn cache() -> PathBuf {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("POLYTASK_CACHE").unwrap_or_else(|| {
        let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
        caches.unwrap_or_default().join("polytask")
    })
}

/// Free space as `df` tells it.
fn free_mib(path: &Path) -> Option<u64> {
    let output = Command::new("df").arg("-Pk").arg(path).output().ok()?;
    parse_df(&String::from_utf8_lossy(&output.stdout))
}

fn parse_df(text: &str) -> Option<u64> {
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// In the environment of `scripts/setup`, or on PATH.
fn tensorboard() -> Option<PathBuf> {
    let own = cache().join("venv/bin/tensorboard");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::iter::once(own).chain(std::env::split_paths(&path).map(|dir| dir.join("tensorboard")));
    places.find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_what_is_certain_everywhere() {
        let facts = Facts::collect(World::SOLO);
        assert!(facts.libtorch.lib.is_some_and(|lib| lib.join("libtorch_cpu.so").is_file()));
        assert_eq!(facts.libtorch.version.as_deref(), Some("2.11.0"));
        assert!(facts.cores.usable >= 1 && facts.cores.usable <= facts.cores.online);
        assert!(facts.memory_mib.is_some_and(|mib| mib > 0));
        assert!(!facts.host.is_empty());
    }

    #[test]
    fn reads_the_version_of_the_header() {
        let header = "#pragma once\n#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n\
                      #define TORCH_VERSION_PATCH 0\n#define TORCH_VERSION \\\n  \"2.11.0\"\n";
        assert_eq!(parse_torch_version(header).as_deref(), Some("2.11.0"));
        assert_eq!(parse_torch_version("#define TORCH_VERSION_MAJOR 2\n"), None);
    }

    #[test]
    fn counts_cpu_lists() {
        assert_eq!(parse_cpu_list("0"), Some(1));
        assert_eq!(parse_cpu_list("0-3,8,10-11"), Some(7));
        assert_eq!(parse_cpu_list("3-x"), None);
        assert_eq!(parse_cpu_list("3-1"), None);
    }

    #[test]
    fn reads_the_free_space_of_df() {
        let text =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 263174212 26034532 69705728 28% /\n";
        assert_eq!(parse_df(text), Some(68072));
        assert_eq!(parse_df("df: nowhere: No such file or directory\n"), None);
    }
}
