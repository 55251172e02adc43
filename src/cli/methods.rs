//! `polytask methods`.

use super::text;
use crate::balance::catalog::{self, Kind, METHODS, Method};
use crate::config;
use crate::error::{Error, Result, exit};
use crate::log::console::terminal;
use clap::Args;
use serde_json::{Value, json};

/// Lists the balancing methods: what each is, and its options with their defaults. With NAME, all about one: paper, rule,
/// what it needs, keeps, costs and promises. docs/methods.md says which to choose when.
#[derive(Debug, Args)]
pub struct MethodsArgs {
    /// One method, by its name in the configuration
    name: Option<String>,
    /// Print JSON: a list of objects, or one object for NAME
    #[arg(long)]
    json: bool,
}

impl MethodsArgs {
    pub(super) fn run(&self) -> Result<u8> {
        let width = terminal::width();
        let text = match &self.name {
            None if self.json => format!("{}\n", Value::from(METHODS.iter().map(object).collect::<Result<Vec<_>>>()?)),
            None => list(width)?,
            Some(name) => {
                let known: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
                let method = catalog::find(name).ok_or_else(|| unknown(name, &known))?;
                if self.json { format!("{}\n", object(method)?) } else { sheet(method, width)? }
            }
        };
        text::print(format_args!("{text}"))?;
        Ok(exit::DONE)
    }
}

/// That no method has this name.
pub(super) fn unknown(name: &str, known: &[&str]) -> Error {
    let hint = match config::did_you_mean(name, known) {
        hint if hint.is_empty() => "\nhint: `polytask methods` lists all".into(),
        hint => hint,
    };
    Error::Usage(format!("no method is called `{}`{hint}", name.escape_debug()))
}

/// All methods by kind: a line each, and one for the options of those that have some.
fn list(width: usize) -> Result<String> {
    let names = METHODS.iter().map(|method| method.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for kind in Kind::ALL {
        let key = kind.key().map(|key| format!(" ({key})")).unwrap_or_default();
        out.push_str(&format!("{}{}{key}\n", if out.is_empty() { "" } else { "\n" }, kind.title()));
        for method in METHODS.iter().filter(|method| method.kind == kind) {
            let year = method.paper.map_or("-".into(), |paper| paper.year.to_string());
            let head = format!("  {:<names$}  {year:>4}  ", method.name);
            let mut lines = vec![method.what.to_owned()];
            lines.extend(options(method)?);
            for (k, line) in lines.iter().flat_map(|line| text::wrap(line, width - head.len())).enumerate() {
                let indent = if k == 0 { head.clone() } else { " ".repeat(head.len()) };
                out.push_str(&format!("{indent}{line}\n"));
            }
        }
    }
    Ok(out)
}

/// `lr: 0.025, init: 0.0`; `None` for methods without options.
fn options(method: &Method) -> Result<Option<String>> {
    if !method.given.is_empty() {
        return Ok(Some(method.given.into()));
    }
    let options: Vec<String> =
        method.options()?.iter().map(|(name, value)| format!("{name}: {}", plain(value))).collect();
    Ok((!options.is_empty()).then(|| options.join(", ")))
}

/// A value as YAML has it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// All about one method.
fn sheet(method: &Method, width: usize) -> Result<String> {
    const NAMES: usize = 10;
    let mut out = format!("{}: {}\n\n", method.name, method.what);
    let mut row = |name: &str, value: &str| {
        for (k, line) in text::wrap(value, width - NAMES).iter().enumerate() {
            out.push_str(&format!("{:<NAMES$}{line}\n", if k == 0 { name } else { "" }));
        }
    };
    if let Some(paper) = method.paper {
        row("paper", &format!("{}, \"{}\", {}", paper.authors, paper.title, paper.year));
        if !paper.arxiv.is_empty() {
            row("", &format!("https://arxiv.org/abs/{}", paper.arxiv));
        }
    }
    row("rule", method.rule);
    row("needs", &method.needs());
    row("keeps", if method.state.is_empty() { "nothing" } else { method.state });
    row("cost", method.cost);
    row("promises", &method.promises.words().join("; "));
    row("options", &options(method)?.unwrap_or_else(|| "none".into()));
    row("choose", &format!("--set {}", method.overrides().join(" --set ")));
    Ok(out)
}

fn object(method: &Method) -> Result<Value> {
    let options: serde_json::Map<String, Value> = method.options()?.into_iter().collect();
    let paper = method.paper.map(|paper| {
        let arxiv = (!paper.arxiv.is_empty()).then_some(paper.arxiv);
        json!({ "authors": paper.authors, "title": paper.title, "year": paper.year, "arxiv": arxiv })
    });
    Ok(json!({
        "name": method.name,
        "kind": method.kind.name(),
        "key": method.kind.key(),
        "what": method.what,
        "paper": paper,
        "rule": method.rule,
        "needs": method.needs(),
        "keeps": method.state,
        "cost": method.cost,
        "promises": method.promises.words(),
        "options": options,
        "options_in_words": (!method.given.is_empty()).then_some(method.given),
        "overrides": method.overrides(),
    }))
}
