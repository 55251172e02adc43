//! Methods that differ from torchjd's on purpose in some cases, on the Jacobians of `tests/oracles/balance_torchjd.json`;
//! `tests/balance_reference.rs` has the others.
//!
//! The file holds 40 Jacobians (plain, with rows of very different length, aligned, opposed, and with dependent rows) and
//! the direction that torchjd 0.18 gives for each method in `f64`. Where the two are meant to differ, the row says how.

use polytask::balance::explicit::Explicit;
use polytask::config;
use serde_json::{Value, json};

/// What of torchjd's direction ours is to equal.
#[derive(Clone, Copy)]
enum Same {
    /// All of it.
    All,
    /// All of it, except in these cases.
    AllBut(&'static [usize]),
    /// All of it, or the opposite where theirs points against every gradient. With dependent rows, whose projections
    /// cannot be equal: ours are nearer to equal.
    EqualProjections,
}

/// (name in the file, surgery, what is the same). A row per method.
fn methods() -> Vec<(&'static str, Value, Same)> {
    vec![
        ("pcgrad", json!({"gradvac": {"beta": 0.5}}), Same::All),
        ("imtl_g", json!("imtl_g"), Same::EqualProjections),
        // Theirs adds up distances, where the paper and ours add up their squares: twice another gradient is chosen.
        ("krum", json!({"krum": {"n_byzantine": 1, "n_selected": 2}}), Same::AllBut(&[18, 21])),
    ]
}

struct Case {
    kind: String,
    jacobian: Vec<Vec<f64>>,
    methods: Value,
}

fn cases() -> Vec<Case> {
    let file: Value = serde_json::from_str(include_str!("oracles/balance_torchjd.json")).unwrap();
    let case = |case: &Value| Case {
        kind: case["kind"].as_str().unwrap().into(),
        jacobian: serde_json::from_value(case["jacobian"].clone()).unwrap(),
        methods: case["methods"].clone(),
    };
    file["cases"].as_array().unwrap().iter().map(case).collect()
}

fn ours(surgery: &Value, jacobian: &[Vec<f64>]) -> Vec<f64> {
    let surgery: config::Surgery = serde_json::from_value(surgery.clone()).unwrap();
    let balance = config::Balance { surgery, ..config::Balance::default() };
    let (n_tasks, n) = (jacobian.len(), jacobian[0].len());
    let mut method = Explicit::new(&balance, n_tasks, n, 1, 100);
    method.direct(jacobian, &vec![1.0; n_tasks], 0).unwrap().direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Distance relative to the length of `want`.
fn off(got: &[f64], want: &[f64]) -> f64 {
    let difference: Vec<f64> = got.iter().zip(want).map(|(a, b)| a - b).collect();
    (dot(&difference, &difference) / dot(want, want)).sqrt()
}

fn times(x: &[f64], s: f64) -> Vec<f64> {
    x.iter().map(|x| x * s).collect()
}

/// How equal the projections of `d` on the gradients are: 1 if all are the same, less if not.
fn equality(j: &[Vec<f64>], d: &[f64]) -> f64 {
    let projections: Vec<f64> = j.iter().map(|g| dot(g, d) / dot(g, g).sqrt()).collect();
    let sum: f64 = projections.iter().sum();
    sum * sum / dot(&projections, &projections) / j.len() as f64
}

#[test]
fn directions_are_those_of_torchjd() {
    let cases = cases();
    assert_eq!(cases.len(), 40);
    let mut bad = Vec::new();
    for (name, surgery, same) in methods() {
        let mut compared = 0;
        for (k, case) in cases.iter().enumerate() {
            // PCGrad's order of projections is random for more than two tasks, and some methods need many tasks: not all
            // cases hold all methods.
            let Some(theirs) = case.methods.get(name) else { continue };
            let theirs: Vec<f64> = serde_json::from_value(theirs["direction"].clone()).unwrap();
            compared += 1;
            let j = &case.jacobian;
            let got = ours(&surgery, j);
            let want = match same {
                Same::AllBut(cases) if cases.contains(&k) => {
                    assert!(off(&got, &theirs) > 1e-2, "{name} case {k} is no exception");
                    continue;
                }
                Same::All | Same::AllBut(_) => theirs,
                Same::EqualProjections if case.kind == "rank1less" => {
                    assert!(equality(j, &got) >= equality(j, &theirs), "case {k}");
                    continue;
                }
                Same::EqualProjections if j.iter().all(|g| dot(g, &theirs) < 0.0) => times(&theirs, -1.0),
                Same::EqualProjections => theirs,
            };
            let off = off(&got, &want);
            if off.is_nan() || off > 1e-6 {
                bad.push(format!("{surgery} case {k} ({}, {} tasks): off by {off:.1e}", case.kind, j.len()));
            }
        }
        assert!(compared >= 6, "{name}: {compared} cases");
    }
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}
