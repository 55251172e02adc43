//! The corpus of the fuzz targets, through the same functions, without a fuzzer: every input that was worth keeping, or
//! once was a finding, stays harmless. `BLESS=1` writes the seeds again; `scripts/fuzz` adds to them.

#[path = "../fuzz/harness/mod.rs"]
mod harness;
#[path = "fuzz_corpus/seeds.rs"]
mod seeds;

use std::fs;
use std::path::{Path, PathBuf};

/// Room for the whole corpus, in bytes, and for one target, in files.
const MOST_BYTES: u64 = 300 << 10;
const MOST_FILES: usize = 60;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The inputs of a target, by name.
fn inputs(target: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(corpus().join(target)).unwrap_or_else(|e| panic!("no corpus of `{target}`: {e}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the corpus of `{target}` is empty");
    paths
}

fn replay(target: &str) {
    for path in inputs(target) {
        // The name of the last file that is printed is that of the input at fault.
        println!("{}", path.display());
        harness::run(target, &fs::read(&path).unwrap());
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    arff checkpoint config csv csv_gz events_read events_write fault flight idx jsonl npy npz overrides parquet resume
    safetensors
}

#[test]
fn every_target_is_replayed_built_and_small() {
    let known: Vec<&str> = harness::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(known, NAMES);
    let manifest = fs::read_to_string(corpus().join("../Cargo.toml")).unwrap();
    let mut bytes = 0;
    for name in NAMES {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not built");
        let paths = inputs(name);
        assert!(paths.len() <= MOST_FILES, "{name}: {} files", paths.len());
        bytes += paths.iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    }
    assert!(bytes <= MOST_BYTES, "{bytes} bytes of corpus");
}

/// Seeds are made by the program itself, so that they follow its formats.
#[test]
fn seeds_are_there() {
    for (target, name, bytes) in seeds::all() {
        let path = corpus().join(target).join(name);
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(path.is_file(), "{} is missing: BLESS=1 cargo test --test fuzz_corpus seeds", path.display());
        harness::run(target, &bytes);
    }
}
