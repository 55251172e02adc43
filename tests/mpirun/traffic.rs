//! What a step sends, by the program's own count: the formulas of the documentation.

use crate::sandbox::Sandbox;
use polytask::config::Config;
use polytask::data::Dataset;
use polytask::model::Rows;
use polytask::train::setup;

const TASKS: usize = 4;
/// Losses, counts, inner products, and what ranks agree on.
const SMALL: u64 = 4096;

/// Numbers that all ranks together reduce in a step, and parameters, both with the padding for `ranks`.
fn numbers(config: &Config, ranks: usize) -> (u64, u64) {
    let data = Dataset::open(config).expect("good data");
    let (model, _) = setup::build_model(config, data.dims(), data.tasks(), ranks).expect("a model that fits");
    let rows = |rows: &Rows| match rows {
        Rows::Shared(scope) => scope.len(),
        Rows::Private(_) => 1,
    };
    let segments = &model.params.segments;
    let reduced: usize = segments.iter().map(|s| s.range.len() * rows(&s.rows)).sum();
    (reduced as u64, segments.iter().map(|s| s.range.len() as u64).sum())
}

#[test]
fn a_step_sends_what_the_formulas_say() {
    let sandbox = Sandbox::new();
    let set = ["balance.surgery=pcgrad", "model.encoder.mlp.widths=[384,384]", "tasks.r.head.stage=1"];
    let config = sandbox.config(&set);
    let set = set.map(|s| format!("--set {s}")).join(" ");
    let measure = |ranks: usize, reduction: &str| -> (u64, serde_json::Value) {
        let words = format!("bench config.yaml --json --steps 3 --warmup 1 {set} --set comm.reduction={reduction}");
        let output = sandbox.polytask(ranks, &words).exits_with(0);
        let value: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}\n{output}"));
        assert_eq!(value["ranks"], ranks);
        (value["bytes_per_step"].as_u64().unwrap_or_else(|| panic!("{output}")), value)
    };
    for ranks in [2, 4] {
        let (reduced, params) = numbers(&config, ranks);
        let w = ranks as u64;
        let (sharded, value) = measure(ranks, "sharded");
        let formula = (w - 1) * 4 * (reduced + params) / w;
        assert!((formula..=formula + SMALL).contains(&sharded), "{ranks} ranks: {sharded}, expected {formula}");
        let (all_reduce, _) = measure(ranks, "all_reduce");
        let formula = 2 * (w - 1) * 4 * reduced / w;
        assert!((formula..=formula + SMALL).contains(&all_reduce), "{ranks} ranks: {all_reduce}, expected {formula}");

        let ratio = sharded as f64 / all_reduce as f64;
        let expected = (TASKS + 1) as f64 / (2 * TASKS) as f64;
        assert!((ratio / expected - 1.0).abs() < 0.02, "{ratio}, expected about {expected}");

        for phase in ["forward", "backward", "reduce", "gram", "update", "gather"] {
            assert!(value["phase_ms"][phase]["median"].as_f64().is_some_and(|ms| ms > 0.0), "{phase}: {value}");
        }
        assert!(value["samples_per_s"].as_f64().is_some_and(|x| x > 0.0));
        assert!(value["parameters"]["shared"].as_u64().is_some_and(|p| p <= params && p > 100_000));
    }
    assert!(!sandbox.path("runs").exists(), "bench writes nothing");
}
