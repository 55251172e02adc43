//! Broken data files, each with the exact message: file, place, column, what is wrong, and the way out.

mod broken_data {
    pub mod files;
}

use broken_data::files::{self, gzip};
use polytask::config::{Arrays, Dialect, Encoding, Idx, IdxPair, MultiMnist, Paths, Source, Table};
use polytask::data::sources::{Which, read, read_for_predict};
use polytask::data::table::{Role, Wanted};
use std::path::{Path, PathBuf};

/// Files, how they are read, and the message. `{dir}/` is taken out of messages.
struct Case {
    files: Vec<(&'static str, Vec<u8>)>,
    source: Source,
    wanted: Vec<Wanted>,
    message: &'static str,
}

fn want(name: &str, role: Role) -> Wanted {
    Wanted { name: name.into(), role }
}

fn table(files: &[&str], dialect: Dialect) -> Box<Table> {
    let train = Paths::Many(files.iter().map(PathBuf::from).collect());
    Box::new(Table { train, dialect, ..Table::default() })
}

fn csv_with(bytes: impl Into<Vec<u8>>, dialect: Dialect, wanted: Wanted, message: &'static str) -> Case {
    named("t.csv", bytes, Source::Csv(table(&["t.csv"], dialect)), wanted, message)
}

fn csv(bytes: impl Into<Vec<u8>>, wanted: Wanted, message: &'static str) -> Case {
    csv_with(bytes, Dialect::default(), wanted, message)
}

fn named(file: &'static str, bytes: impl Into<Vec<u8>>, source: Source, wanted: Wanted, message: &'static str) -> Case {
    Case { files: vec![(file, bytes.into())], source, wanted: vec![wanted], message }
}

fn parquet(bytes: impl Into<Vec<u8>>, wanted: Wanted, message: &'static str) -> Case {
    named("t.parquet", bytes, Source::Parquet(table(&["t.parquet"], Dialect::default())), wanted, message)
}

fn arff(text: &str, wanted: Wanted, message: &'static str) -> Case {
    named("t.arff", text, Source::Arff(table(&["t.arff"], Dialect::default())), wanted, message)
}

fn arrays(files: Vec<(&'static str, Vec<u8>)>, wanted: Vec<Wanted>, message: &'static str) -> Case {
    let train = Paths::Many(files.iter().map(|(name, _)| PathBuf::from(name)).collect());
    let source = Source::Arrays(Box::new(Arrays { train, ..Arrays::default() }));
    Case { files, source, wanted, message }
}

fn npy(bytes: Vec<u8>, role: Role, message: &'static str) -> Case {
    arrays(vec![("x.npy", bytes)], vec![want("x", role)], message)
}

fn idx(images: Vec<u8>, labels: Vec<u8>, message: &'static str) -> Case {
    let train = IdxPair { images: "images".into(), labels: "labels".into() };
    let source = Source::Idx(Box::new(Idx { train, val: None, test: None, split: None }));
    let wanted = vec![want("image", Role::Image), want("label", Role::Category)];
    Case { files: vec![("images", images), ("labels", labels)], source, wanted, message }
}

fn csv_cases() -> Vec<Case> {
    let number = || want("x", Role::Number);
    let utf16: Vec<u8> = "x\n1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin1 = || Dialect { encoding: Encoding::Latin1, ..Dialect::default() };
    vec![
        csv("", number(), "t.csv: the file is empty"),
        csv("x,y\n", number(), "t.csv: no rows"),
        csv("\n\n", number(), "t.csv: the file is empty"),
        csv(
            "income,age\n1,2\n",
            want("incom", Role::Category),
            "t.csv: column `incom`: not in this file; did you mean `income`? It has `income`, `age`",
        ),
        csv(
            "a,b\n1,2\n",
            want("education", Role::Category),
            "t.csv: column `education`: not in this file, which has `a`, `b`",
        ),
        csv("x,y,x\n1,2,3\n", number(), "t.csv: column `x`: several columns have this name"),
        csv(
            "x;y\n1;2\n",
            number(),
            "t.csv: column `x`: not in this file, whose header is one cell, `x;y`; is it delimited by `;`? Then set `dialect.delimiter`",
        ),
        csv("x,y\n1,2\n\n3\n", number(), "t.csv:4: 1 cell, but the header has 2 cells"),
        csv(
            "x,y\n\"1\n\",2\n3,4,5\n",
            want("x", Role::Text),
            "t.csv:4: 3 cells, but the header has 2 cells; cells that hold the delimiter must be quoted",
        ),
        csv_with(
            "1,2\n",
            Dialect { header: Some(vec!["x".into()]), ..Dialect::default() },
            number(),
            "t.csv:1: 2 cells, but `dialect.header` has 1 cell; cells that hold the delimiter must be quoted",
        ),
        csv(
            "x,y\n1,2\nabc,4\n",
            number(),
            "t.csv:3: column `x`: `abc` is not a number; if it means \"missing\", list it in `dialect.na`",
        ),
        csv(
            "x\n1\nNaN\n",
            number(),
            "t.csv:3: column `x`: `NaN` is not a finite number; if it means \"missing\", list it in `dialect.na`",
        ),
        csv(
            "x\n-inf\n",
            number(),
            "t.csv:2: column `x`: `-inf` is not a finite number; if it means \"missing\", list it in `dialect.na`",
        ),
        csv("x\n1e999\n", number(), "t.csv:2: column `x`: `1e999` is too large a number"),
        csv(
            "x\n\"1\t\n2\"\n",
            number(),
            "t.csv:2: column `x`: `1\\t\\n2` is not a number; if it means \"missing\", list it in `dialect.na`",
        ),
        csv("fp\n0f\n0g\n", want("fp", Role::Bits), "t.csv:3: column `fp`: `g` is not a hexadecimal digit"),
        csv(
            "fp\n0f\n0f0\n",
            want("fp", Role::Bits),
            "t.csv:3: column `fp`: 3 hexadecimal digits, but 2 in the first row",
        ),
        csv(
            "fp,y\n0f,1\n,1\n",
            want("fp", Role::Bits),
            "t.csv:3: column `fp`: the bit string is missing; every row needs one",
        ),
        csv(
            "x,y\n1,2\n3,\"open\n4,5\n",
            number(),
            "t.csv:3: column `y`: a quote is opened and never closed; `dialect.quoting: false` reads quotes as text",
        ),
        csv(
            "x,y\n1,\"a\"b\n",
            number(),
            "t.csv:2: column `y`: text after a closing quote; double the quotes within a quoted cell, or set `dialect.quoting: false`",
        ),
        csv(
            &b"x,y\n1,2\n3,caf\xe9\n"[..],
            number(),
            "t.csv:3: column `y`: byte 0xe9 is not UTF-8; set `dialect.encoding` to `latin1` or `utf8_lossy`",
        ),
        csv_with(
            &b"x,y\n1,2\n3,\0\n"[..],
            latin1(),
            number(),
            "t.csv:3: column `y`: holds a NUL byte: not a text file, or UTF-16 (save it as UTF-8)",
        ),
        csv([&[0xff, 0xfe][..], &utf16].concat(), number(), "t.csv: the file is UTF-16; save it as UTF-8"),
        csv(utf16, number(), "t.csv:1: holds a NUL byte: not a text file, or UTF-16 (save it as UTF-8)"),
        csv(
            "x,y\r1,2\r",
            number(),
            "t.csv:1: lines end in carriage returns alone; convert the file, for example with `tr '\\r' '\\n'`",
        ),
        csv(
            "x\n1\n",
            want("x", Role::Image),
            "t.csv: column `x`: images cannot be read from tables; use a source of `arrays` or `idx`",
        ),
        csv_with(
            "x\n1\n",
            Dialect { delimiter: Some('\u{a7}'), ..Dialect::default() },
            number(),
            "dialect.delimiter: `\u{a7}` cannot delimit cells; give one ASCII character",
        ),
    ]
}

fn gzip_cases() -> Vec<Case> {
    let source = |file: &str| Source::Csv(table(&[file], Dialect::default()));
    let number = || want("x", Role::Number);
    let whole = gzip(b"x\n1\n2\n3\n");
    let mut corrupt = whole.clone();
    let n = corrupt.len();
    corrupt[n - 6] ^= 1;
    vec![
        named(
            "t.csv.gz",
            "x\n1\n",
            source("t.csv.gz"),
            number(),
            "t.csv.gz: not gzip data, although the name ends in `.gz`",
        ),
        named(
            "t.csv.gz",
            &whole[..n - 9],
            source("t.csv.gz"),
            number(),
            "t.csv.gz:5: the gzip data ends early: the file is truncated; copy it again",
        ),
        named(
            "t.csv.gz",
            &whole[..5],
            source("t.csv.gz"),
            number(),
            "t.csv.gz:1: the gzip data ends early: the file is truncated; copy it again",
        ),
        named(
            "t.csv.gz",
            corrupt,
            source("t.csv.gz"),
            number(),
            "t.csv.gz:5: the gzip data is damaged (corrupt gzip stream does not have a matching checksum)",
        ),
        named("t.csv.gz", "", source("t.csv.gz"), number(), "t.csv.gz: the file is empty"),
        named(
            "other",
            "",
            source("absent.csv"),
            number(),
            "absent.csv: no such file; relative paths start at `data.root`, by default the working directory",
        ),
        named("other", "", source("."), number(), ".: is a folder, not a file"),
        Case {
            files: vec![("a.csv", b"fp\n0f\n".to_vec()), ("b.csv", b"fp\n0f0f\n".to_vec())],
            source: Source::Csv(table(&["a.csv", "b.csv"], Dialect::default())),
            wanted: vec![want("fp", Role::Bits)],
            message: "b.csv: column `fp`: bit strings of 16 bits, but 8 in the file before",
        },
    ]
}

fn parquet_cases() -> Vec<Case> {
    let good = files::parquet();
    let number = || want("x", Role::Number);
    vec![
        parquet("", number(), "t.parquet: the file is empty"),
        parquet(
            "x,y\n1,2\n",
            number(),
            "t.parquet: not a Parquet file, or a damaged one (Invalid Parquet file. Corrupt footer)",
        ),
        parquet(
            &good[..good.len() - 20],
            number(),
            "t.parquet: not a Parquet file, or a damaged one (Invalid Parquet file. Corrupt footer)",
        ),
        parquet(
            good.clone(),
            want("wrod", Role::Text),
            "t.parquet: column `wrod`: not in this file; did you mean `word`? It has `x`, `nan`, `word`, `list`",
        ),
        parquet(
            good.clone(),
            want("nan", Role::Number),
            "t.parquet: row 1: column `nan`: NaN is not a finite number; missing values are nulls",
        ),
        parquet(good.clone(), want("word", Role::Number), "t.parquet: row 0: column `word`: `a` is not a number"),
        parquet(
            good.clone(),
            want("x", Role::Bits),
            "t.parquet: row 0: column `x`: a number where a hexadecimal string is expected",
        ),
        parquet(
            good,
            want("list", Role::Number),
            "t.parquet: column `list`: type `List(Float64)` is not read; write numbers, booleans or strings",
        ),
    ]
}

fn arff_cases() -> Vec<Case> {
    let number = || want("x", Role::Number);
    let header = "@relation r\n@attribute x real\n@attribute c {red, 'light blue'}\n@data\n";
    let body = |rows: &str| format!("{header}{rows}");
    vec![
        arff("", number(), "t.arff: the file is empty"),
        arff("@relation r\n@attribute x real\n", number(), "t.arff: ends before `@data`: the file is truncated"),
        arff("@relation r\n@data\n1\n", number(), "t.arff:2: `@data` without any `@attribute` before it"),
        arff(
            "x,y\n1,2\n",
            number(),
            "t.arff:1: `x,y` where `@relation`, `@attribute`, `@data` or a `%` comment is expected",
        ),
        arff(
            "@attribute x float\n@data\n1\n",
            number(),
            "t.arff:1: attribute `x` has the unknown type `float`; expected numeric, real, integer, string, date or {a, b, ...}",
        ),
        arff("@attribute 'x real\n@data\n1\n", number(), "t.arff:1: the quote before `x real` is never closed"),
        arff(
            "@attribute x {a, b\n@data\na\n",
            number(),
            "t.arff:1: the list of values of attribute `x` has no closing brace",
        ),
        arff(&body("1,red\n2\n"), number(), "t.arff:6: 1 cell, but 2 attributes"),
        arff(
            &body("{0 1, 1 red}\n"),
            number(),
            "t.arff:5: sparse rows `{index value, ...}` are not read; write dense rows (Weka: SparseToNonSparse)",
        ),
        arff(&body("1,red,{5}\n"), number(), "t.arff:5: instance weights `{...}` at the end of a row are not read"),
        arff(
            &body("% c\n\n1,redd\n"),
            want("c", Role::Category),
            "t.arff:7: column `c`: `redd` is not among the values that the header declares; did you mean `red`?",
        ),
        arff(&body("one,red\n"), number(), "t.arff:5: column `x`: `one` is not a number"),
        arff(&body(",red\n"), number(), "t.arff:5: cell 1 is empty; missing values are written `?`"),
        arff(&body("1,'red' x\n"), number(), "t.arff:5: `x` after a closing quote, where a comma is expected"),
        arff(header, number(), "t.arff: no rows"),
        named(
            "t.arff",
            [header.as_bytes(), b"1,\xff\n"].concat(),
            Source::Arff(table(&["t.arff"], Dialect::default())),
            number(),
            "t.arff:5: not UTF-8; convert the file, for example with `iconv -f latin1 -t utf8`",
        ),
    ]
}

fn array_cases() -> Vec<Case> {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let x = |shape: &str, values: &[f32]| files::npy("<f4", shape, &floats(values));
    vec![
        npy(Vec::new(), Role::Number, "x.npy: the file is empty"),
        npy(b"hello".to_vec(), Role::Number, "x.npy: not an npy file: it does not begin with the magic number"),
        npy(
            x("(2,)", &[1.0, 2.0])[..20].to_vec(),
            Role::Number,
            "x.npy: ends within the header: the file is truncated",
        ),
        npy(x("(3,)", &[1.0, 2.0]), Role::Number, "x.npy: shape [3] of `<f4` needs 12 bytes, but the file holds 8"),
        npy(
            x("(4000000000, 4000000000, 4000000000)", &[]),
            Role::Number,
            "x.npy: shape [4000000000, 4000000000, 4000000000] of `<f4` needs more than memory can hold bytes, but the file holds 0",
        ),
        npy(
            files::npy("|O", "(1,)", b"\x80\x04."),
            Role::Number,
            "x.npy: holds Python objects (a pickle), which could run code; save it as an array of numbers",
        ),
        npy(
            files::npy("<U5", "(1,)", &[0; 20]),
            Role::Category,
            "x.npy: elements of type `<U5` are not read; bool, integers and floats of 16 to 64 bits are",
        ),
        npy(
            x("(2, 2)", &[1.0, 2.0, 3.0, f32::NAN]),
            Role::Number,
            "x.npy: row 1: column `x`: NaN is not a finite number",
        ),
        npy(x("(2,)", &[1.0, f32::INFINITY]), Role::Category, "x.npy: row 1: column `x`: inf is not a category"),
        npy(
            x("(1, 2)", &[1.0, 2.0]),
            Role::Category,
            "x.npy: column `x`: of shape [1, 2], where one value per row is expected: [n]",
        ),
        npy(
            x("(2,)", &[1.0, 2.0]),
            Role::Image,
            "x.npy: column `x`: of shape [2], where images are [n, h, w] or [n, c, h, w]",
        ),
        npy(x("()", &[1.0]), Role::Number, "x.npy: column `x`: a single value; the first axis must count rows"),
        npy(x("(0,)", &[]), Role::Number, "x.npy: column `x`: no rows"),
        arrays(
            vec![("x.npy", x("(2,)", &[1.0, 2.0])), ("y.npy", x("(1,)", &[1.0]))],
            vec![want("x", Role::Number), want("y", Role::Number)],
            "y.npy: column `y`: 1 row, but 2 in `x`",
        ),
        arrays(
            vec![("x.npy", x("(1,)", &[1.0]))],
            vec![want("y", Role::Number)],
            "x.npy: column `y`: not in this file; did you mean `x`? It has `x`",
        ),
        arrays(
            vec![("x.h5", b"HDF".to_vec())],
            vec![want("x", Role::Number)],
            "x.h5: arrays are read from `.npy`, `.npz` and `.safetensors` files",
        ),
        arrays(
            vec![("d.npz", b"PK\x03\x04".to_vec())],
            vec![want("x", Role::Number)],
            "d.npz: not an npz file, or a damaged one (invalid Zip archive: Invalid zip header)",
        ),
        arrays(
            vec![("d.npz", files::npz_with_a_wrong_checksum(&x("(2,)", &[1.0, 2.0])))],
            vec![want("x", Role::Number)],
            "d.npz: column `x`: the archive is damaged (Invalid checksum)",
        ),
        arrays(
            vec![("d.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}".to_vec())],
            vec![want("x", Role::Number)],
            "d.safetensors: not a safetensors file, or a damaged one (header too large)",
        ),
        arrays(
            vec![(
                "d.safetensors",
                files::safetensors(r#"{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, &[0; 8]),
            )],
            vec![want("x", Role::Number)],
            "d.safetensors: not a safetensors file, or a damaged one (invalid shape, data type, or offset for tensor)",
        ),
    ]
}

fn idx_cases() -> Vec<Case> {
    let images = files::idx(&[2, 1, 2], &[1, 2, 3, 4]);
    let labels = files::idx(&[2], &[0, 1]);
    let recipe = |n_train| {
        let files = IdxPair { images: "images".into(), labels: "labels".into() };
        Source::Multimnist(Box::new(MultiMnist {
            train: files.clone(),
            test: files,
            n_train,
            n_val: 1,
            n_test: 1,
            seed: 0,
        }))
    };
    vec![
        idx(Vec::new(), labels.clone(), "images: the file is empty"),
        idx(b"GIF89a".to_vec(), labels.clone(), "images: not an IDX file: it does not begin with two zero bytes"),
        idx(labels.clone(), images.clone(), "images: 1 axis, where 3 are expected; are `images` and `labels` swapped?"),
        idx(
            [&[0, 0, 13, 3][..], &images[4..]].concat(),
            labels.clone(),
            "images: elements of type 0x0d, where unsigned bytes (0x08) are expected",
        ),
        idx(
            images[..images.len() - 1].to_vec(),
            labels.clone(),
            "images: shape [2, 1, 2] needs 4 bytes, but only 3 follow: the file is truncated",
        ),
        idx([&images[..], &[0]].concat(), labels.clone(), "images: more bytes follow than the 4 of shape [2, 1, 2]"),
        idx(images[..9].to_vec(), labels.clone(), "images: ends within the header: the file is truncated"),
        idx(
            files::idx(&[u32::MAX, u32::MAX, u32::MAX], &[]),
            labels.clone(),
            "images: shape [4294967295, 4294967295, 4294967295] is more than memory can hold",
        ),
        idx(files::idx(&[0, 1, 2], &[]), labels.clone(), "images: shape [0, 1, 2]: no rows"),
        idx(images.clone(), files::idx(&[1], &[0]), "labels: 1 label, but 2 images in images"),
        idx(
            gzip(&images)[..25].to_vec(),
            labels.clone(),
            "images: the gzip data ends early: the file is truncated; copy it again",
        ),
        Case {
            source: recipe(1),
            wanted: vec![want("middle", Role::Category)],
            message: "images: column `middle`: not in this file, which has `image`, `left`, `right`",
            ..idx(files::idx(&[2, 1, 2], &[0; 4]), labels.clone(), "")
        },
        Case {
            source: recipe(1),
            message: "images: 1 image to draw pairs from; at least 2 are needed",
            ..idx(files::idx(&[1, 1, 2], &[0; 2]), files::idx(&[1], &[0]), "")
        },
    ]
}

fn message_of(case: &Case) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in &case.files {
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    match read(&case.source, Which::Train, Some(dir.path()), &case.wanted) {
        Ok(table) => format!("no error: {table:?}"),
        Err(error) => error.to_string().replace(&format!("{}/", dir.path().display()), ""),
    }
}

#[test]
fn each_broken_file_has_its_message() {
    let groups = [csv_cases(), gzip_cases(), parquet_cases(), arff_cases(), array_cases(), idx_cases()];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    assert!(cases.len() >= 30, "{} cases", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .map(|case| (message_of(case), case.message))
        .filter(|(found, expected)| found != expected)
        .map(|(found, expected)| format!("expected {expected}\n   found {found}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {} messages differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn each_broken_json_line_has_its_message() {
    let cases = [
        ("", "p.jsonl: no rows"),
        (
            "{\"x\": 1}\n[1]\n",
            "p.jsonl:2: not a JSON object on one line (column 0): invalid type: sequence, expected a map",
        ),
        ("{\"x\": 1\n", "p.jsonl:1: not a JSON object on one line (column 7): EOF while parsing an object"),
        ("{\"y\": 1}\n", "p.jsonl: column `x`: not in this file; did you mean `y`? It has `y`"),
        ("{\"x\": {\"y\": 1}}\n", "p.jsonl:1: column `x`: a nested value; give a number, a string, a boolean or null"),
        ("{\"x\": \"one\"}\n", "p.jsonl:1: column `x`: `one` is not a number"),
        ("{\"x\": 1e999}\n", "p.jsonl:1: not a JSON object on one line (column 11): number out of range"),
    ];
    let source = Source::Csv(Box::default());
    for (text, expected) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("p.jsonl");
        std::fs::write(&path, text).expect("written");
        let error = read_for_predict(&source, &path, &[want("x", Role::Number)]).expect_err(text);
        assert_eq!(error.to_string().replace(&format!("{}/", parent(&path)), ""), expected, "{text}");
    }
}

fn parent(path: &Path) -> String {
    path.parent().map(|p| p.display().to_string()).unwrap_or_default()
}
