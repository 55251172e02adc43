//! Options of the methods that work on the task gradients themselves.

use super::super::{Config, DbMtl, MoCo, Surgery};
use super::{At, Checked};

pub(super) fn check(config: &Config) -> Checked {
    let at = At::key("balance").then("surgery");
    match &config.balance.surgery {
        Surgery::Graddrop(o) => unit(&at.then("graddrop").then("leak"), o.leak),
        Surgery::TrimmedMean(o) => trim(&at.then("trimmed_mean").then("trim"), o.trim, config.tasks.len()),
        Surgery::ExcessMtl(o) => at.then("excess_mtl").then("eta").positive(o.eta),
        Surgery::Moco(o) => moco(&at.then("moco"), o),
        Surgery::DbMtl(o) => db_mtl(&at.then("db_mtl"), o),
        _ => Ok(()),
    }
}

/// `[0, 1]`.
fn unit(at: &At, value: f64) -> Checked {
    at.need((0.0..=1.0).contains(&value), format_args!("must be between 0 and 1, found {value}"))
}

/// Something must be left of the tasks.
fn trim(at: &At, trim: usize, n_tasks: usize) -> Checked {
    let most = n_tasks.saturating_sub(1) / 2;
    let message = format!("must be at most {most}, since {n_tasks} tasks have to leave one value, found {trim}");
    at.need(trim <= most, message)
}

fn moco(at: &At, o: &MoCo) -> Checked {
    let message = format!("must be greater than 0 and at most 1, found {}", o.beta);
    at.then("beta").need(o.beta > 0.0 && o.beta <= 1.0, message)?;
    at.then("beta_sigma").not_negative(o.beta_sigma)?;
    at.then("gamma").positive(o.gamma)?;
    at.then("gamma_sigma").not_negative(o.gamma_sigma)?;
    at.then("rho").not_negative(o.rho)
}

fn db_mtl(at: &At, o: &DbMtl) -> Checked {
    at.then("beta").share(o.beta)?;
    at.then("beta_sigma").not_negative(o.beta_sigma)
}

#[cfg(test)]
mod tests {
    use crate::config::load_str;

    const BASE: &str = "
run: {name: a}
data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}
tasks: {a: {source: s, target: y, kind: binary}, b: {source: s, target: z, kind: binary}, c: {source: s, target: u, kind: binary}}
model: {encoder: mlp}
train: {epochs: 1}
";

    fn message(surgery: &str) -> Option<String> {
        load_str("a.yaml", BASE, &[format!("balance.surgery={surgery}")]).err().map(|e| e.to_string())
    }

    #[test]
    fn published_options_pass() {
        for name in ["graddrop", "trimmed_mean", "excess_mtl", "moco", "db_mtl"] {
            assert_eq!(message(name), None, "{name}");
        }
        let edges = ["{graddrop: {leak: 1}}", "{trimmed_mean: {trim: 0}}", "{moco: {beta: 1, simplex: softmax}}"];
        assert!(edges.iter().all(|text| message(text).is_none()));
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (text, expected) in [
            ("{graddrop: {leak: 1.5}}", "must be between 0 and 1, found 1.5"),
            ("{trimmed_mean: {trim: 2}}", "must be at most 1, since 3 tasks have to leave one value, found 2"),
            ("{excess_mtl: {eta: 0}}", "must be greater than 0, found 0"),
            ("{moco: {beta: 1.1}}", "must be greater than 0 and at most 1, found 1.1"),
            ("{moco: {gamma: 0}}", "must be greater than 0, found 0"),
            ("{moco: {beta_sigma: -1}}", "must be 0 or greater, found -1"),
            ("{moco: {rho: -1}}", "must be 0 or greater, found -1"),
            ("{db_mtl: {beta: 1}}", "must be at least 0 and below 1, found 1"),
            ("{db_mtl: {beta_sigma: -0.5}}", "must be 0 or greater, found -0.5"),
        ] {
            let found = message(text).unwrap_or_default();
            assert!(found.contains(expected) && found.contains("balance.surgery"), "{text}: {found}");
        }
    }
}
