//! No bytes make the reader panic, or hand over a table that contradicts itself.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use polytask::data::sources::arff;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("fuzz.arff");
    let names = arff::columns(data, path).unwrap_or_default();
    for wanted in common::wanted(&names) {
        common::check(arff::parse(data, path, &wanted));
    }
});
