//! How libtorch computes: modes that its C++ interface sets and `tch` does not.

use std::ffi::c_void;

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
    context.set(b"_ZN2at7Context18setAllowTF32CuBLASEb\0", on)?;
    context.set(b"_ZN2at7Context17setAllowTF32CuDNNEb\0", on)
}

/// Whether cuDNN is to choose algorithms that give the same bits every time. `None` if this libtorch cannot be told.
pub fn deterministic_convolutions(on: bool) -> Option<()> {
    Context::get()?.set(b"_ZN2at7Context21setDeterministicCuDNNEb\0", on)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_libtorch_can_be_told() {
        for on in [true, false] {
            assert!(super::allow_tf32(on).is_some());
            assert!(super::deterministic_convolutions(on).is_some());
        }
    }
}
