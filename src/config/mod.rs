//! What a YAML file may say: serde types, defaults and checks. No tensors, no MPI, no device.
//!
//! The way of a configuration: [`load`] reads the file, applies `--set` overrides, refuses what is unknown with
//! file, line and column, runs the semantic checks of `check/`, and returns a [`Config`] in which every default
//! is filled in. The rest of the program sees only that.

//!
//! ```text
//! parse      YAML text -> tree (every value knows its place)
//! overrides  --set a.b=c, on the tree
//! de, choice tree -> types; scalar: what is a number; span: lengths of time; hints: did you mean
//! check/     what the types cannot say
//! fault      a mistake on its way to a message
//! diff       what a resumed run changes, and the hash of what it may not
//! write      the resolved configuration as YAML
//! ```

mod balance;
mod check;
mod choice;
mod data;
mod de;
mod diff;
mod error;
mod fault;
mod hints;
mod load;
mod model;
mod one_or_many;
mod optim;
mod overrides;
mod parse;
#[cfg(test)]
mod round_trip;
mod run;
mod scalar;
mod span;
mod task;
mod tree;
mod write;

pub use balance::*;
pub use data::*;
pub use diff::{Change, MAY_CHANGE};
pub use error::ConfigError;
pub use hints::did_you_mean;
pub use load::{load, load_str, with_tasks};
pub use model::*;
pub use optim::*;
pub use run::*;
pub use span::TimeSpan;
pub use task::*;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A whole run, as resolved from one YAML file and `--set` overrides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name, seed and folder of the run.
    pub run: Run,
    /// Where samples come from and how they are split.
    pub data: Data,
    /// The tasks by name. The order of the file is kept: it is the order of the rows of `J`.
    #[serde(with = "ordered")]
    pub tasks: Vec<(String, Task)>,
    /// Size and mixture of the global batch.
    #[serde(default)]
    pub batch: Batch,
    /// Encoder and sharing.
    pub model: Model,
    /// Weighting and surgery.
    #[serde(default)]
    pub balance: Balance,
    /// Optimizer.
    #[serde(default)]
    pub optim: Optim,
    /// Learning-rate schedule.
    #[serde(default)]
    pub schedule: Schedule,
    /// Length, device and precision.
    #[serde(default)]
    pub train: Train,
    /// How ranks exchange tensors.
    #[serde(default)]
    pub comm: Comm,
    /// When checkpoints are written and how many stay.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// What is logged, and how often.
    #[serde(default)]
    pub log: Log,
}

/// Maps whose order in the file matters (tasks, sources) are kept as lists of pairs: no hash order anywhere.
pub(crate) mod ordered {
    use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
    use serde::ser::{Serialize, SerializeMap, Serializer};
    use std::{fmt, marker::PhantomData};

    pub fn serialize<S: Serializer, V: Serialize>(pairs: &[(String, V)], serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(pairs.len()))?;
        for (key, value) in pairs {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(d: D) -> Result<Vec<(String, V)>, D::Error> {
        struct Pairs<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Pairs<V> {
            type Value = Vec<(String, V)>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs: Vec<(String, V)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if pairs.iter().any(|(k, _)| *k == key) {
                        return Err(A::Error::custom(format!("duplicate name `{key}`")));
                    }
                    pairs.push((key, value));
                }
                Ok(pairs)
            }
        }
        d.deserialize_map(Pairs(PhantomData))
    }
}

/// Named numbers, in alphabetical order (weights by task or source).
pub type Named = BTreeMap<String, f64>;
