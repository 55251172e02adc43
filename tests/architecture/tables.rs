//! The tables of `src/lib.rs`, and what a source file may do by them.

use crate::source::Source;
use std::collections::BTreeMap;

/// Both tables.
pub struct Tables {
    /// By module, what it may use; `None`: everything.
    uses: BTreeMap<String, Option<Vec<String>>>,
    words: Vec<Word>,
}

/// A row of the second table.
struct Word {
    words: Vec<String>,
    /// Where it is looked for; empty: everywhere.
    scope: Vec<String>,
    /// Where it may stand.
    home: Vec<String>,
}

impl Tables {
    /// Finds the tables in the `//!` lines.
    pub fn read(lib: &str) -> Tables {
        let mut tables = Tables { uses: BTreeMap::new(), words: Vec::new() };
        for line in lib.lines().filter_map(|line| line.strip_prefix("//! |")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            match cells[..] {
                [modules, allowed, ""] if modules.starts_with('`') => {
                    let allowed = (allowed != "everything").then(|| quoted(allowed));
                    quoted(modules).into_iter().for_each(|module| drop(tables.uses.insert(module, allowed.clone())));
                }
                [words, scope, home, ""] if words.starts_with('`') => {
                    tables.words.push(Word { words: quoted(words), scope: quoted(scope), home: quoted(home) });
                }
                _ => {}
            }
        }
        assert!(tables.uses.len() > 10 && tables.words.len() > 5, "src/lib.rs has lost its tables");
        tables
    }

    /// Uses of other modules that have no place in the first table.
    pub fn check_uses(&self, source: &Source) -> Vec<String> {
        let Some(module) = source.module() else { return Vec::new() };
        let allowed = match self.uses.get(module) {
            None => return vec![format!("{}:1: module `{module}` has no row in the table", source.path)],
            Some(None) => return Vec::new(),
            Some(Some(allowed)) => allowed,
        };
        let uses = source.uses().into_iter().filter(|(_, used)| used != module && !allowed.contains(used));
        let mut found = grouped(source);
        found.extend(uses.map(|(line, used)| format!("{}:{line}: `{module}` uses `{used}`", source.path)));
        found
    }

    /// Words that stand where the second table does not want them.
    pub fn check_words(&self, source: &Source) -> Vec<String> {
        let within = |places: &[String]| places.iter().any(|place| is_below(&source.path, place));
        let mut found = Vec::new();
        for rule in self.words.iter().filter(|rule| rule.scope.is_empty() || within(&rule.scope)) {
            if within(&rule.home) {
                continue;
            }
            let home: Vec<String> = rule.home.iter().map(|place| format!("`{place}`")).collect();
            let home =
                if home.is_empty() { "is not used here".into() } else { format!("belongs into {}", home.join(", ")) };
            for word in &rule.words {
                found.extend(source.find(word).into_iter().map(|n| format!("{}:{n}: `{word}` {home}", source.path)));
            }
        }
        found
    }
}

/// `use crate::{a, b}` hides what is used.
fn grouped(source: &Source) -> Vec<String> {
    let lines = source.grouped_uses().into_iter();
    lines.map(|line| format!("{}:{line}: one `crate::` path per `use`", source.path)).collect()
}

/// Whether a path is this file, or lies in this folder (written with `/` at the end).
pub fn is_below(path: &str, place: &str) -> bool {
    path == place || (place.ends_with('/') && path.starts_with(place))
}

/// The words between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(String::from).collect()
}
