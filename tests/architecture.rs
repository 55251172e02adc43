//! Fails when a module uses what the tables in the documentation of `src/lib.rs` do not allow it to use.
//!
//! Sources are read as text: comments, strings and `#[cfg(test)]` items are blanked out, the rest is searched for
//! `crate::x`, chains of `super::` that leave the module, and the words of the second table.

#[path = "architecture/source.rs"]
mod source;
#[path = "architecture/tables.rs"]
mod tables;

use source::Source;
use std::fs;
use std::path::{Path, PathBuf};
use tables::{Tables, is_below};

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn tables() -> Tables {
    Tables::read(&fs::read_to_string(src().join("lib.rs")).unwrap())
}

/// All `.rs` files, with their paths below `src` (separated by `/`).
fn files(dir: &Path, found: &mut Vec<(String, String)>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            let name = path.strip_prefix(src()).unwrap().to_str().unwrap().replace('\\', "/");
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// What these files do that the tables do not allow.
fn violations(tables: &Tables, files: &[(String, String)]) -> Vec<String> {
    let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let only_for_tests: Vec<&str> = sources.iter().flat_map(|s| &s.test_modules).map(String::as_str).collect();
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| !only_for_tests.iter().any(|place| is_below(&s.path, place))) {
        found.extend(tables.check_uses(source));
        found.extend(tables.check_words(source));
    }
    found
}

#[test]
fn modules_use_only_what_the_tables_allow() {
    let mut all = Vec::new();
    files(&src(), &mut all);
    let found = violations(&tables(), &all);
    assert!(found.is_empty(), "see the tables in src/lib.rs:\n{}", found.join("\n"));
}

/// Violations in one file of this name.
fn in_file(path: &str, text: &str) -> Vec<String> {
    violations(&tables(), &[(path.into(), text.into())])
}

#[test]
fn forbidden_uses_are_found() {
    for (path, text, expected) in [
        ("data/mod.rs", "\nuse crate::model::Encoder;", "data/mod.rs:2: `data` uses `model`"),
        ("data/a.rs", "fn f() { crate::comm::x() }", "data/a.rs:1: `data` uses `comm`"),
        ("data/a.rs", "use super::super::step::X;", "data/a.rs:1: `data` uses `step`"),
        ("data/a/b.rs", "use super::super::super::step::X;", "data/a/b.rs:1: `data` uses `step`"),
        ("world.rs", "use super::rng::rng;", "world.rs:1: `world` uses `rng`"),
        ("step/mod.rs", "use crate::Result;", "step/mod.rs:1: `step` uses `error`"),
        ("step/mod.rs", "use crate::{data, model};", "step/mod.rs:1: one `crate::` path per `use`"),
        ("extra.rs", "", "extra.rs:1: module `extra` has no row in the table"),
        ("train.rs", "use anyhow::Context;", "train.rs:1: `anyhow::` is not used here"),
        ("comm/mod.rs", "use mpi::traits::*;", "comm/mod.rs:1: `mpi::` belongs into `comm/mpi.rs`"),
        ("comm/mod.rs", "use ::mpi::traits::*;", "comm/mod.rs:1: `mpi::` belongs into `comm/mpi.rs`"),
        (
            "train.rs",
            "fn f() { unsafe { g() } }",
            "train.rs:1: `unsafe` belongs into `ffi/`, `cuda/`, `kernel/`, `comm/`, `cli/doctor/facts.rs`",
        ),
        ("balance/gram.rs", "use tch::Tensor;", "balance/gram.rs:1: `tch::` is not used here"),
        ("eval/metrics/auc.rs", "use tch as t;", "eval/metrics/auc.rs:1: `tch::` is not used here"),
        (
            "balance/gram.rs",
            "use crate::comm::Collective;",
            "balance/gram.rs:1: `crate::comm` belongs into `balance/global.rs`",
        ),
        (
            "train.rs",
            "let x = std::env::var_os(\"A\");",
            "train.rs:1: `env::var_os` belongs into `comm/`, `cli/`, `log/`, `config/`",
        ),
    ] {
        assert_eq!(in_file(path, text), [expected], "{text}");
    }
}

#[test]
fn allowed_uses_pass() {
    for (path, text) in [
        ("data/a.rs", "use crate::config::Data;\nuse crate::data::Batch;\nuse super::Batch;"),
        ("data/a/b.rs", "use super::super::batch::Batch;"),
        ("train.rs", "use crate::Result;\nuse crate::balance::Gram;"),
        ("cli/check.rs", "use crate::{config, train};"),
        ("main.rs", "use std::process::ExitCode;\nuse polytask::train;"),
        ("comm/mpi.rs", "use mpi::traits::*;\nuse crate::world::World;"),
        ("comm/mod.rs", "pub mod mpi;\nfn f() { mpi::connect(); self::mpi::x(); }"),
        ("train.rs", "fn f() { crate::comm::mpi::connect(); }"),
        ("balance/global.rs", "use crate::comm::Collective;"),
        ("data/a.rs", "// use crate::model::X;\n/* crate::step /* nested */ unsafe */\n/// crate::train"),
        ("data/a.rs", "const A: &str = \"crate::model \\\" unsafe\"; const B: &str = r#\"crate::step \" \"#;"),
        ("data/a.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // crate::model"),
        ("data/a.rs", "#[cfg(test)]\nmod tests {\n    use crate::model::X;\n}\nfn f() {}"),
        ("data/a.rs", "#[cfg(test)]\nuse crate::model::X;"),
        ("data/a.rs", "#[cfg(all(test, unix))]\n#[allow(dead_code)]\nfn f(x: [u8; 4]) { crate::model::f(x) }"),
        ("data/a.rs", "#![cfg(test)]\nuse crate::model::X;"),
        ("config/mod.rs", "#![deny(unsafe_code)]"),
    ] {
        assert_eq!(in_file(path, text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn only_the_test_is_left_out() {
    let text = "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::model::X;\n#[cfg(not(test))]\nuse crate::step::Y;";
    assert_eq!(in_file("data/a.rs", text), ["data/a.rs:3: `data` uses `model`", "data/a.rs:5: `data` uses `step`"]);
    let parent = ("data/mod.rs".to_string(), "#[cfg(test)]\nmod tests;\n".to_string());
    let other = |path: &str| (path.to_string(), "use crate::model::X;".to_string());
    let files = [parent, other("data/tests.rs"), other("data/tests/more.rs"), other("data/tests_not.rs")];
    assert_eq!(violations(&tables(), &files), ["data/tests_not.rs:1: `data` uses `model`"]);
}
