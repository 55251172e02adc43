//! Reading a checkpoint: nothing is believed before it fits the manifest.

use super::durable::HashReader;
use super::folder::{self, Entry, LATEST};
use super::manifest::{Content, FileInfo, Manifest};
use super::{CheckpointError, Result, Snapshot, damage, pieces, tensors};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Largest file of small state. Its values take up to ten times as much memory as its text.
pub(super) const MAX_JSON_BYTES: u64 = 1 << 30;

/// A checkpoint to continue from.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its folder.
    pub path: PathBuf,
    /// Its content.
    pub snapshot: Snapshot,
    /// Why newer ones were passed over; to be shown to the user.
    pub warnings: Vec<String>,
}

/// Reads and verifies one checkpoint folder, whichever way its files are cut. Files that the manifest does not list are
/// ignored.
///
/// # Errors
/// The first file that is missing, has another size or hash than the manifest says, or does not parse.
pub fn read(dir: &Path) -> Result<Snapshot> {
    let manifest = checked_manifest(dir)?;
    read_files(dir, manifest.step, &manifest.files)
}

/// What these files of a checkpoint hold, verified. Of a stem in pieces all files must be among them.
pub(super) fn read_files(dir: &Path, step: u64, files: &[FileInfo]) -> Result<Snapshot> {
    let mut snapshot = Snapshot { step, tensors: BTreeMap::new(), json: BTreeMap::new() };
    let mut cut: BTreeMap<&str, BTreeMap<usize, (PathBuf, Vec<pieces::Piece>)>> = BTreeMap::new();
    for file in files {
        match file.content() {
            Some(Content::Tensors(stem)) => {
                let list = read_file(dir, file, |input| tensors::read(input, file.bytes))?;
                snapshot.tensors.insert(stem.to_string(), list);
            }
            Some(Content::Pieces(stem, rank, _)) => {
                let list = read_file(dir, file, |input| pieces::read(input, file.bytes))?;
                cut.entry(stem).or_default().insert(rank, (dir.join(&file.name), list));
            }
            Some(Content::Json(stem)) => {
                let value = read_file(dir, file, |input| read_json(input, file.bytes))?;
                snapshot.json.insert(stem.to_string(), value);
            }
            None => {}
        }
    }
    for (stem, files) in cut {
        snapshot.tensors.insert(stem.to_string(), pieces::assemble(files.into_values().collect())?);
    }
    Ok(snapshot)
}

/// Checks sizes and hashes of a checkpoint folder, without keeping its content.
///
/// # Errors
/// As [`read()`].
pub(super) fn verified(dir: &Path) -> Result<Manifest> {
    let manifest = checked_manifest(dir)?;
    for file in &manifest.files {
        read_file(dir, file, |_| Ok(()))?;
    }
    Ok(manifest)
}

/// Checks sizes and hashes of a checkpoint folder, without keeping its content; returns its step.
///
/// # Errors
/// As [`read()`].
pub fn verify(dir: &Path) -> Result<u64> {
    verified(dir).map(|manifest| manifest.step)
}

/// The manifest of a folder, with the sizes of all files compared before anything large is read.
pub(super) fn checked_manifest(dir: &Path) -> Result<Manifest> {
    let manifest = Manifest::read(dir)?;
    for file in &manifest.files {
        let path = dir.join(&file.name);
        let meta = std::fs::metadata(&path).map_err(CheckpointError::io(&path))?;
        if !meta.is_file() {
            return Err(CheckpointError::bad(&path, "is no regular file"));
        }
        if meta.len() != file.bytes {
            let message = format!("damaged: {} bytes, expected {}", meta.len(), file.bytes);
            return Err(CheckpointError::bad(&path, message));
        }
    }
    Ok(manifest)
}

/// Opens a file and hands it to `parse`; whatever that makes of it counts only if the hash is right.
pub(super) fn read_file<T>(
    dir: &Path,
    file: &FileInfo,
    parse: impl FnOnce(&mut dyn Read) -> std::result::Result<T, String>,
) -> Result<T> {
    let path = dir.join(&file.name);
    let input = File::open(&path).map_err(CheckpointError::io(&path))?;
    let mut input = HashReader::new(BufReader::with_capacity(1 << 20, input));
    let parsed = parse(&mut input);
    let sha256 = input.finish().map_err(CheckpointError::io(&path))?;
    if sha256 != file.sha256 {
        return Err(CheckpointError::bad(&path, format!("damaged: SHA-256 {sha256}, expected {}", file.sha256)));
    }
    parsed.map_err(|message| CheckpointError::bad(&path, message))
}

fn read_json(input: &mut dyn Read, bytes: u64) -> std::result::Result<serde_json::Value, String> {
    if bytes > MAX_JSON_BYTES {
        return Err(format!("{bytes} bytes of JSON, at most {MAX_JSON_BYTES} are read"));
    }
    let mut text = Vec::new();
    input.take(bytes).read_to_end(&mut text).map_err(|e| e.to_string())?;
    serde_json::from_slice(&text).map_err(|e| e.to_string())
}

