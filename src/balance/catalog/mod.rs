//! All methods: what each is, needs, keeps, costs and promises. For `polytask methods`, `docs/methods.md`, and tests
//! that hold a method to its promises.
//!
//! Options and their defaults are not written here: they are read from the configuration types ([`Method::options`]).
//! A test proves that every method here loads, and that every choice of the configuration is here.

mod methods;

pub use methods::METHODS;

use crate::config::{self, ConfigError};
use serde_json::Value;

/// A method as users see it. Promises are for its default options.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Its name in the configuration.
    pub name: &'static str,
    /// What it works on.
    pub kind: Kind,
    /// What it does, in a few words.
    pub what: &'static str,
    /// Where it was published; `None` for what is older than papers.
    pub paper: Option<Paper>,
    /// Its rule in a line: `L` losses, `g` task gradients, `G` their Gram matrix, `d` the direction, `w` weights, `c`
    /// coefficients.
    pub rule: &'static str,
    /// What it makes of the losses.
    pub losses: Losses,
    /// What it needs besides; empty: nothing.
    pub more: &'static str,
    /// What it remembers from step to step, and saves in checkpoints; empty: nothing.
    pub state: &'static str,
    /// What a step costs.
    pub cost: &'static str,
    /// What holds for it.
    pub promises: Promises,
    /// Its options in words, where they are names of tasks and have no defaults; empty: see [`Method::options`].
    pub given: &'static str,
    /// The overrides that choose it; empty: its name, in the section of its kind.
    pub sets: &'static [&'static str],
}

/// What a method works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Losses: `balance.weighting`.
    Losses,
    /// The Gram matrix of the task gradients: `balance.surgery`.
    Gram,
    /// Gradients of independent batches: `balance.surgery`.
    Batches,
    /// The task gradients themselves: `balance.surgery`.
    Shard,
    /// What goes around other methods: a key of its own.
    Wrapper,
}

/// Where a method was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paper {
    /// Authors: all up to three, or the first "et al.".
    pub authors: &'static str,
    /// Title.
    pub title: &'static str,
    /// Year it was published.
    pub year: u16,
    /// Number at arXiv; empty if it is not there.
    pub arxiv: &'static str,
}

/// What a method makes of the losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Losses {
    /// It does not look at them.
    Ignored,
    /// It uses them, whatever their sign.
    AnySign,
    /// It uses them, and makes sense where they are positive.
    Positive,
}

/// What holds for a method with default options, from a fresh state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// No task ascends: `g_t . d >= 0`, for independent gradients.
    pub descends: Descends,
    /// What the direction is where no two tasks conflict.
    pub without_conflict: Option<Total>,
    /// What a common factor of all gradients does to the direction.
    pub scale: Scale,
    /// Whether the direction's direction (not its length) stays when one task's gradient is scaled.
    pub task_scale: bool,
    /// Whether the order of the tasks matters.
    pub order: Order,
}

/// For how many tasks `g_t . d >= 0` is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descends {
    /// Not at all.
    Unpromised,
    /// For two.
    TwoTasks,
    /// For any number.
    Always,
}

/// A plain combination of all task gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// `sum_t g_t`.
    Sum,
    /// `1/T sum_t g_t`.
    Mean,
}

/// What a common factor of all gradients does to the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The direction is multiplied by it: coefficients do not depend on it.
    Linear,
    /// Nothing: the method fixes the direction's length by itself.
    Invariant,
    /// Something else: the method has a length scale of its own.
    Unpromised,
}

/// Whether the order of the tasks matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It does not.
    Equivariant,
    /// Draws go by it: another order is another draw.
    Random,
    /// The method itself goes by it.
    Listed,
}

/// The method of this name.
pub fn find(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

/// Names of tasks that have none: `0`, `1`, ...
pub fn numbered(n_tasks: usize) -> Vec<String> {
    (0..n_tasks).map(|t| t.to_string()).collect()
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Kind; 5] = [Kind::Losses, Kind::Gram, Kind::Batches, Kind::Shard, Kind::Wrapper];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Losses => "losses",
            Kind::Gram => "gram",
            Kind::Batches => "batches",
            Kind::Shard => "shard",
            Kind::Wrapper => "wrapper",
        }
    }

    /// The key whose values these are; none for wrappers.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Kind::Losses => Some("balance.weighting"),
            Kind::Gram | Kind::Batches | Kind::Shard => Some("balance.surgery"),
            Kind::Wrapper => None,
        }
    }

    /// A heading.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Losses => "Weights from losses",
            Kind::Gram => "Surgery on the Gram matrix",
            Kind::Batches => "Surgery on independent batches",
            Kind::Shard => "Surgery on the task gradients themselves",
            Kind::Wrapper => "Around other methods",
        }
    }
}

impl Method {
    /// The overrides of a configuration that choose this method with its default options.
    pub fn overrides(&self) -> Vec<String> {
        match self.kind.key() {
            Some(key) if self.sets.is_empty() => vec![format!("{key}={}", self.name)],
            _ => self.sets.iter().map(ToString::to_string).collect(),
        }
    }

    /// The method alone, with its default options, for tasks of these names.
    ///
    /// # Errors
    /// If it is not for so few tasks.
    pub fn config(&self, tasks: &[String]) -> Result<config::Balance, ConfigError> {
        Ok(config::with_tasks(self.name, tasks, &self.overrides())?.balance)
    }

