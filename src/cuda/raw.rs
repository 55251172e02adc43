//! The functions of the CUDA runtime and of libtorch's C interface that we call, found in the running process.

use super::CudaError;
use super::table::function_table;
use crate::ffi;
use libloading::os::unix::Library;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::Path;

/// `cudaError_t` values that are told apart.
pub(super) mod code {
    pub const SUCCESS: i32 = 0;
    pub const INSUFFICIENT_DRIVER: i32 = 35;
    pub const NO_DEVICE: i32 = 100;
    pub const NOT_READY: i32 = 600;
}

/// `cudaStreamNonBlocking`: no implicit order with the default stream.
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
/// `cudaEventDefault`, `cudaEventDisableTiming`.
pub(super) const EVENT_TIMED: c_uint = 0;
pub(super) const EVENT_UNTIMED: c_uint = 2;

/// Room for a `cudaDeviceProp` of any release (about 1 KiB so far); its first fields never moved.
#[repr(C, align(16))]
pub(super) struct DeviceProperties {
    pub name: [u8; 256],
    pub uuid: [u8; 16],
    pub rest: [u8; 8192 - 272],
}

function_table! {
    /// The CUDA runtime (`cuda_runtime_api.h`).
    Runtime {
        get_device_count = "cudaGetDeviceCount": (*mut c_int) -> c_int;
        get_device = "cudaGetDevice": (*mut c_int) -> c_int;
        set_device = "cudaSetDevice": (c_int) -> c_int;
        get_device_properties = "cudaGetDeviceProperties": (*mut DeviceProperties, c_int) -> c_int;
        get_pci_bus_id = "cudaDeviceGetPCIBusId": (*mut c_char, c_int, c_int) -> c_int;
        get_memory = "cudaMemGetInfo": (*mut usize, *mut usize) -> c_int;
        get_driver_version = "cudaDriverGetVersion": (*mut c_int) -> c_int;
        get_runtime_version = "cudaRuntimeGetVersion": (*mut c_int) -> c_int;
        create_stream = "cudaStreamCreateWithFlags": (*mut *mut c_void, c_uint) -> c_int;
        destroy_stream = "cudaStreamDestroy": (*mut c_void) -> c_int;
        query_stream = "cudaStreamQuery": (*mut c_void) -> c_int;
        wait_event = "cudaStreamWaitEvent": (*mut c_void, *mut c_void, c_uint) -> c_int;
        create_event = "cudaEventCreateWithFlags": (*mut *mut c_void, c_uint) -> c_int;
        destroy_event = "cudaEventDestroy": (*mut c_void) -> c_int;
        record_event = "cudaEventRecord": (*mut c_void, *mut c_void) -> c_int;
        query_event = "cudaEventQuery": (*mut c_void) -> c_int;
        elapsed = "cudaEventElapsedTime": (*mut f32, *mut c_void, *mut c_void) -> c_int;
        error_name = "cudaGetErrorName": (c_int) -> *const c_char;
        error_text = "cudaGetErrorString": (c_int) -> *const c_char;
        last_error = "cudaGetLastError": () -> c_int;
    }
}

function_table! {
    /// libtorch's streams (`inductor/aoti_torch/c/shim.h` and `stable/c/shim.h`); zero means success.
    Torch {
        current_stream = "aoti_torch_get_current_cuda_stream": (i32, *mut *mut c_void) -> i32;
        set_current_stream = "torch_set_current_cuda_stream": (*mut c_void, i32) -> i32;
        stream_from_pool = "torch_get_cuda_stream_from_pool": (bool, i32, *mut *mut c_void) -> i32;
    }
}

/// Everything we call.
pub(super) struct Api {
    pub runtime: Runtime,
    pub torch: Torch,
}

impl Api {
    /// Loads libtorch's CUDA part and takes the functions from it.
    pub fn load() -> Result<Api, CudaError> {
        let path = ffi::load_cuda().map_err(|words| CudaError::Absent(format!("libtorch_cuda.so: {words}")))?;
        let path = path.ok_or_else(|| {
            let place = ffi::libtorch_dir().map_or("libtorch".into(), |dir| dir.display().to_string());
            CudaError::Absent(format!(
                "this libtorch has no CUDA part (there is no libtorch_cuda.so in {place})\n  hint: install libtorch, or \
                 the Python package it is taken from, in a CUDA build"
            ))
        })?;
        let libraries = libraries(&path);
        let api = Api::find(&libraries);
        libraries.into_iter().for_each(std::mem::forget); // the functions stay for the life of the process
        api
    }

    /// Takes the functions from libraries that stay loaded.
    pub fn find(libraries: &[Library]) -> Result<Api, CudaError> {
        let hint = "hint: use the libtorch that polytask was built for";
        let missing = |symbol| CudaError::Absent(format!("`{symbol}` is missing\n  {hint}"));
        Ok(Api { runtime: Runtime::find(libraries).map_err(missing)?, torch: Torch::find(libraries).map_err(missing)? })
    }
}

/// Where to look. A look-up in `libtorch_cuda.so` also searches the libraries it was linked with: what it finds is the very
/// runtime that libtorch uses, whatever the file is called. The other two are for builds that hide their own copy; several
/// runtimes in one process share the driver's context and streams.
fn libraries(libtorch_cuda: &Path) -> Vec<Library> {
    // SAFETY: nothing new is loaded, so no initialiser runs.
    let loaded = |name: &Path| unsafe { Library::open(Some(name), libc::RTLD_NOLOAD | libc::RTLD_LAZY) }.ok();
    let names = [libtorch_cuda, Path::new("libcudart.so.13"), Path::new("libcudart.so.12")];
    names.into_iter().filter_map(loaded).collect()
}
