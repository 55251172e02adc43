//! Damaged files are refused by name, and an older checkpoint takes over.

use crate::process::ALONE;
use crate::sandbox::{Sandbox, bits};
use polytask::checkpoint;
use std::fs;

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_continues_to_the_same_bits() {
    let sandbox = Sandbox::new();
    let set = ["checkpoint.every=2", "optim={adamw: {lr: 0.01}}"];
    let whole = sandbox.train(ALONE, "whole", &set);
    let newest = whole.0.join("checkpoints/step_00000006");
    let kept = |run: &std::path::Path| -> Vec<Vec<u64>> {
        let snapshot = checkpoint::read(&run.join("checkpoints/step_00000006")).unwrap();
        snapshot.tensors.values().flatten().map(bits).collect()
    };
    let expected = kept(&whole.0);

    // The library falls back for every file, flipped and cut; the program is started for one.
    for entry in fs::read_dir(&newest).unwrap().flatten() {
        let (file, bytes) = (entry.path(), fs::read(entry.path()).unwrap());
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 0x10;
        for damaged in [&flipped[..], &bytes[..bytes.len() - 1], &[]] {
            fs::write(&file, damaged).unwrap();
            let found = checkpoint::latest(&whole.0.join("checkpoints")).unwrap().unwrap();
            assert_eq!((found.snapshot.step, found.warnings.len()), (4, 1), "{}", file.display());
            assert!(found.warnings[0].starts_with(&file.display().to_string()), "{}", found.warnings[0]);
        }
        fs::write(&file, &bytes).unwrap();
    }
    let model = newest.join("model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&model, bytes).unwrap();
    let output = sandbox.start(ALONE, "whole", &set).wait().exits_with(0);
    assert!(output.stderr.contains("model.safetensors: damaged: SHA-256"), "{output}");
    assert_eq!(whole.json("summary.json")["resumed_from"], 4);
    assert_eq!(kept(&whole.0), expected);
}
