//! What differs between two configurations, what of it a resumed run may change, and the hash of the rest.

use super::Config;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Keys (with everything under them) that may change between stop and resume. They decide how long, where and how
/// visibly a run goes on, not what it computes per step; the rest would make it another experiment.
pub const MAY_CHANGE: &[&str] = &[
    "run.name",
    "run.dir",
    "data.root",
    "data.timeout",
    "batch.accumulate",
    "batch.prefetch",
    "model.recompute",
    "train.epochs",
    "train.steps",
    "train.device",
    "train.engine",
    "train.threads",
    "train.eval_every_epochs",
    "train.eval_every_steps",
    "train.eval_batch",
    "train.patience",
    "train.non_finite",
    "train.spike",
    "train.max_skipped",
    "train.max_rollbacks",
    "train.replica_check_every",
    "train.max_time",
    "train.stop_margin",
    "comm.backend",
    "comm.reduction",
    "comm.bucket_mb",
    "comm.deterministic",
    "comm.timeout",
    "comm.init_timeout",
    "checkpoint",
    "log",
];

/// One key that differs between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, as in `--set`.
    pub key: String,
    /// Value before, as JSON on one line; the bare name of a choice; `present` or `absent` for whole tasks and sources
    /// that only one side has.
    pub old: String,
    /// Value after.
    pub new: String,
    /// Whether a resumed run may change it.
    pub allowed: bool,
}

impl Config {
    /// What `other` changes in `self`, in the order of the sections.
    pub fn diff(&self, other: &Config) -> Vec<Change> {
        let mut changes = Vec::new();
        compare("", &tree(self), &tree(other), &mut changes);
        changes
    }

    /// SHA-256 (hex) of the configuration without the keys that a resumed run may change: two runs with the same
    /// hash compute the same thing.
    pub fn hash(&self) -> String {
        let mut tree = tree(self);
        for key in MAY_CHANGE {
            remove(&mut tree, key);
        }
        Sha256::digest(tree.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Every value of the configuration, in the order of the types. A checked configuration holds finite numbers only, so
/// that nothing is lost.
fn tree(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

fn remove(tree: &mut Value, key: &str) {
    let Value::Object(map) = tree else { return };
    match key.split_once('.') {
        Some((first, rest)) => map.get_mut(first).map(|inner| remove(inner, rest)).unwrap_or_default(),
        None => drop(map.shift_remove(key)),
    }
}

fn compare(key: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new && same_order(old, new) {
        return;
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) if !other_choice(a, b) => maps(key, a, b, changes),
        _ => changes.push(change(key, shown(old, new), shown(new, old))),
    }
}

fn maps(key: &str, old: &Map<String, Value>, new: &Map<String, Value>, changes: &mut Vec<Change>) {
    let path = |name: &str| if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
    for (name, value) in old {
        match new.get(name) {
            Some(other) => compare(&path(name), value, other, changes),
            None => changes.push(change(&path(name), present(value), "absent".into())),
        }
    }
    for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        changes.push(change(&path(name), "absent".into(), present(value)));
    }
    let common = |from: &Map<String, Value>, to: &Map<String, Value>| -> Vec<String> {
        from.keys().filter(|name| to.contains_key(*name)).cloned().collect()
    };
    let (before, after) = (common(old, new), common(new, old));
    if before != after {
        changes.push(change(key, before.join(", "), after.join(", ")));
    }
}

/// Equality of JSON maps ignores the order of their keys, which is the order of tasks and sources here.
fn same_order(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            a.keys().eq(b.keys()) && a.values().zip(b.values()).all(|(x, y)| same_order(x, y))
        }
        _ => true,
    }
}

/// Two maps with one key each and not the same one: another choice was made.
fn other_choice(old: &Map<String, Value>, new: &Map<String, Value>) -> bool {
    old.len() == 1 && new.len() == 1 && old.keys().ne(new.keys())
}

/// A value next to one that is no map of the same keys: of a choice with options its name is enough.
fn shown(value: &Value, other: &Value) -> String {
    match (value, other) {
        (Value::Object(map), Value::Object(_) | Value::String(_)) if map.len() == 1 => {
            map.keys().next().cloned().unwrap_or_default()
        }
        (Value::String(name), Value::Object(_)) => name.clone(),
        _ => value.to_string(),
    }
}

/// A value that the other side has not.
fn present(value: &Value) -> String {
    if value.is_object() { "present".into() } else { value.to_string() }
}

fn change(key: &str, old: String, new: String) -> Change {
    let under = |top: &str| key == top || key.strip_prefix(top).is_some_and(|rest| rest.starts_with('.'));
    Change { key: key.to_string(), old, new, allowed: MAY_CHANGE.iter().any(|top| under(top)) }
}
