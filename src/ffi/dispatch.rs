//! libtorch's fused optimizers, which `tch` does not wrap, through libtorch's C interface to its dispatcher.
//!
//! One call updates parameters and both moments in one kernel on a GPU, and in one vectorised pass on a CPU.
//! Source of the interface: `torch/csrc/stable/c/shim.h` of libtorch 2.11.

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;
use tch::Tensor;

/// libtorch's `StableIValue`: numbers by their bits, lists and tensors by an owned handle.
type Value = u64;
type Status = i32;

/// The version by whose rules values are passed: 2.11.
const ABI: u64 = (2 << 56) | (11 << 48);

/// Constants of one update of [`fused_adam`], in PyTorch's terms.
#[derive(Debug, Clone, Copy)]
pub struct FusedAdam {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// AdamW's decay of the parameter itself, instead of Adam's L2 term in the gradient.
    pub decoupled: bool,
}

/// Entry points of libtorch's C interface.
struct Shim {
    call: unsafe extern "C" fn(*const c_char, *const c_char, *mut Value, u64) -> Status,
    new_handle: unsafe extern "C" fn(*const c_void, *mut *mut c_void) -> Status,
    new_list: unsafe extern "C" fn(usize, *mut *mut c_void) -> Status,
    push: unsafe extern "C" fn(*mut c_void, Value) -> Status,
}

impl Shim {
    fn get() -> Result<&'static Shim, &'static str> {
        static SHIM: OnceLock<Option<Shim>> = OnceLock::new();
        SHIM.get_or_init(Shim::load).as_ref().ok_or("this libtorch has no C interface to its dispatcher (2.11 has)")
    }

    fn load() -> Option<Shim> {
        let here = libloading::os::unix::Library::this();
        // SAFETY: the names and signatures are those of libtorch 2.11's headers; libtorch stays loaded for the life of
        // the process, so the pointers stay good.
        unsafe {
            Some(Shim {
                call: *here.get(b"torch_call_dispatcher\0").ok()?,
                new_handle: *here.get(b"aoti_torch_new_tensor_handle\0").ok()?,
                new_list: *here.get(b"torch_new_list_reserve_size\0").ok()?,
                push: *here.get(b"torch_list_push_back\0").ok()?,
            })
        }
    }

