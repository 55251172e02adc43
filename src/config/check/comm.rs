//! Section `comm`: what the kinds of exchange can do together.

use super::super::{Config, Engine, Gradients, GramFrom, Precision, Scope, SurgeryKind, Weighting, Wire};
use super::{At, Checked};

/// Most numbers of a sketch: beyond, it costs what it is to save.
const LARGEST_SKETCH: u64 = 1 << 24;

pub(super) fn check(config: &Config) -> Checked {
    let at = At::key("comm");
    at.then("bucket_mb").positive(config.comm.bucket_mb)?;
    let halves = config.comm.wire == Wire::Bf16;
    at.then("wire")
        .need(!halves || config.train.precision != Precision::F64, "rounds what `train.precision: f64` computes")?;
    let rounds = config.train.precision == Precision::Bf16;
    let looks_ahead = matches!(config.balance.weighting, Weighting::AutoLambda(_));
    let message = "is too coarse for `auto_lambda`, which compares losses before and after a very small move";
    At::key("train").then("precision").need(!rounds || !looks_ahead, message)?;
    let on_numbers = config.train.device == "cpu"
        && config.train.engine == Engine::Auto
        && config.train.precision != Precision::Bf16;
    let message = "needs tensors: a GPU, `train.precision: bf16` or `train.engine: tensors`";
    at.then("wire").need(!halves || !on_numbers, message)?;
    match config.comm.gram {
        GramFrom::Exact => Ok(()),
        GramFrom::Sketch(sketch) => {
            let at = at.then("gram").then("sketch");
            at.then("dim").within(sketch.dim as u64, 64, LARGEST_SKETCH)?;
            let balance = &config.balance;
            let kind = balance.surgery.kind();
            let message =
                "is for methods that see inner products of the tasks' gradients in one batch, such as `pcgrad`";
            at.need(kind == SurgeryKind::Gram, message)?;
            at.need(
                balance.gradients == Gradients::Parameters,
                "is for gradients of parameters, not of the representation",
            )?;
            at.need(
                balance.scope == Scope::All,
                "is for all layers together, not for `balance.scope: per_layer_group`",
            )?;
            at.need(!matches!(balance.weighting, Weighting::AutoLambda(_)), "does not go with `auto_lambda`")
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load_str;

    const BASE: &str = "
run: {name: a}
data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}
tasks: {a: {source: s, target: y, kind: binary}, b: {source: s, target: z, kind: binary}}
model: {encoder: mlp}
train: {epochs: 1, device: cpu}
balance: {surgery: pcgrad}
";

    #[test]
    fn what_cannot_go_together_is_refused() {
        let message = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
            load_str("a.yaml", BASE, &set).err().map(|e| e.to_string())
        };
        for good in [
            &["comm.gram={sketch: {dim: 4096}}"][..],
            &["comm.gram=sketch"],
            &["comm.wire=bf16", "train.engine=tensors"],
            &["comm.wire=bf16", "train.precision=bf16"],
            &["comm.wire=bf16", "train.device=auto"],
        ] {
            assert_eq!(message(good), None, "{good:?}");
        }
        for (bad, why) in [
            (&["comm.bucket_mb=0"][..], "must be greater than 0"),
            (&["comm.wire=bf16"], "needs tensors"),
            (&["comm.wire=bf16", "train.precision=f64"], "rounds what"),
            (&["train.precision=bf16", "balance={weighting: auto_lambda}", "batch.accumulate=2"], "is too coarse for"),
            (&["comm.gram={sketch: {dim: 2}}"], "must be at least 64"),
            (&["comm.gram=sketch", "balance.surgery=graddrop"], "is for methods"),
            (&["comm.gram=sketch", "balance.surgery=none"], "is for methods"),
            (&["comm.gram=sketch", "balance.gradients=representation"], "is for gradients"),
            (&["comm.gram=sketch", "balance.scope=per_layer_group"], "is for all layers"),
        ] {
            let message = message(bad).unwrap_or_default();
            assert!(message.contains(why), "{bad:?}: {message}");
        }
    }
}
