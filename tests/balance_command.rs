//! `polytask balance` and `polytask methods`: reference values through `.npy` files and JSON, a clear message for every
//! mistake, and both as processes.

use clap::Parser;
use polytask::Error;
use polytask::cli::balance::BalanceArgs;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

#[derive(Debug, Parser)]
struct Balance {
    #[command(flatten)]
    arguments: BalanceArgs,
}

/// The answer of `polytask balance` without a process; files are in this folder.
fn balance(dir: &Path, arguments: &[&str]) -> Result<String, Error> {
    let file = |word: &&str| match word.ends_with(".npy") {
        true => dir.join(word).display().to_string(),
        false => word.to_string(),
    };
    let words: Vec<String> = ["balance"].iter().chain(arguments).map(file).collect();
    Balance::try_parse_from(words).unwrap().arguments.answer()
}

fn polytask(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polytask")).args(arguments).current_dir(dir).output().unwrap()
}

/// An `.npy` file of this type and shape.
fn npy(descr: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let dims: String = shape.iter().map(|n| format!("{n},")).collect();
    let order = if fortran { "True" } else { "False" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({dims}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn f64s(shape: &[usize], values: &[f64]) -> Vec<u8> {
    npy("<f8", false, shape, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
}

/// A folder with these files.
fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// The matrix of torchjd's `tests/unit/aggregation/test_values.py`.
const J: [f64; 6] = [-4.0, 1.0, 1.0, 6.0, 1.0, 1.0];

fn json(dir: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&balance(dir, arguments).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn near(got: &[f64], want: &[f64]) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1.5e-4)
}

#[test]
fn reference_values_come_back_through_files() {
    let dir = folder(&[("J.npy", f64s(&[2, 3], &J))]);
    // Method, options, direction; torchjd 0.18 (whose CAGrad is not divided by 1 + c^2, and whose Aligned-MTL is a mean, not a sum).
    let cases: [(&str, &[&str], [f64; 3], f64); 13] = [
        ("pcgrad", &[], [0.5848, 3.8012, 3.8012], 1.0),
        ("gradvac", &[], [0.5848, 3.8012, 3.8012], 1.0),
        ("mgda", &[], [0.0, 1.0, 1.0], 1.0),
        ("cagrad", &["c=0.5"], [0.1835, 1.2041, 1.2041], 1.25),
        ("nash_mtl", &[], [0.0542, 0.7061, 0.7061], 1.0),
        ("imtl_g", &[], [0.0767, 1.0, 1.0], 1.0),
        ("aligned_mtl", &[], [0.2133, 0.9673, 0.9673], 0.5),
        ("upgrad", &["reg=1e-4"], [0.2929, 1.9004, 1.9004], 1.0),
        ("dualproj", &["reg=1e-4"], [0.5563, 1.1109, 1.1109], 1.0),
        ("fairgrad", &[], [0.0766, 0.9985, 0.9985], 1.0),
        ("config", &[], [0.1588, 2.0706, 2.0706], 1.0),
        ("equal", &[], [2.0, 2.0, 2.0], 1.0),
        ("fixed", &["0=2", "1=0.5"], [-5.0, 2.5, 2.5], 1.0),
    ];
    let mut wrong = Vec::new();
    for (method, options, direction, factor) in cases {
        let mut arguments = vec![method, "--jacobian", "J.npy", "--json"];
        options.iter().for_each(|option| arguments.extend(["--option", option]));
        let found: Value = match balance(dir.path(), &arguments) {
            Ok(text) => serde_json::from_str(&text).unwrap(),
            Err(error) => {
                wrong.push(format!("{method}: {error}"));
                continue;
            }
        };
        let got: Vec<f64> = floats(&found["direction"]).iter().map(|x| x * factor).collect();
        if !near(&got, &direction) {
            wrong.push(format!("{method}: {got:?}, expected {direction:?}"));
        }
        let c = floats(&found["coefficients"]);
        let combined: Vec<f64> = (0..3).map(|p| factor * (c[0] * J[p] + c[1] * J[3 + p])).collect();
        if !near(&combined, &got) {
            wrong.push(format!("{method}: coefficients {c:?} make {combined:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn everything_about_a_step_is_in_the_json() {
    let dir = folder(&[("J.npy", f64s(&[2, 3], &J)), ("L.npy", f64s(&[2], &[2.0, 0.5]))]);
    let found = json(dir.path(), &["equal+pcgrad", "--jacobian", "J.npy", "--losses", "L.npy", "--json"]);
    assert_eq!(found["method"], "equal+pcgrad");
    assert_eq!(found["weights"], serde_json::json!([1.0, 1.0]));
    assert_eq!(found["gram"], serde_json::json!([[18.0, -22.0], [-22.0, 38.0]]));
    assert_eq!(found["losses"], serde_json::json!([2.0, 0.5]));
    assert_eq!(found["conflicts"]["pairs"], serde_json::json!([[0, 1]]));
    assert_eq!(found["conflicts"]["rate"], 1.0);
    assert_eq!(found["conflicts"]["ascending"], serde_json::json!([]));
    let cosine = -22.0 / (18.0f64 * 38.0).sqrt();
    assert!((found["cosines"][0][1].as_f64().unwrap() - cosine).abs() < 1e-12);
    let plain = json(dir.path(), &["equal", "--jacobian", "J.npy", "--json"]);
    assert_eq!(plain["direction"], serde_json::json!([2.0, 2.0, 2.0]));
    assert_eq!(plain["conflicts"]["ascending"], serde_json::json!([0]));
    assert_eq!(plain["direction_norm"].as_f64().unwrap(), 12f64.sqrt());
}

#[test]
fn files_of_other_types_and_orders_hold_the_same_numbers() {
    let f32s: Vec<u8> = J.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
    let columns: Vec<u8> = [0, 3, 1, 4, 2, 5].iter().flat_map(|&k: &usize| J[k].to_be_bytes()).collect();
    let dir = folder(&[
        ("c.npy", f64s(&[2, 3], &J)),
        ("single.npy", npy("<f4", false, &[2, 3], &f32s)),
        ("fortran.npy", npy(">f8", true, &[2, 3], &columns)),
    ]);
    let of = |file: &str| json(dir.path(), &["pcgrad", "--jacobian", file, "--json"])["direction"].clone();
    assert_eq!(of("single.npy"), of("c.npy"));
    assert_eq!(of("fortran.npy"), of("c.npy"));
}

#[test]
fn the_table_names_conflicts_and_what_was_assumed() {
    let dir = folder(&[("J.npy", f64s(&[2, 3], &J))]);
    let text = |arguments: &[&str]| balance(dir.path(), arguments).unwrap();
    assert_eq!(
        text(&["pcgrad", "--jacobian", "J.npy"]),
        "pcgrad: 2 tasks, 3 parameters; a fresh state, step 0, seed 0

task    norm  weight  coefficient  cos(d, g)
0     4.2426  1.0000       2.2222     0.2294
1     6.1644  1.0000       1.5789     0.3333

cosine        0       1
0        1.0000
1       -0.8412  1.0000

1 of 1 pairs in conflict (100 %): 0-1
direction of norm 5.4074; no task ascends
"
    );
    let assumed = text(&["uncertainty", "--jacobian", "J.npy"]);
    assert!(assumed.contains("task 0 ascends\nnote: uncertainty looks at the losses: 1 is assumed"), "{assumed}");
}

#[test]
fn mistakes_are_told_with_the_way_out() {
    let complex: Vec<u8> = vec![0; 6 * 16];
    let dir = folder(&[
        ("J.npy", f64s(&[2, 3], &J)),
        ("flat.npy", f64s(&[6], &J)),
        ("cube.npy", f64s(&[1, 2, 3], &J)),
        ("empty.npy", f64s(&[0, 3], &[])),
        ("thin.npy", f64s(&[2, 0], &[])),
        ("nan.npy", f64s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, f64::NAN, 6.0])),
        ("inf.npy", f64s(&[2, 1], &[f64::INFINITY, 1.0])),
        ("tall.npy", f64s(&[1001, 1], &[0.0; 1001])),
        ("huge.npy", f64s(&[2, 1], &[1e200, 1.0])),
        ("complex.npy", npy("<c16", false, &[2, 3], &complex)),
        ("cut.npy", f64s(&[2, 3], &J)[..150].to_vec()),
        ("nothing.npy", Vec::new()),
        ("text.npy", b"1,2,3\n".to_vec()),
        ("three.npy", f64s(&[3], &[1.0; 3])),
    ]);
    let shape = "where [T, P] is expected: a row per task, a column per parameter";
    let j = |file: &'static str| vec!["pcgrad", "--jacobian", file];
    let with = |method: &'static str, more: &[&'static str]| [&[method, "--jacobian", "J.npy"][..], more].concat();
    let cases: Vec<(Vec<&str>, i32, String)> = vec![
        (j("no.npy"), 3, "no.npy: No such file or directory (os error 2)".into()),
        (j("flat.npy"), 3, format!("flat.npy: of shape [6], {shape}")),
        (j("cube.npy"), 3, format!("cube.npy: of shape [1, 2, 3], {shape}")),
        (j("empty.npy"), 3, "empty.npy: no rows".into()),
        (j("thin.npy"), 3, "thin.npy: of shape [2, 0]: rows without values".into()),
        (j("nan.npy"), 3, "nan.npy: row 1: NaN is not a finite number".into()),
        (j("inf.npy"), 3, "inf.npy: row 0: inf is not a finite number".into()),
        (j("tall.npy"), 3, "tall.npy: 1001 rows, and a row is a task: at most 1000. Is it the other way round?".into()),
        (j("huge.npy"), 3, "huge.npy: of tasks 0: inner products or coefficients overflow, or are not numbers".into()),
        (
            j("complex.npy"),
            3,
            "complex.npy: elements of type `<c16` are not read; bool, integers and floats of 16 to 64 bits are".into(),
        ),
        (j("cut.npy"), 3, "cut.npy: shape [2, 3] of `<f8` needs 48 bytes, but the file holds 22".into()),
        (j("nothing.npy"), 3, "nothing.npy: the file is empty".into()),
        (j("text.npy"), 3, "text.npy: not an npy file: it does not begin with the magic number".into()),
        (
            with("equal", &["--losses", "three.npy"]),
            3,
            "three.npy: of shape [3], where [2] is expected: a loss per row of J.npy".into(),
        ),
        (with("pcgrd", &[]), 2, "no method is called `pcgrd`\nhint: did you mean `pcgrad`?".into()),
        (with("zzzzzz", &[]), 2, "no method is called `zzzzzz`\nhint: `polytask methods` lists all".into()),
        (
            with("smoothing", &[]),
            2,
            "`smoothing` goes around other methods and does nothing alone; `polytask methods smoothing` says more"
                .into(),
        ),
        (
            with("pcgrad+equal", &[]),
            2,
            "`pcgrad+equal`: expected a weighting, a surgery, or `weighting+surgery`".into(),
        ),
        (
            with("uncertainty", &["--option", "lrr=1"]),
            2,
            "--option lrr=1: unknown field `lrr`, expected `lr`...hint: did you mean `lr`?".into(),
        ),
        (with("uncertainty", &["--option", "lr=-1"]), 2, "--option lr=-1: must be greater than 0, found -1".into()),
        (with("uncertainty", &["--option", "lr"]), 2, "--option lr: expected `key=value`".into()),
        (
            with("uncertainty+pcgrad", &["--option", "lr=1"]),
            2,
            "--option lr=1: of which method? Write `uncertainty.lr=1` or `pcgrad.lr=1`".into(),
        ),
        (
            with("uncertainty+pcgrad", &["--option", "uncertainty.lr=no"]),
            2,
            "--option uncertainty.lr=no: expected a number, found text `no`".into(),
        ),
        (
            with("pcgrad", &["--option", "a=1"]),
            2,
            "--option a=1: `pcgrad` takes no options\nhint: write `pcgrad` alone".into(),
        ),
        (
            with("fixed", &["--option", "7=1"]),
            2,
            "--option 7=1: no task is called `7`\nhint: expected `0` or `1`".into(),
        ),
    ];
    let mut wrong = Vec::new();
    for (arguments, code, message) in cases {
        let found = balance(dir.path(), &arguments).map_err(|e| (e.to_string(), i32::from(e.exit_code())));
        let (text, found) = found.expect_err(arguments[0]);
        let text = text.replace(&format!("{}/", dir.path().display()), "");
        // `...` stands for anything.
        let (start, end) = message.split_once("...").unwrap_or((&message, ""));
        let fits = if end.is_empty() { text == start } else { text.starts_with(start) && text.ends_with(end) };
        if found != code || !fits {
            wrong.push(format!("{arguments:?}: expected {code}\n{message}\nfound {found}\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn as_a_process_it_needs_no_launcher_and_ends_with_documented_codes() {
    let dir = folder(&[("J.npy", f64s(&[2, 3], &J))]);
    // Even where a launcher's variables promise other ranks.
    let output = Command::new(env!("CARGO_BIN_EXE_polytask"))
        .args(["balance", "pcgrad", "--jacobian", "J.npy", "--json"])
        .current_dir(dir.path())
        .envs([("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(near(&floats(&found["coefficients"]), &[2.2222, 1.5789]), "{found}");
    let failed = polytask(dir.path(), &["balance", "pcgrad", "--jacobian", "none.npy"]);
    assert_eq!(failed.status.code(), Some(3));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(message, "error: none.npy: No such file or directory (os error 2)\n");
}

#[test]
fn methods_are_listed_and_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let text = |arguments: &[&str]| {
        let output = polytask(dir.path(), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let all: Value = serde_json::from_str(&text(&["methods", "--json"])).unwrap();
    let names: Vec<&str> = all.as_array().unwrap().iter().map(|method| method["name"].as_str().unwrap()).collect();
    assert!(names.len() > 30 && names.contains(&"pcgrad") && names.contains(&"famo"), "{names:?}");
    let one = all.as_array().unwrap().iter().find(|method| method["name"] == "uncertainty").unwrap();
    assert_eq!((&one["options"]["lr"], &one["options"]["init"]), (&0.025.into(), &0.0.into()));
    assert_eq!(one["paper"]["arxiv"], "1705.07115");
    let table = text(&["methods"]);
    for name in names {
        assert!(table.lines().any(|line| line.starts_with(&format!("  {name} "))), "{name}: {table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    let sheet = text(&["methods", "pcgrad"]);
    assert!(sheet.contains("\"Gradient Surgery for Multi-Task Learning\", 2020"), "{sheet}");
    let failed = polytask(dir.path(), &["methods", "famoo"]);
    assert_eq!(failed.status.code(), Some(2));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(message, "error: no method is called `famoo`\nhint: did you mean `famo`?\n");
}