/// The checkpoint to continue from: the one that `latest` names, else the newest before it that verifies, else the
/// newest of all. `None` if there is no checkpoint at all (also no root). Foreign files are ignored.
///
/// A folder with a higher step than `latest` is not preferred: it belongs to a run that was taken back to an earlier
/// step, or to a write that had not finished.
///
/// # Errors
/// If there are checkpoints and none of them can be used: to start anew silently would lose the run. If one could not be
/// read, and may be good.
pub fn latest(root: &Path) -> Result<Option<Found>> {
    let mut candidates = Candidates::below(root)?;
    while let Some(path) = candidates.next() {
        let snapshot = read(&path);
        if let Some(found) = candidates.judge(path, snapshot)? {
            return Ok(Some(found));
        }
    }
    candidates.none_left()
}

/// The checkpoints below a root in the order in which [`latest`] tries them, for those who read them in another way: take
/// the [`next`](Self::next) one, read it and have the outcome [judged](Self::judge), until one is found or
/// [none is left](Self::none_left).
#[derive(Debug)]
pub struct Candidates {
    root: PathBuf,
    entries: std::vec::IntoIter<Entry>,
    /// The step of the one being tried.
    step: u64,
    warnings: Vec<String>,
}

impl Candidates {
    /// Lists them.
    ///
    /// # Errors
    /// If the root cannot be listed, or what `latest` names [cannot be read](CheckpointError::is_unread).
    pub fn below(root: &Path) -> Result<Candidates> {
        let mut warnings = Vec::new();
        let named = match folder::read_pointer(root, LATEST) {
            Err(e) if !e.is_unread() => {
                warnings.push(e.to_string());
                None
            }
            named => named?,
        };
        let entries = by_preference(folder::list(root)?, named);
        if let Some(step) = named
            && entries.first().is_none_or(|entry| entry.step != step)
        {
            warnings.push(format!("{}: names {}, which is not there", root.join(LATEST).display(), folder::name(step)));
        }
        Ok(Candidates { root: root.into(), entries: entries.into_iter(), step: 0, warnings })
    }

    /// Whether there is nothing: no checkpoint, and no trace of one.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0 && self.warnings.is_empty()
    }

    /// The folder to try next.
    #[expect(clippy::should_implement_trait, reason = "what it gives must be judged before the next one")]
    pub fn next(&mut self) -> Option<PathBuf> {
        let entry = self.entries.next()?;
        self.step = entry.step;
        Some(entry.path)
    }

    /// What reading the last one has come to: a checkpoint to continue from, or a warning more.
    ///
    /// # Errors
    /// If it [could not be read](CheckpointError::is_unread): an earlier one would be continued in its place, and it would be
    /// removed as one of another future.
    pub fn judge(&mut self, path: PathBuf, read: Result<Snapshot>) -> Result<Option<Found>> {
        match read {
            Ok(snapshot) if snapshot.step == self.step => {
                return Ok(Some(Found { path, snapshot, warnings: std::mem::take(&mut self.warnings) }));
            }
            Ok(snapshot) => self.warnings.push(format!("{}: holds step {}", path.display(), snapshot.step)),
            Err(CheckpointError::Io { path: file, source }) if !damage(source.kind()) => {
                let message = format!(
                    "{source}: the checkpoint may be good, but could not be read\n  hint: run the same command again when the disk \
                     answers; to continue from the checkpoint before it, move {} away",
                    path.display()
                );
                return Err(CheckpointError::Bad { path: file, message });
            }
            Err(e) => self.warnings.push(e.to_string()),
        }
        Ok(None)
    }

    /// The end of a search that has found nothing.
    ///
    /// # Errors
    /// If there were checkpoints.
    pub fn none_left(self) -> Result<Option<Found>> {
        if self.warnings.is_empty() { Ok(None) } else { Err(none_usable(&self.root, &self.warnings)) }
    }
}

/// The named step, the steps before it from the newest, the steps after it from the newest; proper folders before
/// those moved aside.
fn by_preference(mut entries: Vec<Entry>, named: Option<u64>) -> Vec<Entry> {
    entries.reverse();
    let named = named.unwrap_or(u64::MAX);
    entries.sort_by_key(|entry| match entry.step {
        step if step == named => 0,
        step if step < named => 1,
        _ => 2,
    });
    entries
}

fn none_usable(root: &Path, warnings: &[String]) -> CheckpointError {
    let message = format!(
        "no checkpoint here can be used\n  {}\nhint: restore one of them, or move the folder away to start anew",
        warnings.join("\n  ")
    );
    CheckpointError::bad(root, message)
}
