//! Folders of checkpoints from strangers: whatever is in them, every question about them has an answer or an error that
//! names the place, nothing outside of the folder changes, and a run that writes there goes on.
//!
//! An input is a list of entries: a kind, the number of a place, the length of a content in two bytes, the content.

use super::workplace::Workplace;
use polytask::checkpoint::{self, Floats, Keep, NamedTensor, Snapshot};
use polytask::cli::inspect;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Places below the root. The folders that a manifest of kind 3 vouches for come first.
const PLACES: [&str; 21] = [
    "step_00000010",
    "step_00000020",
    ".old-step_00000010",
    "step_18446744073709551615",
    "step_00000010/MANIFEST.json",
    "step_00000010/model.safetensors",
    "step_00000010/optim.safetensors",
    "step_00000010/optim.rank00001-of-00002.safetensors",
    "step_00000010/state.json",
    "step_00000010/config.json",
    "step_00000010/transforms.json",
    "step_00000020/MANIFEST.json",
    "step_00000020/model.safetensors",
    "step_00000020/state.json",
    ".old-step_00000010/state.json",
    ".tmp-step_00000030-4294967295",
    ".tmp-latest",
    "latest",
    "best",
    "step_18446744073709551615/state.json",
    "step_00000010/optim.rank00000-of-00002.safetensors",
];

/// Makes what an input describes below a root.
fn build(root: &Path, outside: &Path, mut input: &[u8]) {
    for _ in 0..24 {
        let [kind, place, low, high, rest @ ..] = input else { return };
        let (content, rest) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
        input = rest;
        let place = PLACES[usize::from(*place) % PLACES.len()];
        // The one name with a process in it: the temporary pointer of this very process.
        let name = if place == ".tmp-latest" { format!(".tmp-latest-{}", std::process::id()) } else { place.into() };
        let path = root.join(name);
        if path.parent().is_some_and(|parent| parent != root && !parent.exists()) {
            let _ = fs::create_dir(path.parent().unwrap_or(root));
        }
        // The harness itself must not write through the links that it has made.
        if path.is_symlink() || path.parent().is_some_and(Path::is_symlink) {
            continue;
        }
        // What is in the way of what comes later stays: that is a folder like any other.
        let _ = match kind % 6 {
            0 => fs::write(&path, content),
            1 => fs::write(&path, tensors(content)),
            2 => symlink(outside.join("precious.txt"), &path),
            3 => vouch(&path, content),
            4 => symlink(outside.join("folder"), &path),
            _ => fs::create_dir(&path),
        };
    }
}

/// A safetensors file whose header has the right length: header and values stand apart by a NUL.
fn tensors(content: &[u8]) -> Vec<u8> {
    let mut parts = content.splitn(2, |byte| *byte == 0);
    let (header, values) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    [&(header.len() as u64).to_le_bytes()[..], header, values].concat()
}

/// Writes the manifest that fits a folder, with the entries added that a JSON list names.
fn vouch(dir: &Path, more: &[u8]) -> std::io::Result<()> {
    let step: u64 = dir.file_name().and_then(|name| name.to_str()?.rsplit('_').next()?.parse().ok()).unwrap_or(0);
    let mut names: Vec<_> = fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| name != "MANIFEST.json" && dir.join(name).is_file());
    names.sort();
    let entry = |name: &String| {
        let bytes = fs::read(dir.join(name)).unwrap_or_default();
        json!({ "name": name, "bytes": bytes.len(), "sha256": hash(&bytes) })
    };
    let mut files: Vec<Value> = names.iter().map(entry).collect();
    files.extend(serde_json::from_slice::<Vec<Value>>(more).unwrap_or_default());
    let format = if names.iter().any(|name| name.contains(".rank")) { 2 } else { 1 };
    let manifest = |check: &str| {
        let value = json!({ "format": format, "step": step, "files": files, "check": check });
        format!("{value:#}\n")
    };
    let path = dir.join("MANIFEST.json");
    // As in `build`: not through a link of an entry before.
    if path.is_symlink() { Ok(()) } else { fs::write(path, manifest(&hash(manifest("").as_bytes()))) }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn run(data: &[u8]) {
    let workplace = Workplace::new();
    let root = workplace.inside().join("checkpoints");
    fs::create_dir(&root).expect("a folder");
    build(&root, &workplace.outside(), data);
    look(&root);
    go_on(&root);
    workplace.check_outside();
}

