//! No bytes make the reader panic, or hand over a table that contradicts itself.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use polytask::data::sources::parquet;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("fuzz.parquet");
    let bytes = bytes::Bytes::copy_from_slice(data);
    let names = parquet::columns(bytes.clone(), path).unwrap_or_default();
    for wanted in common::wanted(&names) {
        common::check(parquet::parse(bytes.clone(), path, &wanted));
    }
});
