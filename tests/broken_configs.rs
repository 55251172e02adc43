//! Every broken configuration is refused with exactly the message stored next to it.
//!
//! `tests/broken_configs/NAME.yaml` is a broken file, `NAME.set` holds broken `--set` overrides of the good
//! `base.yaml` (one a line), `NAME.txt` is the whole message. After a deliberate change of messages run the tests
//! with `BLESS=1` and read the difference.

use polytask::config::{ConfigError, load, load_str};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

const FOLDER: &str = "tests/broken_configs";

fn base() -> PathBuf {
    Path::new(FOLDER).join("base.yaml")
}

/// Names of the cases: all files but `base.yaml` and the messages.
fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "set") && *path != base())
        .collect();
    cases.sort();
    cases
}

fn refuse(case: &Path) -> Option<ConfigError> {
    if case.extension().is_some_and(|e| e == "set") {
        let sets: Vec<String> = fs::read_to_string(case).unwrap().lines().map(String::from).collect();
        return load(&base(), &sets).err();
    }
    load(case, &[]).err()
}

#[test]
fn the_good_base_loads() {
    let config = load(&base(), &[]).unwrap();
    assert_eq!(config.tasks.len(), 2);
}

#[test]
fn every_broken_configuration_has_its_exact_message() {
    let (cases, bless) = (cases(), env::var_os("BLESS").is_some());
    assert!(cases.len() >= 100, "only {} cases were found", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let Some(error) = refuse(case) else {
            wrong.push(format!("{}: accepted", case.display()));
            continue;
        };
        let stored = case.with_extension("txt");
        if bless {
            fs::write(&stored, format!("{error}\n")).unwrap();
        }
        let expected = fs::read_to_string(&stored).unwrap_or_default();
        if expected != format!("{error}\n") {
            wrong.push(format!("{}: expected\n{expected}found\n{error}\n", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn every_message_belongs_to_a_case() {
    let cases = cases();
    for entry in fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        let used = ["yaml", "set"].iter().any(|e| cases.contains(&path.with_extension(e)));
        assert!(used || path == base(), "{} is left over", path.display());
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let message = |path: &str| load(Path::new(path), &[]).unwrap_err().to_string();
    assert_eq!(message("tests/no_such.yaml"), "tests/no_such.yaml: no such file");
    assert_eq!(message("tests"), "tests: is a folder, expected a YAML file");
    let huge = tempfile::NamedTempFile::new().unwrap();
    huge.as_file().set_len(100 << 20).unwrap();
    let name = huge.path().to_str().unwrap();
    assert_eq!(message(name), format!("{name}: larger than 4 MiB, so hardly a configuration"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let text = fs::read_to_string(base()).unwrap();
    let good = load(&base(), &[]).unwrap();
    let marked = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    assert_eq!(load_str("marked.yaml", &marked, &[]).unwrap(), good);
    let wrong = load_str("marked.yaml", &marked.replace("epochs: 20", "epochs: x"), &[]).unwrap_err();
    assert!(wrong.message.starts_with("marked.yaml:23:17: train.epochs: "), "{wrong}");
}

#[test]
fn hostile_files_are_refused_quickly() {
    let begun = Instant::now();
    let keys: String = (0..100_000).map(|i| format!("k{i}: 1\n")).collect();
    let refused = [
        load_str("keys", &keys, &[]),
        load_str("flow", &"[".repeat(1 << 20), &[]),
        load_str("flow map", &"{a: ".repeat(1 << 18), &[]),
        load_str("dashes", &"- ".repeat(1 << 20), &[]),
        load_str("nul", "run: \0\n", &[]),
        load_str("set", "run: {name: a}", &[format!("{}=1", "a.".repeat(1 << 20))]),
        load_str("set list", "run: {name: a}", &[format!("a={}", "[".repeat(1 << 20))]),
    ];
    assert!(refused.iter().all(Result::is_err));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
