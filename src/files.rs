//! Files that this program makes: never through a link, never writable by everybody.
//!
//! A run directory may have come from somebody else, in an archive that holds links. What is written there must stay
//! there: a file that the program opens to write is refused where its name is a link, and a file that it makes anew
//! takes the place of a link instead of following it. Folders may be links; where they lead is the user's choice.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Whatever the umask leaves, others may not write.
const FILE_MODE: u32 = 0o664;
const DIR_MODE: u32 = 0o775;

/// A new, empty file to write. What had the name before, a link included, is removed, not written to.
///
/// # Errors
/// If it cannot be made, or a folder has the name.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Opens a file as `options` say, made if they say so, unless its name is a link.
///
/// # Errors
/// If it cannot be opened, or its name is a link.
pub fn open_here(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let opened = options.mode(FILE_MODE).custom_flags(libc::O_NOFOLLOW).open(path);
    opened.map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => io::Error::new(e.kind(), "is a link, and nothing is written through links; remove it"),
        _ => e,
    })
}

/// Makes a folder, and those above it that are missing.
///
/// # Errors
/// If one of them cannot be made.
pub fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)
}

/// Makes a folder that is not there.
///
/// # Errors
/// If it is there, or cannot be made.
pub fn make_new_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_are_replaced_or_refused_and_what_they_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (precious, link) = (dir.path().join("precious"), dir.path().join("link"));
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, &link).unwrap();
        let error = open_here(OpenOptions::new().append(true).create(true), &link).unwrap_err().to_string();
        assert_eq!(error, "is a link, and nothing is written through links; remove it");
        create_anew(&link).unwrap().write_all(b"mine").unwrap();
        assert!(!link.is_symlink());
        assert_eq!(
            (fs::read_to_string(&precious).unwrap().as_str(), fs::read_to_string(&link).unwrap().as_str()),
            ("precious", "mine")
        );
        symlink(dir.path().join("nowhere"), dir.path().join("dangling")).unwrap();
        create_anew(&dir.path().join("dangling")).unwrap();
        assert!(!dir.path().join("nowhere").exists());
        assert!(create_anew(dir.path()).is_err(), "a folder stays");
        open_here(OpenOptions::new().append(true).create(true), &link).unwrap().write_all(b" too").unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "mine too");
    }

    #[test]
    fn others_may_not_write_what_is_made() {
        let dir = tempfile::tempdir().unwrap();
        make_dir(&dir.path().join("a/b")).unwrap();
        make_dir(&dir.path().join("a/b")).unwrap();
        make_new_dir(&dir.path().join("a/c")).unwrap();
        assert!(make_new_dir(&dir.path().join("a/c")).is_err());
        create_anew(&dir.path().join("a/f")).unwrap();
        open_here(OpenOptions::new().append(true).create(true), &dir.path().join("a/g")).unwrap();
        for name in ["a", "a/b", "a/c", "a/f", "a/g"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            // The umask of the test takes away what it likes; `tests/security.rs` looks without one.
            assert_eq!(mode & 0o002, 0, "{name}: {mode:o}");
        }
    }
}
