//! Writing a checkpoint so that a crash at any instant leaves the old one or the new one.

use super::durable::{remove_dir, rename, sync_dir, write_file};
use super::folder::{self, LATEST};
use super::manifest::{self, FileInfo, Manifest};
use super::pieces::{self, Piece};
use super::read::{MAX_JSON_BYTES, verified};
use super::tensors::{self, Metadata};
use super::{CheckpointError, NamedTensor, Point, Result, Snapshot};
use crate::files::{make_dir, make_new_dir};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What one rank writes of a checkpoint that all ranks write: its pieces, and rank 0 the parts that are not cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Who writes.
    pub rank: usize,
    /// How many ranks do.
    pub of: usize,
    /// Pieces by file stem (`optim`). Every rank lists the same tensors in the same order.
    pub pieces: BTreeMap<String, Vec<Piece>>,
    /// Whole tensors by file stem; from rank 0 alone.
    pub tensors: BTreeMap<String, Vec<NamedTensor>>,
    /// Small state by file stem; from rank 0 alone.
    pub json: BTreeMap<String, Value>,
}

/// Called at every [`Point`]. An error of the hook ends the write on the spot and without cleaning up, as a crash would: for
/// tests of crash safety.
type Hook<'a> = &'a mut dyn FnMut(Point) -> io::Result<()>;

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

/// Cleans up after an error, as far as possible: the error itself is what counts. To be called by rank 0, when no rank writes
/// any more.
pub fn undo(root: &Path, step: u64) {
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
pub fn write_with(root: &Path, snapshot: &Snapshot, hook: Hook<'_>) -> Result<PathBuf> {
    let step = snapshot.step;
    let mut files = Files::new(&root.join(folder::name(step)), hook);
    files.check_stems(snapshot.tensors.keys().chain(snapshot.json.keys()))?;
    for (stem, list) in &snapshot.tensors {
        files.check_tensors(&format!("{stem}.safetensors"), list, &tensors::plain())?;
    }
    files.check_json(&snapshot.json)?;
    files.dir = begin(root, step, files.hook)?;
    for (stem, list) in &snapshot.tensors {
        files.tensors(format!("{stem}.safetensors"), list, &tensors::plain())?;
    }
    files.json(&snapshot.json)?;
    let written = files.written;
    finish(root, step, written, hook)
}

/// Makes the temporary folder in which the files of a step are gathered, and returns it. For rank 0, before any rank writes
/// its [`Share`] into it.
///
/// # Errors
/// If it cannot be made, and errors of the hook.
pub fn begin(root: &Path, step: u64, hook: Hook<'_>) -> Result<PathBuf> {
    make_root(root)?;
    let temp = folder::temp(root, step);
    remove_dir(&temp)?;
    make_new_dir(&temp).map_err(CheckpointError::io(&temp))?;
    hook(Point::TempMade).map_err(CheckpointError::io(&temp))?;
    Ok(temp)
}

/// Writes the files of one rank into the folder of [`begin`], and waits until they are on the disk; tells what rank 0 needs
/// to know for [`finish`].
///
/// # Errors
/// If the share cannot be represented or a file cannot be written, and errors of the hook.
pub fn write_share(temp: &Path, share: Share, hook: Hook<'_>) -> Result<Vec<FileInfo>> {
    let mut files = Files::new(temp, hook);
    files.check_stems(share.tensors.keys().chain(share.pieces.keys()).chain(share.json.keys()))?;
    files.check_json(&share.json)?;
    for (stem, list) in share.tensors {
        files.checked_tensors(format!("{stem}.safetensors"), &list, &tensors::plain())?;
    }
    for (stem, list) in share.pieces {
        let (list, metadata) = pieces::pack(list);
        files.checked_tensors(manifest::pieces_name(&stem, share.rank, share.of), &list, &metadata)?;
    }
    files.json(&share.json)?;
    // Entries made on this node, where the file system orders them by node.
    sync_dir(temp)?;
    Ok(files.written)
}

/// Makes a checkpoint of the folder of [`begin`], in which all ranks have written these files, and makes it the latest;
/// returns its folder. A step that is there already with the same content is left alone. For rank 0.
///
/// # Errors
/// If a file is not there with its size, or something cannot be written, and errors of the hook.
pub fn finish(root: &Path, step: u64, files: Vec<FileInfo>, hook: Hook<'_>) -> Result<PathBuf> {
    let (temp, target) = (folder::temp(root, step), root.join(folder::name(step)));
    let mut at = |point| hook(point).map_err(CheckpointError::io(&target));
    all_there(&temp, &files)?;
    at(Point::AllWritten)?;
    let manifest = Manifest::new(step, files);
    let text = manifest.render();
    write_file(&temp.join(manifest::FILE), |out| out.write_all(text.as_bytes()), || at(Point::FileFilled))?;
    at(Point::ManifestWritten)?;
    sync_dir(&temp)?;
    at(Point::TempSynced)?;

    let existing = if target.exists() { verified(&target).ok() } else { None };
    if existing.as_ref() == Some(&manifest) {
        remove_dir(&temp)?;
    } else {
        put_in_place(root, step, existing.is_some(), &mut at)?;
    }
    let pointer = folder::prepare_pointer(root, LATEST, step)?;
    at(Point::PointerWritten)?;
    folder::place_pointer(root, LATEST, &pointer)?;
    at(Point::PointerPlaced)?;
    remove_dir(&folder::aside(root, step))?;
    at(Point::Done)?;
    Ok(target)
}

/// What other ranks have written is seen from here, too.
fn all_there(temp: &Path, files: &[FileInfo]) -> Result<()> {
    for file in files {
        let path = temp.join(&file.name);
        let bytes = fs::metadata(&path).map_err(CheckpointError::io(&path))?.len();
        if bytes != file.bytes {
            return Err(CheckpointError::bad(&path, format!("{bytes} bytes, {} were written", file.bytes)));
        }
    }
    Ok(())
}

/// Makes the folder of the checkpoints, with its name on the disk.
///
/// # Errors
/// If it cannot be made.
pub fn make_root(root: &Path) -> Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    make_dir(root).map_err(CheckpointError::io(root))?;
    match root.parent() {
        Some(parent) if parent.is_dir() => sync_dir(parent),
        _ => Ok(()),
    }
}

