//! The balancing methods against TorchJD, on 40 Jacobians: `tests/oracles/balance_torchjd.json`.
//!
//! Where the reference solves its problem only approximately, or shifts it by an epsilon of its own, digits cannot agree:
//! then the defining property is measured on both directions, and ours must be the better one. The table that the test
//! prints (`cargo test --test balance_reference -- --nocapture`) says for each method what was compared, and how well.

use polytask::balance::catalog::numbered;
use polytask::balance::explicit::Explicit;
use polytask::config::{Balance, with_tasks};
use serde_json::Value;
use std::fs;

/// A method of the reference, and what it is compared with.
struct Row {
    /// Name in the file.
    reference: &'static str,
    /// Section `balance` that says the same.
    balance: &'static str,
    compare: Compare,
    /// What has to be known to read the numbers.
    note: &'static str,
}

/// What is compared.
#[derive(Clone, Copy)]
enum Compare {
    /// Directions, by the largest difference relative to the largest entry; at most this.
    Direction(f64),
    /// The same after division by the number of tasks.
    Mean(f64),
    /// Length of the direction, which both are to make as small as they can, relative to the longest gradient.
    Length,
    /// What is missing in the smallest inner product with a gradient, which both are to make as large as they can, to the
    /// larger of the two, relative to the product of the lengths.
    Worst,
    /// How far the direction `d` is from `J^T (J d)^(-alpha)`, which defines it up to its length.
    Equation(f64),
}

const ROWS: &[Row] = &[
    Row { reference: "mean", balance: "{surgery: none}", compare: Compare::Mean(1e-14), note: "" },
    // On the Gram matrix.
    Row { reference: "pcgrad", balance: "{surgery: pcgrad}", compare: Compare::Direction(1e-12), note: TWO },
    Row { reference: "mgda", balance: "{surgery: mgda}", compare: Compare::Length, note: FRANK_WOLFE },
    Row {
        reference: "cagrad",
        balance: "{surgery: {cagrad: {c: 0.5, rescale: none}}}",
        compare: Compare::Worst,
        note: CLARABEL,
    },
    Row { reference: "nash_mtl", balance: "{surgery: nash_mtl}", compare: Compare::Equation(1.0), note: ECOS },
    Row { reference: "fairgrad", balance: "{surgery: fairgrad}", compare: Compare::Equation(1.0), note: LEAST_SQUARES },
    Row {
        reference: "fairgrad_2",
        balance: "{surgery: {fairgrad: {alpha: 2}}}",
        compare: Compare::Equation(2.0),
        note: LEAST_SQUARES,
    },
    Row {
        reference: "upgrad",
        balance: "{surgery: {upgrad: {reg: 1e-4}}}",
        compare: Compare::Direction(1e-8),
        note: "",
    },
    Row {
        reference: "dualproj",
        balance: "{surgery: {dualproj: {reg: 1e-4}}}",
        compare: Compare::Direction(1e-8),
        note: "",
    },
    Row { reference: "aligned_mtl", balance: "{surgery: aligned_mtl}", compare: Compare::Mean(1e-6), note: SUM },
    Row {
        reference: "aligned_mtl_median",
        balance: "{surgery: {aligned_mtl: {scale: median}}}",
        compare: Compare::Mean(1e-6),
        note: SUM,
    },
    Row { reference: "config", balance: "{surgery: config}", compare: Compare::Direction(1e-6), note: "" },
    // On the gradients themselves.
    Row {
        reference: "trimmed_mean",
        balance: "{surgery: {trimmed_mean: {trim: 1}}}",
        compare: Compare::Direction(1e-12),
        note: "",
    },
];

/// Methods of the file that differ from ours in a few cases on purpose: `tests/balance_torchjd.rs` says where.
const ELSEWHERE: &[&str] = &["imtl_g", "krum"];

const SUM: &str = "ours is a sum over tasks, the reference a mean";
const TWO: &str = "two tasks, where the order of projections does not matter";
const FRANK_WOLFE: &str = "the reference takes 100 steps of Frank-Wolfe at most";
const CLARABEL: &str = "the reference solves to its solver's tolerance, and adds 1e-4 to a norm";
const ECOS: &str = "the reference takes 20 rounds of a convex program; 2: a task gets worse";
const LEAST_SQUARES: &str = "the reference solves by least squares";

/// One Jacobian and what the reference makes of it.
struct Case {
    kind: String,
    jacobian: Vec<Vec<f64>>,
    methods: Value,
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string("tests/oracles/balance_torchjd.json").unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let case = |case: &Value| Case {
        kind: case["kind"].as_str().unwrap().to_owned(),
        jacobian: case["jacobian"].as_array().unwrap().iter().map(numbers).collect(),
        methods: case["methods"].clone(),
    };
    file["cases"].as_array().unwrap().iter().map(case).collect()
}

