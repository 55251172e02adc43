use super::*;
use crate::config::{Arrays, Idx, Paths};
use crate::data::table::{Cells, Role};
use ::parquet::arrow::ArrowWriter;
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float32Array, Float64Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, UInt8Array,
};
use std::sync::Arc;

fn want(name: &str, role: Role) -> Wanted {
    Wanted { name: name.into(), role }
}

fn strings(cells: &[Option<&str>]) -> Cells {
    Cells::Strings(cells.iter().map(|cell| cell.map(Into::into)).collect())
}

/// Cells as text, so that NaN equals NaN.
fn shown(table: &Table) -> Vec<String> {
    table.columns.iter().map(|(name, cells)| format!("{name}: {cells:?}")).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn save(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }

    fn root(&self) -> Option<&Path> {
        Some(self.0.path())
    }
}

fn csv_source(train: &[&str], file: Option<&str>) -> Source {
    Source::Csv(Box::new(config::Table {
        train: Paths::Many(train.iter().map(PathBuf::from).collect()),
        file: file.map_or(Paths::None, |f| Paths::One(f.into())),
        ..config::Table::default()
    }))
}

#[test]
fn files_of_a_split_follow_one_another_and_a_split_without_files_is_none() {
    let folder = Folder::new();
    folder.save("a.csv", b"x,y\n1,2\n3,4\n");
    folder.save("b.csv", b"y,x\n\n6,5\n");
    let source = csv_source(&["a.csv", "b.csv"], None);
    let wanted = [want("x", Role::Number)];
    let table = read(&source, Which::Train, folder.root(), &wanted).expect("good").expect("files");
    assert_eq!(table.columns[0].1, Cells::Numbers { shape: vec![], values: vec![1.0, 3.0, 5.0] });
    assert_eq!(table.place(2), format!("{}:3", folder.0.path().join("b.csv").display()));
    for which in [Which::Val, Which::Test, Which::All] {
        assert!(read(&source, which, folder.root(), &wanted).expect("no file").is_none());
        assert!(columns(&source, which, folder.root()).expect("no file").is_empty());
    }
    assert_eq!(columns(&source, Which::Train, folder.root()).expect("good"), ["x", "y"]);
    let whole = csv_source(&[], Some("a.csv"));
    assert_eq!(read(&whole, Which::All, folder.root(), &wanted).expect("good").map(|t| t.n_rows), Some(2));
}

fn parquet_file(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).expect("equal");
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("memory");
    writer.write(&batch).expect("memory");
    writer.close().expect("memory");
    bytes
}

#[test]
fn parquet_columns_of_every_type() {
    let folder = Folder::new();
    let dictionary: DictionaryArray<Int32Type> = vec![Some("u"), None, Some("u")].into_iter().collect();
    let path = folder.save(
        "t.parquet",
        &parquet_file(vec![
            ("int", Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(-3)]))),
            ("byte", Arc::new(UInt8Array::from(vec![1, 2, 255]))),
            ("single", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(2.0)]))),
            ("double", Arc::new(Float64Array::from(vec![1.0, f64::NAN, -0.5]))),
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("word", Arc::new(StringArray::from(vec![Some("a"), Some(""), Some("1.0")]))),
            ("large", Arc::new(LargeStringArray::from(vec!["x", "y", "z"]))),
            ("dict", Arc::new(dictionary)),
            ("hex", Arc::new(StringArray::from(vec!["f0", "00", "01"]))),
        ]),
    );
    let source = Source::Parquet(Box::new(config::Table { train: Paths::One(path), ..config::Table::default() }));
    let wanted = [
        want("word", Role::Category),
        want("int", Role::Category),
        want("byte", Role::Number),
        want("single", Role::Category),
        want("single", Role::Number),
        want("double", Role::Category),
        want("flag", Role::Category),
        want("flag", Role::Number),
        want("large", Role::Text),
        want("dict", Role::Category),
        want("hex", Role::Bits),
    ];
    let table = read(&source, Which::Train, None, &wanted).expect("good").expect("a file");
    let single = f64::from(0.1f32);
    let expected = [
        r#"word: Strings([Some("a"), None, Some("1")])"#.to_owned(),
        r#"int: Strings([Some("9223372036854775807"), None, Some("-3")])"#.to_owned(),
        "byte: Numbers { shape: [], values: [1.0, 2.0, 255.0] }".to_owned(),
        r#"single: Strings([Some("0.1"), None, Some("2")])"#.to_owned(),
        format!("single: Numbers {{ shape: [], values: [{single}, NaN, 2.0] }}"),
        r#"double: Strings([Some("1"), None, Some("-0.5")])"#.to_owned(),
        r#"flag: Strings([Some("true"), None, Some("false")])"#.to_owned(),
        "flag: Numbers { shape: [], values: [1.0, NaN, 0.0] }".to_owned(),
        r#"large: Strings([Some("x"), Some("y"), Some("z")])"#.to_owned(),
        r#"dict: Strings([Some("u"), None, Some("u")])"#.to_owned(),
        "hex: Bits { width: 8, values: [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] }"
            .to_owned(),
    ];
    assert_eq!(shown(&table), expected);
    let names = columns(&source, Which::Train, None).expect("good");
    assert_eq!(names, ["int", "byte", "single", "double", "flag", "word", "large", "dict", "hex"]);
}

#[test]
fn parquet_rows_are_counted_over_batches() {
    let n = 20_000;
    let mut values: Vec<f64> = (0..n).map(f64::from).collect();
    values[17_000] = f64::INFINITY;
    let bytes = parquet_file(vec![("x", Arc::new(Float64Array::from(values)))]);
    let error = parquet::parse(bytes::Bytes::from(bytes), Path::new("t.parquet"), &[want("x", Role::Number)]);
    let message = error.expect_err("infinite").to_string();
    assert_eq!(message, "t.parquet: row 17000: column `x`: inf is not a finite number; missing values are nulls");
}

