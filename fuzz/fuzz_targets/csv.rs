//! No bytes make the reader panic, or hand over a table that contradicts itself.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use polytask::config::{Dialect, Encoding};
use polytask::data::sources::csv;
use polytask::data::table::{Role, Wanted};
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    // The first byte chooses the dialect, so that all of it is reached.
    let Some((&choice, text)) = data.split_first() else { return };
    let encoding = [Encoding::Utf8, Encoding::Utf8Lossy, Encoding::Latin1][usize::from(choice >> 5) % 3];
    let dialect = Dialect {
        delimiter: Some([',', '\t', ';', ' '][usize::from(choice & 3)]),
        quoting: choice & 4 == 0,
        trim: choice & 8 == 0,
        header: (choice & 16 != 0).then(|| vec!["a".into(), "b".into(), "c".into()]),
        encoding,
        na: vec!["?".into()],
    };
    let path = Path::new("fuzz.csv");
    let names = csv::columns(text, path, &dialect).unwrap_or_default();
    let roles = [Role::Text, Role::Number, Role::Category, Role::Bits];
    for shift in 0..roles.len() {
        let role = |i: usize| roles[(i + shift) % roles.len()];
        let wanted: Vec<Wanted> =
            names.iter().take(8).enumerate().map(|(i, name)| Wanted { name: name.clone(), role: role(i) }).collect();
        common::check(csv::parse(text, path, &dialect, &wanted));
    }
});
