//! Choices (enums), written `name` or `name: {options}`, for every enum at once.
//!
//! A bare name means "with default options". It works for variants with options too, where serde's derive alone
//! would refuse it; options without a default are then reported as missing, at the name.

use super::de::De;
use super::fault::{Fault, any_of, quote};
use super::tree::{Content, EMPTY, Key, Node, Place, blame};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, EnumAccess, VariantAccess, Visitor};

/// The one choice that a value makes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'de> {
    name: &'de str,
    place: Place,
    options: Option<&'de (Key, Node)>,
}

impl<'de> Choice<'de> {
    /// What `node` chooses among `names`.
    pub fn of(node: &'de Node, names: &[&str]) -> Result<Self, Fault> {
        match &node.content {
            Content::Scalar { text, .. } => Ok(Choice { name: text, place: node.place, options: None }),
            Content::Map(entries) => {
                let entry = the_one(entries, names)?;
                Ok(Choice { name: &entry.0.text, place: entry.0.place, options: Some(entry) })
            }
            Content::Null => Err(Fault::new(format!("expected {}, found nothing", any_of(names)))),
            Content::List(_) => Err(Fault::new(format!("expected {}, found a list", any_of(names)))),
        }
    }
}

/// The only entry, or the one of the last override: `--set optim.sgd.lr=0.1` replaces `optim: {adamw: ..}`.
fn the_one<'de>(entries: &'de [(Key, Node)], names: &[&str]) -> Result<&'de (Key, Node), Fault> {
    let in_file: Vec<&Key> = entries.iter().map(|(key, _)| key).filter(|key| key.place.set().is_none()).collect();
    if let [first, second, ..] = in_file[..] {
        let both = format!("expected one choice, found {} and {}", quote(&first.text), quote(&second.text));
        return Err(Fault::new(both).at(second.place));
    }
    let last = |(key, value): &&(Key, Node)| key.place.set().max(value.last_set());
    let found_none = || Fault::new(format!("expected {}, found an empty map", any_of(names)));
    entries.iter().max_by_key(last).ok_or_else(found_none)
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name = StrDeserializer::new(self.name);
        let variant = seed.deserialize(name).map_err(|fault: Fault| fault.at(self.place))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.options {
            None => Ok(()),
            Some((_, Node { content: Content::Null, .. })) => Ok(()),
            Some((_, Node { content: Content::Map(entries), .. })) if entries.is_empty() => Ok(()),
            Some((key, value)) => Err(Fault::new(format!("{} takes no options", quote(self.name)))
                .at(blame(key, value))
                .hint(format!("write `{}` alone", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let (node, place) = match self.options {
            Some((key, value)) if value.content != Content::Null => (value, blame(key, value)),
            _ => (&EMPTY, self.place),
        };
        seed.deserialize(De(node)).map_err(|fault| fault.at(place).under(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new(format!("{} cannot be read: its options have no names", quote(self.name))))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        struct Options<V>(V);
        impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Options<V> {
            type Value = V::Value;
            fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<V::Value, D::Error> {
                d.deserialize_map(self.0)
            }
        }
        self.newtype_variant_seed(Options(visitor))
    }
}
