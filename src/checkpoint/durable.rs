//! Files that are on the disk when a function returns, and their hashes on the way.

use super::{CheckpointError, Result};
use crate::files::create_anew;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

/// Writes through to `inner` and hashes what passes.
struct HashWriter<W> {
    inner: W,
    sha: Sha256,
    bytes: u64,
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.sha.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads from `inner` and hashes what passes. The first error stays one, whatever a parser makes of it and whether the next
/// read works again.
pub(super) struct HashReader<R> {
    inner: R,
    sha: Sha256,
    failed: Option<io::Error>,
}

impl<R: Read> HashReader<R> {
    pub(super) fn new(inner: R) -> Self {
        HashReader { inner, sha: Sha256::new(), failed: None }
    }

    /// Reads what is left, then tells the hash of everything.
    pub(super) fn finish(mut self) -> io::Result<String> {
        let read = io::copy(&mut self, &mut io::sink());
        self.failed.map_or(read.map(drop), Err)?;
        Ok(hex(&self.sha.finalize()))
    }
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf);
        match &read {
            Ok(n) => self.sha.update(&buf[..*n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => self.failed = self.failed.take().or_else(|| Some(same(e))),
        }
        read
    }
}

/// An error as another one, since they cannot be copied.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// SHA-256 as 64 hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a new file and waits until it is on the disk; returns its length and SHA-256. `filled` is called when the
/// system has all of it and the disk may not.
pub(super) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    filled: impl FnOnce() -> Result<()>,
) -> Result<(u64, String)> {
    let create = || -> io::Result<(File, u64, String)> {
        let file = BufWriter::with_capacity(1 << 20, create_anew(path)?);
        let mut out = HashWriter { inner: file, sha: Sha256::new(), bytes: 0 };
        fill(&mut out)?;
        let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((file, out.bytes, hex(&out.sha.finalize())))
    };
    let (file, bytes, sha256) = create().map_err(CheckpointError::io(path))?;
    filled()?;
    file.sync_all().map_err(CheckpointError::io(path))?;
    Ok((bytes, sha256))
}

/// Waits until the entries of a folder (new names, renames) are on the disk.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    match synced {
        // Some network and user-space file systems cannot sync a folder; they order renames themselves.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other.map_err(CheckpointError::io(path)),
    }
}

/// `rename(2)`: atomic, replaces a file that has the new name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(CheckpointError::io(to))
}

/// Removes a folder with everything in it; no error if it is not there.
pub(super) fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(CheckpointError::io(path)),
    }
}
