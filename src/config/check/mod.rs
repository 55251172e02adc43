//! What the types cannot say: values out of range, names that do not exist, combinations that make no sense.
//!
//! Nothing here needs data or devices. A file per part of the configuration; each fault names its keys, from which
//! [`super::load`] finds line and column.

mod active;
mod balance;
mod batch;
mod comm;
mod model;
mod shard_methods;
mod source;
mod task;
mod training;
mod weighting;

use super::Config;
use super::fault::{Fault, quote};
use std::fmt::Display;

type Checked = Result<(), Fault>;

/// Largest count of samples or steps: exact as a float, far from any overflow.
const MANY: u64 = 1 << 40;
/// Largest width of a layer.
const WIDE: u64 = 1 << 24;

/// Checks the whole configuration; the first fault found, in the order of the sections.
pub(super) fn run(config: &Config) -> Checked {
    run_section(config)?;
    source::check(config)?;
    task::check(config)?;
    batch::check(config)?;
    model::check(config)?;
    balance::check(config)?;
    training::check(config)
}

fn run_section(config: &Config) -> Checked {
    let at = At::key("run").then("name");
    let name = &config.run.name;
    at.need(!name.trim().is_empty(), "must not be blank")?;
    let fits = !name.contains(['/', '\\']) && !name.chars().any(char::is_control) && name != "." && name != "..";
    at.need(
        fits,
        format_args!("{} cannot be the name of a folder, and the run directory is `runs/<name>`", quote(name)),
    )?;
    let dir = config.run.dir.as_ref();
    At::key("run").then("dir").need(dir.is_none_or(|d| !d.as_os_str().is_empty()), "must not be blank")
}

/// Keys from the root to a value: what a fault names.
#[derive(Debug, Clone)]
struct At(Vec<String>);

impl At {
    fn key(key: impl Display) -> Self {
        At(vec![key.to_string()])
    }

    fn then(&self, key: impl Display) -> Self {
        let mut path = self.0.clone();
        path.push(key.to_string());
        At(path)
    }

    fn fault(&self, message: impl Display) -> Fault {
        Fault { path: self.0.clone(), ..Fault::new(message) }
    }

    fn need(&self, ok: bool, message: impl Display) -> Checked {
        if ok { Ok(()) } else { Err(self.fault(message)) }
    }

    /// `> 0`.
    fn positive(&self, value: f64) -> Checked {
        self.need(value > 0.0 && value.is_finite(), format_args!("must be greater than 0, found {value}"))
    }

    /// `>= 0`.
    fn not_negative(&self, value: f64) -> Checked {
        self.need(value >= 0.0 && value.is_finite(), format_args!("must be 0 or greater, found {value}"))
    }

    /// `[0, 1)`.
    fn share(&self, value: f64) -> Checked {
        self.need((0.0..1.0).contains(&value), format_args!("must be at least 0 and below 1, found {value}"))
    }

    /// `[least, most]`.
    fn within(&self, value: u64, least: u64, most: u64) -> Checked {
        self.need(value >= least, format_args!("must be at least {least}, found {value}"))?;
        self.need(value <= most, format_args!("must be at most {most}, found {value}"))
    }

    /// Sizes of layers.
    fn widths(&self, widths: &[usize]) -> Checked {
        widths.iter().enumerate().try_for_each(|(i, width)| self.then(i).within(*width as u64, 1, WIDE))
    }

    /// Names in a list: none blank, none twice.
    fn names<S: AsRef<str>>(&self, names: &[S]) -> Checked {
        for (i, name) in names.iter().map(AsRef::as_ref).enumerate() {
            self.then(i).need(!name.is_empty(), "must not be blank")?;
            let twice = names[..i].iter().any(|earlier| earlier.as_ref() == name);
            self.then(i).need(!twice, format_args!("{} is listed twice", quote(name)))?;
        }
        Ok(())
    }
}
