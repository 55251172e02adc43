//! Methods as they are written on the command line: names of weightings and surgeries, or YAML of section `balance`.
//!
//! There is no table of names here. A name becomes the `--set` overrides that a user would write, and the loader of
//! configurations says whether they make sense, and what was meant.

use crate::config::{Balance, Config, ConfigError};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};

/// A way to balance the tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Method {
    /// As it was written.
    pub name: String,
    /// Folder of its runs.
    pub folder: String,
    /// What it means.
    pub balance: Balance,
}

/// Longest part of a folder's name that is taken from what was written.
const LONGEST: usize = 60;

/// Reads lists of methods. Equal weights come first, whether they are named or not; what means the same as one before is
/// left out. `load` reads the configuration with further overrides.
///
/// # Errors
/// Names that the loader does not know, and configurations that cannot be trained with the method.
pub fn parse(lists: &[String], load: &dyn Fn(&[String]) -> Result<Config, ConfigError>) -> Result<Vec<Method>> {
    let mut methods: Vec<Method> = Vec::new();
    for text in std::iter::once("equal").chain(lists.iter().flat_map(|list| split(list))) {
        let balance = balance(text, load)?;
        if methods.iter().any(|m| m.balance == balance) {
            continue;
        }
        let folder = folder(text, &balance);
        if let Some(other) = methods.iter().find(|m| m.folder == folder) {
            return Err(Error::Usage(format!(
                "`{}` and `{text}` would have the same folder `{folder}`\n  hint: write one of them in another way",
                other.name
            )));
        }
        methods.push(Method { name: text.to_string(), folder, balance });
    }
    Ok(methods)
}

/// The items of a list with commas; those inside of brackets and quotes do not count.
fn split(list: &str) -> Vec<&str> {
    let (mut items, mut start, mut depth, mut quote) = (Vec::new(), 0, 0, None);
    for (at, c) in list.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth -= 1,
            (None, ',') if depth <= 0 => {
                items.push(list[start..at].trim());
                start = at + 1;
            }
            (None, _) => {}
        }
    }
    items.push(list[start..].trim());
    items
}

/// The section `balance` that a method stands for. Nothing of the configuration's own section is kept: a method has the
/// same options whatever the file says.
fn balance(text: &str, load: &dyn Fn(&[String]) -> Result<Config, ConfigError>) -> Result<Balance> {
    let mut failures = Vec::new();
    for overrides in overrides(text)? {
        match load(&overrides) {
            Ok(config) => return Ok(config.balance),
            Err(error) => failures.push(error.message),
        }
    }
    // A name is no surgery and no weighting: where one of the two knows what was meant, the other says nothing new.
    let meant: Vec<&String> = failures.iter().filter(|message| message.contains("did you mean")).collect();
    let shown = if meant.is_empty() { failures.iter().collect() } else { meant };
    let shown: Vec<&str> = shown.into_iter().map(String::as_str).collect();
    Err(Error::Usage(format!("`{text}` is no method for this configuration\n{}", shown.join("\n"))))
}

/// The overrides by which a method may be meant; the first that can be loaded counts.
fn overrides(text: &str) -> Result<Vec<Vec<String>>> {
    if text.starts_with('{') {
        return Ok(vec![vec![format!("balance={text}")]]);
    }
    let (names, gradients) = text.split_once('@').map_or((text, None), |(names, of)| (names, Some(of)));
    let set = |chosen: &[(&str, &str)]| {
        let mut sets = vec!["balance={}".to_string()];
        sets.extend(chosen.iter().map(|(key, name)| format!("balance.{key}={name}")));
        sets.extend(gradients.map(|of| format!("balance.gradients={of}")));
        sets
    };
    let parts: Vec<&str> = names.split('+').map(str::trim).collect();
    match parts[..] {
        _ if parts.iter().any(|part| part.is_empty()) => {}
        [one] => return Ok(vec![set(&[("weighting", one)]), set(&[("surgery", one)])]),
        [weighting, surgery] => return Ok(vec![set(&[("weighting", weighting), ("surgery", surgery)])]),
        _ => {}
    }
    Err(Error::Usage(format!(
        "`{text}` is no method: expected a weighting, a surgery, WEIGHTING+SURGERY, or YAML of section `balance` in braces\n  \
         hint: for example `--methods 'uncertainty,pcgrad,uncertainty+pcgrad,{{surgery: pcgrad}}'`"
    )))
}

