//! A disk that takes no more, and a run directory that cannot be made.

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
fn a_run_directory_that_cannot_be_made_is_an_error_at_the_start() {
    let sandbox = Sandbox::new();
    // Nobody may make folders there, root included.
    let output = sandbox.polytask(ALONE, "train config.yaml --set run.dir=/sys/polytask-test").exits_with(3);
    output.complains_once(&["/sys/polytask-test"]);
    assert!(checkpoint::latest("/sys/polytask-test/checkpoints".as_ref()).unwrap().is_none());
}
