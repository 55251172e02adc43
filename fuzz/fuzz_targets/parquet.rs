//! No bytes make the reader panic, or hand over a table that contradicts itself.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use polytask::data::sources::{panic_is_contained, parquet};
use std::path::Path;
use std::sync::Once;

/// The reader turns panics of the parquet crate into errors; only those that it lets through are findings.
static HOOK: Once = Once::new();

fn let_contained_panics_pass() {
    HOOK.call_once(|| {
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic_is_contained() {
                abort(panic);
            }
        }));
    });
}

fuzz_target!(|data: &[u8]| {
    let_contained_panics_pass();
    let path = Path::new("fuzz.parquet");
    let bytes = bytes::Bytes::copy_from_slice(data);
    let names = parquet::columns(bytes.clone(), path).unwrap_or_default();
    for wanted in common::wanted(&names) {
        common::check(parquet::parse(bytes.clone(), path, &wanted));
    }
});
