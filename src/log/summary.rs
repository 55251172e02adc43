//! `summary.json`: what came of a run, for scripts. The format is in `docs/run_directory.md`.

use super::jsonl::metrics;
use super::{EvalRecord, RunInfo, Summary};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The summary as the object of its file.
pub fn summary(info: &RunInfo, summary: &Summary, resumed_from: Option<u64>, lost: &[String]) -> Value {
    json!({
        "name": info.name,
        "status": summary.status,
        "steps": summary.steps,
        "epochs": summary.epochs,
        "samples": summary.samples,
        "seconds": summary.seconds,
        "skipped": summary.skipped,
        "resumed_from": resumed_from,
        "world_size": info.world_size,
        "device": info.device,
        "parameters": {"shared": info.n_params_shared, "private": info.n_params_private},
        "versions": {"polytask": env!("CARGO_PKG_VERSION"), "libtorch": info.libtorch},
        "config_sha256": config_hash(&info.config_yaml),
        "best": result(&summary.best),
        "final": result(&summary.last),
        "lost": lost,
    })
}

/// SHA-256 of the text of `config.yaml`, in hexadecimal.
pub fn config_hash(yaml: &str) -> String {
    Sha256::digest(yaml.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Evaluations of one set of parameters: the step, the score, and the metrics by split and task.
fn result(records: &[EvalRecord]) -> Value {
    let Some(first) = records.first() else { return Value::Null };
    let scored = records.iter().find(|record| record.split == "val").unwrap_or(first);
    let splits: Map<String, Value> = records.iter().map(|record| (record.split.clone(), metrics(record))).collect();
    json!({"step": scored.step, "epoch": scored.epoch, "score": scored.score, "metrics": splits})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_sha256sum() {
        // printf 'abc' | sha256sum
        assert_eq!(config_hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
