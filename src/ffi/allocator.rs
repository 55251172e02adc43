//! The system's allocator, with a word before the end where it has no memory.

use std::alloc::{GlobalAlloc, Layout, System};

/// Hands everything to the system's allocator, and tells when that has no memory. What follows a failed allocation is Rust's
/// abort, whose words name neither the place nor a way out.
#[derive(Debug)]
pub struct Allocator {
    failed: fn(usize),
}

impl Allocator {
    /// `failed` is told how many bytes there were not. It may need a little memory itself, in which it must not rely on
    /// being called once; it may end the process, and must not panic.
    pub const fn new(failed: fn(usize)) -> Self {
        Allocator { failed }
    }

    fn told(&self, place: *mut u8, bytes: usize) -> *mut u8 {
        if place.is_null() {
            (self.failed)(bytes);
        }
        place
    }
}

// SAFETY: every call goes to `System` as it came, and its answer comes back as it is. `failed` is called only where there is
// nothing to hand out, and does not unwind.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `System` asks for.
        self.told(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        self.told(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `alloc`; what is at `place` comes from `System`, as everything that is handed out here.
        self.told(unsafe { System.realloc(place, layout, size) }, size)
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static MISSING: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn memory_that_is_not_there_is_told_and_other_memory_is_handed_out() {
        let allocator = Allocator::new(|bytes| MISSING.store(bytes, Ordering::Relaxed));
        let little = Layout::from_size_align(8, 8).unwrap();
        let too_much = Layout::from_size_align(isize::MAX as usize / 2, 8).unwrap();
        // SAFETY: layouts are not empty; what was handed out is used within its size and given back with its layout.
        unsafe {
            let place = allocator.alloc_zeroed(little);
            assert!(!place.is_null() && *place == 0);
            *place = 7;
            let place = allocator.realloc(place, little, 16);
            assert_eq!((*place, MISSING.load(Ordering::Relaxed)), (7, 0));
            allocator.dealloc(place, Layout::from_size_align(16, 8).unwrap());
            assert!(allocator.alloc(too_much).is_null());
        }
        assert_eq!(MISSING.load(Ordering::Relaxed), isize::MAX as usize / 2);
    }
}
