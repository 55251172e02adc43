//! Writing a checkpoint so that a crash at any instant leaves the old one or the new one.

use super::durable::{remove_dir, rename, sync_dir, write_file};
use super::folder::{self, LATEST};
use super::manifest::{self, FileEntry, Manifest};
use super::read::{MAX_JSON_BYTES, verified};
use super::{CheckpointError, Point, Result, Snapshot, tensors};
use crate::files::{make_dir, make_new_dir};
use std::io;
use std::path::{Path, PathBuf};

/// Writes a checkpoint below `root` and makes it the latest; returns its folder. A step that is there already with
/// the same content is left alone; one with other content, or damaged, is replaced.
///
/// Only one process may write below a root.
///
/// # Errors
/// If the snapshot cannot be represented (doubled tensor name, shape that does not fit its values, file stem with
/// special characters) or a file cannot be written; what was there before is then still there.
pub fn write(root: &Path, snapshot: &Snapshot) -> Result<PathBuf> {
    let result = write_with(root, snapshot, &mut |_| Ok(()));
    if result.is_err() {
        undo(root, snapshot.step);
    }
    result
}

/// Cleans up after an error, as far as possible: the error itself is what counts.
pub(super) fn undo(root: &Path, step: u64) {
    let (target, aside) = (root.join(folder::name(step)), folder::aside(root, step));
    if !target.exists() && aside.exists() {
        let _ = rename(&aside, &target);
    }
    for path in folder::stale_temps(root).unwrap_or_default() {
        if path == folder::temp(root, step) {
            let _ = remove_dir(&path);
        }
    }
}

/// As [`write()`], with a hook that is called at every [`Point`]. An error of the hook ends the write on the spot and
/// without cleaning up, as a crash would: for tests of crash safety.
///
/// # Errors
/// As [`write()`], and errors of the hook.
pub fn write_with(root: &Path, snapshot: &Snapshot, hook: &mut dyn FnMut(Point) -> io::Result<()>) -> Result<PathBuf> {
    check(root, snapshot)?;
    let target = root.join(folder::name(snapshot.step));
    let mut at = |point| hook(point).map_err(CheckpointError::io(&target));
    make_root(root)?;
    let temp = folder::temp(root, snapshot.step);
    let manifest = write_temp(&temp, snapshot, &mut at)?;

    let existing = if target.exists() { verified(&target).ok() } else { None };
    if existing.as_ref() == Some(&manifest) {
        remove_dir(&temp)?;
    } else {
        put_in_place(root, snapshot.step, existing.is_some(), &mut at)?;
    }
    let pointer = folder::prepare_pointer(root, LATEST, snapshot.step)?;
    at(Point::PointerWritten)?;
    folder::place_pointer(root, LATEST, &pointer)?;
    at(Point::PointerPlaced)?;
    remove_dir(&folder::aside(root, snapshot.step))?;
    at(Point::Done)?;
    Ok(target)
}

fn check(root: &Path, snapshot: &Snapshot) -> Result<()> {
    let bad = |file: String, message: String| {
        Err(CheckpointError::bad(&root.join(folder::name(snapshot.step)).join(file), message))
    };
    for stem in snapshot.tensors.keys().chain(snapshot.json.keys()) {
        if !manifest::is_stem(stem) {
            return bad(stem.clone(), "a file stem may have letters, digits, `_` and `-` alone".into());
        }
    }
    for (stem, tensors) in &snapshot.tensors {
        if let Err(message) = tensors::check(tensors) {
            return bad(format!("{stem}.safetensors"), message);
        }
    }
    for (stem, value) in &snapshot.json {
        // What nests too deeply could be written but not read.
        if serde_json::from_str::<serde_json::Value>(&value.to_string()).is_err() {
            return bad(format!("{stem}.json"), "nests too deeply to be read back".into());
        }
    }
    Ok(())
}

fn make_root(root: &Path) -> Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    make_dir(root).map_err(CheckpointError::io(root))?;
    match root.parent() {
        Some(parent) if parent.is_dir() => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Writes the whole folder under its temporary name.
fn write_temp(temp: &Path, snapshot: &Snapshot, at: &mut dyn FnMut(Point) -> Result<()>) -> Result<Manifest> {
    remove_dir(temp)?;
    make_new_dir(temp).map_err(CheckpointError::io(temp))?;
    at(Point::TempMade)?;
    let mut files = Vec::new();
    for (stem, list) in &snapshot.tensors {
        let name = format!("{stem}.safetensors");
        let filled = || at(Point::FileFilled);
        let (bytes, sha256) = write_file(&temp.join(&name), |out| tensors::write(list, out), filled)?;
        files.push(FileEntry { name, bytes, sha256 });
        at(Point::FileWritten)?;
    }
    for (stem, value) in &snapshot.json {
        let name = format!("{stem}.json");
        let filled = || at(Point::FileFilled);
        let (bytes, sha256) = write_file(&temp.join(&name), |out| writeln!(out, "{value:#}"), filled)?;
        if bytes > MAX_JSON_BYTES {
            let message = format!("{bytes} bytes of JSON, at most {MAX_JSON_BYTES} can be read back");
            return Err(CheckpointError::bad(&temp.join(name), message));
        }
        files.push(FileEntry { name, bytes, sha256 });
        at(Point::FileWritten)?;
    }
    let manifest = Manifest::new(snapshot.step, files);
    let text = manifest.render();
    write_file(&temp.join(manifest::FILE), |out| out.write_all(text.as_bytes()), || at(Point::FileFilled))?;
    at(Point::ManifestWritten)?;
    sync_dir(temp)?;
    at(Point::TempSynced)?;
    Ok(manifest)
}

/// Gives the complete temporary folder its proper name. A good checkpoint in its place is moved aside, where the
/// reader finds it, because no file system replaces one full folder by another in one instant everywhere.
fn put_in_place(root: &Path, step: u64, existing_is_good: bool, at: &mut dyn FnMut(Point) -> Result<()>) -> Result<()> {
    let (target, aside) = (root.join(folder::name(step)), folder::aside(root, step));
    if target.exists() {
        if existing_is_good {
            remove_dir(&aside)?;
            rename(&target, &aside)?;
        } else {
            remove_dir(&target)?;
        }
        at(Point::OldMovedAside)?;
    }
    rename(&folder::temp(root, step), &target)?;
    at(Point::Renamed)?;
    sync_dir(root)?;
    at(Point::RootSynced)
}
