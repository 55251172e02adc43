//! Building the stand-in, and tests in processes of their own: its plan is read once per process.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set in the process that runs a test's body, to the test's name.
const INSIDE: &str = "POLYTASK_TEST_INSIDE";
/// Far more than any body needs.
const LIMIT_S: u32 = 60;

/// The stand-in, built once for its sources.
pub fn library() -> PathBuf {
    built("lib.rs")
}

/// A library with nothing but a version.
pub fn incomplete() -> PathBuf {
    built("incomplete.rs")
}

fn built(root: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nccl_standin");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = File::create(dir.join("nccl_standin.lock")).unwrap();
    lock.lock().unwrap(); // tests run side by side
    let library = dir.join(format!("{}_{:016x}.so", root.trim_end_matches(".rs"), hash(&sources)));
    if !library.exists() {
        let new = library.with_extension("new");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut command = Command::new(rustc);
        command.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "standin", "-C", "opt-level=1"]);
        let status = command.arg("-o").arg(&new).arg(sources.join(root)).status().unwrap();
        assert!(status.success(), "rustc could not build {root}");
        fs::rename(&new, &library).unwrap();
    }
    library
}

fn hash(sources: &Path) -> u64 {
    let mut paths: Vec<PathBuf> = fs::read_dir(sources).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut hasher = DefaultHasher::new();
    paths.iter().for_each(|path| fs::read(path).unwrap().hash(&mut hasher));
    hasher.finish()
}

/// Runs the body of a test in a process of its own, with the stand-in as NCCL and this plan.
#[track_caller]
pub fn alone(test: &str, plan: &str, body: impl FnOnce()) {
    alone_with(test, plan, &[], body);
}

/// As [`alone`], with more variables.
#[track_caller]
pub fn alone_with(test: &str, plan: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    if inside(test) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments(test)).envs(variables.iter().copied());
    passes(command, test, plan);
}

/// As [`alone`], as so many processes under mpirun; `variables` is what a shell sets for each.
#[cfg(feature = "mpi")]
#[track_caller]
pub fn under_mpirun(test: &str, ranks: usize, plan: &str, variables: &str, body: impl FnOnce()) {
    if inside(test) {
        return body();
    }
    let shell = format!("{variables} exec \"$0\" \"$@\"");
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none", "-n", &ranks.to_string(), "sh", "-c", &shell]);
    command.arg(std::env::current_exe().unwrap()).args(arguments(test));
    command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    passes(command, test, plan);
}

/// A file for the calls of a test, and the plan with its name.
pub fn log(test: &str, plan: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nccl_{test}.log"));
    let plan = format!("{plan} log={}", path.display());
    (path, plan)
}

/// What a rank called of NCCL, without the questions.
pub fn calls(path: &Path, rank: usize) -> Vec<String> {
    let mine = all_calls(path, rank).into_iter();
    mine.filter(|call| call.starts_with("nccl") && call != "ncclCommGetAsyncError").collect()
}

/// Everything that a rank called and is written down.
pub fn all_calls(path: &Path, rank: usize) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter_map(|line| line.strip_prefix(&format!("{rank} "))).map(str::to_owned).collect()
}

/// Hands a function of the stand-in, of type `F`, to `body`.
///
/// # Safety
/// `F` is its signature.
pub unsafe fn with_function<F: Copy, R>(name: &str, body: impl FnOnce(F) -> R) -> R {
    // SAFETY: the library is in memory already, and the caller knows the signature.
    unsafe {
        let library = libloading::Library::new(library()).unwrap();
        let function = *library.get::<F>(name).unwrap();
        std::mem::forget(library); // keeps what the function sets
        body(function)
    }
}

fn arguments(test: &str) -> [&str; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"]
}

/// Whether this is the process for this test's body.
fn inside(test: &str) -> bool {
    let inside = std::env::var(INSIDE).is_ok_and(|name| name == test);
    if inside {
        // SAFETY: asks the kernel to end this process after a while, should it hang.
        unsafe { libc::alarm(LIMIT_S) };
    }
    inside
}

#[track_caller]
fn passes(mut command: Command, test: &str, plan: &str) {
    command.env(INSIDE, test).env("POLYTASK_NCCL", library()).env("STANDIN_NCCL", plan).env("OMP_NUM_THREADS", "1");
    let output = command.output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    // A name that does not exist passes, too.
    let ran = out.contains("1 passed");
    assert!(output.status.success() && ran, "{test}: {}\n-- stdout\n{out}\n-- stderr\n{err}", output.status);
}
