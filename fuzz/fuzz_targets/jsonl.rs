//! No bytes make the reader panic, or hand over a table that contradicts itself.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use polytask::data::sources::jsonl;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    for wanted in common::wanted(&["a".to_owned(), "b".to_owned()]) {
        common::check(jsonl::parse(data, Path::new("fuzz.jsonl"), &wanted));
    }
});
