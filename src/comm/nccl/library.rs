//! Finding and opening `libnccl.so.2`.

use super::error::NcclError;
use super::raw::{Functions, Mark, SUCCESS, Versioned};
use crate::cuda::Cuda;
use crate::ffi;
use libloading::os::unix as os;
use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

const NAME: &str = "libnccl.so.2";

/// `2.28.9` and the like; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2.
    pub major: u32,
    /// Features.
    pub minor: u32,
    /// Repairs.
    pub patch: u32,
}

impl Version {
    /// The oldest release with communicators that do not block.
    pub const LEAST: Version = Version { major: 2, minor: 14, patch: 0 };

    /// From `NCCL_VERSION_CODE`; until 2.8 the minor version had one digit less.
    pub(super) fn from_code(code: c_int) -> Version {
        let code = code.max(0) as u32;
        let unit = if code < 10_000 { 1_000 } else { 10_000 };
        Version { major: code / unit, minor: code % unit / 100, patch: code % 100 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The stand-in of the tests. Its presence is what allows tensors in host memory.
pub(super) struct StandIn {
    /// The streams that it plays.
    pub cuda: &'static Cuda,
    /// What it wants to be taken for the bus id of a GPU.
    pub bus_id: Option<String>,
}

/// An NCCL that is loaded, for the life of the process.
pub struct Library {
    pub(super) functions: Functions,
    pub(super) stand_in: Option<StandIn>,
    version: Version,
    path: String,
}

impl Library {
    /// Opens the NCCL that libtorch uses: the one in memory if libtorch's CUDA part is loaded, else the one beside libtorch,
    /// else the first on the loader's path. `path`, or else the variable `POLYTASK_NCCL`, names another one.
    ///
    /// # Errors
    /// [`NcclError::Absent`], [`NcclError::TooOld`], [`NcclError::Symbol`].
    pub fn open(path: Option<&Path>) -> Result<&'static Library, NcclError> {
        let named = path.map(PathBuf::from).or_else(|| std::env::var_os("POLYTASK_NCCL").map(PathBuf::from));
        let (library, place) = match named {
            Some(path) => (load(&path, 0).map_err(NcclError::Absent)?, path),
            None => of_libtorch()?,
        };
        // The table and the library stay, as those that the linker loads do: threads of NCCL may run until the end.
        let libraries: &'static [os::Library] = Box::leak(Box::new([library]));
        Library::find(libraries, &place).map(|library| &*Box::leak(Box::new(library)))
    }

    fn find(libraries: &[os::Library], place: &Path) -> Result<Library, NcclError> {
        let place = place.display().to_string();
        let versioned =
            Versioned::find(libraries).map_err(|symbol| NcclError::Symbol { path: place.clone(), symbol })?;
        let path = file_of(versioned.get_version as *const c_void).unwrap_or(place);
        let mut code: c_int = 0;
        // SAFETY: `code` is writable.
        let result = unsafe { (versioned.get_version)(&mut code) };
        if result != SUCCESS {
            return Err(NcclError::Call { call: "ncclGetVersion", code: result, words: String::new() });
        }
        let version = Version::from_code(code);
        if version < Version::LEAST {
            return Err(NcclError::TooOld { path, found: version });
        }
        let functions =
            Functions::find(libraries).map_err(|symbol| NcclError::Symbol { path: path.clone(), symbol })?;
        let stand_in = Mark::find(libraries).ok().map(|mark| StandIn::of(&mark, libraries)).transpose()?;
        Ok(Library { functions, stand_in, version, path })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its file.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl StandIn {
    fn of(mark: &Mark, libraries: &[os::Library]) -> Result<StandIn, NcclError> {
        // SAFETY: the stand-in returns null or a text that stays.
        let bus_id = unsafe {
            let text = (mark.bus_id)();
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        Ok(StandIn { cuda: Cuda::of(libraries)?, bus_id })
    }
}

/// Each place in turn; the words of the last failure if there is none.
fn of_libtorch() -> Result<(os::Library, PathBuf), NcclError> {
    if let Ok(library) = load(Path::new(NAME), libc::RTLD_NOLOAD) {
        return Ok((library, PathBuf::from(NAME)));
    }
    let torch = ffi::libtorch_dir();
    let beside = torch.iter().flat_map(|dir| [dir.join("../../nvidia/nccl/lib").join(NAME), dir.join(NAME)]);
    let places = beside.filter(|path| path.exists()).chain([PathBuf::from(NAME)]);
    let mut words = String::new();
    for place in places {
        match load(&place, 0) {
            Ok(library) => return Ok((library, place)),
            Err(failure) => words = failure,
        }
    }
    Err(NcclError::Absent(words))
}

fn load(path: &Path, flags: c_int) -> Result<os::Library, String> {
    // SAFETY: NCCL's initialisers do nothing of consequence; its threads start with its first communicator.
    unsafe { os::Library::open(Some(path), flags | libc::RTLD_LAZY | libc::RTLD_LOCAL) }
        .map_err(|error| std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
}

/// The file from which this function was loaded.
fn file_of(function: *const c_void) -> Option<String> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: `info` is writable; `dladdr` accepts any address, and the name it returns stays as long as the library.
    unsafe {
        if libc::dladdr(function, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        Some(CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_in_both_notations_and_compared() {
        let texts = [22809, 21005, 2708].map(|code| Version::from_code(code).to_string());
        assert_eq!(texts, ["2.28.9", "2.10.5", "2.7.8"]);
        assert!(Version::from_code(21005) < Version::LEAST && Version::from_code(2708) < Version::LEAST);
        assert!(Version::from_code(23003) > Version::from_code(22809));
    }
}
