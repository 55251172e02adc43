//! The few things we need from libtorch and libc that no safe wrapper offers.

mod dispatch;
mod modes;

pub use dispatch::{FusedAdam, fused_adam, is_pinned, pinned};
pub use modes::{allow_tf32, deterministic, in_full_precision};

use crate::kernel::Real;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use tch::kind::Element;
use tch::{Device, Kind, Tensor};

/// libtorch's name of a float kind.
pub trait TorchReal: Real + tch::kind::Element {}
impl TorchReal for f32 {}
impl TorchReal for f64 {}

fn check<F: TorchReal>(t: &Tensor) {
    assert!(
        t.kind() == F::KIND && t.device() == Device::Cpu && t.is_contiguous(),
        "expected a contiguous {:?} tensor on the host, found {t:?}",
        F::KIND
    );
}

/// The numbers of a contiguous host tensor, in place.
///
/// # Panics
/// If the kind is another one, or the tensor is not contiguous on the host.
pub fn numbers<F: TorchReal>(t: &Tensor) -> &[F] {
    check::<F>(t);
    if t.numel() == 0 {
        return &[];
    }
    // SAFETY: `check` proved kind, place and contiguity; `data_ptr` then points to `numel` initialised values that
    // live as long as the tensor. Nobody writes while the borrow lives: writers go through `numbers_mut` on the
    // same owner, or are libtorch operations, which this crate never runs while it holds such a slice.
    unsafe { std::slice::from_raw_parts(t.data_ptr().cast::<F>(), t.numel()) }
}

/// As [`numbers`], to write. The caller must own the only use of this memory for as long as the slice lives: tensors
/// that are views of `t` must not be read by libtorch meanwhile.
///
/// # Panics
/// As [`numbers`].
pub fn numbers_mut<F: TorchReal>(t: &mut Tensor) -> &mut [F] {
    check::<F>(t);
    if t.numel() == 0 {
        return &mut [];
    }
    // SAFETY: as in `numbers`; `&mut` on the owner keeps other slices of it away, and views (parameters of the
    // model) are read by libtorch in forward and backward passes only, which do not overlap with updates.
    unsafe { std::slice::from_raw_parts_mut(t.data_ptr().cast::<F>(), t.numel()) }
}

