//! Work spread over libtorch's own threads.
//!
//! libtorch computes on the team of an OpenMP library, whose threads keep spinning for a while after each operation. A
//! second pool beside it would fight with them for the cores exactly when our kernels run, between two operations. So
//! our kernels run **on that team**, through the entry that compilers call for a parallel region. Where there is no such
//! library, short-lived threads do the work.

use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `void GOMP_parallel(void (*fn)(void *), void *data, unsigned num_threads, unsigned flags)`; 0 threads: as many as
/// libtorch was told to use. GNU's and LLVM's OpenMP libraries both have it.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// `f(0), f(1), .., f(n - 1)` in this order, computed on several threads.
///
/// # Panics
/// If `f` panics, after all threads have come back.
pub fn map<T: Send + Sync>(n: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let slots: Vec<OnceLock<T>> = (0..n).map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let panic = Mutex::new(None);
    let work = || {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(slot) = slots.get(index) else { break };
                // Each index is drawn once, so the slot is empty.
                let _ = slot.set(f(index));
            }
        }));
        if let Err(cause) = caught {
            *panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
        }
    };
    if n < 2 {
        work();
    } else {
        on_team(&work);
    }
    if let Some(cause) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(cause);
    }
    slots.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// Calls `f` with every item, on several threads, and returns the results in order.
pub fn consume<I: Send, T: Send + Sync>(items: Vec<I>, f: impl Fn(I) -> T + Sync) -> Vec<T> {
    let items: Vec<Mutex<Option<I>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let take = |index: usize| items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
    map(items.len(), |index| take(index).map(&f)).into_iter().flatten().collect()
}

/// Runs `work` once on every thread of the team, this one included, and waits for all.
fn on_team<W: Fn() + Sync>(work: &W) {
    extern "C" fn call<W: Fn()>(work: *mut c_void) {
        // SAFETY: `work` is the reference that `on_team` passed on, alive until the region ends. It does not unwind.
        unsafe { (*work.cast::<W>())() }
    }
    static PARALLEL: OnceLock<Option<Parallel>> = OnceLock::new();
    let found = *PARALLEL.get_or_init(|| {
        let this = libloading::os::unix::Library::this();
        // SAFETY: the symbol has this type in every OpenMP library that has it, and the library stays loaded, since
        // libtorch needs it.
        unsafe { this.get::<Parallel>(b"GOMP_parallel\0").ok().map(|symbol| *symbol) }
    });
    match found {
        // SAFETY: the region calls `call` on each thread with the pointer to `work`, which is `Sync` and outlives it.
        Some(parallel) => unsafe { parallel(call::<W>, std::ptr::from_ref(work).cast_mut().cast(), 0, 0) },
        None => std::thread::scope(|scope| {
            let others = std::thread::available_parallelism().map_or(0, |n| n.get() - 1);
            (0..others).for_each(|_| drop(scope.spawn(work)));
            work();
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        assert_eq!(map(1000, |i| i * i), (0..1000).map(|i| i * i).collect::<Vec<_>>());
        assert_eq!(consume(vec!["a".to_string(), "b".to_string()], |s| s + "!"), ["a!", "b!"]);
        assert!(map(0, |i| i).is_empty());
    }

    #[test]
    fn a_panic_comes_back_to_the_caller() {
        let caught = catch_unwind(|| map(100, |i| assert!(i != 37, "thirty-seven")));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"thirty-seven"));
    }
}
