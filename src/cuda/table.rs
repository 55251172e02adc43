//! Tables of functions that are looked up in shared libraries when the program runs.

/// Declares a struct of C functions and `find`, which looks all of them up.
///
/// `field = "symbol": (arguments) -> result;` Signatures are copied from the header of the library.
macro_rules! function_table {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident = $symbol:literal: ($($arg:ty),* $(,)?) $(-> $ret:ty)?;)* }) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $field: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        impl $name {
            /// Takes each function from the first library that has it; fails with the name of one that none has.
            pub(crate) fn find(libraries: &[libloading::os::unix::Library]) -> Result<Self, &'static str> {
                Ok(Self {
                    $($field: libraries
                        .iter()
                        // SAFETY: the signature is that of the header, and the tables' owners keep the library loaded
                        // for the life of the process.
                        .find_map(|library| unsafe {
                            let found = library.get::<unsafe extern "C" fn($($arg),*) $(-> $ret)?>($symbol);
                            found.ok().map(|function| *function)
                        })
                        .ok_or($symbol)?,)*
                })
            }
        }
    };
}
pub(crate) use function_table;
