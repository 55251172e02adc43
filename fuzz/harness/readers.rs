//! Readers of data files: no bytes make one panic, or hand over a table that contradicts itself.

use flate2::{Compression, write::GzEncoder};
use polytask::config::{Dialect, Encoding};
use polytask::data::DataError;
use polytask::data::sources::arrays::{self, Format};
use polytask::data::sources::idx::{self as idx_file, Idx, Pair};
use polytask::data::sources::{arff as arff_file, csv as csv_file, jsonl as jsonl_file, parquet as parquet_file};
use polytask::data::table::{Role, Table, Wanted};
use std::io::Write;
use std::path::Path;
use std::sync::Once;

/// Up to eight columns, wanted as each role in turn.
fn wanted(names: &[String]) -> Vec<Vec<Wanted>> {
    let roles = [Role::Number, Role::Category, Role::Bits, Role::Text, Role::Image];
    let want = |role| names.iter().take(8).map(|name| Wanted { name: name.clone(), role }).collect();
    // All columns together, then each alone: one that cannot be read hides those after it.
    let alone = names.iter().take(8).flat_map(|n| roles.map(|role| vec![Wanted { name: n.clone(), role }]));
    roles.map(want).into_iter().chain(alone).collect()
}

/// Checks that a table agrees with itself, and that an error names the file.
fn check(result: Result<Table, DataError>) {
    match result {
        Ok(table) => {
            assert!(table.n_rows > 0 || table.columns.is_empty());
            for (name, cells) in &table.columns {
                assert_eq!(cells.n_rows(), table.n_rows, "column {name}");
            }
            for origin in &table.origins {
                assert!(origin.lines.is_empty() || origin.lines.len() == table.n_rows);
            }
        }
        Err(error) => named(&error),
    }
}

fn named(error: &DataError) {
    let text = error.to_string();
    assert!(text.starts_with("fuzz."), "no file is named: {text}");
}

/// The names of the columns; none where they cannot be read.
fn columns(found: Result<Vec<String>, DataError>) -> Vec<String> {
    found.inspect_err(named).unwrap_or_default()
}

pub fn arff(data: &[u8]) {
    let path = Path::new("fuzz.arff");
    for wanted in wanted(&columns(arff_file::columns(data, path))) {
        check(arff_file::parse(data, path, &wanted));
    }
}

/// The first byte chooses the dialect, so that all of it is reached.
pub fn csv(data: &[u8]) {
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
    let names = columns(csv_file::columns(text, path, &dialect));
    let roles = [Role::Text, Role::Number, Role::Category, Role::Bits];
    for shift in 0..roles.len() {
        let role = |i: usize| roles[(i + shift) % roles.len()];
        let wanted: Vec<Wanted> =
            names.iter().take(8).enumerate().map(|(i, name)| Wanted { name: name.clone(), role: role(i) }).collect();
        check(csv_file::parse(text, path, &dialect, &wanted));
    }
}

/// As it comes, after a gzip magic, and well packed but for one bit.
pub fn csv_gz(data: &[u8]) {
    let wanted = [Wanted { name: "a".into(), role: Role::Text }];
    let path = Path::new("fuzz.csv.gz");
    check(csv_file::parse(data, path, &Dialect::default(), &wanted));
    let with_magic = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], data].concat();
    check(csv_file::parse(&with_magic[..], path, &Dialect::default(), &wanted));
    let Some((&at, text)) = data.split_first() else { return };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    if encoder.write_all(b"a\n").and_then(|()| encoder.write_all(text)).is_err() {
        return;
    }
    let Ok(mut packed) = encoder.finish() else { return };
    let n = packed.len();
    packed[usize::from(at) % n] ^= 1 << (at & 7);
    check(csv_file::parse(&packed[..], path, &Dialect::default(), &wanted));
}

/// The first byte says where the images end and the labels begin.
pub fn idx(data: &[u8]) {
    let path = Path::new("fuzz.idx");
    for axes in 0..=4 {
        Idx::parse(data, path, axes).map_or_else(|e| named(&e), drop);
    }
    let Some((&at, data)) = data.split_first() else { return };
    let (images, labels) = data.split_at(usize::from(at).min(data.len()));
    let wanted = [("image", Role::Image), ("label", Role::Category)].map(|(n, role)| Wanted { name: n.into(), role });
    match Pair::parse((images, path), (labels, path)) {
        Ok(pair) => check(idx_file::table(pair, path, &wanted)),
        Err(error) => named(&error),
    }
}

pub fn jsonl(data: &[u8]) {
    for wanted in wanted(&["a".to_owned(), "b".to_owned()]) {
        check(jsonl_file::parse(data, Path::new("fuzz.jsonl"), &wanted));
    }
}

pub fn npy(data: &[u8]) {
    array(data, "fuzz.npy", Format::Npy);
}

pub fn npz(data: &[u8]) {
    array(data, "fuzz.npz", Format::Npz);
}

pub fn safetensors(data: &[u8]) {
    array(data, "fuzz.safetensors", Format::SafeTensors);
}

fn array(data: &[u8], name: &str, format: Format) {
    let path = Path::new(name);
    for wanted in wanted(&columns(arrays::columns(data, path, format))) {
        check(arrays::parse(data, path, format, &wanted));
    }
}

/// The reader turns panics of the parquet crate into errors; only those that it lets through are findings.
fn let_contained_panics_pass() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !polytask::data::sources::panic_is_contained() {
                usual(panic);
            }
        }));
    });
}

pub fn parquet(data: &[u8]) {
    let_contained_panics_pass();
    let path = Path::new("fuzz.parquet");
    let bytes = bytes::Bytes::copy_from_slice(data);
    for wanted in wanted(&columns(parquet_file::columns(bytes.clone(), path))) {
        check(parquet_file::parse(bytes.clone(), path, &wanted));
    }
}
