//! Names below the checkpoint root: step folders, temporary folders, and the pointers `latest` and `best`.

use super::durable::{rename, sync_dir, write_file};
use super::{CheckpointError, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The pointer to the checkpoint that a resumed run continues from.
pub(super) const LATEST: &str = "latest";
/// The pointer to the checkpoint of the best evaluation.
pub(super) const BEST: &str = "best";
/// Prefix of what is being written or removed. Never read.
const TEMP: &str = ".tmp-";
/// Prefix of a good checkpoint that was moved aside while another one of the same step takes its place.
const ASIDE: &str = ".old-";
/// A pointer is one short line; anything longer is foreign.
const MAX_POINTER_BYTES: u64 = 256;

/// `step_00001200`.
pub(super) fn name(step: u64) -> String {
    format!("step_{step:08}")
}

/// The step of a name that [`name`] makes; nothing else passes, so that a name is never a path elsewhere.
pub(super) fn parse(text: &str) -> Option<u64> {
    let step = text.strip_prefix("step_")?.parse().ok()?;
    (name(step) == text).then_some(step)
}

/// Where this process builds the folder of a step.
pub(super) fn temp(root: &Path, step: u64) -> PathBuf {
    root.join(format!("{TEMP}{}-{}", name(step), std::process::id()))
}

/// Where a good checkpoint waits while it is replaced.
pub(super) fn aside(root: &Path, step: u64) -> PathBuf {
    root.join(format!("{ASIDE}{}", name(step)))
}

/// A checkpoint folder, not verified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) step: u64,
    /// Whether it has its proper name, and not the one of [`aside`].
    pub(super) proper: bool,
    pub(super) path: PathBuf,
}

/// All step folders, ascending; one moved aside stands before the proper one of the same step. Anything else that
/// lies in the root is ignored. Empty if there is no root.
pub(super) fn list(root: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for file_name in file_names(root)? {
        let proper = !file_name.starts_with(ASIDE);
        let path = root.join(&file_name);
        if let Some(step) = parse(file_name.strip_prefix(ASIDE).unwrap_or(&file_name))
            && is_dir(&path)?
        {
            entries.push(Entry { step, proper, path });
        }
    }
    entries.sort();
    Ok(entries)
}

/// Whether a folder is there, and not merely hidden by a disk that does not answer.
fn is_dir(path: &Path) -> Result<bool> {
    match fs::metadata(path).map_err(CheckpointError::io(path)) {
        Err(e) if !e.is_unread() => Ok(false),
        meta => Ok(meta?.is_dir()),
    }
}

/// Leftovers of writers that are gone: temporary names of this process and of processes that no longer run.
pub(super) fn stale_temps(root: &Path) -> Result<Vec<PathBuf>> {
    let stale = |file_name: &String| {
        let pid = file_name.strip_prefix(TEMP).and_then(|rest| rest.rsplit('-').next()?.parse::<u32>().ok());
        pid.is_some_and(|pid| pid == std::process::id() || !is_running(pid))
    };
    Ok(file_names(root)?.into_iter().filter(stale).map(|file_name| root.join(file_name)).collect())
}

/// All temporary names, whoever made them.
pub(super) fn all_temps(root: &Path) -> Result<Vec<PathBuf>> {
    let names = file_names(root)?.into_iter().filter(|file_name| file_name.starts_with(TEMP));
    Ok(names.map(|file_name| root.join(file_name)).collect())
}

fn is_running(pid: u32) -> bool {
    let processes = Path::new("/proc");
    // Where there is no /proc nothing is known, and what is not known to be dead stays.
    !processes.join("self").exists() || processes.join(pid.to_string()).exists()
}

/// Names in a folder that are UTF-8 (ours all are); none if the folder is not there.
fn file_names(root: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(CheckpointError::io(root))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(CheckpointError::io(root))?.file_name().into_string());
    }
    Ok(names)
}

/// The folder of a step: the proper one, else the one moved aside.
pub(super) fn find(root: &Path, step: u64) -> Option<PathBuf> {
    [root.join(name(step)), aside(root, step)].into_iter().find(|path| path.is_dir())
}

/// The step that a pointer names; `None` if there is no such pointer.
pub(super) fn read_pointer(root: &Path, pointer: &str) -> Result<Option<u64>> {
    let path = root.join(pointer);
    let meta = match fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(CheckpointError::io(&path))?,
    };
    let text = if meta.is_file() && meta.len() <= MAX_POINTER_BYTES {
        fs::read(&path).map_err(CheckpointError::io(&path))?
    } else {
        Vec::new()
    };
    let step = std::str::from_utf8(&text).ok().and_then(|text| parse(text.trim_end()));
    step.map(Some).ok_or_else(|| CheckpointError::bad(&path, "does not name a checkpoint such as step_00001200"))
}