/// A folder for a method: its name as far as that can be one. Of YAML not everything can, so that a hash of its meaning is
/// added.
fn folder(text: &str, balance: &Balance) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '@');
    let words: Vec<&str> = text.split(|c| !kept(c)).filter(|word| !word.is_empty()).collect();
    let mut name: String = words.join("_").chars().take(LONGEST).collect();
    if !text.chars().all(kept) || text.len() > LONGEST {
        let meaning = serde_json::to_string(balance).unwrap_or_default();
        let hash: String = Sha256::digest(meaning).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        name = format!("{name}-{hash}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Gradients, Surgery, Weighting};

    const CONFIG: &str = "
run: {name: x}
data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}
tasks:
  a: {source: s, target: a, kind: binary}
  b: {source: s, target: b, kind: binary}
model: {encoder: mlp}
balance: {weighting: {fixed: {a: 2}}, every: 5}
train: {steps: 1}
";

    fn parsed(lists: &[&str]) -> Result<Vec<Method>> {
        let lists: Vec<String> = lists.iter().map(|list| list.to_string()).collect();
        parse(&lists, &|sets| config::load_str("x.yaml", CONFIG, sets))
    }

    fn names(lists: &[&str]) -> Vec<String> {
        parsed(lists).unwrap().into_iter().map(|m| m.name).collect()
    }

    fn message(list: &str) -> String {
        parsed(&[list]).unwrap_err().to_string()
    }

    #[test]
    fn names_are_weightings_then_surgeries_and_a_plus_joins_them() {
        let found = parsed(&["uncertainty, pcgrad", "uncertainty+pcgrad"]).unwrap();
        let choices: Vec<(String, String)> = found
            .iter()
            .map(|m| {
                use crate::train::setup::choice_name;
                (choice_name(&m.balance.weighting), choice_name(&m.balance.surgery))
            })
            .collect();
        let pairs = [("equal", "none"), ("uncertainty", "none"), ("equal", "pcgrad"), ("uncertainty", "pcgrad")];
        assert_eq!(choices, pairs.map(|(w, s)| (w.to_string(), s.to_string())));
        let folders: Vec<&str> = found.iter().map(|m| m.folder.as_str()).collect();
        assert_eq!(folders, ["equal", "uncertainty", "pcgrad", "uncertainty+pcgrad"]);
        assert!(found.iter().all(|m| m.balance.every == 1), "nothing of the file's own section stays");
    }

    #[test]
    fn equal_weights_are_always_there_and_nothing_twice() {
        assert_eq!(names(&[]), ["equal"]);
        assert_eq!(names(&["pcgrad,equal", "pcgrad"]), ["equal", "pcgrad"]);
        assert_eq!(names(&["{surgery: pcgrad}, pcgrad, {weighting: equal}"]), ["equal", "{surgery: pcgrad}"]);
    }

    #[test]
    fn yaml_in_braces_is_the_whole_section() {
        let text = "{weighting: {uncertainty: {lr: 0.1, init: 1}}, smoothing: 0.5},pcgrad";
        let found = parsed(&[text]).unwrap();
        assert_eq!(found.len(), 3);
        let Weighting::Uncertainty(options) = &found[1].balance.weighting else { panic!("{:?}", found[1]) };
        assert_eq!((options.lr, options.init, found[1].balance.smoothing), (0.1, 1.0, 0.5));
        assert!(
            found[1].folder.starts_with("weighting_uncertainty_lr_0.1_init_1_smoothing_0.5-"),
            "{}",
            found[1].folder
        );
        let long = parsed(&[
            "{weighting: {uncertainty: {lr: 0.1, init: 1}}, smoothing: 0.5, gradients: parameters, scale_heads: true}",
        ])
        .unwrap();
        assert_eq!(long[1].folder.len(), LONGEST + 9);
    }

    #[test]
    fn gradients_may_be_those_of_the_representation() {
        let found = parsed(&["pcgrad@representation"]).unwrap();
        assert_eq!(
            (found[1].balance.gradients, &found[1].folder[..]),
            (Gradients::Representation, "pcgrad@representation")
        );
        assert_ne!(found[1].balance.surgery, Surgery::None);
    }

    #[test]
    fn mistakes_are_explained_in_the_words_of_the_loader() {
        let text = message("pcgrda");
        assert!(
            text.starts_with("`pcgrda` is no method for this configuration\n--set balance.surgery=pcgrda: "),
            "{text}"
        );
        assert!(text.ends_with("hint: did you mean `pcgrad`?"), "{text}");
        assert!(message("uw").ends_with("hint: did you mean `uncertainty`?"));
        let text = message("xyz");
        assert!(
            text.contains("--set balance.weighting=xyz: ") && text.contains("--set balance.surgery=xyz: "),
            "{text}"
        );
        let text = message("fixed");
        assert!(text.contains("needs weights by task"), "{text}");
        assert!(message("pcgrad+uncertainty").contains("--set balance.weighting=pcgrad: unknown choice"));
        assert!(message("pcgrad@layers").contains("--set balance.gradients=layers: unknown choice"));
        assert!(message("{surgery: {pcgrad: {x: 1}}}").contains("takes no options"));
        for list in ["", "pcgrad,,x", "a+b+c", "+pcgrad", "@representation"] {
            assert!(message(list).contains("expected a weighting, a surgery, WEIGHTING+SURGERY"), "{list}");
        }
    }

    #[test]
    fn commas_inside_of_brackets_and_quotes_do_not_divide() {
        assert_eq!(split("a, {b: [1, 2], c: 'd, e'} ,f"), ["a", "{b: [1, 2], c: 'd, e'}", "f"]);
        assert_eq!(split("a}, b"), ["a}", "b"]);
    }
}
