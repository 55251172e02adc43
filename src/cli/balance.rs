//! `polytask balance`.

use super::{methods, text};
use crate::balance::catalog::{self, Kind, Losses, METHODS, Method};
use crate::balance::explicit::{Balanced, Explicit};
use crate::config::{self, Balance, ConfigError};
use crate::data::DataError;
use crate::data::sources::arrays;
use crate::error::{Error, Result, exit};
use crate::log::console::table::number;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Balances a Jacobian given as a matrix, one step from a fresh state: the coefficients that a method gives each task,
/// the direction, and which tasks conflict. For checking numbers of other programs, and for trying methods on gradients
/// of your own. In NumPy: `numpy.save("J.npy", J)`, J of shape [T, P], a row per task.
#[derive(Debug, Args)]
pub struct BalanceArgs {
    /// A weighting, a surgery, or `weighting+surgery`; `polytask methods` lists them
    method: String,
    /// Task gradients [T, P], an .npy file of numbers
    #[arg(long, value_name = "FILE")]
    jacobian: PathBuf,
    /// Task losses [T], an .npy file; default: 1 for every task
    #[arg(long, value_name = "FILE")]
    losses: Option<PathBuf>,
    /// An option of the method, for example `--option lr=0.1`; with `a+b` the method comes first: `a.lr=0.1`. May be repeated
    #[arg(long = "option", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Seed of random draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Step of random draws, from 0
    #[arg(long, default_value_t = 0)]
    step: u64,
    /// Print one JSON object, with the whole direction
    #[arg(long)]
    json: bool,
}

/// Most rows that are read: more is a matrix the wrong way round.
const MAX_TASKS: usize = 1000;
/// Most tasks whose cosines are printed.
const MAX_SHOWN: usize = 16;
/// Cosine below which a task ascends: above it is rounding.
const ASCENDS: f64 = -1e-9;

impl BalanceArgs {
    pub(super) fn run(&self) -> Result<u8> {
        text::print(format_args!("{}", self.answer()?))?;
        Ok(exit::DONE)
    }

    /// What is printed.
    ///
    /// # Errors
    /// For wrong names and options, and for files that do not hold what they should.
    pub fn answer(&self) -> Result<String> {
        let chosen = chosen(&self.method)?;
        let jacobian = self.jacobian()?;
        let losses = self.losses(jacobian.len())?;
        let tasks = catalog::numbered(jacobian.len());
        let config = self.config(&chosen, &tasks)?;
        let mut balancing = Explicit::named(&config, &tasks, jacobian[0].len(), self.seed, 1);
        let balanced = balancing.direct(&jacobian, &losses, self.step).map_err(|bad| self.not_finite(&bad.0))?;
        let report = Report { args: self, chosen: &chosen, jacobian: &jacobian, losses: &losses, balanced: &balanced };
        Ok(if self.json { format!("{}\n", report.json()) } else { report.text() })
    }

    fn jacobian(&self) -> Result<Vec<Vec<f64>>> {
        let path = &self.jacobian;
        let (shape, values) = arrays::numbers(path)?;
        let [n_tasks, n] = shape[..] else {
            let message =
                format!("of shape {shape:?}, where [T, P] is expected: a row per task, a column per parameter");
            return Err(DataError::file(path, message).into());
        };
        if n_tasks > MAX_TASKS {
            let message =
                format!("{n_tasks} rows, and a row is a task: at most {MAX_TASKS}. Is it the other way round?");
            return Err(DataError::file(path, message).into());
        }
        Ok(values.chunks_exact(n).map(<[f64]>::to_vec).collect())
    }

    fn losses(&self, n_tasks: usize) -> Result<Vec<f64>> {
        let Some(path) = &self.losses else { return Ok(vec![1.0; n_tasks]) };
        let (shape, values) = arrays::numbers(path)?;
        if shape != [n_tasks] {
            let rows = self.jacobian.display();
            let message = format!("of shape {shape:?}, where [{n_tasks}] is expected: a loss per row of {rows}");
            return Err(DataError::file(path, message).into());
        }
        Ok(values)
    }

