//! What we need of CUDA beyond tch: devices, streams and events.
//!
//! Everything is looked up when the program runs, in the libraries that libtorch itself uses: the same binary runs where
//! there is no GPU, no driver and no CUDA build of libtorch, and says so when asked for one.
//!
//! Nothing here waits on the host for a device.

mod event;
mod raw;
mod stream;
mod table;

pub use event::{Event, elapsed_ms};
pub use stream::Stream;
pub(crate) use table::function_table;

use libloading::os::unix::Library;
use raw::{Api, DeviceProperties, code};
use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

/// CUDA is absent, or refused a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is nothing to call.
    #[error("CUDA cannot be used: {0}")]
    Absent(String),
    /// The CUDA runtime reported an error.
    #[error("{call} failed: {name}: {text}{hint}")]
    Call {
        /// The function.
        call: &'static str,
        /// Its result.
        code: i32,
        /// The name of the result.
        name: String,
        /// What the runtime says about it.
        text: String,
        /// Empty, or what to do.
        hint: &'static str,
    },
    /// libtorch's C interface reported an error; it keeps the reason to itself.
    #[error("libtorch's {0} failed")]
    Torch(&'static str),
}

type Result<T> = std::result::Result<T, CudaError>;

/// The CUDA runtime of this process.
pub struct Cuda {
    api: Api,
}

impl Cuda {
    /// Loads libtorch's CUDA part, once per process. Succeeds wherever the libraries are, with or without a GPU.
    ///
    /// # Errors
    /// [`CudaError::Absent`] if this libtorch was built without CUDA, or its libraries do not fit.
    pub fn load() -> Result<&'static Cuda> {
        static LOADED: OnceLock<Result<Cuda>> = OnceLock::new();
        LOADED.get_or_init(|| Api::load().map(|api| Cuda { api })).as_ref().map_err(Clone::clone)
    }

    /// As [`Self::load`], from these libraries, which are never unloaded: for the stand-in of the tests.
    pub(crate) fn of(libraries: &[Library]) -> Result<&'static Cuda> {
        Ok(Box::leak(Box::new(Cuda { api: Api::find(libraries)? })))
    }

    /// GPUs that this process may use (`CUDA_VISIBLE_DEVICES`).
    ///
    /// # Errors
    /// If the driver is missing or older than the runtime.
    pub fn device_count(&self) -> Result<usize> {
        let mut count: c_int = 0;
        // SAFETY: `count` is writable.
        match unsafe { (self.api.runtime.get_device_count)(&mut count) } {
            code::NO_DEVICE => {
                self.clear();
                Ok(0)
            }
            result => self.check("cudaGetDeviceCount", result).map(|()| count as usize),
        }
    }

    /// Makes `device` the one that CUDA calls of the calling thread mean, and its context if there is none yet.
    ///
    /// # Errors
    /// If there is no such device, or it cannot be used.
    pub fn set_device(&self, device: usize) -> Result<()> {
        // SAFETY: takes a number.
        self.check("cudaSetDevice", unsafe { (self.api.runtime.set_device)(device as c_int) })
    }

    /// The product name.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn device_name(&self, device: usize) -> Result<String> {
        let properties = self.properties(device)?;
        let name = CStr::from_bytes_until_nul(&properties.name).unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    /// The unique id, as `nvidia-smi -L` writes it.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn uuid(&self, device: usize) -> Result<String> {
        Ok(uuid_text(&self.properties(device)?.uuid))
    }

    /// The place on the bus, `domain:bus:device.function`: equal for two processes of a machine that share a GPU.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn pci_bus_id(&self, device: usize) -> Result<String> {
        let mut text = [0u8; 32];
        // SAFETY: at most `len` bytes are written, the last of them zero.
        let result = unsafe {
            (self.api.runtime.get_pci_bus_id)(text.as_mut_ptr().cast::<c_char>(), text.len() as c_int, device as c_int)
        };
        self.check("cudaDeviceGetPCIBusId", result)?;
        Ok(CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Free and total memory in bytes. Makes a context on the device if there is none yet.
    ///
    /// # Errors
    /// If there is no such device, or it cannot be used.
    pub fn memory(&self, device: usize) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        self.on(device, || {
            // SAFETY: both are writable.
            self.check("cudaMemGetInfo", unsafe { (self.api.runtime.get_memory)(&mut free, &mut total) })
        })?;
        Ok((free, total))
    }

    /// Major and minor version of CUDA that the driver knows; `(0, 0)` without a driver.
    ///
    /// # Errors
    /// If the runtime does not answer.
    pub fn driver_version(&self) -> Result<(u32, u32)> {
        let mut version: c_int = 0;
        // SAFETY: `version` is writable.
        self.check("cudaDriverGetVersion", unsafe { (self.api.runtime.get_driver_version)(&mut version) })?;
        Ok(split_version(version))
    }

    /// Major and minor version of the runtime that libtorch uses.
    ///
    /// # Errors
    /// If the runtime does not answer.
    pub fn runtime_version(&self) -> Result<(u32, u32)> {
        let mut version: c_int = 0;
        // SAFETY: `version` is writable.
        self.check("cudaRuntimeGetVersion", unsafe { (self.api.runtime.get_runtime_version)(&mut version) })?;
        Ok(split_version(version))
    }

    fn properties(&self, device: usize) -> Result<Box<DeviceProperties>> {
        let mut properties = Box::new(DeviceProperties { name: [0; 256], uuid: [0; 16], rest: [0; _] });
        // SAFETY: the structure has room for that of any release.
        let result = unsafe { (self.api.runtime.get_device_properties)(&mut *properties, device as c_int) };
        self.check("cudaGetDeviceProperties", result)?;
        Ok(properties)
    }

    /// Runs `body` with `device` as the current one of this thread, and then makes the former one current again.
    fn on<T>(&self, device: usize, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut before: c_int = 0;
        // SAFETY: `before` is writable.
        self.check("cudaGetDevice", unsafe { (self.api.runtime.get_device)(&mut before) })?;
        if before as usize == device {
            return body();
        }
        self.set_device(device)?;
        let result = body();
        self.set_device(before as usize)?;
        result
    }

    fn check(&self, call: &'static str, result: i32) -> Result<()> {
        if result == code::SUCCESS {
            return Ok(());
        }
        self.clear();
        // SAFETY: both return constant texts, for any number.
        let (name, text) = unsafe {
            (
                CStr::from_ptr((self.api.runtime.error_name)(result)),
                CStr::from_ptr((self.api.runtime.error_text)(result)),
            )
        };
        let [name, text] = [name, text].map(|text| text.to_string_lossy().into_owned());
        let hint = match result {
            code::INSUFFICIENT_DRIVER => {
                "\n  hint: no NVIDIA driver runs here, or it is older than the CUDA that libtorch was built for \
                 (`nvidia-smi` shows both)"
            }
            code::NO_DEVICE => "\n  hint: no GPU is visible; look at `nvidia-smi` and CUDA_VISIBLE_DEVICES",
            _ => "",
        };
        Err(CudaError::Call { call, code: result, name, text, hint })
    }

    /// As [`Self::check`] for queries: `false` while the device is not there yet.
    fn check_ready(&self, call: &'static str, result: i32) -> Result<bool> {
        if result == code::NOT_READY {
            self.clear();
            return Ok(false);
        }
        self.check(call, result).map(|()| true)
    }

    /// Forgets the error that the runtime remembers for this thread: libtorch would report it as its own.
    fn clear(&self) {
        // SAFETY: takes nothing.
        unsafe { (self.api.runtime.last_error)() };
    }
}

