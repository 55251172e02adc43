//! Reading a checkpoint with all ranks: each checks a part of the files, so that a large one is verified in a fraction of the
//! time and no rank holds more than it needs.
//!
//! Rank 0 leads: it [`read`]s one folder after the other, until it is [`done`]; the other ranks [`serve`].

use super::persist::File;
use crate::checkpoint::{self, Archive, CheckpointError, FileInfo, Snapshot};
use crate::comm::{Collective, CommError};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, CommError>;

/// A folder that rank 0 wants to be looked at.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// Its path, which need not be text.
    dir: Vec<u8>,
    /// What the manifest must be, lest another folder of this name is taken for it.
    fingerprint: String,
}

/// Reads and verifies a checkpoint folder. Where all ranks see it, states of optimizer and surgery are only verified and not
/// part of the snapshot: [`Learner::restore`](super::Learner::restore) has every rank read what it needs. Else this rank reads
/// everything.
///
/// # Collective
/// Rank 0, while the others [`serve`].
///
/// # Errors
/// If a collective fails. The inner error: the first file that is missing or damaged.
pub(super) fn read(dir: &Path, comm: &dyn Collective) -> Result<std::result::Result<Snapshot, CheckpointError>> {
    if comm.world().size == 1 {
        return Ok(checkpoint::read(dir));
    }
    let archive = match Archive::open(dir) {
        Ok(archive) => archive,
        Err(e) => return Ok(Err(e)),
    };
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    say(Some(Request { dir: absolute.into_os_string().into_vec(), fingerprint: archive.fingerprint().into() }), comm)?;
    if !all(true, comm)? {
        return Ok(checkpoint::read(dir));
    }
    let mine = parts(archive.files(), comm.world().size).swap_remove(0);
    let (states, rest): (Vec<FileInfo>, Vec<FileInfo>) = mine.into_iter().partition(is_of_states);
    let read = archive.read_files(&rest);
    let verified = states.iter().try_for_each(|file| archive.verify(file));
    let found = tell(verified.as_ref().err(), comm)?;
    let (snapshot, Damage { file, unread, message }) = match (read.and_then(|read| verified.map(|()| read)), found) {
        (Ok(snapshot), Some(damage)) => (snapshot, damage),
        // The disk of this rank. The others wait for the next request; it reads all of it once more, alone.
        (Err(e), _) if e.is_unread() => return Ok(checkpoint::read(dir)),
        (mine, _) => return Ok(mine),
    };
    if unread {
        // The disk or the network of that rank, which says nothing about the checkpoint.
        tracing::warn!("{}: {message}; rank 0 reads all of it", dir.join(&file).display());
        drop(snapshot);
        return Ok(checkpoint::read(dir));
    }
    Ok(Err(CheckpointError::Bad { path: dir.join(file), message }))
}

/// Tells the other ranks that nothing more is to be read.
///
/// # Collective
/// Rank 0.
///
/// # Errors
/// If the collective fails.
pub(super) fn done(comm: &dyn Collective) -> Result<()> {
    say(None, comm).map(drop)
}

/// Does this rank's part of what rank 0 asks for, until rank 0 is done.
///
/// # Collective
/// All ranks but rank 0.
///
/// # Errors
/// If a collective fails.
pub(super) fn serve(comm: &dyn Collective) -> Result<()> {
    while let Some(Request { dir, fingerprint }) = say(None, comm)? {
        let dir = PathBuf::from(OsString::from_vec(dir));
        let archive = Archive::open(&dir).ok().filter(|archive| archive.fingerprint() == fingerprint);
        let sees = all(archive.is_some(), comm)?;
        if let Some(archive) = archive.filter(|_| sees) {
            let mine = parts(archive.files(), comm.world().size).swap_remove(comm.world().rank);
            let verified = mine.iter().try_for_each(|file| archive.verify(file));
            tell(verified.as_ref().err(), comm)?;
        }
    }
    Ok(())
}