    /// The methods with these options; mistakes are told as the configuration would, in the words of this command.
    fn config(&self, chosen: &[&Method], tasks: &[String]) -> Result<Balance> {
        let mut overrides: Vec<String> = Vec::new();
        for method in chosen {
            // What is given replaces the weight that stands for `fixed` without options, which would be a mistake.
            let bare =
                !self.options.iter().any(|option| option_of(option, chosen).is_some_and(|(m, _)| m == method.name));
            match (bare, method.kind.key()) {
                (false, Some(key)) if !method.given.is_empty() => overrides.push(format!("{key}.{}={{}}", method.name)),
                _ => overrides.extend(method.overrides()),
            }
        }
        for option in &self.options {
            if !option.contains('=') {
                return Err(Error::Usage(format!("--option {option}: expected `key=value`")));
            }
            let Some((name, rest)) = option_of(option, chosen) else {
                let names: Vec<String> = chosen.iter().map(|method| format!("`{}.{option}`", method.name)).collect();
                return Err(Error::Usage(format!("--option {option}: of which method? Write {}", names.join(" or "))));
            };
            let key = chosen.iter().find(|method| method.name == name).and_then(|method| method.kind.key());
            overrides.push(format!("{}.{name}.{rest}", key.unwrap_or_default()));
        }
        let config =
            config::with_tasks(&self.method, tasks, &overrides).map_err(|error| in_our_words(error, chosen))?;
        Ok(config.balance)
    }

    fn not_finite(&self, tasks: &[usize]) -> Error {
        let names: Vec<String> = tasks.iter().map(ToString::to_string).collect();
        let what = "inner products or coefficients overflow, or are not numbers";
        DataError::file(&self.jacobian, format!("of tasks {}: {what}", names.join(", "))).into()
    }
}

/// Whose option this is, and the rest of it: with one method its name may be left out.
fn option_of<'a>(option: &'a str, chosen: &[&Method]) -> Option<(&'static str, &'a str)> {
    let named = chosen.iter().find_map(|method| {
        let rest = option.strip_prefix(method.name)?.strip_prefix('.')?;
        Some((method.name, rest))
    });
    match chosen {
        [only] => named.or(Some((only.name, option))),
        _ => named,
    }
}

/// The methods that `a` or `a+b` names.
fn chosen(text: &str) -> Result<Vec<&'static Method>> {
    let known: Vec<&str> = METHODS.iter().filter(|m| m.kind != Kind::Wrapper).map(|m| m.name).collect();
    let named = |name: &str| match catalog::find(name.trim()) {
        Some(method) if method.kind == Kind::Wrapper => {
            let message = format!(
                "`{name}` goes around other methods and does nothing alone; `polytask methods {name}` says more"
            );
            Err(Error::Usage(message))
        }
        Some(method) => Ok(method),
        None => Err(methods::unknown(name.trim(), &known)),
    };
    let chosen: Vec<&Method> = text.split('+').map(named).collect::<Result<_>>()?;
    match chosen[..] {
        [_] => Ok(chosen),
        [a, b] if a.kind == Kind::Losses && b.kind != Kind::Losses => Ok(chosen),
        _ => Err(Error::Usage(format!("`{text}`: expected a weighting, a surgery, or `weighting+surgery`"))),
    }
}

/// A mistake in an override, told as one in an option.
fn in_our_words(error: ConfigError, chosen: &[&Method]) -> Error {
    let mut message = error.message;
    for method in chosen {
        let Some(key) = method.kind.key() else { continue };
        let option = if chosen.len() > 1 { format!("--option {}.", method.name) } else { "--option ".into() };
        message = message.replace(&format!("--set {key}.{}.", method.name), &option);
        message = message.replace(&format!("--set {key}={}", method.name), method.name);
    }
    Error::Usage(message)
}

