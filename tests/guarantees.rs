//! `docs/guarantees.md` names tests and scripts that exist, and leaves out none of the fault tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PAGE: &str = "docs/guarantees.md";

/// Every file in backticks of one line of the page, with the tests in backticks that follow it.
fn named(line: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for word in line.split('`').skip(1).step_by(2) {
        let is_test = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if ["tests/", "src/", "scripts/"].iter().any(|folder| word.starts_with(folder)) {
            let path = word.split(' ').next().unwrap_or_default();
            found.push((path.into(), Vec::new()));
        } else if let Some((_, tests)) = found.last_mut().filter(|_| is_test) {
            tests.push(word.into());
        }
    }
    found
}

fn page() -> Vec<(String, Vec<String>)> {
    fs::read_to_string(PAGE).unwrap().lines().filter(|line| line.starts_with('|')).flat_map(named).collect()
}

/// Names of the tests of a file.
fn tests_of(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let after_mark = text.split("#[test]").skip(1);
    let names = after_mark.filter_map(|rest| rest.split("fn ").nth(1)?.split('(').next().map(str::to_string));
    names.collect()
}

#[test]
fn every_test_and_script_of_the_page_exists() {
    let page = page();
    assert!(page.len() >= 16, "{page:?}");
    for (path, tests) in page {
        assert!(Path::new(&path).exists(), "{PAGE} names {path}");
        if tests.is_empty() {
            continue;
        }
        let there = tests_of(Path::new(&path));
        for test in tests {
            assert!(there.contains(&test), "{PAGE} names `{test}`, which {path} does not have: {there:?}");
        }
    }
}

#[test]
fn every_guarantee_has_a_row() {
    let text = fs::read_to_string(PAGE).unwrap();
    for number in 1..=16 {
        let rows = text.matches(&format!("\n| G{number} |")).count();
        assert_eq!(rows, 2, "G{number}: one row on what it says, one on its tests");
    }
}

/// A fault test that no guarantee names is one that nobody finds.
#[test]
fn every_file_of_fault_tests_is_on_the_page() {
    let page: BTreeSet<String> = page().into_iter().map(|(path, _)| path).collect();
    let scripts = fs::read_dir("scripts/faults").unwrap().chain(fs::read_dir("tests/faults").unwrap());
    for entry in scripts.flatten().filter(|entry| entry.path().is_file()) {
        let path = entry.path().display().to_string();
        assert!(page.contains(&path), "{path} is not on {PAGE}");
    }
}