/// Writes a pointer beside its place; [`place_pointer`] puts it there.
pub(super) fn prepare_pointer(root: &Path, pointer: &str, step: u64) -> Result<PathBuf> {
    let temp = root.join(format!("{TEMP}{pointer}-{}", std::process::id()));
    write_file(&temp, |out| writeln!(out, "{}", name(step)), || Ok(()))?;
    Ok(temp)
}

/// Replaces a pointer in one instant.
pub(super) fn place_pointer(root: &Path, pointer: &str, temp: &Path) -> Result<()> {
    rename(temp, &root.join(pointer))?;
    sync_dir(root)
}

/// Marks the checkpoint of a step as the best one; [`prune`](super::prune) then keeps it.
///
/// # Errors
/// If there is no checkpoint of this step, or the mark cannot be written.
pub fn mark_best(root: &Path, step: u64) -> Result<()> {
    if find(root, step).is_none() {
        let message = format!("cannot be marked as best: there is no {}; write the checkpoint first", name(step));
        return Err(CheckpointError::bad(root, message));
    }
    let temp = prepare_pointer(root, BEST, step)?;
    place_pointer(root, BEST, &temp)
}

/// Makes the checkpoint of a step, in the folder `path`, the one that runs continue from, and the end of the course: `latest`
/// names it, and `best` names none after it but that of step `best`, if there is one. Nothing is removed, and nothing written
/// if it is so already. A folder that is not the one of this step below the root changes nothing: no pointer can name it.
///
/// # Errors
/// If a pointer cannot be read from the disk, or not be written.
pub fn continue_from(root: &Path, path: &Path, step: u64, best: Option<u64>) -> Result<()> {
    let is_named =
        |own: PathBuf| matches!((own.canonicalize(), path.canonicalize()), (Ok(own), Ok(path)) if own == path);
    if !find(root, step).is_some_and(is_named) {
        return Ok(());
    }
    if named(root, LATEST)? != Some(step) {
        let temp = prepare_pointer(root, LATEST, step)?;
        place_pointer(root, LATEST, &temp)?;
    }
    if named(root, BEST)?.is_none_or(|marked| marked <= step) {
        return Ok(());
    }
    if let Some(best) = best.filter(|&best| best <= step && find(root, best).is_some()) {
        return mark_best(root, best);
    }
    let path = root.join(BEST);
    fs::remove_file(&path).map_err(CheckpointError::io(&path))?;
    sync_dir(root)
}

/// What a pointer names; nothing, if it is there and makes no sense.
fn named(root: &Path, pointer: &str) -> Result<Option<u64>> {
    match read_pointer(root, pointer) {
        Err(e) if !e.is_unread() => Ok(None),
        named => named,
    }
}

/// The folder of the best checkpoint, not verified; `None` if none was marked.
///
/// # Errors
/// If the mark cannot be read, or names a checkpoint that is not there.
pub fn best(root: &Path) -> Result<Option<PathBuf>> {
    let Some(step) = read_pointer(root, BEST)? else { return Ok(None) };
    match find(root, step) {
        Some(path) => Ok(Some(path)),
        None => Err(CheckpointError::bad(&root.join(BEST), format!("names {}, which is not there", name(step)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_course_ends_where_the_run_continues() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        [40, 50, 80, 100].into_iter().for_each(|step| fs::create_dir(root.join(name(step))).unwrap());
        let pointers = || (read_pointer(root, LATEST).unwrap(), read_pointer(root, BEST).unwrap());
        let point =
            |pointer, step| place_pointer(root, pointer, &prepare_pointer(root, pointer, step).unwrap()).unwrap();
        let from = |step, best| continue_from(root, &root.join(name(step)), step, best);
        point(LATEST, 100);
        from(100, None).unwrap();
        assert_eq!(pointers(), (Some(100), None));
        point(BEST, 80);
        from(100, Some(80)).unwrap();
        assert_eq!(pointers(), (Some(100), Some(80)));
        from(50, Some(40)).unwrap();
        assert_eq!(pointers(), (Some(50), Some(40)));
        point(BEST, 80);
        // The best one has been removed since; there was none; a number of another future.
        for best in [Some(30), None, Some(80)] {
            point(BEST, 80);
            from(50, best).unwrap();
            assert_eq!(pointers(), (Some(50), None), "{best:?}");
        }
        fs::write(root.join(LATEST), "nonsense").unwrap();
        from(50, None).unwrap();
        assert_eq!(pointers(), (Some(50), None));
        // A copy under a name that no pointer can have.
        fs::create_dir(root.join("kept")).unwrap();
        continue_from(root, &root.join("kept"), 40, None).unwrap();
        assert_eq!(pointers(), (Some(50), None));
    }

    #[test]
    fn only_canonical_names_are_steps() {
        assert_eq!(name(1200), "step_00001200");
        assert_eq!(parse("step_00001200"), Some(1200));
        assert_eq!(parse(&name(u64::MAX)), Some(u64::MAX));
        for foreign in ["step_1200", "step_+0001200", "step_00001200/..", "../step_00001200", "step_", "", "latest"] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
