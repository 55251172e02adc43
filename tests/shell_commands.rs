//! What the documents tell users to type is right: files exist, and every call of the program parses.

use clap::Parser;
use polytask::cli::Arguments;
use std::path::{Path, PathBuf};
use std::{fs, iter};

/// The documents, and the configurations that open with commands.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [".", "docs", "configs"].iter().flat_map(|dir| fs::read_dir(root.join(dir)).into_iter().flatten());
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "md" || ext == "yaml"));
    paths.sort();
    paths
}

/// Lines of `sh` blocks of a Markdown text, or of the indented comments at the head of a YAML file.
fn shell_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    if path.extension().is_some_and(|ext| ext == "yaml") {
        let head = text.lines().map_while(|line| line.strip_prefix('#'));
        return head.filter_map(|line| line.strip_prefix("   ")).map(str::to_owned).collect();
    }
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let joined = blocks.map(|block| block.replace("\\\n", " "));
    joined.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Words as a shell splits them: quotes hold together, a comment ends the line.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut quote, mut inside) = (None, false);
    for c in line.chars() {
        if quote.is_none() && c == ' ' {
            inside = false;
            continue;
        }
        if !inside {
            if c == '#' {
                break;
            }
            words.push(String::new());
            inside = true;
        }
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words
}

/// The arguments of the program on this line, if it calls it, directly or through `launch/`.
fn program_arguments(words: &[String]) -> Option<Vec<String>> {
    let at = words.iter().position(|w| w == "polytask" || w.ends_with("/polytask") || w == "launch/mpirun.sh")?;
    let mut rest = &words[at + 1..];
    if rest.first().is_some_and(|w| w == "-n") {
        rest = &rest[2..];
    }
    let ends = rest.iter().position(|w| matches!(w.as_str(), "or" | "..." | "&&" | "|" | ">")).unwrap_or(rest.len());
    Some(iter::once("polytask".to_owned()).chain(rest[..ends].iter().cloned()).collect())
}

#[test]
fn words_are_split_as_a_shell_does() {
    assert_eq!(words("a --set 'b=[c, d]' \"e f\"  # no"), ["a", "--set", "b=[c, d]", "e f"]);
    assert_eq!(words("x='1 2'3  a#b '#'"), ["x=1 23", "a#b", "#"]);
    assert!(words("# all comment").is_empty());
}

#[test]
fn every_call_of_the_program_parses() {
    let mut calls = 0;
    for path in documents() {
        for line in shell_lines(&path) {
            let Some(arguments) = program_arguments(&words(&line)) else { continue };
            if let Err(error) = Arguments::try_parse_from(&arguments)
                && error.use_stderr()
            {
                panic!("{}: `{line}`: {error}", path.display());
            }
            calls += 1;
        }
    }
    assert!(calls >= 6, "only {calls} calls found: has the form of the documents changed?");
}

#[test]
fn every_script_and_configuration_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = ["scripts/", "launch/", "configs/", ".ci/"];
    for path in documents() {
        for line in shell_lines(&path) {
            for word in words(&line).iter().filter(|w| ours.iter().any(|dir| w.starts_with(dir))) {
                assert!(root.join(word).exists(), "{}: `{line}`: there is no {word}", path.display());
            }
        }
    }
}
