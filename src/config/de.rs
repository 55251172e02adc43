//! Reads typed values from a [`Node`] tree: the meaning of a scalar comes from the type that is asked for.
//!
//! Choices (enums) are written by name, `optim: adamw`, or by name with options, `optim: {adamw: {lr: 1e-3}}`;
//! `choice` settles both in one place, for every enum.

use super::choice::Choice;
use super::fault::{Fault, quote};
use super::scalar::{self, NoNumber};
use super::tree::{Content, Key, Node, blame};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// A value that is about to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct De<'de>(pub &'de Node);

impl<'de> De<'de> {
    fn expected(self, what: impl std::fmt::Display) -> Fault {
        Fault::new(format!("expected {what}, found {}", self.found()))
    }

    fn found(self) -> String {
        match &self.0.content {
            Content::Null => "nothing".into(),
            Content::List(_) => "a list".into(),
            Content::Map(_) => "a map".into(),
            Content::Scalar { text, quoted: false } if scalar::number(text) != Err(NoNumber::Other) => {
                format!("the number {text}")
            }
            Content::Scalar { text, quoted: false } if scalar::boolean(text).is_some() => text.clone(),
            Content::Scalar { text, .. } => format!("text {}", quote(text)),
        }
    }

    fn text(self) -> Result<&'de str, Fault> {
        match &self.0.content {
            Content::Scalar { text, .. } => Ok(text),
            _ => Err(self.expected("text")),
        }
    }

    fn unsigned(self) -> Result<u64, Fault> {
        let Content::Scalar { text, quoted: false } = &self.0.content else { return Err(self.not_a("a whole number")) };
        scalar::unsigned(text).ok_or_else(|| match scalar::number(text) {
            Ok(value) if value < 0.0 => self.expected("a whole number that is not negative"),
            Ok(value) if value.fract() == 0.0 && value < 1e15 => {
                self.expected("a whole number").hint(format!("write {value:.0}"))
            }
            Ok(_) if text.bytes().all(|b| b.is_ascii_digit()) => self.expected("a whole number below 2^64"),
            _ => self.not_a("a whole number"),
        })
    }

    fn number(self) -> Result<f64, Fault> {
        let Content::Scalar { text, quoted: false } = &self.0.content else { return Err(self.not_a("a number")) };
        scalar::number(text).map_err(|why| match why {
            NoNumber::NotFinite => Fault::new(format!("expected a finite number, found {}", quote(text))),
            NoNumber::Other => self.not_a("a number"),
        })
    }

    fn not_a(self, what: &str) -> Fault {
        let fault = self.expected(what);
        match &self.0.content {
            Content::Scalar { text, quoted: true } if scalar::number(text).is_ok() => fault.hint("remove the quotes"),
            _ => fault,
        }
    }

    fn boolean(self) -> Result<bool, Fault> {
        match &self.0.content {
            Content::Scalar { text, quoted } => match scalar::boolean(text) {
                Some(value) if !quoted => Ok(value),
                Some(_) => Err(self.expected("true or false").hint("remove the quotes")),
                None => Err(match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "1" => self.expected("true or false").hint("write true"),
                    "no" | "off" | "n" | "0" => self.expected("true or false").hint("write false"),
                    _ => self.expected("true or false"),
                }),
            },
            _ => Err(self.expected("true or false")),
        }
    }

    fn map<V: Visitor<'de>>(self, what: &str, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.content {
            Content::Map(entries) => visitor.visit_map(Entries { rest: entries, value: None }),
            _ => Err(self.expected(what)),
        }
    }

    fn list<V: Visitor<'de>>(self, len: Option<usize>, visitor: V) -> Result<V::Value, Fault> {
        let what = len.map_or("a list".into(), |n| format!("a list of {n} values"));
        match &self.0.content {
            Content::List(items) if len.is_none_or(|n| n == items.len()) => {
                visitor.visit_seq(Items { list: items, next: 0 })
            }
            Content::List(items) => Err(Fault::new(format!("expected {what}, found {}", items.len()))),
            Content::Scalar { .. } if len.is_none() => {
                Err(self.expected(what).hint("write `[...]` around it for a list of one"))
            }
            _ => Err(self.expected(what)),
        }
    }
}

impl<'de> Deserializer<'de> for De<'de> {
    type Error = Fault;

    /// For the types that take text or a list: scalars are text as written.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.content {
            Content::Null => visitor.visit_unit(),
            Content::Scalar { text, .. } => visitor.visit_borrowed_str(text),
            Content::List(_) => self.list(None, visitor),
            Content::Map(_) => self.map("a map", visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u64(self.unsigned()?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_f64(self.number()?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let mut chars = self.text()?.chars();
        match (chars.next(), chars.next()) {
            (Some(only), None) => visitor.visit_char(only),
            _ => {
                let fault = self.expected("one character");
                Err(if self.text()? == "\\t" {
                    fault.hint(r#"a tab is written "\t", in double quotes"#)
                } else {
                    fault
                })
            }
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.content {
            Content::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.list(None, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.list(Some(len), visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.map("a map of names", visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match (&self.0.content, fields) {
            (Content::Map(_), _) => self.map("a map", visitor),
            (_, [first, ..]) => Err(self.expected("a map").hint(format!("options are written `{first}: value`"))),
            _ => Err(self.expected("a map")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(Choice::of(self.0, variants)?)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 bytes byte_buf unit unit_struct tuple_struct identifier ignored_any
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }
}

/// The entries of a map, one after the other.
struct Entries<'de> {
    rest: &'de [(Key, Node)],
    value: Option<&'de (Key, Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((entry, rest)) = self.rest.split_first() else { return Ok(None) };
        (self.rest, self.value) = (rest, Some(entry));
        seed.deserialize(StrDeserializer::new(&entry.0.text)).map(Some).map_err(|fault: Fault| fault.at(entry.0.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, value) = self.value.take().ok_or_else(|| Fault::new("a value was read before its key"))?;
        seed.deserialize(De(value)).map_err(|fault| fault.at(blame(key, value)).under(&key.text))
    }
}

/// The items of a list, one after the other.
struct Items<'de> {
    list: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.list.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(De(item)).map(Some).map_err(|fault| fault.at(item.place).under(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len() - self.next)
    }
}