const ARFF: &str = "% a comment\n@RELATION 'the weather'\n\n@attribute 'out look' {sunny, 'over cast', \"it''s\"}\n\
    @attribute temp REAL\n@Attribute wind{0,1}\n@attribute note string\n@data\n\
    % another\n'over cast', 1.50 ,0,'a \\'b\\', c'\n\n\tsunny,?,1,?\n\"it''s\",-2e1,1,\"x\"\n";

#[test]
fn arff_attributes_and_rows() {
    let folder = Folder::new();
    let path = folder.save("w.arff", ARFF.as_bytes());
    let source = Source::Arff(Box::new(config::Table { train: Paths::One(path), ..config::Table::default() }));
    let wanted = [
        want("note", Role::Text),
        want("wind", Role::Number),
        want("temp", Role::Number),
        want("out look", Role::Category),
        want("temp", Role::Category),
    ];
    let table = read(&source, Which::Train, None, &wanted).expect("good").expect("a file");
    let expected = [
        r#"note: Strings([Some("a 'b', c"), None, Some("x")])"#,
        "wind: Numbers { shape: [], values: [0.0, 1.0, 1.0] }",
        "temp: Numbers { shape: [], values: [1.5, NaN, -20.0] }",
        r#"out look: Strings([Some("over cast"), Some("sunny"), Some("it''s")])"#,
        r#"temp: Strings([Some("1.5"), None, Some("-2e1")])"#,
    ];
    assert_eq!(shown(&table), expected);
    assert_eq!(table.origins[0].lines, [10, 12, 13]);
    assert_eq!(columns(&source, Which::Train, None).expect("good"), ["out look", "temp", "wind", "note"]);
}

fn idx_files(folder: &Folder) -> IdxPair {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2][..], &[1, 2, 3, 4]].concat();
    let labels = [&[0, 0, 8, 1, 0, 0, 0, 2][..], &[7, 9]].concat();
    IdxPair { images: folder.save("images", &images), labels: folder.save("labels", &labels) }
}

#[test]
fn idx_images_and_labels() {
    let folder = Folder::new();
    let source = Source::Idx(Box::new(Idx { train: idx_files(&folder), val: None, test: None, split: None }));
    let wanted = [want("label", Role::Category), want("image", Role::Image)];
    let table = read(&source, Which::Train, None, &wanted).expect("good").expect("files");
    assert_eq!(table.columns[0].1, strings(&[Some("7"), Some("9")]));
    assert_eq!(table.columns[1].1, Cells::Bytes { shape: vec![1, 2], values: vec![1, 2, 3, 4] });
    assert_eq!(columns(&source, Which::Train, None).expect("good"), idx::COLUMNS);
    assert!(read(&source, Which::Val, None, &wanted).expect("no file").is_none());
    let images = read_for_predict(&source, &folder.0.path().join("images"), &wanted[1..]).expect("good");
    assert_eq!(images.columns[0].1, table.columns[1].1);
}

#[test]
fn multimnist_pairs_and_their_splits() {
    let folder = Folder::new();
    let files = idx_files(&folder);
    let recipe = MultiMnist { train: files.clone(), test: files, n_train: 3, n_val: 0, n_test: 2, seed: 1 };
    let source = Source::Multimnist(Box::new(recipe));
    let wanted = [want("image", Role::Image), want("left", Role::Category), want("right", Role::Category)];
    let table = read(&source, Which::Train, None, &wanted).expect("good").expect("pairs");
    assert_eq!((table.n_rows, columns(&source, Which::Test, None).expect("good").len()), (3, 3));
    assert!(matches!(&table.columns[0].1, Cells::Bytes { shape, .. } if shape == &[9, 10]));
    assert_eq!(read(&source, Which::Test, None, &wanted).expect("good").map(|t| t.n_rows), Some(2));
    assert!(read(&source, Which::Val, None, &wanted).expect("no pairs").is_none());
    assert!(columns(&source, Which::Val, None).expect("no pairs").is_empty());
}

#[test]
fn predict_reads_by_the_file_name_first() {
    let folder = Folder::new();
    let source = csv_source(&["train.csv"], None);
    let wanted = [want("x", Role::Number), want("c", Role::Category)];
    let expected = ["x: Numbers { shape: [], values: [1.5, NaN] }", r#"c: Strings([Some("a"), Some("2")])"#];
    let json = "{\"c\": \"a\", \"x\": 1.5, \"more\": [1]}\n\n{\"x\": null, \"c\": 2.0}\n";
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"c\tx\na\t1.5\n2.0\t\n").expect("memory");
    let files = [
        folder.save("p.jsonl", json.as_bytes()),
        folder.save("p.tsv.gz", &packed.finish().expect("memory")),
        folder.save("p.data", b"x,c\n1.5,a\n,2.0\n"),
        folder.save("p.arff", b"@attribute c string\n@attribute x real\n@data\na,1.5\n2.0,?\n"),
        folder.save(
            "p.parquet",
            &parquet_file(vec![
                ("x", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
                ("c", Arc::new(StringArray::from(vec!["a", "2"]))),
            ]),
        ),
    ];
    for file in files {
        let table = read_for_predict(&source, &file, &wanted).expect("good");
        assert_eq!(shown(&table), expected, "{}", file.display());
    }
}

#[test]
fn arrays_without_files_are_none() {
    let source = Source::Arrays(Box::<Arrays>::default());
    assert!(read(&source, Which::Train, None, &[]).expect("no file").is_none());
    assert!(columns(&source, Which::Train, None).expect("no file").is_empty());
}
