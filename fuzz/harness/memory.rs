//! How much memory a thread takes: what a reader allocates must be justified by its input.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What one input may take at once, in bytes. Inputs are far smaller than a MiB.
const MOST: isize = 1 << 30;

/// The system's allocator, counting.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Allocations have at most `isize::MAX` bytes, so that these numbers have signs.
fn note(bytes: isize) {
    // Not while the thread ends: then nobody is measured.
    let live = LIVE.try_with(|live| {
        live.set(live.get().wrapping_add(bytes));
        live.get()
    });
    if let Ok(live) = live {
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live)));
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as isize - layout.size() as isize);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Runs `work` and checks what this thread had allocated at most.
pub fn limited(work: impl FnOnce()) {
    let before = LIVE.get();
    PEAK.set(before);
    work();
    let most = PEAK.get().wrapping_sub(before);
    assert!(most <= MOST, "the input took {} MiB", most >> 20);
}
