//! A folder for targets that need files, in memory where the system has such a place.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder, and beside it one that nothing may touch.
pub struct Workplace {
    base: TempDir,
}

/// What lies outside, by path.
const OUTSIDE: [(&str, &str); 2] = [("precious.txt", "precious\n"), ("folder/kept.txt", "kept\n")];

impl Workplace {
    pub fn new() -> Workplace {
        let memory = Path::new("/dev/shm");
        let base = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let workplace = Workplace { base: base.expect("a temporary folder") };
        fs::create_dir(workplace.inside()).expect("a folder");
        fs::create_dir_all(workplace.outside().join("folder")).expect("a folder");
        for (name, text) in OUTSIDE {
            fs::write(workplace.outside().join(name), text).expect("a file");
        }
        workplace
    }

    /// Where a target may do what it likes.
    pub fn inside(&self) -> PathBuf {
        self.base.path().join("inside")
    }

    /// What links lead to.
    pub fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }

    /// # Panics
    /// If anything outside has changed.
    pub fn check_outside(&self) {
        for (name, text) in OUTSIDE {
            let found = fs::read_to_string(self.outside().join(name));
            assert_eq!(found.ok().as_deref(), Some(text), "{name} outside of the run directory");
        }
        let count = |dir: PathBuf| fs::read_dir(dir).map_or(0, Iterator::count);
        assert_eq!(count(self.outside()), 2, "something is new outside of the run directory");
        assert_eq!(count(self.outside().join("folder")), 1, "something is new outside of the run directory");
    }
}