/// Rank 0's words to all.
fn say(request: Option<Request>, comm: &dyn Collective) -> Result<Option<Request>> {
    let mut bytes = serde_json::to_vec(&request).unwrap_or_default();
    comm.broadcast(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

fn all(mine: bool, comm: &dyn Collective) -> Result<bool> {
    Ok(comm.all_gather_bytes(&[u8::from(mine)])?.iter().all(|other| *other == [1]))
}

/// A file that a rank found damaged.
#[derive(Debug, Serialize, Deserialize)]
struct Damage {
    /// Name in the folder.
    file: String,
    /// It could not be read, and may be good.
    unread: bool,
    message: String,
}

/// What any rank has found, that of the lowest one first.
fn tell(mine: Option<&CheckpointError>, comm: &dyn Collective) -> Result<Option<Damage>> {
    let damage = mine.map(|error| {
        let (path, unread, message) = match error {
            CheckpointError::Io { path, source } => (path.as_path(), error.is_unread(), source.to_string()),
            CheckpointError::Bad { path, message } => (path.as_path(), false, message.clone()),
            CheckpointError::OnRank { message, .. } => (Path::new(""), false, message.clone()),
        };
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Damage { file, unread, message }
    });
    let all = comm.all_gather_bytes(&serde_json::to_vec(&damage).unwrap_or_default())?;
    Ok(all.iter().find_map(|bytes| serde_json::from_slice(bytes).unwrap_or_default()))
}

fn is_of_states(file: &FileInfo) -> bool {
    let stem = file.name.split('.').next();
    File::STATES.iter().any(|states| stem == Some(states.stem()) && file.name.ends_with(".safetensors"))
}

/// The files that each rank verifies: rank 0 all that it reads as well, and those of states so that all have about as much to
/// do.
fn parts(files: &[FileInfo], ranks: usize) -> Vec<Vec<FileInfo>> {
    let (mut states, rest): (Vec<FileInfo>, Vec<FileInfo>) = files.iter().cloned().partition(is_of_states);
    states.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    let mut parts: Vec<Vec<FileInfo>> = vec![Vec::new(); ranks];
    let mut bytes = vec![0; ranks];
    bytes[0] = rest.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    parts[0] = rest;
    for file in states {
        let least = (0..ranks).min_by_key(|&rank| bytes[rank]).unwrap_or(0);
        bytes[least] = bytes[least].saturating_add(file.bytes);
        parts[least].push(file);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Floats, NamedTensor, Piece, Share, begin, finish, write_share};
    use crate::comm::Threads;
    use std::fs;

    /// A checkpoint of two ranks with a model and a state of the optimizer.
    fn checkpoint(root: &Path) -> PathBuf {
        let temp = begin(root, 7, &mut |_| Ok(())).unwrap();
        let row =
            |name: &str, n: usize| NamedTensor { name: name.into(), shape: vec![n], data: Floats::F32(vec![1.5; n]) };
        let files = [0, 1].map(|rank| {
            let half = Piece { name: "m.a".into(), shape: vec![4], start: 2 * rank, data: Floats::F32(vec![0.5; 2]) };
            let mut share = Share {
                rank,
                of: 2,
                pieces: [("optim".to_string(), vec![half])].into(),
                tensors: [].into(),
                json: [].into(),
            };
            if rank == 0 {
                share.tensors.insert("model".into(), vec![row("a", 4)]);
                share.json.insert("state".into(), serde_json::json!({ "x": 1 }));
            }
            write_share(&temp, share, &mut |_| Ok(())).unwrap()
        });
        finish(root, 7, files.concat(), &mut |_| Ok(())).unwrap()
    }

    /// What rank 0 of three reads.
    fn read_by_three(dir: &Path) -> std::result::Result<Snapshot, CheckpointError> {
        let all = Threads::run(3, |comm| {
            if !comm.world().is_main() {
                serve(&comm).unwrap();
                return None;
            }
            let read = read(dir, &comm).unwrap();
            done(&comm).unwrap();
            Some(read)
        });
        all.into_iter().next().flatten().unwrap()
    }

    #[test]
    fn states_stay_where_every_rank_sees_them_and_any_damaged_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = checkpoint(root.path());
        let whole = checkpoint::read(&dir).unwrap();
        let mut expected = whole.clone();
        expected.tensors.remove("optim");
        assert_eq!(read_by_three(&dir).unwrap(), expected);
        for file in checkpoint::files(&dir).unwrap().into_iter().map(|file| dir.join(file.name)) {
            let bytes = fs::read(&file).unwrap();
            for change in [bytes.len() - 1, 20] {
                let mut damaged = bytes.clone();
                // A digit or a letter, so that headers and JSON still parse.
                damaged[change.min(bytes.len() - 1)] ^= 1;
                fs::write(&file, damaged).unwrap();
                let error = read_by_three(&dir).unwrap_err().to_string();
                assert!(error.starts_with(&format!("{}: ", file.display())), "{error}");
            }
            fs::write(&file, bytes).unwrap();
        }
        assert!(read_by_three(&root.path().join("none")).is_err());

        // A rank that does not see the folder: rank 0 reads everything.
        let all = Threads::run(2, |comm| {
            if comm.world().is_main() {
                return Some(read(&dir, &comm).unwrap().unwrap());
            }
            assert!(say(None, &comm).unwrap().is_some() && !super::all(false, &comm).unwrap());
            None
        });
        assert_eq!(all[0].as_ref(), Some(&whole));
    }

    #[test]
    fn ranks_have_about_as_much_to_verify_and_rank_0_what_it_reads() {
        let file = |name: &str, bytes| FileInfo { name: name.into(), bytes, sha256: String::new() };
        let names = |parts: Vec<Vec<FileInfo>>| -> Vec<Vec<String>> {
            parts.into_iter().map(|part| part.into_iter().map(|file| file.name).collect()).collect()
        };
        let whole = [file("model.safetensors", 100), file("optim.safetensors", 200), file("state.json", 1)];
        assert_eq!(names(parts(&whole, 2)), [vec!["model.safetensors", "state.json"], vec!["optim.safetensors"]]);
        let cut: Vec<FileInfo> = (0..4).map(|r| file(&format!("optim.rank0000{r}-of-00004.safetensors"), 50)).collect();
        let all = parts(&[&whole[..1], &cut[..]].concat(), 3);
        let bytes: Vec<u64> = all.iter().map(|part| part.iter().map(|file| file.bytes).sum()).collect();
        assert_eq!((all[0][0].name.as_str(), bytes), ("model.safetensors", vec![100, 100, 100]));
    }
}