/// The files that one rank writes into a folder, one after the other.
struct Files<'a> {
    dir: PathBuf,
    hook: Hook<'a>,
    written: Vec<FileInfo>,
}

impl<'a> Files<'a> {
    fn new(dir: &Path, hook: Hook<'a>) -> Self {
        Files { dir: dir.into(), hook, written: Vec::new() }
    }

    fn check_stems<'s>(&self, mut stems: impl Iterator<Item = &'s String>) -> Result<()> {
        match stems.find(|stem| !manifest::is_stem(stem)) {
            None => Ok(()),
            Some(stem) => {
                let message = "a file stem may have letters, digits, `_` and `-` alone";
                Err(CheckpointError::bad(&self.dir.join(stem), message))
            }
        }
    }

    fn check_tensors(&self, name: &str, list: &[NamedTensor], metadata: &Metadata) -> Result<()> {
        tensors::check(list, metadata).map_err(|message| CheckpointError::bad(&self.dir.join(name), message))
    }

    fn check_json(&self, json: &BTreeMap<String, Value>) -> Result<()> {
        // What nests too deeply could be written but not read.
        let deep = |value: &Value| serde_json::from_str::<Value>(&value.to_string()).is_err();
        match json.iter().find(|(_, value)| deep(value)) {
            None => Ok(()),
            Some((stem, _)) => {
                let path = self.dir.join(format!("{stem}.json"));
                Err(CheckpointError::bad(&path, "nests too deeply to be read back"))
            }
        }
    }

    fn checked_tensors(&mut self, name: String, list: &[NamedTensor], metadata: &Metadata) -> Result<()> {
        self.check_tensors(&name, list, metadata)?;
        self.tensors(name, list, metadata)
    }

    fn tensors(&mut self, name: String, list: &[NamedTensor], metadata: &Metadata) -> Result<()> {
        self.file(name, |out| tensors::write(list, metadata, out))
    }

    fn json(&mut self, json: &BTreeMap<String, Value>) -> Result<()> {
        for (stem, value) in json {
            let name = format!("{stem}.json");
            self.file(name.clone(), |out| writeln!(out, "{value:#}"))?;
            let bytes = self.written.last().map_or(0, |file| file.bytes);
            if bytes > MAX_JSON_BYTES {
                let message = format!("{bytes} bytes of JSON, at most {MAX_JSON_BYTES} can be read back");
                return Err(CheckpointError::bad(&self.dir.join(name), message));
            }
        }
        Ok(())
    }

    fn file(&mut self, name: String, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let path = self.dir.join(&name);
        let mut at = |point| (self.hook)(point).map_err(CheckpointError::io(&path));
        let (bytes, sha256) = write_file(&path, fill, || at(Point::FileFilled))?;
        self.written.push(FileInfo { name, bytes, sha256 });
        at(Point::FileWritten)
    }
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
