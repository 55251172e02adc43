//! The scripts in `launch/`: they parse, and they hand on arguments, exit codes, the request to stop and the end of the job.
//!
//! SLURM is played by small scripts on `PATH` here; `scripts/faults/slurm` runs the job scripts on a real one. mpirun is
//! the real one, and its tests are skipped where it is missing.

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
    command
        .env("POLYTASK", program)
        .env_remove("HOSTS")
        .env_remove("SLURM_JOB_ID")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

const JOBS: [&str; 3] = ["launch/slurm.sbatch", "launch/slurm_cpu.sbatch", "launch/slurm_mpirun.sbatch"];

#[test]
fn all_scripts_parse() {
    let others = ["launch/mpirun.sh", "scripts/setup", "scripts/test", "scripts/quickstart", "scripts/slurm_local"];
    for script in others.into_iter().chain(JOBS).chain(["launch/slurm_job.sh"]) {
        let path = root().join(script);
        let output = Command::new("bash").arg("-n").arg(&path).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        let is_sourced = script == "launch/slurm_job.sh";
        let executable = fs::metadata(&path).unwrap().permissions().mode() & 0o111 != 0;
        assert_ne!(executable, is_sourced, "{script}: the mode is wrong");
    }
}

#[test]
fn the_job_scripts_ask_slurm_for_what_a_resumable_job_needs() {
    for script in JOBS {
        let text = fs::read_to_string(root().join(script)).unwrap();
        let options: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#SBATCH ")).collect();
        for option in ["--requeue", "--open-mode=append", "--signal=B:USR1@120", "--output=logs/%x-%j.out"] {
            assert!(options.contains(&option), "{script}: {option} is missing in {options:?}");
        }
        let head = text.lines().take_while(|line| line.starts_with('#'));
        let in_head = head.filter(|line| line.starts_with("#SBATCH ")).count();
        assert_eq!(in_head, options.len(), "{script}: SLURM ignores options after the first command");
        let sets_gpus = text.lines().any(|line| !line.starts_with('#') && line.contains("CUDA_VISIBLE_DEVICES="));
        assert!(!sets_gpus, "{script}: CUDA_VISIBLE_DEVICES is SLURM's");
    }
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

/// A SLURM that runs one process, in `dir`, and notes what is asked of it.
fn slurm(dir: &Path) -> String {
    let launcher = "until [ \"$1\" = \"$POLYTASK\" ]; do shift; done\nexec \"$@\"\n";
    let noted = |name: &str| format!("echo \"{name} $*\" >>{}\n", dir.join("notes").display());
    write_program(dir, "srun", launcher);
    write_program(dir, "mpirun", launcher);
    write_program(dir, "scontrol", &noted("scontrol"));
    write_program(dir, "squeue", "echo ${FAKE_END:-NONE}\n");
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

/// A job script as SLURM runs it, with a stand-in for the program.
fn job(script: &str, dir: &Path, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join(script));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLURM_") || name.starts_with("POLYTASK_")) {
        command.env_remove(name);
    }
    command.env("PATH", slurm(dir)).env("POLYTASK", program).env("POLYTASK_HOME", root());
    command.env("SLURM_JOB_ID", "7").env("SLURM_JOB_NAME", "lr").env("SLURM_CPUS_PER_TASK", "5");
    command.env("OMP_NUM_THREADS", "64").env("LISTENING_S", "0").env_remove("MAX_RESTARTS").current_dir(dir);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A program that notes what it was given, and ends with `code` at once.
fn ends_with(dir: &Path, code: u8) -> PathBuf {
    let notes = dir.join("notes");
    let given = "$* threads $OMP_NUM_THREADS gpus ${CUDA_VISIBLE_DEVICES:-} end ${POLYTASK_END_TIME:-}";
    write_program(dir, "ends", &format!("echo \"{given}\" >>{}\nexit {code}\n", notes.display()))
}

/// Runs a job to its end: exit code, notes, what it said.
fn end_of(command: &mut Command, dir: &Path) -> (Option<i32>, Vec<String>, String) {
    let output = command.output().unwrap();
    (output.status.code(), notes(dir), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_job_hands_on_arguments_and_ends_with_the_code_of_the_program() {
    for (script, code) in JOBS.into_iter().flat_map(|script| [(script, 0), (script, 3), (script, 137)]) {
        let dir = tempfile::tempdir().unwrap();
        let program = ends_with(dir.path(), code);
        let mut command = job(script, dir.path(), &program, &["my.yaml", "--set", "a.b=1"]);
        let (status, notes, errors) = end_of(command.env("CUDA_VISIBLE_DEVICES", "2,3"), dir.path());
        assert_eq!(status, Some(code.into()), "{script}: {errors}");
        assert_eq!(notes, ["train my.yaml --set a.b=1 threads 5 gpus 2,3 end "], "{script}");
    }
}

#[test]
fn a_job_that_is_not_done_queues_itself_again() {
    for (array, id) in [(None, "7"), (Some("5"), "5_2")] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sweep"), "a=1\na=2\n").unwrap();
        let program = ends_with(dir.path(), 75);
        let arguments: &[&str] = if array.is_some() { &["my.yaml", "--sweep", "sweep"] } else { &["my.yaml"] };
        let mut command = job(JOBS[0], dir.path(), &program, arguments);
        if let Some(array) = array {
            command.env("SLURM_ARRAY_JOB_ID", array).env("SLURM_ARRAY_TASK_ID", "2");
        }
        let (status, notes, errors) = end_of(&mut command, dir.path());
        assert_eq!(status, Some(0), "{errors}");
        assert_eq!(notes[1..], [format!("scontrol requeue {id}")]);
    }
}

#[test]
fn a_job_tells_the_program_when_it_ends() {
    for (asked, told, expected) in
        [("NONE", "", ""), ("1795285690", "", "1795285690"), ("1", "1795285690", "1795285690")]
    {
        let dir = tempfile::tempdir().unwrap();
        let program = ends_with(dir.path(), 0);
        let mut command = job(JOBS[1], dir.path(), &program, &["my.yaml"]);
        command.env("FAKE_END", asked).env("SLURM_JOB_END_TIME", told).env("POLYTASK_END_TIME", "5");
        let (_, notes, _) = end_of(&mut command, dir.path());
        assert!(notes[0].ends_with(&format!(" end {expected}")), "{notes:?}");
    }
}

#[test]
fn a_sweep_gives_every_job_of_an_array_its_line_and_its_run() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("sweep"), "optim.adamw.lr=1e-3\noptim.adamw.lr=3e-4  run.seed=2\n").unwrap();
    let program = ends_with(dir.path(), 0);
    let sweep = |task: &str, arguments: &[&str]| {
        fs::remove_file(dir.path().join("notes")).ok();
        let mut command = job(JOBS[0], dir.path(), &program, arguments);
        end_of(command.env("SLURM_ARRAY_TASK_ID", task).env("SLURM_ARRAY_JOB_ID", "5"), dir.path())
    };
    let (_, notes, errors) = sweep("2", &["my.yaml", "--sweep", "sweep", "--set", "c=3"]);
    let expected = "train my.yaml --set run.name=lr-2 --set optim.adamw.lr=3e-4 --set run.seed=2 --set c=3 ";
    assert!(notes.first().is_some_and(|line| line.starts_with(expected)), "{notes:?} {errors}");

    let (status, notes, errors) = sweep("3", &["my.yaml", "--sweep", "sweep"]);
    assert!(status == Some(2) && notes.is_empty() && errors.contains("sweep has no line 3"), "{errors}");
    let (status, notes, errors) = sweep("1", &["my.yaml"]);
    assert!(status == Some(2) && notes.is_empty() && errors.contains("give --sweep FILE"), "{errors}");
}

