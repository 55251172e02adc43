//! The calls into libtorch that need `unsafe`, each behind a safe function.

use tch::kind::Element;
use tch::{Device, Tensor};

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
    #[should_panic(expected = "shape [2, 2] does not fit the data")]
    fn a_shape_of_another_size_is_our_bug() {
        let _ = tensor_of(&[1.0f32], &[2, 2]);
    }
}