    /// Options with their defaults, in the order of the configuration types.
    ///
    /// # Errors
    /// If the configuration does not know the method.
    pub fn options(&self) -> Result<Vec<(String, Value)>, ConfigError> {
        const ENOUGH: usize = 8;
        if !self.given.is_empty() {
            return Ok(Vec::new());
        }
        let balance = self.config(&numbered(ENOUGH))?;
        // A choice without options is its bare name, and one with options a map with its name.
        let Ok(Value::Object(choices)) = serde_json::to_value(&balance) else { return Ok(Vec::new()) };
        let options = choices.into_iter().find_map(|(_, mut choice)| choice.get_mut(self.name).map(Value::take));
        Ok(match options {
            Some(Value::Object(options)) => options.into_iter().collect(),
            _ => Vec::new(),
        })
    }

    /// What it needs to see, in words.
    pub fn needs(&self) -> String {
        let gradients = match self.kind {
            Kind::Losses | Kind::Batches => "",
            Kind::Gram => "Gram matrix",
            Kind::Shard => "task gradients",
            Kind::Wrapper => "what the method inside needs",
        };
        let losses = match self.losses {
            Losses::Ignored => "",
            Losses::AnySign => "losses",
            Losses::Positive => "positive losses",
        };
        let needs: Vec<&str> = [gradients, losses, self.more].into_iter().filter(|need| !need.is_empty()).collect();
        if needs.is_empty() { "nothing".into() } else { needs.join(", ") }
    }
}

impl Promises {
    /// What is promised, in words.
    pub fn words(&self) -> Vec<&'static str> {
        let mut words = Vec::new();
        match self.descends {
            Descends::Always => words.push("no task ascends (independent gradients)"),
            Descends::TwoTasks => words.push("no task ascends for two tasks"),
            Descends::Unpromised => {}
        }
        match self.without_conflict {
            Some(Total::Sum) => words.push("the sum where nothing conflicts"),
            Some(Total::Mean) => words.push("the mean where nothing conflicts"),
            None => {}
        }
        match self.scale {
            Scale::Linear => words.push("coefficients free of the gradients' common scale"),
            Scale::Invariant => words.push("direction free of the gradients' common scale"),
            Scale::Unpromised => {}
        }
        if self.task_scale {
            words.push("points the same way whatever the scale of one task");
        }
        match self.order {
            Order::Equivariant => words.push("free of the order of tasks"),
            Order::Random => words.push("draws from the run's seed and the step"),
            Order::Listed => words.push("goes by the order of tasks"),
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that the configuration knows at this key, from its own words.
    fn choices(key: &str) -> Vec<String> {
        let error = config::with_tasks("test", &numbered(2), &[format!("{key}=no_such_choice")]).unwrap_err();
        let line = error.message.lines().next().unwrap().to_owned();
        let (_, names) = line.split_once("expected ").unwrap();
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_method_of_the_catalogue_loads() {
        // Some name two tasks and all of them, some need more.
        let load = |method: &Method| method.config(&numbered(2)).or_else(|_| method.config(&numbered(8)));
        let refused: Vec<String> =
            METHODS.iter().filter_map(|m| load(m).err().map(|e| format!("{}: {e}", m.name))).collect();
        assert!(refused.is_empty(), "{} methods:\n{}", refused.len(), refused.join("\n"));
    }

    #[test]
    fn every_choice_of_the_configuration_is_in_the_catalogue() {
        for (key, plain) in [("balance.weighting", ""), ("balance.surgery", "none"), ("balance.tasks", "all")] {
            let choices = choices(key);
            assert!(choices.len() >= 2, "{key}: {choices:?}");
            let sets = |method: &Method| method.overrides().iter().any(|set| set.starts_with(key));
            let known = |name: &String| find(name).is_some_and(sets);
            let missing: Vec<&String> = choices.iter().filter(|name| *name != plain && !known(name)).collect();
            assert!(missing.is_empty(), "{key}: {missing:?}");
        }
    }

    #[test]
    fn options_are_those_of_the_configuration() {
        let options = find("uncertainty").unwrap().options().unwrap();
        assert_eq!(options[..2], [("lr".into(), 0.025.into()), ("init".into(), 0.0.into())]);
        assert!(find("pcgrad").unwrap().options().unwrap().is_empty());
        assert!(find("fixed").unwrap().options().unwrap().is_empty());
    }

    #[test]
    fn entries_are_complete() {
        for (k, method) in METHODS.iter().enumerate() {
            assert!(METHODS[..k].iter().all(|other| other.name != method.name), "{} twice", method.name);
            assert!(METHODS[..k].iter().all(|other| other.kind <= method.kind), "{} is out of order", method.name);
            let texts = [method.name, method.what, method.rule, method.cost];
            assert!(texts.iter().all(|text| !text.is_empty()), "{}", method.name);
            if let Some(paper) = method.paper {
                assert!(paper.year > 1990 && !paper.title.is_empty() && !paper.authors.is_empty(), "{}", method.name);
                let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_digit());
                let number = paper.arxiv.split_once('.').is_some_and(|(a, b)| digits(a, 4) && digits(b, 5));
                assert!(paper.arxiv.is_empty() || number, "{}: {}", method.name, paper.arxiv);
            }
        }
    }
}
