//! Binary formats: Parquet, arrays, IDX.

use super::files::{self, gzip};
use super::{Case, named, table, want};
use polytask::config::{Arrays, Dialect, Idx, IdxPair, MultiMnist, Paths, Source};
use polytask::data::table::{Role, Wanted};
use std::path::PathBuf;

fn parquet(bytes: impl Into<Vec<u8>>, wanted: Wanted, message: &'static str) -> Case {
    named("t.parquet", bytes, Source::Parquet(table(&["t.parquet"], Dialect::default())), wanted, message)
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

pub fn parquet_cases() -> Vec<Case> {
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
        parquet(
            files::parquet_that_claims_too_much(),
            want("x", Role::Number),
            "t.parquet: column `x`: damaged: the 752 bytes of the page at byte 4 are said to unpack to 2147483647",
        ),
        parquet(
            files::parquet_of_delta_strings(),
            want("x", Role::Text),
            "t.parquet: column `x`: strings in the encoding DELTA_BYTE_ARRAY are not read; write the file with the default encodings (plain or dictionary)",
        ),
    ]
}

pub fn array_cases() -> Vec<Case> {
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
            "x.npy: shape [4000000000, 4000000000, 4000000000] of `<f4` needs more bytes than memory can hold, but the file holds 0",
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

pub fn idx_cases() -> Vec<Case> {
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
