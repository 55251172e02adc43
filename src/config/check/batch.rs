//! Section `batch`: size and mixture.

use super::super::fault::{Fault, any_of, quote};
use super::super::{Config, Mix, Named, hints};
use super::{At, Checked, MANY};

pub(super) fn check(config: &Config) -> Checked {
    let at = At::key("batch");
    let batch = &config.batch;
    at.then("per_task").within(batch.per_task as u64, 1, MANY)?;
    at.then("accumulate").within(batch.accumulate as u64, 1, 1 << 20)?;
    at.then("prefetch").within(batch.prefetch as u64, 0, 1 << 16)?;
    let at = at.then("mix");
    let sources: Vec<&str> = config.data.sources.iter().map(|(name, _)| name.as_str()).collect();
    match &batch.mix {
        Mix::Balanced | Mix::Proportional | Mix::Uniform => Ok(()),
        Mix::Temperature(o) => {
            let message = format!("must be at least 1, found {}", o.t);
            at.then("temperature").then("t").need(o.t >= 1.0 && o.t.is_finite(), message)
        }
        Mix::Only(name) if sources.contains(&name.as_str()) => Ok(()),
        Mix::Only(name) => {
            let fault = at.then("only").fault(format!("no source is called {}", quote(name)));
            Err(hints::similar(fault, name, &sources))
        }
        Mix::Weights(weights) => {
            let at = at.then("weights");
            named(&at, weights, "source", &sources)?;
            for source in sources {
                let fault = at.fault(format!("source `{source}` has no weight"));
                weights.get(source).map(|_| ()).ok_or(fault.hint("0 leaves a source out"))?;
            }
            Ok(())
        }
    }
}

/// Weights by name: known names, none negative, not all 0.
pub(super) fn named(at: &At, weights: &Named, what: &str, known: &[&str]) -> Checked {
    for (name, weight) in weights {
        let at = at.then(name);
        known_name(&at, name, what, known).map_err(Fault::on_key)?;
        at.not_negative(*weight)?;
    }
    at.need(!weights.is_empty(), format_args!("needs weights by {what}"))?;
    let positive = known.iter().any(|name| weights.get(*name).is_none_or(|weight| *weight > 0.0));
    at.need(positive, "must not all be 0")
}

/// A key that names one of the known.
pub(super) fn known_name(at: &At, name: &str, what: &str, known: &[&str]) -> Checked {
    if known.contains(&name) {
        return Ok(());
    }
    let fault = at.fault(format!("no {what} is called {}", quote(name)));
    Err(match hints::nearest(name, known) {
        Some(near) => fault.hint(format!("did you mean {}?", quote(near))),
        None => fault.hint(format!("expected {}", any_of(known))),
    })
}