    /// A list of tensors; whoever takes the value frees the list.
    fn list(&self, tensors: &[Tensor]) -> Result<Value, &'static str> {
        let failed = |status: Status| if status == 0 { Ok(()) } else { Err("a list of tensors cannot be made") };
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` is a valid place for a handle. A tch tensor is a pointer to an `at::Tensor`, which is what
        // libtorch's handles are; the new handle is a reference of its own, and the list takes it over.
        unsafe {
            failed((self.new_list)(tensors.len(), &raw mut list))?;
            for tensor in tensors {
                let mut handle = std::ptr::null_mut();
                failed((self.new_handle)(tensor.as_ptr().cast(), &raw mut handle))?;
                failed((self.push)(list, handle as Value))?;
            }
        }
        Ok(list as Value)
    }
}

/// Whether a tensor lies in page-locked memory of the host. (`tch` would name a device, at which libtorch prints a warning every
/// time.)
pub fn is_pinned(tensor: &Tensor) -> bool {
    one_of_two(c"aten::is_pinned", tensor).is_ok_and(|value| value & 1 == 1)
}

/// A copy in page-locked memory of the host.
///
/// # Errors
/// If there is no device for which memory could be locked.
pub fn pinned(tensor: &Tensor) -> Result<Tensor, String> {
    let handle = one_of_two(c"aten::pin_memory", tensor)?;
    // SAFETY: the operator returns a tensor: a handle that owns a reference, which is what a tch tensor is.
    Ok(unsafe { Tensor::from_ptr(handle as *mut torch_sys::C_tensor) })
}

/// The result of an operator of a tensor and an optional device, which is left out.
fn one_of_two(name: &CStr, tensor: &Tensor) -> Result<Value, String> {
    let shim = Shim::get()?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: as in `Shim::list`; the stack has a value per argument and takes over the handle.
    unsafe {
        if (shim.new_handle)(tensor.as_ptr().cast(), &raw mut handle) != 0 {
            return Err("a reference to a tensor cannot be made".into());
        }
        let mut stack = [handle as Value, 0];
        let status = (shim.call)(name.as_ptr(), c"".as_ptr(), stack.as_mut_ptr(), ABI);
        if status == 0 { Ok(stack[0]) } else { Err(format!("libtorch refused {}", name.to_string_lossy())) }
    }
}

/// Moves all parameters by Adam or AdamW, in place, with their moments. `step` counts from 1. The lists are parallel, of
/// contiguous tensors of one kind on one device.
///
/// # Errors
/// If libtorch refuses, or is another version without this interface.
pub fn fused_adam(
    params: &[Tensor],
    grads: &[Tensor],
    first: &[Tensor],
    second: &[Tensor],
    step: u64,
    rule: FusedAdam,
) -> Result<(), String> {
    if params.is_empty() {
        return Ok(());
    }
    let shim = Shim::get()?;
    let steps: Vec<Tensor> = {
        let device = params[0].device();
        let step = Tensor::full([1], step as f64, (tch::Kind::Float, device));
        params.iter().map(|_| step.shallow_clone()).collect()
    };
    let number = f64::to_bits;
    let mut stack = [
        shim.list(params)?,
        shim.list(grads)?,
        shim.list(first)?,
        shim.list(second)?,
        shim.list(&[])?,
        shim.list(&steps)?,
        number(rule.lr),
        number(rule.betas[0]),
        number(rule.betas[1]),
        number(rule.weight_decay),
        number(rule.eps),
        0, // amsgrad
        0, // maximize
        0, // grad_scale: none
        0, // found_inf: none
    ];
    let name: &CStr = if rule.decoupled { c"aten::_fused_adamw_" } else { c"aten::_fused_adam_" };
    let _no_grad = tch::no_grad_guard();
    // SAFETY: the stack holds one value per argument of the operator's schema, in order; it takes over the lists.
    let status = unsafe { (shim.call)(name.as_ptr(), c"".as_ptr(), stack.as_mut_ptr(), ABI) };
    if status == 0 { Ok(()) } else { Err(format!("libtorch refused {}", name.to_string_lossy())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn equals_the_rule_of_our_own_kernel() {
        use crate::config::{Adam, Optim};
        use crate::kernel::{Fragment, Piece};
        use crate::optim::Optimizer;
        let config = Adam { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1, clip_norm: None };
        for optim in [Optim::Adam(config.clone()), Optim::Adamw(config.clone())] {
            let decoupled = matches!(optim, Optim::Adamw(_));
            let rule = FusedAdam { lr: 0.1, betas: config.betas, eps: config.eps, weight_decay: 0.1, decoupled };
            let start = [1.0, -2.0, 0.5, 3.7, 0.0];
            let vector = |x: &[f64]| Tensor::from_slice(x);
            let zeros = || Tensor::zeros([5], (Kind::Double, Device::Cpu));
            let (p, m, v) = (vector(&start), zeros(), zeros());
            let (mut own, mut o) = (start.to_vec(), Optimizer::<f64>::new(&optim, 5));
            for step in 1..=4 {
                let grad: Vec<f64> = (0..5).map(|i| f64::from(i - 2) * 0.3 * f64::from(step as i32 - 2)).collect();
                // Two tensors, to prove that lists hold what they should.
                let halves = |t: &Tensor| vec![t.narrow(0, 0, 2), t.narrow(0, 2, 3)];
                let g = vector(&grad);
                fused_adam(&halves(&p), &halves(&g), &halves(&m), &halves(&v), step, rule).unwrap();
                o.updates = step - 1;
                let own_rule = o.rule(0.1);
                let piece = Piece {
                    grads: Fragment { len: 5, rows: vec![&grad] },
                    coef: &[1.0],
                    param: &mut own,
                    first: &mut o.first,
                    second: &mut o.second,
                };
                Optimizer::apply(own_rule, vec![piece]);
            }
            let fused: Vec<f64> = Vec::try_from(&p).unwrap();
            assert!(fused.iter().zip(&own).all(|(a, b)| (a - b).abs() < 1e-12), "{fused:?} {own:?}");
            assert_ne!(fused, start);
        }
    }

    #[test]
    fn memory_is_locked_only_for_a_device() {
        let tensor = Tensor::from_slice(&[1.0f32, 2.0]);
        assert!(!is_pinned(&tensor));
        match pinned(&tensor) {
            Ok(copy) => assert!(is_pinned(&copy) && copy == tensor),
            Err(words) => assert_eq!(words, "libtorch refused aten::pin_memory"),
        }
    }

    #[test]
    fn a_refusal_is_an_error() {
        let one = [Tensor::from_slice(&[1.0f32])];
        let rule = FusedAdam { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.0, decoupled: true };
        let error = fused_adam(&one, &[], &one, &one, 1, rule).unwrap_err();
        assert_eq!(error, "libtorch refused aten::_fused_adamw_");
    }
}