/// An error that names a place below the root.
fn named(root: &Path, error: &str) {
    assert!(error.contains(&root.display().to_string()), "nothing is named: {error}");
}

/// Asks everything that changes nothing.
fn look(root: &Path) {
    let survey = checkpoint::survey(root).expect("a folder can be listed");
    for found in &survey.checkpoints {
        let verified = checkpoint::verify(&found.path);
        let read = checkpoint::read(&found.path);
        let _ = checkpoint::files(&found.path).inspect_err(|e| named(root, &e.to_string()));
        match (&read, &verified) {
            (Ok(snapshot), Ok(step)) => assert_eq!(snapshot.step, *step),
            (Ok(_), Err(e)) => panic!("read, but not verified: {e}"),
            (Err(e), _) => named(root, &e.to_string()),
        }
        assert_eq!(found.damage.is_none(), verified.is_ok_and(|step| step == found.step), "{found:?}");
        if let Ok(snapshot) = read {
            same_elsewhere(&root.with_file_name("elsewhere"), &snapshot);
        }
        show(&found.path, root);
    }
    survey.warnings.iter().for_each(|warning| named(root, warning));
    show(root, root);
    match checkpoint::latest(root) {
        Ok(None) => {}
        Ok(Some(found)) => {
            let found_by_survey = survey.checkpoints.iter().find(|c| c.path == found.path).expect("listed too");
            // A file that no parser takes is no damage to a survey, which compares hashes.
            assert!(found_by_survey.damage.is_none());
            assert_eq!(found.snapshot.step, found_by_survey.step);
        }
        Err(e) => named(root, &e.to_string()),
    }
    let _ = checkpoint::best(root).inspect_err(|e| named(root, &e.to_string()));
}

/// What `polytask inspect` prints.
fn show(path: &Path, root: &Path) {
    for json in [false, true] {
        match inspect::page(path, json) {
            Ok((page, code)) => {
                assert!(matches!(code, 0 | 3), "exit code {code}");
                if json {
                    serde_json::from_str::<Value>(&page).expect("JSON");
                }
            }
            Err(e) => named(root, &e.to_string()),
        }
    }
}

/// Written to another place, a snapshot is read back the same.
fn same_elsewhere(root: &Path, snapshot: &Snapshot) {
    let path = checkpoint::write(root, snapshot).expect("what was read can be written");
    let back = checkpoint::read(&path).expect("what was written can be read");
    // By their bytes: NaN differs from itself.
    assert_eq!(format!("{back:?}"), format!("{snapshot:?}"));
    fs::remove_dir_all(root).expect("it is there");
}

/// A run writes its next checkpoint there, marks it, and removes old ones.
fn go_on(root: &Path) {
    let tensor = NamedTensor { name: "x".into(), shape: vec![2], data: Floats::F32(vec![1.0, 2.0]) };
    let snapshot = Snapshot {
        step: 40,
        tensors: [("model".to_string(), vec![tensor])].into(),
        json: [("state".to_string(), json!({ "a": 1 }))].into(),
    };
    match checkpoint::write(root, &snapshot) {
        Ok(_) => {
            let _ = checkpoint::mark_best(root, 40).inspect_err(|e| named(root, &e.to_string()));
            let _ = checkpoint::prune(root, Keep::last(1)).inspect_err(|e| named(root, &e.to_string()));
            let found = checkpoint::latest(root).expect("one is good").expect("one is there");
            assert_eq!(found.snapshot, snapshot);
        }
        Err(e) => named(root, &e.to_string()),
    }
}

/// A folder of checkpoints as an input: seeds of the corpus are made of real ones.
#[allow(dead_code)] // the fuzzer needs no seeds made
pub fn entry(kind: u8, place: &str, content: &[u8]) -> Vec<u8> {
    let place = PLACES.iter().position(|p| *p == place).expect("a known place") as u8;
    let length = u16::try_from(content.len()).expect("a short content").to_le_bytes();
    [&[kind, place], &length[..], content].concat()
}
