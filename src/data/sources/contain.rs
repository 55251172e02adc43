//! Turns panics into errors: those of a decoder that is not ours, and those of the thread that makes batches.
//!
//! The parquet crate panics on some damaged files (a dictionary page that is missing, for one). To a user that is a
//! damaged file, not a bug of this program: the run must end with the file's name, not with a backtrace.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread will be turned into an error. A panic hook asks first, and then does nothing.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// Runs `decode`; a panic within it becomes its message. What `decode` changed by then must not be used any more.
pub(in crate::data) fn contain<T>(decode: impl FnOnce() -> T) -> Result<T, String> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    CONTAINED.set(before);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message_and_the_mark_is_taken_back() {
        assert_eq!(contain(panic_is_contained), Ok(true));
        assert_eq!(contain(|| -> u8 { panic!("a {}", "message") }), Err("a message".into()));
        assert_eq!(contain(|| -> u8 { panic!("plain") }), Err("plain".into()));
        assert!(!panic_is_contained());
    }
}
