//! No bytes make the reader panic, or hand over a table that contradicts itself.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use polytask::data::sources::arrays::{self, Format};
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("fuzz.npy");
    let names = arrays::columns(data, path, Format::Npy).unwrap_or_default();
    for wanted in common::wanted(&names) {
        common::check(arrays::parse(data, path, Format::Npy, &wanted));
    }
});
