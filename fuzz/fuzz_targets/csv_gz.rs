//! No bytes make the reader panic, or hand over a table that contradicts itself.
#![no_main]

mod common;

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use polytask::config::Dialect;
use polytask::data::sources::csv;
use polytask::data::table::{Role, Wanted};
use std::io::Write;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let wanted = [Wanted { name: "a".into(), role: Role::Text }];
    let path = Path::new("fuzz.csv.gz");
    // As it comes, after a gzip magic, and well packed but for one byte.
    common::check(csv::parse(data, path, &Dialect::default(), &wanted));
    let with_magic = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], data].concat();
    common::check(csv::parse(&with_magic[..], path, &Dialect::default(), &wanted));
    let Some((&at, text)) = data.split_first() else { return };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    if encoder.write_all(b"a\n").and_then(|()| encoder.write_all(text)).is_err() {
        return;
    }
    let Ok(mut packed) = encoder.finish() else { return };
    let n = packed.len();
    packed[usize::from(at) % n] ^= 1 << (at & 7);
    common::check(csv::parse(&packed[..], path, &Dialect::default(), &wanted));
});
