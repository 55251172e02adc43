//! Checkpoints to which every rank writes its own states: damaged files, a rank that cannot write, other numbers of ranks.

use crate::process::{ALONE, Output};
use crate::sandbox::{Run, Sandbox, bits, train_args, values};
use polytask::checkpoint::{self, Snapshot};
use std::fs;
use std::path::Path;

/// States of the optimizer, and of surgery as large as the gradients of all tasks.
const STATEFUL: [&str; 3] = ["checkpoint.every=2", "optim={adamw: {lr: 0.01}}", "balance.surgery=moco"];

fn tensors(snapshot: &Snapshot) -> Vec<(String, Vec<u64>)> {
    snapshot.tensors.values().flatten().map(|tensor| (tensor.name.clone(), bits(tensor))).collect()
}

fn newest(run: &Run) -> Vec<(String, Vec<u64>)> {
    tensors(&checkpoint::read(&run.0.join("checkpoints/step_00000006")).unwrap_or_else(|e| panic!("{e}")))
}

/// The newest checkpoint has one file damaged, which must be named; the one before takes over.
#[track_caller]
fn falls_back(root: &Path, file: &Path) {
    let found = checkpoint::latest(root).unwrap().unwrap();
    assert_eq!((found.snapshot.step, found.warnings.len()), (4, 1), "{}", file.display());
    assert!(found.warnings[0].starts_with(&file.display().to_string()), "{}", found.warnings[0]);
}

#[test]
fn a_damaged_share_is_named_and_the_checkpoint_before_continues_to_the_same_bits() {
    let sandbox = Sandbox::new();
    let run = sandbox.train(2, "x", &STATEFUL);
    let (root, expected) = (run.0.join("checkpoints"), newest(&run));
    let folder = root.join("step_00000006");
    let share = |stem: &str, rank: usize| folder.join(format!("{stem}.rank0000{rank}-of-00002.safetensors"));
    for file in ["optim", "balance"].into_iter().flat_map(|stem| [share(stem, 0), share(stem, 1)]) {
        let bytes = fs::read(&file).unwrap();
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 0x10;
        for damaged in [&flipped[..], &bytes[..bytes.len() - 1], &[]] {
            fs::write(&file, damaged).unwrap();
            falls_back(&root, &file);
        }
        fs::remove_file(&file).unwrap();
        falls_back(&root, &file);
        fs::write(&file, &bytes).unwrap();
    }
    let kept = [fs::read(share("optim", 0)).unwrap(), fs::read(share("optim", 1)).unwrap()];

    // The program, each time: ranks find it together, and one of them is the one that looks at the file.
    let swap = || {
        fs::write(share("optim", 0), &kept[1]).unwrap();
        fs::write(share("optim", 1), &kept[0]).unwrap();
    };
    let flip = |rank: usize| {
        let mut bytes = kept[rank].clone();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(share("optim", rank), bytes).unwrap();
    };
    let cut = || fs::write(share("optim", 1), &kept[1][..kept[1].len() - 4]).unwrap();
    let damages: [(&dyn Fn(), &str); 4] = [
        (&|| flip(0), "optim.rank00000-of-00002.safetensors: damaged: SHA-256"),
        (&|| flip(1), "optim.rank00001-of-00002.safetensors: damaged: SHA-256"),
        (&swap, "step_00000006/optim.rank0000"),
        (&cut, "optim.rank00001-of-00002.safetensors: damaged: "),
    ];
    for (damage, words) in damages {
        damage();
        let output = sandbox.start(2, "x", &STATEFUL).wait().exits_with(0);
        assert!(output.stderr.contains(words), "`{words}` is missing\n{output}");
        assert_eq!(run.json("summary.json")["resumed_from"], 4, "{words}");
        assert!(newest(&run) == expected, "{words}");
    }
}