thread_local! {
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has waited for a device in [`read`] and [`values`] so far.
pub fn reads_here() -> u64 {
    READS.get()
}

/// The tensor on another device; the host does not wait for the copy.
///
/// A plain copy from ordinary host memory makes the host wait for all the device has to do before; from page-locked memory,
/// which libtorch keeps until the device is done with it, it does not.
pub fn send(tensor: &Tensor, device: Device) -> Tensor {
    if tensor.device() == device {
        return tensor.shallow_clone();
    }
    let lock = device.is_cuda() && tensor.device() == Device::Cpu && !is_pinned(tensor);
    let locked = if lock { pinned(tensor).ok() } else { None };
    let source = locked.unwrap_or_else(|| tensor.shallow_clone());
    source.to_dtype_layout((tensor.kind(), device), true, false)
}

/// All numbers of some tensors, one tensor after the other: **waits** until the device has computed them, once for all of
/// them. A training step comes here once, or a few times where numbers decide how it goes on.
///
/// # Panics
/// If libtorch cannot copy them.
pub fn read(tensors: &[Tensor]) -> Vec<f64> {
    if tensors.is_empty() {
        return Vec::new();
    }
    READS.set(READS.get() + 1);
    let flat: Vec<Tensor> = tensors.iter().map(|t| t.detach().reshape([-1]).to_kind(Kind::Double)).collect();
    let all = if let [one] = flat.as_slice() { one.shallow_clone() } else { Tensor::cat(&flat, 0) };
    numbers::<f64>(&all.to_device(Device::Cpu).contiguous()).to_vec()
}

/// The numbers of one tensor, wherever it is, as `F`.
///
/// # Panics
/// If libtorch cannot copy them.
pub fn values<F: TorchReal>(tensor: &Tensor) -> Vec<F> {
    READS.set(READS.get() + 1);
    numbers::<F>(&tensor.detach().to_kind(F::KIND).to_device(Device::Cpu).contiguous()).to_vec()
}

/// Writes numbers into a tensor, wherever it is and of whatever kind.
///
/// # Panics
/// If there are not as many.
pub fn write<F: TorchReal>(tensor: &Tensor, values: &[F]) {
    let source = tensor_of(values, &[values.len()]).reshape(tensor.size());
    let _no_grad = tch::no_grad_guard();
    tensor.shallow_clone().copy_(&source);
}

/// The bytes of a tensor, wherever it is.
///
/// # Panics
/// If libtorch cannot copy them.
pub fn bytes(tensor: &Tensor) -> Vec<u8> {
    let host = tensor.detach().to_device(Device::Cpu).contiguous();
    let n = host.numel() * host.kind().elt_size_in_bytes();
    if n == 0 {
        return Vec::new();
    }
    // SAFETY: `host` is contiguous on the host, so its `numel` elements of that size lie there one after the other,
    // initialised, and live as long as `host`.
    unsafe { std::slice::from_raw_parts(host.data_ptr().cast::<u8>(), n) }.to_vec()
}

/// A tensor of `shape` on the host with a copy of `data`, row-major.
///
/// Unlike `Tensor::from_slice`, which first writes zeros with all of libtorch's threads, this touches memory once and stays
/// on the calling thread: a loader's thread must not wait for (or add to) the threads that compute.
///
/// # Panics
/// If `shape` does not hold as many elements as `data`.
pub fn tensor_of<T: Element + Copy>(data: &[T], shape: &[usize]) -> Tensor {
    assert_eq!(shape.iter().product::<usize>(), data.len(), "shape {shape:?} does not fit the data");
    let sizes: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    let tensor = Tensor::empty(&sizes, (T::KIND, Device::Cpu));
    if !data.is_empty() {
        // SAFETY: the tensor is new, contiguous, on the host, and has `data.len()` elements of the type `T` (by `KIND` and
        // the assertion above); nothing else refers to its memory yet, so it cannot overlap `data`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), tensor.data_ptr().cast::<T>(), data.len()) };
    }
    tensor
}

/// Sets the seed of libtorch's generators on all devices.
#[allow(clippy::disallowed_methods)] // the one place
pub fn seed_torch(seed: i64) {
    tch::manual_seed(seed);
}

/// Tells the allocator of libc to keep freed memory instead of handing it back to the system.
///
/// A training step frees and allocates the same large gradients over and over. By default glibc maps and unmaps
/// blocks above its threshold each time, and every page of them faults again.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets two numbers of the allocator; called before threads are started.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Loads libtorch's CUDA part into the process when it lies beside the CPU part, so that one binary serves machines
/// with and without GPUs. The linker drops it, since no symbol of it is named.
///
/// Returns where it was found, or why not.
///
/// # Errors
/// The loader's words when the library is there but cannot be loaded (missing CUDA libraries).
pub fn load_cuda() -> Result<Option<PathBuf>, String> {
    let Some(path) = libtorch_dir().map(|dir| dir.join("libtorch_cuda.so")).filter(|p| p.exists()) else {
        return Ok(None);
    };
    // SAFETY: loading runs the library's initialisers, as it would have been at start-up had it been linked.
    let library = unsafe { libloading::os::unix::Library::open(Some(&path), libc::RTLD_GLOBAL | libc::RTLD_LAZY) };
    match library {
        Ok(library) => {
            std::mem::forget(library); // stays for the life of the process
            Ok(Some(path))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Whether the machine has an NVIDIA driver: without one there is no use in loading libtorch's CUDA part.
pub fn has_nvidia_driver() -> bool {
    ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists())
}

/// The folder from which the running libtorch was loaded.
pub fn libtorch_dir() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    PathBuf::from(line.split_whitespace().last()?).parent().map(PathBuf::from)
}

/// Peak resident memory of this process in MiB.
pub fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_holds_the_data_row_by_row() {
        let tensor = tensor_of(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        assert_eq!((tensor.size(), tensor.kind(), tensor.device()), (vec![2, 3], tch::Kind::Float, Device::Cpu));
        assert_eq!(tensor.double_value(&[1, 0]), 4.0);
        assert_eq!(Vec::<i64>::try_from(tensor_of(&[-7i64, i64::MAX], &[2])).unwrap(), [-7, i64::MAX]);
        assert_eq!(tensor_of::<i64>(&[], &[0]).size(), [0]);
    }

    #[test]
    fn tensors_of_any_kind_are_read_at_once_and_written() {
        let (a, b) = (Tensor::from_slice(&[1.0f32, 2.0]).reshape([1, 2]), Tensor::from_slice(&[0.5f64]));
        let half = Tensor::zeros([2], (Kind::BFloat16, Device::Cpu));
        let before = reads_here();
        assert_eq!(read(&[a.shallow_clone(), b]), [1.0, 2.0, 0.5]);
        assert_eq!(reads_here(), before + 1);
        write(&half, &[1.0f32, -3.0]);
        assert_eq!(values::<f64>(&half), [1.0, -3.0]);
        assert_eq!(bytes(&half), [0x80, 0x3f, 0x40, 0xc0]);
        assert_eq!(read(&[]), [0.0; 0]);
    }

    #[test]
    #[should_panic(expected = "shape [2, 2] does not fit the data")]
    fn a_shape_of_another_size_is_our_bug() {
        let _ = tensor_of(&[1.0f32], &[2, 2]);
    }
}
