//! Text formats: delimited text, gzip, ARFF.

use super::files::gzip;
use super::{Case, named, table, want};
use polytask::config::{Dialect, Encoding, Source};
use polytask::data::table::{Role, Wanted};

fn csv_with(bytes: impl Into<Vec<u8>>, dialect: Dialect, wanted: Wanted, message: &'static str) -> Case {
    named("t.csv", bytes, Source::Csv(table(&["t.csv"], dialect)), wanted, message)
}

fn csv(bytes: impl Into<Vec<u8>>, wanted: Wanted, message: &'static str) -> Case {
    csv_with(bytes, Dialect::default(), wanted, message)
}

fn arff(text: &str, wanted: Wanted, message: &'static str) -> Case {
    named("t.arff", text, Source::Arff(table(&["t.arff"], Dialect::default())), wanted, message)
}

pub fn csv_cases() -> Vec<Case> {
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

pub fn gzip_cases() -> Vec<Case> {
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

pub fn arff_cases() -> Vec<Case> {
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
