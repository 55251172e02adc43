//! The scripts for machines with GPUs (`scripts/gpu_check`, `scripts/bench/gpu`) and for scaling (`scripts/scaling`), as far
//! as they run without one: they parse, notice that there is no GPU, let a sound program pass and catch a broken one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PAGE: &str = "docs/scaling.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether there is a Python that can run them. Says so if not.
fn python_is_missing() -> bool {
    let new_enough = "import sys; sys.exit(sys.version_info < (3, 8))";
    let missing = !Command::new("python3").args(["-c", new_enough]).status().is_ok_and(|status| status.success());
    if missing {
        println!("skipped: there is no Python 3.8");
    }
    missing
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn gpu_check(folder: &Path, program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("python3");
    command.arg(root().join("scripts/gpu_check")).args(["--cpu", "--folder"]).arg(folder);
    command.arg("--program").arg(program).args(arguments).output().unwrap()
}

#[test]
fn all_scripts_parse() {
    if python_is_missing() {
        return;
    }
    for script in ["gpu_check", "scaling", "bench/gpu", "bench/gpu_peer.py", "bench/gpu_program.py"] {
        let path = root().join("scripts").join(script);
        let parse = "import ast, sys; ast.parse(open(sys.argv[1]).read())";
        let output = Command::new("python3").args(["-c", parse]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output));
    }
}

#[test]
fn without_a_gpu_they_say_so_and_end_with_2() {
    if python_is_missing() {
        return;
    }
    for script in ["gpu_check", "bench/gpu"] {
        let mut command = Command::new("python3");
        // A machine that has GPUs hides them here.
        command.arg(root().join("scripts").join(script)).env("CUDA_VISIBLE_DEVICES", "");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{script}: {}", text(&output));
        assert!(text(&output).contains("no CUDA GPU") && text(&output).contains("--cpu"), "{}", text(&output));
    }
}

#[test]
fn a_sound_program_passes() {
    if python_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_polytask"));
    let output = gpu_check(dir.path(), program, &["--only", "one rank", "phases and memory"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("2 ok, 0 skipped, 0 failed"), "{}", text(&output));
    let result: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("result.json")).unwrap()).unwrap();
    assert_eq!(result["checks"][1]["result"], "ok", "{result}");
}

/// The program, but where it is one of several ranks it takes other steps.
fn wrong_on_several_ranks(dir: &Path) -> PathBuf {
    let (text, program) = (dir.join("wrong.txt"), dir.join("wrong"));
    let body = format!(
        "#!/bin/sh\n[ -z \"${{OMPI_COMM_WORLD_SIZE:-}}\" ] || set -- \"$@\" --set optim.sgd.lr=0.50002\nexec '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_polytask")
    );
    fs::write(&text, body).unwrap();
    // By another process: a file that any thread of this one still has open for writing cannot be run.
    assert!(Command::new("install").args(["-m", "755"]).args([&text, &program]).status().unwrap().success());
    program
}

#[cfg(feature = "mpi")]
#[test]
fn a_program_whose_ranks_drift_apart_from_one_rank_is_caught() {
    if python_is_missing() || Command::new("mpirun").arg("--version").output().is_err() {
        println!("skipped: mpirun or Python is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = wrong_on_several_ranks(dir.path());
    let output = gpu_check(&dir.path().join("runs"), &program, &["--only", "linear"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let (found, wanted) = (text(&output), ["2 ranks, sharded: ", "e-05 of the update", "1 failed"]);
    assert!(wanted.iter().all(|words| found.contains(words)), "{found}");
}

#[test]
fn a_program_that_cannot_start_fails_every_check() {
    if python_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = gpu_check(&dir.path().join("runs"), Path::new("/bin/false"), &["--only", "one rank", "bf16"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("0 ok, 0 skipped, 3 failed"), "{}", text(&output));
}

/// Renewed with `BLESS=1`.
#[test]
fn the_page_about_scaling_has_the_tables_that_the_script_prints() {
    if python_is_missing() {
        return;
    }
    let action = if std::env::var_os("BLESS").is_some() { "--write" } else { "--check" };
    let output = Command::new("python3").arg(root().join("scripts/scaling")).arg(action).output().unwrap();
    assert!(output.status.success(), "{PAGE}: {}", text(&output));
}

/// The script's formulas, in one place worked out by hand: 3 tasks of 50 million parameters on the 8 GPUs of a node.
#[test]
fn a_row_of_the_page_is_what_its_formulas_say() {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    // 2 T P b (W-1)/W, (T+1) P b (W-1)/W and (2 P + 2 T n) b (W-1)/W bytes.
    assert!(page.contains("| 8 | MLP, T = 3 | 1.05 / 0.70 / 0.35 |"), "bytes");
    // f + r = 3.6 ms; 1.419 + 0.473 ms of bytes at 370 GB/s and 2 * 7 hops of 3 us; G: 2 * 3 hops; (m + u) / 8 = 0.111.
    let total = 3.6 + 1.4189 + 0.4730 + 14.0 * 0.003 + 6.0 * 0.003 + 0.11125;
    assert!(page.contains(&format!("| {total:.2} (79 %) |")), "sharded takes {total:.3} ms");
}
