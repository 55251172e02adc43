//! `docs/config.md` and the example configurations say what the program does.
//!
//! Blocks of the document that the program writes are renewed with `BLESS=1`.

use polytask::config::{Config, MAY_CHANGE, load, load_str};
use std::path::Path;
use std::{env, fs};

const DOCS: &str = "docs/config.md";
const BASE: &str = "tests/broken_configs/base.yaml";

fn docs() -> String {
    fs::read_to_string(DOCS).unwrap()
}

/// Contents of the fenced blocks of one language.
fn blocks<'d>(docs: &'d str, language: &str) -> Vec<&'d str> {
    docs.split(&format!("```{language}\n")).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// A piece of YAML as overrides of whole sections.
fn sections(block: &str) -> Vec<String> {
    let mut sections: Vec<String> = Vec::new();
    for line in block.lines() {
        match sections.last_mut() {
            Some(section) if line.starts_with(' ') => section.push_str(&format!("{line}\n")),
            _ => {
                let (name, value) = line.split_once(':').unwrap();
                sections.push(format!("{name}={value}\n"));
            }
        }
    }
    sections
}

/// The block after a marker, which the program writes.
fn written(marker: &str, language: &str, expected: &str) {
    let docs = docs();
    let start = format!("<!-- {marker} -->\n```{language}\n");
    let (before, rest) = docs.split_once(&start).unwrap();
    let (found, after) = rest.split_once("```").unwrap();
    if env::var_os("BLESS").is_some() {
        fs::write(DOCS, format!("{before}{start}{expected}```{after}")).unwrap();
    } else {
        assert_eq!(found, expected, "run this test with BLESS=1");
    }
}

#[test]
fn every_example_of_the_document_loads() {
    let docs = docs();
    let examples = blocks(&docs, "yaml");
    assert!(examples.len() >= 10, "only {} examples", examples.len());
    for block in examples {
        if let Err(error) = load(Path::new(BASE), &sections(block)) {
            panic!("{error}\nin the example\n{block}");
        }
    }
}

#[test]
fn every_shipped_configuration_loads() {
    let mut found = vec![BASE.into()];
    if let Ok(folder) = fs::read_dir("configs") {
        found.extend(folder.map(|entry| entry.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")));
    }
    for path in found {
        if let Err(error) = load(&path, &[]) {
            panic!("{error}");
        }
    }
}

#[test]
fn the_blocks_of_the_document_are_what_the_program_says() {
    written("may change", "text", &format!("{}\n", MAY_CHANGE.join("\n")));
    let smallest = "
run: {name: a}
data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}
tasks: {t: {source: s, target: y, kind: binary}}
model: {encoder: mlp}
train: {epochs: 1}
";
    let yaml = load_str("smallest.yaml", smallest, &[]).unwrap().to_yaml().unwrap();
    let sections = ["batch", "balance", "optim", "schedule", "train", "comm", "checkpoint", "log"];
    let mut kept = String::new();
    let mut keep = false;
    for line in yaml.lines() {
        if !line.starts_with([' ', '-']) {
            keep = sections.iter().any(|section| line == format!("{section}:"));
        }
        if keep {
            kept.push_str(&format!("{line}\n"));
        }
    }
    written("defaults", "yaml", &kept);
}

/// Configurations that use every section, format, kind, encoder, optimizer and schedule between them.
fn everything() -> Vec<Config> {
    let docs = docs();
    let mut configs: Vec<Config> =
        blocks(&docs, "yaml").iter().map(|block| load(Path::new(BASE), &sections(block)).unwrap()).collect();
    let sets = [
        "optim=sgd",
        "optim=adam",
        "optim=adamw",
        "schedule=constant",
        "schedule=linear",
        "schedule.step.every=1",
        "tasks.income.kind=multilabel",
        "tasks.income.kind=multiclass",
        "tasks.hours.kind=regression",
        "batch.mix=proportional",
        "batch.mix=uniform",
        "batch.mix={weights: {census: 1}}",
        "balance.surgery=mgda",
        "balance.surgery=cagrad",
        "balance.surgery=nash_mtl",
        "balance.surgery=fairgrad",
        "balance.surgery=upgrad",
        "balance.surgery=dualproj",
    ];
    let load_set = |set: &&str| load(Path::new(BASE), &[set.to_string()]).unwrap();
    configs.extend(sets.iter().map(load_set));
    let text = ["data.sources.census={csv: {train: a.csv, text: [words]}}", "model.encoder=embedding_bag"];
    configs.push(load(Path::new(BASE), &text.map(String::from)).unwrap());
    configs
}

#[test]
fn every_key_and_choice_is_in_the_document() {
    let docs = docs();
    let prose: Vec<&str> = docs.split("```").step_by(2).collect();
    let words: Vec<&str> = prose.iter().flat_map(|part| part.split('`').skip(1).step_by(2)).collect();
    let known = |name: &str| words.iter().any(|word| word.split('.').any(|part| part == name));
    let names = ["income", "hours", "rich", "digit", "digits", "pairs", "census", "left", "right"];
    let mut missing = Vec::new();
    for config in everything() {
        let yaml = config.to_yaml().unwrap();
        let keys = yaml.lines().filter_map(|line| line.trim_start().split_once(':')).map(|(key, _)| key);
        missing.extend(
            keys.filter(|key| !names.contains(key) && !key.starts_with('-'))
                .filter(|key| {
                    let section = docs.contains(&format!("\n## {key}\n"));
                    !section && !known(key)
                })
                .map(String::from),
        );
    }
    missing.sort();
    missing.dedup();
    assert!(missing.is_empty(), "not in {DOCS}: {missing:?}");
}
