//! A disk that is really full, and folders that may not be written.

use crate::process::{ALONE, Output};
use crate::sandbox::{Sandbox, train_args};
use polytask::checkpoint;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Root writes wherever it likes, unless it gives that up.
const HUMBLE: &str = "setpriv --bounding-set=-dac_override,-dac_read_search";

fn works(sandbox: &Sandbox, line: &str) -> bool {
    let works = sandbox.shell(&format!("{line} >/dev/null 2>&1")).code == Some(0);
    if !works {
        println!("skipped: `{line}` does not work here");
    }
    works
}

/// What to put in front of a command for which permissions count; `None`: that cannot be had here.
fn humble(sandbox: &Sandbox) -> Option<&'static str> {
    if sandbox.shell("test $(id -u) -ne 0").code == Some(0) {
        return Some("");
    }
    works(sandbox, &format!("{HUMBLE} true")).then_some(HUMBLE)
}

fn may_write(path: &Path, may: bool) {
    fs::set_permissions(path, Permissions::from_mode(if may { 0o755 } else { 0o555 })).unwrap();
}

fn quoted(run: &str, set: &[&str]) -> String {
    train_args(run, set).iter().map(|arg| format!("'{arg}'")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_run_directory_that_may_not_be_written_is_an_error_at_the_start() {
    let sandbox = Sandbox::new();
    let Some(humble) = humble(&sandbox) else { return };
    let run = sandbox.train(ALONE, "x", &["train.steps=2"]);
    fs::remove_file(run.0.join("lock")).unwrap();
    may_write(&run.0, false);
    let output = sandbox.shell(&format!("{humble} $polytask {}", quoted("x", &["train.steps=4"])));
    may_write(&run.0, true);
    output.exits_with(3).complains_once(&["runs/x/lock: Permission denied"]);
    assert_eq!((run.latest().step, run.last_step()), (2, 2), "nothing was touched");
}

#[test]
fn a_run_directory_that_turns_read_only_ends_the_run_when_it_depends_on_a_checkpoint() {
    let sandbox = Sandbox::new();
    let Some(humble) = humble(&sandbox) else { return };
    let run = sandbox.run("x");
    let (root, set) = (run.0.join("checkpoints"), quoted("x", &["train.steps=60", "checkpoint.every=20"]));
    // Checkpoints take so long that the folder can be closed meanwhile, at a step that is known.
    let fault = "POLYTASK_FAULT=sleep=4@25:0";
    let output = std::thread::scope(|scope| {
        let closer = scope.spawn(|| {
            let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while fs::read_to_string(root.join("latest")).is_err() && std::time::Instant::now() < limit {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
            [&root, &run.0].into_iter().for_each(|path| may_write(path, false));
        });
        let output = sandbox.shell(&format!("export {fault}; {humble} $polytask {set}"));
        closer.join().unwrap();
        output
    });
    [&root, &run.0].into_iter().for_each(|path| may_write(path, true));
    let output = output.exits_with(3);
    assert_eq!(output.stderr.matches("error: ").count(), 1, "{output}");
    assert!(output.stderr.contains("checkpoints/") && output.stderr.contains("Permission denied"), "{output}");
    assert!(words(&output).contains("warning: no checkpoint at step 40: "), "{output}");
    assert_eq!((run.latest().step, run.last_step()), (20, 60), "training went on, and the old one is intact");
    sandbox.train(ALONE, "x", &["train.steps=60", "checkpoint.every=20"]);
    assert_eq!(run.latest().step, 60, "with permission the same command goes on");
}

/// A file system of so many KiB for the run, which goes with the process; what it holds at the end is copied to `runs/x`.
#[test]
fn a_file_system_that_is_full_keeps_the_old_checkpoint() {
    let sandbox = Sandbox::new();
    if !works(&sandbox, "unshare -m bash -c 'mkdir -p small && mount -t tmpfs -o size=64k none small'") {
        return;
    }
    let set = ["optim={adamw: {lr: 0.01}}", "train.steps=30", "checkpoint.every=2", "log.tensorboard=true"];
    sandbox.write("job", &format!("$polytask {}\n", quoted("x", &set).replace("runs/x", "small/x")));
    let inner =
        "mount -t tmpfs -o size=64k none small && . ./job; code=$?; mkdir -p runs; cp -r small/x runs/x; exit $code";
    let output = sandbox.shell(&format!("export polytask; mkdir -p small; unshare -m bash -c '{inner}'")).exits_with(3);
    assert!(words(&output).contains("No space left on device"), "{output}");
    assert!(words(&output).contains("warning: no checkpoint at step "), "{output}");
    assert!(output.stdout.contains("30"), "{output}");
    let found = checkpoint::latest(&sandbox.path("runs/x/checkpoints")).unwrap().expect("the first checkpoint");
    assert_eq!(found.warnings, Vec::<String>::new());
    assert!(found.snapshot.step < 30, "{output}");
}

/// A killed job has left a checkpoint half-written, which fills the disk: the next one needs room before it writes anything.
#[test]
fn what_a_killed_job_left_on_a_full_disk_makes_room_for_the_next_one() {
    let sandbox = Sandbox::new();
    if !works(&sandbox, "unshare -m bash -c 'mkdir -p small && mount -t tmpfs -o size=256k none small'") {
        return;
    }
    let train = |steps: &str| quoted("x", &["checkpoint.keep=1", steps]).replace("runs/x", "small/x");
    sandbox.write("first", &format!("$polytask {}\n", train("train.steps=2")));
    sandbox.write("second", &format!("$polytask {}\n", train("train.steps=4")));
    let inner = "mount -t tmpfs -o size=256k none small && . ./first || exit; left=small/x/checkpoints/.tmp-step_00000003-1; \
                 mkdir $left; cat /dev/zero >$left/optim.safetensors; . ./second; code=$?; mkdir -p runs; cp -r small/x runs/x; \
                 exit $code";
    let output = sandbox.shell(&format!("export polytask; mkdir -p small; unshare -m bash -c '{inner}'"));
    assert!(output.stderr.contains("No space left on device"), "the disk was not full: {output}");
    let output = output.exits_with(0);
    let run = sandbox.run("x");
    assert_eq!((run.latest().step, run.last_step()), (4, 4), "{output}");
    assert!(!run.checkpoints().iter().any(|name| name.starts_with('.')), "{:?}", run.checkpoints());
}

fn words(output: &Output) -> String {
    format!("{}{}", output.stdout, output.stderr)
}
