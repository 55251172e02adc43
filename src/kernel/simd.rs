//! Compiles a loop twice and picks at run time: the binary stays portable, the loop uses AVX2 and FMA where they are.

/// Whether this machine has AVX2 and FMA.
#[inline]
pub(super) fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Defines `$name`, which runs `$body` compiled for AVX2 + FMA if the machine has them, else as it is.
macro_rules! dispatch {
    ($name:ident $(<$param:ident: $bound:path>)?, $body:ident, ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        fn $name<F: Real $(, $param: $bound)?>($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide<F: Real $(, $param: $bound)?>($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                if $crate::kernel::simd::wide() {
                    // SAFETY: the features were just found on this machine; that is all `wide` asks for.
                    return unsafe { wide($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}
pub(super) use dispatch;
