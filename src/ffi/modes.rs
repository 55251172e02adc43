//! How libtorch computes: modes that its C++ interface sets and `tch` does not.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether [`allow_tf32`] was told so.
static TF32: AtomicBool = AtomicBool::new(false);

const CUBLAS: &[u8] = b"_ZN2at7Context18setAllowTF32CuBLASEb\0";

/// `at::Context`, libtorch's global settings.
struct Context(*mut c_void);

impl Context {
    fn get() -> Option<Context> {
        let global: unsafe extern "C" fn() -> *mut c_void = function(b"_ZN2at13globalContextEv\0")?;
        // SAFETY: `at::Context& at::globalContext()` takes nothing and returns a reference that lives forever.
        Some(Context(unsafe { global() }))
    }

    /// Calls a setter `void at::Context::name(bool)`.
    fn set(&self, symbol: &[u8], on: bool) -> Option<()> {
        let set: unsafe extern "C" fn(*mut c_void, bool) = function(symbol)?;
        // SAFETY: the mangled name says what the function takes: the context, and one `bool`. It only stores the value.
        unsafe { set(self.0, on) };
        Some(())
    }
}

/// A function of libtorch by its mangled name. `F` must be its type.
fn function<F: Copy>(symbol: &[u8]) -> Option<F> {
    let here = libloading::os::unix::Library::this();
    // SAFETY: callers give the type that belongs to the name; libtorch stays loaded for the life of the process.
    unsafe { here.get::<F>(symbol).ok().map(|f| *f) }
}

/// Whether matrix products and convolutions of 32-bit floats may round their factors to TF32 on GPUs that can: faster, with
/// 10 bits of mantissa. `None` if this libtorch cannot be told.
pub fn allow_tf32(on: bool) -> Option<()> {
    let context = Context::get()?;
    context.set(CUBLAS, on)?;
    TF32.store(on, Ordering::Relaxed);
    context.set(b"_ZN2at7Context17setAllowTF32CuDNNEb\0", on)
}

/// Runs `body` with exact factors, whatever [`allow_tf32`] was told.
pub fn in_full_precision<R>(body: impl FnOnce() -> R) -> R {
    if !TF32.load(Ordering::Relaxed) {
        return body();
    }
    let allow = |on| Context::get().and_then(|context| context.set(CUBLAS, on));
    allow(false);
    let result = body();
    allow(true);
    result
}

/// Whether libtorch is to choose algorithms that give the same bits every time, where it has them. `None` if this libtorch
/// cannot be told.
pub fn deterministic(on: bool) -> Option<()> {
    let set: unsafe extern "C" fn(*mut c_void, bool, bool) =
        function(b"_ZN2at7Context26setDeterministicAlgorithmsEbb\0")?;
    let context = Context::get()?;
    // SAFETY: as in `Context::set`; the second flag turns refusals of operations without such an algorithm into warnings.
    unsafe { set(context.0, on, true) };
    context.set(b"_ZN2at7Context21setDeterministicCuDNNEb\0", on)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_libtorch_can_be_told() {
        for on in [true, false] {
            assert!(super::allow_tf32(on).is_some());
            assert_eq!(super::in_full_precision(|| 7), 7);
            assert!(super::deterministic(on).is_some());
        }
    }
}
