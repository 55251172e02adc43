//! A disk that takes no more, and a run directory that cannot be made.

use crate::kills::broken;
use crate::process::ALONE;
use crate::sandbox::{Sandbox, train_args};
use polytask::checkpoint;

/// Files may not grow beyond this many KiB: the kernel then says `File too large`, for root as well, as it says `No space
/// left on device` of a full disk.
const LIMIT_KIB: u64 = 32;

/// Large enough that the states of its optimizer are above the limit, and the metrics below.
const MODEL: &str = "model.encoder.mlp.widths=[64, 64]";

fn train_limited(sandbox: &Sandbox, run: &str, set: &[&str]) -> crate::process::Output {
    let args: Vec<String> = train_args(run, set).iter().map(|arg| format!("'{arg}'")).collect();
    // Without the trap the signal of the limit would end the process.
    sandbox.shell(&format!("trap '' XFSZ; ulimit -f {LIMIT_KIB}; $polytask {}", args.join(" ")))
}

#[test]
fn a_full_disk_is_a_warning_until_the_run_depends_on_the_checkpoint() {
    let sandbox = Sandbox::new();
    let set = [MODEL, "optim={adamw: {lr: 0.01}}", "checkpoint.every=2", "train.steps=7"];
    let run = sandbox.run("full");
    sandbox.train(ALONE, "full", &[&set[..], &["train.steps=2"]].concat());
    let before = run.latest();
    assert_eq!(before.step, 2);

    let output = train_limited(&sandbox, "full", &set).exits_with(3);
    for step in [4, 6] {
        let warning = format!("warning: no checkpoint at step {step}: ");
        assert!(output.stdout.contains(&warning) || output.stderr.contains(&warning), "{output}");
    }
    assert!(output.stderr.contains("error: ") && output.stderr.contains(".safetensors: File too large"), "{output}");
    assert_eq!(run.last_step(), 7, "training went on");
    assert_eq!(run.latest(), before, "the old one is intact");
    assert_eq!(run.checkpoints(), ["best", "latest", "step_00000002"], "nothing half-made stays");

    // With room again the same command goes on.
    sandbox.train(ALONE, "full", &set);
    assert_eq!(run.latest().step, 7);
}

/// A file where the folder must go: whoever writes it fails, and the other rank must hear of it.
#[cfg(feature = "mpi")]
#[test]
fn two_ranks_agree_that_the_last_checkpoint_could_not_be_written() {
    let sandbox = Sandbox::new();
    let run = sandbox.run("x");
    let root = run.0.join("checkpoints");
    std::fs::create_dir_all(&root).unwrap();
    for step in [4, 6] {
        std::fs::write(root.join(format!("step_{step:08}")), "in the way").unwrap();
    }
    let output = sandbox.start(2, "x", &["checkpoint.every=2", "train.steps=6"]).wait().exits_with(3);
    let output = output.complains_once(&["error: ", "checkpoints/step_00000006: "]);
    let words = format!("{}{}", output.stdout, output.stderr);
    assert!(words.contains("warning: no checkpoint at step 4: "), "{output}");
    assert_eq!((run.last_step(), run.latest().step), (6, 2));
}

#[test]
fn a_disk_that_has_room_again_gets_the_next_checkpoint() {
    let sandbox = Sandbox::new();
    let set = ["checkpoint.every=2", "train.steps=8"];
    let output = broken(&sandbox, ALONE, "x", "full_disk=3@4:0", &set).exits_with(0);
    let said: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("warning: ")).collect();
    for (line, step) in said.iter().zip([4, 6]) {
        assert!(line.starts_with(&format!("warning: no checkpoint at step {step}: ")), "{output}");
        assert!(line.contains("No space left on device") && line.contains("tries again"), "{output}");
    }
    let run = sandbox.run("x");
    assert_eq!((said.len(), run.last_step(), run.latest().step), (2, 8, 8), "{output}");
    assert_eq!(run.checkpoints(), ["best", "latest", "step_00000002", "step_00000008"], "nothing half-made stays");
}

#[test]
fn training_goes_on_while_a_slow_disk_takes_a_checkpoint() {
    let sandbox = Sandbox::new();
    let run = sandbox.run("x");
    let (steps, written) = (|| run.last_step(), run.0.join("checkpoints/step_00000050"));
    let set = ["checkpoint.every=50", "train.steps=100"];
    let overtaken = std::thread::scope(|scope| {
        let job = scope.spawn(|| broken(&sandbox, ALONE, "x", "slow_disk=0.5@50:0", &set).exits_with(0));
        let mut overtaken = 0;
        while !job.is_finished() {
            let step = steps();
            if !written.exists() {
                overtaken = step;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(job.join().unwrap());
        overtaken
    });
    assert!(overtaken > 60, "step {overtaken} only was reached before the checkpoint of step 50 was there");
    assert!(overtaken <= 100 && written.exists());
    let held = run.metrics().iter().find(|line| line["step"] == 51).unwrap()["checkpoint_ms"].clone();
    // Six files of half a second.
    assert!(held.as_f64().is_some_and(|ms| ms < 2000.0), "{held}");
    assert_eq!(run.latest().step, 100);
}

#[test]
fn a_run_directory_that_cannot_be_made_is_an_error_at_the_start() {
    let sandbox = Sandbox::new();
    // Nobody may make folders there, root included.
    let output = sandbox.polytask(ALONE, "train config.yaml --set run.dir=/sys/polytask-test").exits_with(3);
    output.complains_once(&["/sys/polytask-test"]);
    assert!(checkpoint::latest("/sys/polytask-test/checkpoints".as_ref()).unwrap().is_none());
}