/// What is printed.
struct Report<'a> {
    args: &'a BalanceArgs,
    chosen: &'a [&'a Method],
    jacobian: &'a [Vec<f64>],
    losses: &'a [f64],
    balanced: &'a Balanced,
}

/// Conflicts before and after.
struct Conflicts {
    /// Pairs of tasks with a negative inner product.
    pairs: Vec<(usize, usize)>,
    /// Norm of the direction.
    norm: f64,
    /// Cosine of the direction with each gradient; 0 where one is zero.
    along: Vec<f64>,
    /// Tasks whose loss goes up along the negative direction.
    ascending: Vec<usize>,
}

impl Report<'_> {
    fn conflicts(&self) -> Conflicts {
        let (gram, direction) = (&self.balanced.gram, &self.balanced.direction);
        let n = gram.n_tasks();
        let pairs =
            (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).filter(|&(i, j)| gram.row(i)[j] < 0.0).collect();
        let norm = length(direction);
        let along: Vec<f64> = self
            .jacobian
            .iter()
            .map(|row| match length(row) * norm {
                0.0 => 0.0,
                scale => row.iter().zip(direction).map(|(g, d)| g / scale * d).sum::<f64>().clamp(-1.0, 1.0),
            })
            .collect();
        let ascending = (0..n).filter(|&t| along[t] < ASCENDS).collect();
        Conflicts { pairs, norm, along, ascending }
    }

    /// What the numbers rest on besides the file.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for method in self.chosen {
            let name = method.name;
            if self.args.losses.is_none() && method.losses != Losses::Ignored {
                notes
                    .push(format!("{name} looks at the losses: 1 is assumed for every task (`--losses` gives others)"));
            }
            let negative: Vec<String> =
                (0..self.losses.len()).filter(|&t| self.losses[t] <= 0.0).map(|t| t.to_string()).collect();
            if method.losses == Losses::Positive && !negative.is_empty() {
                notes.push(format!(
                    "{name} makes sense for positive losses only, unlike that of {}",
                    negative.join(", ")
                ));
            }
            if method.kind == Kind::Batches {
                notes.push(format!("{name} works on three independent batches: the same gradients stand for each"));
            }
        }
        notes
    }

    fn json(&self) -> Value {
        let (b, conflicts) = (self.balanced, self.conflicts());
        let n = b.gram.n_tasks();
        let cosines = b.gram.cosines();
        json!({
            "method": self.args.method,
            "weights": b.weights,
            "coefficients": b.coefficients,
            "direction": b.direction,
            "direction_norm": conflicts.norm,
            "direction_cosines": conflicts.along,
            "gram": b.gram.values().chunks_exact(n).collect::<Vec<_>>(),
            "norms": b.gram.norms(),
            "cosines": cosines.chunks_exact(n).collect::<Vec<_>>(),
            "conflicts": {
                "pairs": conflicts.pairs,
                "rate": b.gram.conflict_rate(),
                "ascending": conflicts.ascending,
            },
            "losses": self.losses,
            "seed": self.args.seed,
            "step": self.args.step,
            "notes": self.notes(),
        })
    }

    fn text(&self) -> String {
        let (b, conflicts) = (self.balanced, self.conflicts());
        let n = b.gram.n_tasks();
        let (columns, args) = (b.direction.len(), self.args);
        let head = format!("{}: {} tasks, {} parameters", args.method, text::count(n), text::count(columns));
        let mut out = format!("{head}; a fresh state, step {}, seed {}\n\n", args.step, args.seed);
        out.push_str(&self.tasks(&conflicts));
        if n > 1 && n <= MAX_SHOWN {
            let cosines = b.gram.cosines();
            let names = catalog::numbered(n);
            let header: Vec<&str> = std::iter::once("cosine").chain(names.iter().map(String::as_str)).collect();
            let row = |i: usize| {
                std::iter::once(names[i].clone()).chain(cosines[i * n..=i * n + i].iter().map(|c| format!("{c:.4}")))
            };
            let rows: Vec<Vec<String>> = (0..n).map(|i| row(i).collect()).collect();
            out.push_str(&format!("\n{}", text::table(&header, &rows, 1)));
        }
        out.push('\n');
        if let Some(rate) = b.gram.conflict_rate() {
            let pairs: Vec<String> = conflicts.pairs.iter().take(MAX_SHOWN).map(|(i, j)| format!("{i}-{j}")).collect();
            let more = if conflicts.pairs.len() > MAX_SHOWN { ", ..." } else { "" };
            let which = if pairs.is_empty() { String::new() } else { format!(": {}{more}", pairs.join(", ")) };
            let (found, all) = (conflicts.pairs.len(), n * (n - 1) / 2);
            out.push_str(&format!("{found} of {all} pairs in conflict ({:.0} %){which}\n", 100.0 * rate));
        }
        let ascends: Vec<String> = conflicts.ascending.iter().map(ToString::to_string).collect();
        let after = match ascends.len() {
            0 => "no task ascends".into(),
            1 => format!("task {} ascends", ascends[0]),
            _ => format!("tasks {} ascend", ascends.join(", ")),
        };
        out.push_str(&format!("direction of norm {}; {after}\n", number(Some(conflicts.norm))));
        if b.coefficients.is_none() {
            out.push_str("the direction is no combination of the gradients: `--json` prints it\n");
        }
        for note in self.notes() {
            out.push_str(&format!("note: {note}\n"));
        }
        out
    }

    /// A row per task.
    fn tasks(&self, conflicts: &Conflicts) -> String {
        let b = self.balanced;
        let with_losses =
            self.chosen.iter().any(|method| method.losses != Losses::Ignored) || self.args.losses.is_some();
        let norms = b.gram.norms();
        let mut header = vec!["task", "norm"];
        if with_losses {
            header.push("loss");
        }
        header.extend(["weight", "coefficient", "cos(d, g)"]);
        let row = |t: usize| {
            let mut row = vec![t.to_string(), number(Some(norms[t]))];
            if with_losses {
                row.push(number(Some(self.losses[t])));
            }
            row.push(number(Some(b.weights[t])));
            row.push(number(b.coefficients.as_ref().map(|c| c[t])));
            row.push(format!("{:.4}", conflicts.along[t]));
            row
        };
        let rows: Vec<Vec<String>> = (0..norms.len()).map(row).collect();
        text::table(&header, &rows, 1)
    }
}

