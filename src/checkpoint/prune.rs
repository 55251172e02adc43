//! Removing old checkpoints.

use super::durable::{remove_dir, rename, sync_dir};
use super::folder::{self, BEST, Entry, LATEST};
use super::{CheckpointError, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Keeps the last `keep` checkpoints up to the latest one, the latest itself and the best one; removes the others,
/// and what dead writers left behind. Returns the removed checkpoints, oldest first.
///
/// Checkpoints after the latest are from before the run was taken back to an earlier step; they go too. To be called
/// by the process that writes, not during a write.
///
/// # Errors
/// If the folder cannot be read or a file cannot be removed.
pub fn prune(root: &Path, keep: usize) -> Result<Vec<PathBuf>> {
    for path in folder::stale_temps(root)? {
        remove_any(&path)?;
    }
    // A pointer that cannot be read protects nothing, and must not stop the run either; but then nothing goes.
    let (Ok(latest), Ok(best)) = (folder::read_pointer(root, LATEST), folder::read_pointer(root, BEST)) else {
        return Ok(Vec::new());
    };
    let entries = folder::list(root)?;
    let mut recent: Vec<u64> = entries.iter().map(|entry| entry.step).collect();
    recent.dedup();
    recent.retain(|&step| latest.is_none_or(|latest| step <= latest));
    let recent = &recent[recent.len().saturating_sub(keep)..];

    let mut removed = Vec::new();
    for entry in &entries {
        let wanted = recent.contains(&entry.step) || Some(entry.step) == latest || Some(entry.step) == best;
        let replaced = !entry.proper && root.join(folder::name(entry.step)).is_dir();
        if !wanted || replaced {
            remove(root, entry)?;
            removed.push(entry.path.clone());
        }
    }
    sync_dir_if_any(root, &removed)?;
    Ok(removed)
}

/// Takes the name away first, so that a half-removed folder never looks like a checkpoint.
fn remove(root: &Path, entry: &Entry) -> Result<()> {
    let temp = folder::temp(root, entry.step);
    remove_dir(&temp)?;
    rename(&entry.path, &temp)?;
    remove_dir(&temp)
}

fn remove_any(path: &Path) -> Result<()> {
    if path.is_dir() { remove_dir(path) } else { fs::remove_file(path).map_err(CheckpointError::io(path)) }
}

fn sync_dir_if_any(root: &Path, removed: &[PathBuf]) -> Result<()> {
    if removed.is_empty() { Ok(()) } else { sync_dir(root) }
}
