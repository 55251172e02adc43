//! `a` or `[a, b]`: values that are one text or a list of texts.
//!
//! Written out because serde's untagged enums answer a wrong type with "did not match any variant".

use super::{Paths, Target};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

enum OneOrMany {
    None,
    One(String),
    Many(Vec<String>),
}

struct Texts(&'static str);

impl<'de> Visitor<'de> for Texts {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_unit<E: Error>(self) -> Result<OneOrMany, E> {
        Ok(OneOrMany::None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(text.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        Ok(OneOrMany::Many(texts))
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(match d.deserialize_any(Texts("a path or a list of paths"))? {
            OneOrMany::None => Paths::None,
            OneOrMany::One(path) => Paths::One(path.into()),
            OneOrMany::Many(paths) => Paths::Many(paths.into_iter().map(Into::into).collect()),
        })
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match d.deserialize_any(Texts("a column or a list of columns"))? {
            OneOrMany::None => Err(D::Error::custom("expected a column or a list of columns, found nothing")),
            OneOrMany::One(column) => Ok(Target::One(column)),
            OneOrMany::Many(columns) => Ok(Target::Many(columns)),
        }
    }
}