/// Section `balance` from YAML, for as many tasks as the largest Jacobian has.
fn balance(yaml: &str) -> Balance {
    with_tasks("reference", &numbered(8), &[format!("balance={yaml}")]).unwrap_or_else(|e| panic!("{e}")).balance
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// `J^T c`.
fn combine(j: &[Vec<f64>], c: &[f64]) -> Vec<f64> {
    (0..j[0].len()).map(|k| j.iter().zip(c).map(|(g, c)| c * g[k]).sum()).collect()
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

fn difference(got: &[f64], want: &[f64]) -> f64 {
    largest(got.iter().zip(want).map(|(a, b)| (a - b).abs())) / largest(want.iter().map(|x| x.abs()))
}

/// Distance between the directions of `d` and of `J^T (J d)^(-alpha)`; 2 if some `<g, d>` is not above 0.
fn off_equation(j: &[Vec<f64>], d: &[f64], alpha: f64) -> f64 {
    let gains: Vec<f64> = j.iter().map(|g| dot(g, d)).collect();
    if gains.iter().any(|gain| *gain <= 0.0) {
        return 2.0;
    }
    let again = combine(j, &gains.iter().map(|gain| gain.powf(-alpha)).collect::<Vec<_>>());
    let unit = |a: &[f64]| a.iter().map(|x| x / norm(a)).collect::<Vec<_>>();
    norm(&unit(d).iter().zip(unit(&again)).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// How a method did over all Jacobians.
struct Agreement {
    row: &'static Row,
    /// Relative differences of the directions, and the kinds of Jacobians they were found on, ascending.
    apart: Vec<(f64, String)>,
    /// Largest value of what both are to make small, where that is compared.
    measure: Option<(f64, f64)>,
    faults: Vec<String>,
}

fn agreement(row: &'static Row, cases: &[Case]) -> Agreement {
    let config = balance(row.balance);
    let mut result = Agreement { row, apart: Vec::new(), measure: None, faults: Vec::new() };
    for (number, case) in cases.iter().enumerate() {
        let Some(method) = case.methods.get(row.reference) else { continue };
        let (j, want) = (&case.jacobian, numbers(&method["direction"]));
        let mut explicit = Explicit::new(&config, j.len(), j[0].len(), 1, 1);
        let mut got = explicit.direct(j, &vec![1.0; j.len()], 0).unwrap().direction;
        if let Compare::Mean(_) = row.compare {
            got.iter_mut().for_each(|x| *x /= j.len() as f64);
        }
        let apart = difference(&got, &want);
        result.apart.push((apart, case.kind.clone()));
        // Ours, the reference's, and how much ours may be.
        let measures = match row.compare {
            Compare::Direction(most) | Compare::Mean(most) => {
                if apart > most {
                    result.faults.push(format!("{} on {} {number}: {apart:e} apart", row.reference, case.kind));
                }
                None
            }
            Compare::Length => {
                let scale = largest(j.iter().map(|g| norm(g)));
                let (ours, reference) = (norm(&got) / scale, norm(&want) / scale);
                Some((ours, reference, reference + 1e-9))
            }
            Compare::Worst => {
                let scale = largest(j.iter().map(|g| norm(g))) * norm(&got);
                let worst = |d: &[f64]| j.iter().map(|g| dot(g, d)).fold(f64::INFINITY, f64::min) / scale;
                let (ours, reference) = (worst(&got), worst(&want));
                let best = f64::max(ours, reference);
                Some((best - ours, best - reference, 1e-7))
            }
            Compare::Equation(alpha) => Some((off_equation(j, &got, alpha), off_equation(j, &want, alpha), 1e-7)),
        };
        if let Some((ours, reference, most)) = measures {
            if ours > most {
                let fault = format!("{} on {} {number}: {ours:e}, reference {reference:e}", row.reference, case.kind);
                result.faults.push(fault);
            }
            let (a, b) = result.measure.unwrap_or_default();
            result.measure = Some((f64::max(a, ours), f64::max(b, reference)));
        }
    }
    result.apart.sort_by(|a, b| a.0.total_cmp(&b.0));
    result
}

/// The agreements as a Markdown table.
fn table(agreements: &[Agreement]) -> String {
    let mut text = String::from(
        "| TorchJD | `balance` | Jacobians | directions differ: median | most | compared | polytask | TorchJD | |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for a in agreements {
        let compared = match a.row.compare {
            Compare::Direction(_) | Compare::Mean(_) => "direction",
            Compare::Length => "length",
            Compare::Worst => "worst inner product",
            Compare::Equation(_) => "distance from its equation",
        };
        let (ours, reference) =
            a.measure.map_or_else(Default::default, |(a, b)| (format!("{a:.0e}"), format!("{b:.0e}")));
        let (name, balance, note) = (a.row.reference, a.row.balance, a.row.note);
        let cases = a.apart.len();
        let (median, (most, kind)) = (a.apart[cases / 2].0, &a.apart[cases - 1]);
        text.push_str(&format!(
            "| {name} | `{balance}` | {cases} | {median:.0e} | {most:.0e} ({kind}) | {compared} | {ours} | {reference} \
             | {note} |\n"
        ));
    }
    text
}

#[test]
fn methods_agree_with_the_reference() {
    let cases = cases();
    assert_eq!(cases.len(), 40);
    let agreements: Vec<Agreement> = ROWS.iter().map(|row| agreement(row, &cases)).collect();
    assert!(agreements.iter().all(|a| a.apart.len() >= 6), "a method is compared too seldom");
    println!("{}", table(&agreements));
    let faults: Vec<&String> = agreements.iter().flat_map(|a| &a.faults).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_method_of_the_file_is_compared() {
    for case in cases() {
        for name in case.methods.as_object().unwrap().keys() {
            let compared = ROWS.iter().any(|row| row.reference == name);
            assert!(
                compared != ELSEWHERE.contains(&name.as_str()),
                "{name} has a row and is said to have none, or neither"
            );
        }
    }
}
