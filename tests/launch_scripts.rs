//! The scripts in `launch/`: they parse, and they hand on arguments, exit codes and the request to stop.
//!
//! SLURM is played by small scripts on `PATH`; mpirun is the real one, and its tests are skipped where it is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// By another process: a file that any thread of this one still has open for writing cannot be run.
fn write_program(dir: &Path, name: &str, body: &str) -> PathBuf {
    let (text, program) = (dir.join(format!("{name}.txt")), dir.join(name));
    fs::write(&text, format!("#!/usr/bin/env bash\n{body}")).unwrap();
    assert!(Command::new("install").args(["-m", "755"]).args([&text, &program]).status().unwrap().success());
    program
}

/// A stand-in for the program: notes its arguments, leaves with the code in its first one, or waits for USR1 and leaves
/// with 75.
fn fake_polytask(dir: &Path) -> PathBuf {
    let notes = dir.join("notes");
    let body = r#"
trap 'echo "usr1" >>NOTES; exit 75' USR1
echo "args $* threads $OMP_NUM_THREADS" >>NOTES
[ "$1" != exit ] || exit "$2"
for _ in {1..300}; do sleep 0.1 & wait $!; done
"#;
    write_program(dir, "fake_polytask", &body.replace("NOTES", notes.to_str().unwrap()))
}

fn notes(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("notes")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[track_caller]
fn wait_for_lines(dir: &Path, n: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while notes(dir).len() < n {
        assert!(Instant::now() < deadline, "the ranks have not started: {:?}", notes(dir));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

fn mpirun_is_missing() -> bool {
    let missing = Command::new("mpirun").arg("--version").output().is_err();
    if missing {
        println!("skipped: mpirun is not installed");
    }
    missing
}

fn mpirun_script(program: &Path) -> Command {
    let mut command = Command::new(root().join("launch/mpirun.sh"));
    command.env("POLYTASK", program).env_remove("HOSTS").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn all_scripts_parse() {
    for script in ["launch/mpirun.sh", "launch/slurm.sbatch", "scripts/setup", "scripts/test", "scripts/quickstart"] {
        let path = root().join(script);
        let output = Command::new("bash").arg("-n").arg(&path).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        assert_ne!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0, "{script} is not executable");
    }
}

#[test]
fn the_job_script_asks_slurm_for_what_a_resumable_job_needs() {
    let text = fs::read_to_string(root().join("launch/slurm.sbatch")).unwrap();
    let options: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#SBATCH ")).collect();
    for option in ["--requeue", "--open-mode=append", "--signal=B:USR1@120", "--output=logs/%x-%j.out"] {
        assert!(options.contains(&option), "{option} is missing in {options:?}");
    }
    let head = text.lines().take_while(|line| line.starts_with('#'));
    let in_head = head.filter(|line| line.starts_with("#SBATCH ")).count();
    assert_eq!(in_head, options.len(), "SLURM ignores options after the first command");
}

#[test]
fn mpirun_starts_the_real_program() {
    if mpirun_is_missing() {
        return;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_polytask"));
    let output = mpirun_script(program).args(["-n", "2", "--help"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn mpirun_hands_on_arguments_threads_and_exit_codes() {
    if mpirun_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = fake_polytask(dir.path());
    let run = |code: &str| -> Output {
        mpirun_script(&program).env("OMP_NUM_THREADS", "3").args(["-n", "2", "exit", code, "a b"]).output().unwrap()
    };
    assert_eq!(run("0").status.code(), Some(0));
    assert_eq!(notes(dir.path()), ["args exit 0 a b threads 3"; 2]);
    assert_eq!(run("4").status.code(), Some(4));
}

#[test]
fn mpirun_turns_term_into_a_request_to_stop() {
    if mpirun_is_missing() {
        return;
    }
    for name in ["TERM", "USR1"] {
        let dir = tempfile::tempdir().unwrap();
        let child = mpirun_script(&fake_polytask(dir.path())).args(["-n", "2", "train"]).spawn().unwrap();
        wait_for_lines(dir.path(), 2);
        signal(&child, name);
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(75), "{name}");
        assert!(notes(dir.path()).contains(&"usr1".to_owned()), "{name}: {:?}", notes(dir.path()));
    }
}

/// The job script with a SLURM whose `srun` runs one process.
fn job(dir: &Path, arguments: &[&str]) -> Command {
    let list = r#"[ "$1" != --mpi=list ] || { echo "MPI plugin types are... pmix"; exit; }"#;
    let skip = r#"while [[ "$1" == --* ]]; do shift; done"#;
    write_program(dir, "srun", &format!("{list}\n{skip}\nexec \"$@\"\n"));
    write_program(dir, "scontrol", &format!("echo \"scontrol $*\" >>{}\n", dir.join("notes").display()));
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(root().join("launch/slurm.sbatch"));
    command.env("PATH", path).env("POLYTASK", fake_polytask(dir)).env("SLURM_JOB_ID", "7");
    command.env_remove("SLURM_ARRAY_JOB_ID").env("SLURM_CPUS_PER_TASK", "5").args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// As the fake program, but leaves with `code` at once.
fn job_that_ends_with(code: u8) -> (Output, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = job(dir.path(), &["my.yaml", "--set", "a.b=1"]);
    let program = write_program(
        dir.path(),
        "ends",
        &format!("echo \"$* threads $OMP_NUM_THREADS\" >>{}\nexit {code}\n", dir.path().join("notes").display()),
    );
    let output = command.env("POLYTASK", program).output().unwrap();
    (output, notes(dir.path()))
}

#[test]
fn a_job_hands_on_arguments_and_ends_with_the_code_of_the_program() {
    for code in [0, 3] {
        let (output, notes) = job_that_ends_with(code);
        assert_eq!(output.status.code(), Some(code.into()), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(notes, ["train my.yaml --resume auto --set a.b=1 threads 5"]);
    }
}

#[test]
fn a_job_that_is_not_done_queues_itself_again() {
    let (output, notes) = job_that_ends_with(75);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(notes[1..], ["scontrol requeue 7"]);
}

#[test]
fn a_job_passes_the_warning_before_its_end_to_the_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let child = job(dir.path(), &["my.yaml"]).spawn().unwrap();
    wait_for_lines(dir.path(), 1);
    signal(&child, "USR1");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(notes(dir.path())[1..], ["usr1", "scontrol requeue 7"]);
}
