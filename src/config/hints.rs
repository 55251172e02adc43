//! `did you mean ...`: the known name nearest to an unknown one.

use super::fault::{Fault, quote};
use strsim::damerau_levenshtein;

/// What users of other programs write, and what it is called here.
const SYNONYMS: &[(&str, &str)] = &[
    ("learning_rate", "lr"),
    ("wd", "weight_decay"),
    ("epsilon", "eps"),
    ("grad_clip", "clip_norm"),
    ("max_norm", "clip_norm"),
    ("batch_size", "per_task"),
    ("accumulation_steps", "accumulate"),
    ("num_epochs", "epochs"),
    ("max_epochs", "epochs"),
    ("max_steps", "steps"),
    ("hidden", "widths"),
    ("layers", "widths"),
    ("type", "kind"),
    ("label", "target"),
    ("classification", "multiclass"),
    ("uw", "uncertainty"),
    ("roc_auc", "auc"),
    ("ap", "average_precision"),
    ("acc", "accuracy"),
    ("mse", "rmse"),
    ("bce", "binary"),
    ("gpu", "cuda"),
    ("float32", "f32"),
    ("float64", "f64"),
];

/// Adds a hint when one of `known` is near `name`.
pub(super) fn similar(fault: Fault, name: &str, known: &[&str]) -> Fault {
    match nearest(name, known) {
        Some(best) => fault.hint(format!("did you mean {}?", quote(best))),
        None => fault,
    }
}

/// A line with the known name that is nearest to `name`; empty when none is near enough to be meant.
pub fn did_you_mean(name: &str, known: &[&str]) -> String {
    nearest(name, known).map(|best| format!("\nhint: did you mean {}?", quote(best))).unwrap_or_default()
}

/// The known name nearest to `name`, when one is near enough to be meant.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    let plain = name.to_ascii_lowercase().replace(['-', ' '], "_");
    let synonym = SYNONYMS.iter().filter(|(other, _)| *other == plain).find_map(|(_, ours)| find(known, ours));
    synonym.or_else(|| by_distance(&plain, known))
}

fn find<'k>(known: &[&'k str], name: &str) -> Option<&'k str> {
    known.iter().copied().find(|k| *k == name)
}

/// At most one edit per three characters of the longer name (and one at least).
fn by_distance<'k>(plain: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|k| (damerau_levenshtein(plain, &k.to_ascii_lowercase()), *k))
        .filter(|(distance, k)| *distance <= (k.len().max(plain.len()) / 3).max(1) && *distance < k.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["lr", "betas", "eps", "weight_decay", "clip_norm"];
        assert_eq!(nearest("lrr", &known), Some("lr"));
        assert_eq!(nearest("weight-decay", &known), Some("weight_decay"));
        assert_eq!(nearest("Weight_Decay", &known), Some("weight_decay"));
        assert_eq!(nearest("beats", &known), Some("betas"));
        assert_eq!(nearest("learning_rate", &known), Some("lr"));
        assert_eq!(nearest("momentum", &known), None);
        assert_eq!(nearest("", &known), None);
    }
}