/// The norm, without overflow on the way.
fn length(v: &[f64]) -> f64 {
    let largest = v.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if largest == 0.0 { 0.0 } else { largest * v.iter().map(|x| (x / largest).powi(2)).sum::<f64>().sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&'static str> {
        chosen(text).unwrap().iter().map(|method| method.name).collect()
    }

    #[test]
    fn methods_are_one_or_a_weighting_and_a_surgery() {
        assert_eq!(names("pcgrad"), ["pcgrad"]);
        assert_eq!(names("uncertainty + pcgrad"), ["uncertainty", "pcgrad"]);
        for wrong in ["pcgrad+uncertainty", "equal+equal", "equal+pcgrad+pcgrad", "pcgrad+", "smoothing"] {
            assert!(chosen(wrong).is_err(), "{wrong}");
        }
        let message = chosen("pcgrd").unwrap_err().to_string();
        assert_eq!(message, "no method is called `pcgrd`\nhint: did you mean `pcgrad`?");
    }

    #[test]
    fn options_belong_to_a_method() {
        let both = chosen("uncertainty+pcgrad").unwrap();
        assert_eq!(option_of("uncertainty.lr=1", &both), Some(("uncertainty", "lr=1")));
        assert_eq!(option_of("lr=1", &both), None);
        assert_eq!(option_of("lr=1", &both[..1]), Some(("uncertainty", "lr=1")));
        assert_eq!(option_of("uncertainty.lr=1", &both[..1]), Some(("uncertainty", "lr=1")));
    }
}
