//! No bytes make the reader panic, or hand over a table that contradicts itself.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use polytask::data::sources::idx::{self, Idx, Pair};
use polytask::data::table::{Role, Wanted};
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("fuzz.idx");
    for axes in 0..=4 {
        let _ = Idx::parse(data, path, axes);
    }
    // The first byte says where the images end and the labels begin.
    let Some((&at, data)) = data.split_first() else { return };
    let (images, labels) = data.split_at(usize::from(at).min(data.len()));
    let wanted = [("image", Role::Image), ("label", Role::Category)].map(|(n, role)| Wanted { name: n.into(), role });
    if let Ok(pair) = Pair::parse((images, path), (labels, path)) {
        common::check(idx::table(pair, path, &wanted));
    }
});
