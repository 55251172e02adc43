//! From a file (or text) and `--set` overrides to a checked [`Config`].

use super::de::De;
use super::error::ConfigError;
use super::fault::Fault;
use super::tree::{Content, Node};
use super::{Config, check, overrides, parse};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Largest configuration file. More is some other file given by mistake.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a configuration file, applies `--set` overrides (`key.key=value`, the value in YAML), and checks the result.
///
/// # Errors
/// The first mistake, as `file:line:column: path: message` with the line of the file and a hint where one is known;
/// for mistakes in an override as `--set key=value: message`.
pub fn load(path: &Path, overrides: &[String]) -> Result<Config, ConfigError> {
    let name = path.display().to_string();
    let bytes = read(path).map_err(|fault| fault.render(&name, "", overrides))?;
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => return Err(not_utf8(&bytes, error.valid_up_to()).render(&name, "", overrides)),
    };
    load_str(&name, text, overrides)
}

/// Reads a configuration from text; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn load_str(name: &str, text: &str, overrides: &[String]) -> Result<Config, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    resolve(text, overrides).map_err(|fault| fault.render(name, text, overrides))
}

/// The smallest configuration for tasks of these names, with overrides: for those who look at `balance` alone. `name`
/// stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn with_tasks(name: &str, tasks: &[String], overrides: &[String]) -> Result<Config, ConfigError> {
    // A JSON string is a YAML string in double quotes.
    let quoted = |task: &String| serde_json::Value::from(task.as_str()).to_string();
    let task = |task: &String| format!("  {}: {{source: s, target: y, kind: regression}}\n", quoted(task));
    // Six micro-batches divide into two and into three independent batches, for methods that need them.
    let text = format!(
        "run: {{name: balance}}\ndata: {{sources: {{s: {{csv: {{train: a.csv, numeric: [x]}}}}}}}}\n\
         tasks:\n{}batch: {{accumulate: 6}}\nmodel: {{encoder: mlp}}\ntrain: {{epochs: 1}}\n",
        tasks.iter().map(task).collect::<String>()
    );
    load_str(name, &text, overrides)
}

impl Config {
    /// Checks what the types cannot say. [`load`] has done it; this is for a configuration built or changed in code.
    ///
    /// # Errors
    /// The first mistake, as `path: message` and a hint where one is known.
    pub fn check(&self) -> Result<(), ConfigError> {
        check::run(self).map_err(|fault| ConfigError { message: fault.plain() })
    }
}

fn resolve(text: &str, overrides: &[String]) -> Result<Config, Fault> {
    let empty = || Fault::new("the file is empty").hint(SECTIONS);
    let mut root = parse::parse(text, None)?.ok_or_else(empty)?;
    match &root.content {
        Content::Null => return Err(empty()),
        Content::Map(_) => overrides::apply(&mut root, overrides)?,
        _ => return Err(Fault::new("expected sections (`name: ...`)").at(root.place).hint(SECTIONS)),
    }
    typed(&root)
}

const SECTIONS: &str = "a configuration has at least the sections `run`, `data`, `tasks`, `model` and `train`";

fn typed(root: &Node) -> Result<Config, Fault> {
    let about_sections = |fault: Fault| if fault.place.is_none() { fault.hint(SECTIONS) } else { fault };
    let config = Config::deserialize(De(root)).map_err(about_sections)?;
    check::run(&config).map_err(|fault| match root.find(&fault.path, fault.key) {
        Some(place) => fault.at(place),
        None => fault,
    })?;
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Fault::new("no such file"),
        io::ErrorKind::PermissionDenied => Fault::new("no permission to read it"),
        io::ErrorKind::IsADirectory => Fault::new("is a folder, expected a YAML file"),
        _ => Fault::new(error),
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Fault::new(format!("larger than {} MiB, so hardly a configuration", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

fn not_utf8(bytes: &[u8], at: usize) -> Fault {
    let (before, byte) = (&bytes[..at], bytes.get(at).copied().unwrap_or_default());
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    Fault::new(format!("line {line} is not UTF-8 (byte 0x{byte:02x} at offset {at})")).hint("save the file as UTF-8")
}