#[test]
fn a_job_without_an_end_in_sight_is_not_queued_again() {
    let dir = tempfile::tempdir().unwrap();
    let program = ends_with(dir.path(), 75);
    let mut command = job(JOBS[0], dir.path(), &program, &["my.yaml"]);
    let (status, notes, errors) = end_of(command.env("SLURM_RESTART_COUNT", "100"), dir.path());
    assert_eq!((status, notes.len()), (Some(75), 1), "{errors}");
    assert!(errors.contains("started 100 times again already"), "{errors}");
}

/// Signals that reach processes before they listen end them: with 128 and the number of the signal.
#[test]
fn a_job_asked_to_stop_before_its_processes_listen_queues_itself_again() {
    for name in ["USR1", "USR2"] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "writing to runs/x\n").unwrap();
        fs::create_dir_all(dir.path().join("runs/x/checkpoints")).unwrap();
        fs::write(dir.path().join("runs/x/checkpoints/latest"), "step_00000010\n").unwrap();
        let program = write_program(dir.path(), "deaf", &format!("kill -{name} $$\n"));
        let start = |restarts: &str| {
            fs::remove_file(dir.path().join("notes")).ok();
            let mut command = job(JOBS[0], dir.path(), &program, &["my.yaml"]);
            command.stdout(fs::OpenOptions::new().append(true).open(&log).unwrap());
            end_of(command.env("SLURM_RESTART_COUNT", restarts), dir.path())
        };
        let (status, notes, errors) = start("0");
        assert_eq!((status, notes), (Some(0), vec!["scontrol requeue 7".to_owned()]), "{errors}");
        assert!(errors.contains("asked to stop before the program listened"), "{errors}");
        let (status, notes, errors) = start("100");
        assert_eq!((status, notes.len()), (Some(75), 0), "{errors}");
    }
}

