//! Broken data files, each with the exact message: file, place, column, what is wrong, and the way out.

#[path = "broken_data/binary.rs"]
mod binary;
#[path = "broken_data/files.rs"]
mod files;
#[path = "broken_data/text.rs"]
mod text;

use polytask::config::{Dialect, Paths, Source, Table};
use polytask::data::sources::{Which, read, read_for_predict};
use polytask::data::table::{Role, Wanted};
use std::path::{Path, PathBuf};

/// Files, how they are read, and the message. `{dir}/` is taken out of messages.
struct Case {
    files: Vec<(&'static str, Vec<u8>)>,
    source: Source,
    wanted: Vec<Wanted>,
    message: &'static str,
}

fn want(name: &str, role: Role) -> Wanted {
    Wanted { name: name.into(), role }
}

fn table(files: &[&str], dialect: Dialect) -> Box<Table> {
    let train = Paths::Many(files.iter().map(PathBuf::from).collect());
    Box::new(Table { train, dialect, ..Table::default() })
}

fn named(file: &'static str, bytes: impl Into<Vec<u8>>, source: Source, wanted: Wanted, message: &'static str) -> Case {
    Case { files: vec![(file, bytes.into())], source, wanted: vec![wanted], message }
}

fn message_of(case: &Case) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in &case.files {
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    match read(&case.source, Which::Train, Some(dir.path()), &case.wanted) {
        Ok(table) => format!("no error: {table:?}"),
        Err(error) => error.to_string().replace(&format!("{}/", dir.path().display()), ""),
    }
}

#[test]
fn each_broken_file_has_its_message() {
    let groups = [
        text::csv_cases(),
        text::gzip_cases(),
        text::arff_cases(),
        binary::parquet_cases(),
        binary::array_cases(),
        binary::idx_cases(),
    ];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    assert!(cases.len() >= 90, "{} cases", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .map(|case| (message_of(case), case.message))
        .filter(|(found, expected)| found != expected)
        .map(|(found, expected)| format!("expected {expected}\n   found {found}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {} messages differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn each_broken_json_line_has_its_message() {
    let cases = [
        ("", "p.jsonl: no rows"),
        (
            "{\"x\": 1}\n[1]\n",
            "p.jsonl:2: not a JSON object on one line (column 0): invalid type: sequence, expected a map",
        ),
        ("{\"x\": 1\n", "p.jsonl:1: not a JSON object on one line (column 7): EOF while parsing an object"),
        ("{\"y\": 1}\n", "p.jsonl: column `x`: not in this file; did you mean `y`? It has `y`"),
        ("{\"x\": {\"y\": 1}}\n", "p.jsonl:1: column `x`: a nested value; give a number, a string, a boolean or null"),
        ("{\"x\": \"one\"}\n", "p.jsonl:1: column `x`: `one` is not a number"),
        ("{\"x\": 1e999}\n", "p.jsonl:1: not a JSON object on one line (column 11): number out of range"),
    ];
    let source = Source::Csv(Box::default());
    for (text, expected) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("p.jsonl");
        std::fs::write(&path, text).expect("written");
        let error = read_for_predict(&source, &path, &[want("x", Role::Number)]).expect_err(text);
        assert_eq!(error.to_string().replace(&format!("{}/", parent(&path)), ""), expected, "{text}");
    }
}

fn parent(path: &Path) -> String {
    path.parent().map(|p| p.display().to_string()).unwrap_or_default()
}