#[test]
fn any_number_of_ranks_continues_either_layout_without_changing_a_bit() {
    let sandbox = Sandbox::new();
    let run = sandbox.train(2, "x", &STATEFUL);
    let expected = newest(&run);
    let whole = "checkpoint.layout=whole";
    for (ranks, layout, files) in [
        (3, "checkpoint.layout=auto", 6),
        (ALONE, whole, 0),
        (2, whole, 0),
        (2, "checkpoint.layout=sharded", 4),
        (1, whole, 0),
    ] {
        // No step is left: what was read is written again.
        sandbox.train(ranks, "x", &[&STATEFUL[..], &[layout]].concat());
        assert_eq!(run.json("summary.json")["resumed_from"], 6);
        assert!(newest(&run) == expected, "{ranks} ranks, {layout}");
        let listed = checkpoint::files(&run.0.join("checkpoints/step_00000006")).unwrap();
        assert_eq!(listed.iter().filter(|file| file.name.contains(".rank0")).count(), files, "{ranks} ranks, {layout}");
    }
    assert_eq!(run.checkpoints(), ["best", "latest", "step_00000002", "step_00000004", "step_00000006"]);

    // Others read it, too.
    sandbox.train(2, "x", &STATEFUL);
    for ranks in [ALONE, 2] {
        sandbox.polytask(ranks, "eval runs/x --checkpoint latest").exits_with(0);
    }
    let shown = sandbox.polytask(ALONE, "inspect runs/x/checkpoints/step_00000006").exits_with(0).stdout;
    for words in ["good, every hash fits", "optim, in 2 parts", "exp_avg_sq", "balance.rank00001-of-00002.safetensors"]
    {
        assert!(shown.contains(words), "`{words}` is missing\n{shown}");
    }
}

/// Rank 1 may write no file of more than 32 KiB.
fn with_a_full_disk_on_rank_1(sandbox: &Sandbox, set: &[&str]) -> Output {
    let args: Vec<String> = train_args("full", set).iter().map(|arg| format!("'{arg}'")).collect();
    sandbox.write("train.sh", &format!("$polytask {}\n", args.join(" ")));
    let limited = "bash -c \"trap '' XFSZ; ulimit -f 32; . ./train.sh\"";
    let one = "--oversubscribe --bind-to none -n 1";
    sandbox.shell(&format!("export polytask; mpirun {one} bash -c '. ./train.sh' : -n 1 {limited}"))
}

#[test]
fn a_rank_that_cannot_write_is_one_warning_until_the_run_depends_on_the_checkpoint() {
    let sandbox = Sandbox::new();
    let set = [&STATEFUL[..2], &["model.encoder.mlp.widths=[160, 128]", "train.steps=7"]].concat();
    sandbox.train(2, "full", &[&set[..], &["train.steps=2"]].concat());
    let run = sandbox.run("full");
    let before = run.latest();

    let output = with_a_full_disk_on_rank_1(&sandbox, &set).exits_with(3);
    let words = format!("{}{}", output.stdout, output.stderr);
    for step in [4, 6] {
        let warning = format!("warning: no checkpoint at step {step}: rank 1: ");
        assert_eq!(words.matches(&warning).count(), 1, "{output}");
    }
    let file = "optim.rank00001-of-00002.safetensors: File too large";
    output.complains_once(&["error: rank 1: ", file]);
    assert!(words.matches(file).count() >= 3, "{words}");
    assert_eq!((run.last_step(), run.latest() == before), (7, true), "training went on, the old one is intact");
    assert_eq!(run.checkpoints(), ["best", "latest", "step_00000002"], "nothing half-made stays");

    sandbox.train(2, "full", &set);
    assert_eq!(run.latest().step, 7);
}

/// The lines of the documentation read both layouts.
#[test]
#[ignore = "needs POLYTASK_PYTHON, a Python with PyTorch and safetensors"]
fn the_python_of_the_documentation_reads_both_layouts() {
    let python = std::env::var("POLYTASK_PYTHON").expect("POLYTASK_PYTHON names a Python with PyTorch and safetensors");
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/run_directory.md")).unwrap();
    let lines = docs.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of Python");
    let sandbox = Sandbox::new();
    sandbox.write(
        "read.py",
        &format!(
            "import json, sys\n{lines}\nwhole = load_states(sys.argv[1])\n\
             print(json.dumps([[k, list(v.shape), v.flatten().tolist()] for k, v in whole.items()]))\n"
        ),
    );
    for (ranks, name) in [(2, "sharded"), (ALONE, "whole")] {
        let run = sandbox.train(ranks, name, &STATEFUL);
        let line = format!("{python} read.py runs/{name}/checkpoints/step_00000006");
        let mut read: Vec<(String, Vec<usize>, Vec<f64>)> =
            serde_json::from_str(&sandbox.shell(&line).exits_with(0).stdout).unwrap();
        let optim = run.latest().tensors.remove("optim").unwrap();
        let mut expected: Vec<_> =
            optim.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone(), values(tensor))).collect();
        read.sort_by(|a, b| a.0.cmp(&b.0));
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(read == expected, "{name}");
    }
}
