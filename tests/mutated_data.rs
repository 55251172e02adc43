//! Good files with a few bytes changed, cut out or doubled: a reader answers with a table that agrees with itself or
//! with an error, never with a panic. A short relative of the targets in `fuzz/`, for every test run.
//! `POLYTASK_MUTATIONS=N` sets how many each format gets.

#[path = "broken_data/files.rs"]
mod files;

use polytask::config::Dialect;
use polytask::data::DataError;
use polytask::data::sources::arrays::Format;
use polytask::data::sources::{arff, arrays, csv, idx, jsonl, parquet};
use polytask::data::table::{Role, Table, Wanted};
use polytask::rng::{ChaCha8Rng, Stream, rng};
use rand::Rng;
use std::path::Path;

const ROLES: [Role; 5] = [Role::Number, Role::Category, Role::Bits, Role::Text, Role::Image];

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    (rng.next_u64() % n.max(1) as u64) as usize
}

/// One to four small changes.
fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..1 + below(rng, 4) {
        let at = below(rng, bytes.len());
        let to = (at + 1 + below(rng, 8)).min(bytes.len());
        match below(rng, 8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => bytes.extend_from_within(at..),
            3 => bytes.splice(at..at, b"\xff\xff\xff\x7f".iter().copied()).for_each(drop),
            4 => bytes[at..to].fill([0, 0xff, b'"', b'\n'][at % 4]),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << below(rng, 8);
                }
            }
        }
    }
}

fn check(result: Result<Table, DataError>) {
    match result {
        Ok(table) => {
            for (name, cells) in &table.columns {
                assert_eq!(cells.n_rows(), table.n_rows, "column {name}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Reads mutations of `good`: `names` lists the columns, `read` reads those that are wanted.
fn survive(
    good: &[u8],
    names: impl Fn(&[u8]) -> Result<Vec<String>, DataError>,
    read: impl Fn(&[u8], &[Wanted]) -> Result<Table, DataError>,
) {
    let all = names(good).expect("a good file");
    assert!(!all.is_empty());
    let n = std::env::var("POLYTASK_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    for item in 0..n {
        let mut rng = rng(1, Stream::Recipe, 0, item);
        let mut bytes = good.to_vec();
        mutate(&mut bytes, &mut rng);
        let names = names(&bytes).unwrap_or_else(|_| all.clone());
        let role = ROLES[below(&mut rng, ROLES.len())];
        let wanted: Vec<Wanted> = names.into_iter().map(|name| Wanted { name, role }).collect();
        check(read(&bytes, &wanted));
        for one in &wanted {
            check(read(&bytes, std::slice::from_ref(one)));
        }
    }
}

const CSV: &str = "a,b,c\n1,\"x \"\"q\"\"\ny\",0f\n,?,00\r\n\n2.0,caf\u{e9} ,ff\n";

#[test]
fn delimited_text() {
    let (path, dialect) = (Path::new("t.csv"), Dialect::default());
    let names = |bytes: &[u8]| csv::columns(bytes, path, &dialect);
    survive(CSV.as_bytes(), names, |bytes, wanted| csv::parse(bytes, path, &dialect, wanted));
    survive(&files::gzip(CSV.as_bytes()), names, |bytes, wanted| csv::parse(bytes, path, &dialect, wanted));
}

#[test]
fn attribute_relations() {
    let good = "% c\n@relation r\n@attribute x real\n@attribute 'c d' {red, 'light \\'blue'}\n@attribute s string\n\
        @data\n1,red,'a,b'\n?,?,?\n-2e1,\"light 'blue\",x\n";
    let path = Path::new("t.arff");
    survive(good.as_bytes(), |bytes| arff::columns(bytes, path), |bytes, wanted| arff::parse(bytes, path, wanted));
}

#[test]
fn json_lines() {
    let good = "{\"a\": 1, \"b\": \"x\"}\n{\"a\": null, \"b\": true}\n{\"a\": -0.5e3}\n";
    let path = Path::new("t.jsonl");
    let names = |_: &[u8]| Ok(vec!["a".to_owned(), "b".to_owned()]);
    survive(good.as_bytes(), names, |bytes, wanted| jsonl::parse(bytes, path, wanted));
}

#[test]
fn parquet_files() {
    let path = Path::new("t.parquet");
    let shared = |bytes: &[u8]| bytes::Bytes::copy_from_slice(bytes);
    survive(
        &files::parquet(),
        |bytes| parquet::columns(shared(bytes), path),
        |bytes, wanted| parquet::parse(shared(bytes), path, wanted),
    );
}

#[test]
fn array_files() {
    let npy = files::npy("<f4", "(2, 2)", &[0; 16]);
    let header = r#"{"x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"y":{"dtype":"I64","shape":[2],"data_offsets":[16,32]}}"#;
    let tensors = files::safetensors(header, &[0; 32]);
    let zip = files::npz(&npy);
    for (good, format) in [(npy, Format::Npy), (tensors, Format::SafeTensors), (zip, Format::Npz)] {
        let path = Path::new("x");
        survive(
            &good,
            |bytes| arrays::columns(bytes, path, format),
            |bytes, wanted| arrays::parse(bytes, path, format, wanted),
        );
    }
}

#[test]
fn idx_files() {
    let (images, labels) = (files::idx(&[2, 1, 2], &[1, 2, 3, 4]), files::idx(&[2], &[1, 2]));
    let path = Path::new("t.idx");
    survive(
        &images,
        |_| Ok(vec!["image".to_owned(), "label".to_owned()]),
        |bytes, wanted| idx::table(idx::Pair::parse((bytes, path), (&labels[..], path))?, path, wanted),
    );
}
