//! Removing old checkpoints.

use super::durable::{remove_dir, rename, sync_dir};
use super::folder::{self, BEST, Entry, LATEST};
use super::{CheckpointError, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Which checkpoints stay, besides the latest and the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The last so many.
    pub last: usize,
    /// Those whose step is a multiple of this (0: none).
    pub every: u64,
}

impl Keep {
    /// The last so many.
    pub fn last(last: usize) -> Keep {
        Keep { last, every: 0 }
    }

    fn for_good(self, step: u64) -> bool {
        self.every > 0 && step.is_multiple_of(self.every)
    }
}

/// Keeps what `keep` says of the checkpoints up to the latest one, the latest itself and the best one; removes the
/// others, and what dead writers left behind. Returns the removed checkpoints, oldest first.
///
/// Checkpoints after the latest are from before the run was taken back to an earlier step; they go too. To be called
/// by the process that writes, not during a write.
///
/// # Errors
/// If the folder cannot be read or a file cannot be removed.
pub fn prune(root: &Path, keep: Keep) -> Result<Vec<PathBuf>> {
    prune_with(root, keep, &mut || ())
}

/// Removes everything that writes which did not end have left behind: theirs is the room that the next one may need. For
/// the one job that has the root to itself, before its first write. What cannot be removed stays.
pub fn clear(root: &Path) {
    for path in folder::all_temps(root).unwrap_or_default() {
        if let Err(e) = remove_any(&path) {
            tracing::debug!("a leftover of an earlier job stays: {e}");
        }
    }
}

/// As [`prune`], with a hook that is called when a checkpoint has lost its name, and not its content.
pub(super) fn prune_with(root: &Path, keep: Keep, unnamed: &mut dyn FnMut()) -> Result<Vec<PathBuf>> {
    for path in folder::stale_temps(root)? {
        remove_any(&path)?;
    }
    // A pointer that cannot be read protects nothing, and must not stop the run either; but then nothing goes.
    let (Ok(latest), Ok(best)) = (folder::read_pointer(root, LATEST), folder::read_pointer(root, BEST)) else {
        return Ok(Vec::new());
    };
    let entries = folder::list(root)?;
    let mut course: Vec<u64> = entries.iter().map(|entry| entry.step).collect();
    course.dedup();
    course.retain(|&step| latest.is_none_or(|latest| step <= latest));
    let mut stays = course.split_off(course.len().saturating_sub(keep.last));
    stays.extend(course.into_iter().filter(|&step| keep.for_good(step)));
    stays.extend(latest.into_iter().chain(best));

    let mut removed = Vec::new();
    for entry in &entries {
        let wanted = stays.contains(&entry.step);
        let replaced = !entry.proper && root.join(folder::name(entry.step)).is_dir();
        if !wanted || replaced {
            remove(root, entry, unnamed)?;
            removed.push(entry.path.clone());
        }
    }
    sync_dir_if_any(root, &removed)?;
    Ok(removed)
}

/// Takes the name away first, so that a half-removed folder never looks like a checkpoint.
fn remove(root: &Path, entry: &Entry, unnamed: &mut dyn FnMut()) -> Result<()> {
    let temp = folder::temp(root, entry.step);
    remove_dir(&temp)?;
    rename(&entry.path, &temp)?;
    unnamed();
    remove_dir(&temp)
}

fn remove_any(path: &Path) -> Result<()> {
    if path.is_dir() { remove_dir(path) } else { fs::remove_file(path).map_err(CheckpointError::io(path)) }
}

fn sync_dir_if_any(root: &Path, removed: &[PathBuf]) -> Result<()> {
    if removed.is_empty() { Ok(()) } else { sync_dir(root) }
}
