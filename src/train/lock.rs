//! One job in a run directory at a time: two would write over each other's checkpoints and records.

use crate::comm::job_by_launcher;
use crate::error::{Error, Result};
use crate::files::{make_dir, open_here};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;

/// Name of the file.
const FILE: &str = "lock";

/// A run directory that this process has to itself, as long as this lives. The system ends the lock with the process,
/// however that ends; the file stays.
pub(super) struct RunLock(File);

/// Who holds a lock, as the file tells those who come later.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    job: Option<String>,
}

impl RunLock {
    /// Takes the directory, which is made if it is not there. Where the file system knows no locks, a warning has to do.
    ///
    /// # Errors
    /// Another job has it; or the file cannot be opened for writing.
    pub fn take(dir: &Path) -> Result<RunLock> {
        let path = dir.join(FILE);
        let io = |source| Error::Io { path: path.display().to_string(), source };
        make_dir(dir).map_err(|source| Error::Io { path: dir.display().to_string(), source })?;
        let file =
            open_here(OpenOptions::new().read(true).write(true).create(true).truncate(false), &path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(dir, &file)),
            Err(TryLockError::Error(e)) => tracing::warn!(
                "{}: {e}: nothing keeps a second job out of this run directory\n  hint: file systems that lock are mounted with \
                 `flock` (Lustre) or as NFS version 4",
                path.display()
            ),
        }
        let mut lock = RunLock(file);
        // The words are for others to read, and the lock holds without them: on a full disk, too, which this job may be about
        // to clear.
        if let Err(e) = lock.sign() {
            tracing::debug!("{}: {e}: it does not say who has it", path.display());
        }
        Ok(lock)
    }

    fn sign(&mut self) -> io::Result<()> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
        let holder = Holder { host, pid: std::process::id(), job: job_by_launcher() };
        self.0.set_len(0)?;
        self.0.write_all(format!("{}\n", serde_json::to_string(&holder)?).as_bytes())
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Nobody holds it. That the words are gone is a courtesy to those who look into the file.
        let _ = self.0.set_len(0);
    }
}

fn taken(dir: &Path, mut file: &File) -> Error {
    let mut text = String::new();
    let _ = file.read_to_string(&mut text);
    let holder = match serde_json::from_str(&text) {
        Ok(Holder { host, pid, job: Some(job) }) => format!("job {job} (process {pid} on {host})"),
        Ok(Holder { host, pid, job: None }) => format!("process {pid} on {host}"),
        Err(_) => "another job".into(),
    };
    Error::Usage(format!(
        "{} is in use by {holder}: two jobs would write over each other's files\n  hint: wait for it, or end it; another run needs \
         another `run.dir`",
        dir.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_with_the_name_of_the_first_until_it_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("runs/x");
        let first = RunLock::take(&dir).unwrap();
        let words = fs::read_to_string(dir.join(FILE)).unwrap();
        let error = RunLock::take(&dir).map(drop).unwrap_err();
        let expected = format!("{} is in use by ", dir.display());
        assert!(error.to_string().starts_with(&expected) && !error.is_local(), "{error}");
        assert!(error.to_string().contains(&format!("process {} on ", std::process::id())), "{error}");
        assert_eq!(fs::read_to_string(dir.join(FILE)).unwrap(), words, "the holder's words stay");
        drop(first);
        assert_eq!(fs::read_to_string(dir.join(FILE)).unwrap(), "");
        RunLock::take(&dir).unwrap();
    }

    #[test]
    fn words_of_a_dead_holder_lock_nobody_out_and_garbage_is_no_failure() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(FILE);
        fs::write(&path, "{\"host\":\"gone\",\"pid\":1,\"job\":null} and much more than this process will write there")
            .unwrap();
        let lock = RunLock::take(root.path()).unwrap();
        let holder: Holder = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        fs::write(&path, "garbage").unwrap();
        let error = RunLock::take(root.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains(" is in use by another job: "), "{error}");
        drop(lock);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = RunLock::take(&file.join("x")).map(drop).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", file.join("x").display())), "{error}");
    }
}
