//! Reads real data sets, where there are any, and says how long it takes:
//! `POLYTASK_TEST_DATA=DIR cargo test --test real_data -- --ignored --nocapture`.
//!
//! `DIR` holds `tox21/data.csv.gz`, `census_income/census-income.test.gz`, `fdu_mtl/*.task.train`,
//! `mulan_mtr/rf1.arff` and `mnist/*-ubyte.gz` as their publishers give them.

use polytask::config::{Dialect, Encoding, Idx, IdxPair, MultiMnist, Paths, Source, Table as Options};
use polytask::data::sources::{Which, columns, read};
use polytask::data::table::{Cells, Role, Table, Wanted};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The folder of the data sets, or `None` with a line that says so.
fn data() -> Option<PathBuf> {
    let dir = std::env::var_os("POLYTASK_TEST_DATA").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: POLYTASK_TEST_DATA names no folder of data sets");
    }
    dir
}

fn table(path: impl Into<PathBuf>, dialect: Dialect) -> Box<Options> {
    Box::new(Options { train: Paths::One(path.into()), dialect, ..Options::default() })
}

/// Reads all columns; the role of each by its index.
fn timed(source: &Source, root: &Path, role: impl Fn(usize) -> Role) -> Table {
    let names = columns(source, Which::Train, Some(root)).expect("a header");
    let wanted: Vec<Wanted> = names.into_iter().enumerate().map(|(i, name)| Wanted { name, role: role(i) }).collect();
    let start = Instant::now();
    let table = read(source, Which::Train, Some(root), &wanted).expect("good data").expect("a file");
    println!("{} rows x {} columns in {:.3} s", table.n_rows, table.columns.len(), start.elapsed().as_secs_f64());
    table
}

fn n_missing(cells: &Cells) -> usize {
    match cells {
        Cells::Strings(values) => values.iter().filter(|v| v.is_none()).count(),
        Cells::Numbers { values, .. } => values.iter().filter(|v| v.is_nan()).count(),
        _ => 0,
    }
}

#[test]
#[ignore = "needs data sets: set POLYTASK_TEST_DATA"]
fn tox21() {
    let Some(root) = data() else { return };
    let source = Source::Csv(table("tox21/data.csv.gz", Dialect::default()));
    let table = timed(&source, &root, |i| if i == 13 { Role::Bits } else { Role::Category });
    assert_eq!(table.n_rows, 8006);
    assert!(matches!(&table.columns[13].1, Cells::Bits { width: 1024, .. }));
    let missing: usize = table.columns[1..13].iter().map(|(_, cells)| n_missing(cells)).sum();
    assert_eq!(12 * 8006 - missing, 79_491, "labels that are there");
}

#[test]
#[ignore = "needs data sets: set POLYTASK_TEST_DATA"]
fn census() {
    let Some(root) = data() else { return };
    let header = (0..42).map(|i| format!("c{i}")).collect();
    let dialect = Dialect { header: Some(header), ..Dialect::default() };
    let source = Source::Csv(table("census_income/census-income.test.gz", dialect));
    let numeric = [0, 5, 16, 17, 18, 24, 30, 39];
    let table = timed(&source, &root, |i| if numeric.contains(&i) { Role::Number } else { Role::Category });
    assert_eq!(table.n_rows, 99_762);
    let Cells::Strings(income) = &table.columns[41].1 else { panic!("a category") };
    assert!(income.iter().flatten().all(|c| matches!(&**c, "- 50000." | "50000+.")));
}

#[test]
#[ignore = "needs data sets: set POLYTASK_TEST_DATA"]
fn fdu_mtl() {
    let Some(root) = data() else { return };
    let dialect = Dialect {
        delimiter: Some('\t'),
        quoting: false,
        header: Some(vec!["label".into(), "text".into()]),
        encoding: Encoding::Utf8Lossy,
        ..Dialect::default()
    };
    let mut n_rows = 0;
    for file in std::fs::read_dir(root.join("fdu_mtl")).expect("the folder").flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.ends_with(".task.train") {
            print!("{name}: ");
            let source = Source::Csv(table(file.path(), dialect.clone()));
            let table = timed(&source, &root, |i| if i == 0 { Role::Category } else { Role::Text });
            let Cells::Strings(labels) = &table.columns[0].1 else { panic!("a category") };
            assert!(labels.iter().flatten().all(|c| matches!(&**c, "0" | "1")), "{name}");
            n_rows += table.n_rows;
        }
    }
    assert_eq!(n_rows, 25_380);
}

#[test]
#[ignore = "needs data sets: set POLYTASK_TEST_DATA"]
fn rf1() {
    let Some(root) = data() else { return };
    let source = Source::Arff(table("mulan_mtr/rf1.arff", Dialect::default()));
    let table = timed(&source, &root, |_| Role::Number);
    assert_eq!((table.n_rows, table.columns.len()), (9125, 72));
}

#[test]
#[ignore = "needs data sets: set POLYTASK_TEST_DATA"]
fn mnist_and_multimnist() {
    let Some(root) = data() else { return };
    let pair = |part: &str| IdxPair {
        images: format!("mnist/{part}-images-idx3-ubyte.gz").into(),
        labels: format!("mnist/{part}-labels-idx1-ubyte.gz").into(),
    };
    let role = |i: usize| if i == 0 { Role::Image } else { Role::Category };
    let source = Source::Idx(Box::new(Idx { train: pair("train"), val: None, test: None, split: None }));
    assert_eq!(timed(&source, &root, role).n_rows, 60_000);
    let recipe = MultiMnist {
        train: pair("train"),
        test: pair("t10k"),
        n_train: 60_000,
        n_val: 10_000,
        n_test: 10_000,
        seed: 0,
    };
    let table = timed(&Source::Multimnist(Box::new(recipe)), &root, role);
    assert!(matches!(&table.columns[0].1, Cells::Bytes { shape, .. } if shape == &[36, 36]));
}
