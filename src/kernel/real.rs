//! The two kinds of float we train with.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Sub, SubAssign};

/// `f32`, or `f64` for tests of exactness.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + bytemuck::Pod
    + 'static
{
    /// Nearest value.
    fn from_f64(x: f64) -> Self;
    /// Exact value.
    fn to_f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The same number, with the other sign if the highest bit of `sign` is set.
    fn flip(self, sign: u32) -> Self;
    /// Inner products of a slice with `N` others of the same length.
    fn dots<const N: usize>(a: &[Self], b: [&[Self]; N]) -> [f64; N];
}

macro_rules! real {
    ($t:ty, $bits:ty, $dots:ident) => {
        impl Real for $t {
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn flip(self, sign: u32) -> Self {
                let sign = <$bits>::from(sign >> 31) << (<$bits>::BITS - 1);
                <$t>::from_bits(self.to_bits() ^ sign)
            }
            fn dots<const N: usize>(a: &[Self], b: [&[Self]; N]) -> [f64; N] {
                super::gram::$dots(a, b)
            }
        }
    };
}

real!(f32, u32, dots_f32);
real!(f64, u64, plain_dots);