/// `1000 * major + 10 * minor`.
fn split_version(version: c_int) -> (u32, u32) {
    let version = version.max(0) as u32;
    (version / 1000, version % 1000 / 10)
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex[range].concat();
    format!("GPU-{}-{}-{}-{}-{}", part(0..4), part(4..6), part(6..8), part(8..10), part(10..16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi;

    #[test]
    fn ids_and_versions_are_written_as_the_tools_write_them() {
        let bytes = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(uuid_text(&bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(split_version(13000), (13, 0));
        assert_eq!(split_version(12080), (12, 8));
        assert_eq!(split_version(0), (0, 0));
    }

    /// Each machine shows one of three: no CUDA part, no driver, or a GPU.
    #[test]
    fn the_runtime_is_libtorchs_own_or_its_absence_is_said() {
        let cuda = match (ffi::load_cuda(), Cuda::load()) {
            (Ok(Some(_)), cuda) => cuda.unwrap(),
            (_, cuda) => {
                let error = cuda.err().unwrap().to_string();
                assert!(error.starts_with("CUDA cannot be used: "), "{error}");
                return;
            }
        };
        assert!(cuda.runtime_version().unwrap() >= (12, 0));
        match cuda.device_count() {
            Ok(0) => {}
            Ok(_) => {
                let (free, total) = cuda.memory(0).unwrap();
                assert!(0 < free && free <= total);
                assert!(cuda.uuid(0).unwrap().len() == 40 && !cuda.device_name(0).unwrap().is_empty());
            }
            Err(error) => {
                assert!(cuda.driver_version().unwrap() < cuda.runtime_version().unwrap(), "{error}");
                let error = error.to_string();
                let start = "cudaGetDeviceCount failed: cudaErrorInsufficientDriver: CUDA driver version is insufficient \
                             for CUDA runtime version\n  hint: ";
                assert!(error.starts_with(start), "{error}");
                assert!(Stream::new(cuda, 0).is_err() && Event::new(cuda, 0).is_err());
            }
        }
    }
}