/// The log of a job tells where its run is; SLURM appends to it at every start.
#[test]
fn a_job_that_gains_no_step_is_not_queued_again() {
    for (reaches, requeued) in [("step_00000010", false), ("step_00000011", true)] {
        let dir = tempfile::tempdir().unwrap();
        let latest = dir.path().join("runs/x/checkpoints/latest");
        fs::create_dir_all(latest.parent().unwrap()).unwrap();
        fs::write(&latest, "step_00000010\n").unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "writing to runs/x\n").unwrap();
        let body = format!("echo writing to runs/x\necho {reaches} >runs/x/checkpoints/latest\nexit 75\n");
        let program = write_program(dir.path(), "ends", &body);
        let mut command = job(JOBS[0], dir.path(), &program, &["my.yaml"]);
        command.stdout(fs::OpenOptions::new().append(true).open(&log).unwrap());
        let (status, notes, errors) = end_of(&mut command, dir.path());
        assert_eq!((status, notes.len()), if requeued { (Some(0), 1) } else { (Some(75), 0) }, "{errors}");
        assert_eq!(errors.contains("no step was gained"), !requeued, "{errors}");
    }
}

#[test]
fn a_job_passes_the_warning_before_its_end_to_the_ranks() {
    for (script, name) in JOBS.into_iter().flat_map(|script| [(script, "USR1"), (script, "USR2")]) {
        let dir = tempfile::tempdir().unwrap();
        let child = job(script, dir.path(), &fake_polytask(dir.path()), &["my.yaml"]).spawn().unwrap();
        wait_for_lines(dir.path(), 1);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{script} {name}: {errors}");
        assert_eq!(notes(dir.path())[1..], ["usr1", "scontrol requeue 7"], "{script} {name}");
    }
}

/// scancel: SLURM sends TERM to the script and to the processes of srun, which end with 75.
#[test]
fn a_job_that_is_cancelled_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let child = job(JOBS[0], dir.path(), &fake_polytask(dir.path()), &["my.yaml"]).spawn().unwrap();
    wait_for_lines(dir.path(), 1);
    signal(&child, "TERM");
    signal(&child, "USR1");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(notes(dir.path())[1..], ["usr1"]);
}

/// Every key of the shared functions is set where they are used: `set -u` would end a job half-way.
#[test]
fn a_job_script_without_a_configuration_says_how_it_is_used() {
    for script in JOBS {
        let dir = tempfile::tempdir().unwrap();
        let (status, _, errors) = end_of(&mut job(script, dir.path(), &ends_with(dir.path(), 0), &[]), dir.path());
        assert!(status != Some(0) && errors.contains("usage: sbatch"), "{script}: {errors}");
    }
}

/// The real program, alone, on a few steps of the data that is shipped.
fn train(dir: &Path, end: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polytask"));
    let root = root().display();
    command.args(["train", &format!("{root}/configs/tox21.yaml"), "--set", &format!("data.root={root}/data")]);
    command.args(["--set", "train.steps=4", "--set", "log.every=1", "--set", "model.encoder.mlp.widths=[8]"]);
    command.current_dir(dir).env("OMP_NUM_THREADS", "1").env_remove("SLURM_JOB_END_TIME");
    match end {
        Some(end) => command.env("POLYTASK_END_TIME", end),
        None => command.env_remove("POLYTASK_END_TIME"),
    };
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.code(), said)
}

#[test]
fn a_run_whose_job_is_over_makes_one_step_and_continues_later() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = train(dir.path(), Some("tomorrow"));
    assert!(code == Some(2) && said.contains("POLYTASK_END_TIME is `tomorrow`"), "{said}");
    for n in 1..=2 {
        let (code, said) = train(dir.path(), Some("1000"));
        assert!(code == Some(75) && said.contains("the time is nearly up: 00:00:00 left"), "start {n}: {said}");
    }
    let (code, said) = train(dir.path(), None);
    assert_eq!(code, Some(0), "{said}");
    let metrics = fs::read_to_string(dir.path().join("runs/tox21/metrics.jsonl")).unwrap();
    let records = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let steps: Vec<u64> = records.filter(|r| r["kind"] == "train").map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4]);
}
