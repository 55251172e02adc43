//! From YAML text to a [`Node`] tree, by the event parser of `serde-saphyr`.
//!
//! Done here because messages need more than typed reading gives: the place of every key and value, and scalars as
//! they were written. Anchors, aliases and merge keys (`<<`) work; their growth is limited, as are nesting and size.

use super::fault::{Fault, quote};
use super::scalar;
use super::tree::{Content, Key, Node, Place};
use serde_saphyr::granit_parser::{self, ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};
use std::collections::BTreeMap;

/// Most values of a configuration, aliases expanded.
const MAX_VALUES: usize = 100_000;
/// Most bytes of text that aliases repeat.
const MAX_REPEATED: usize = 4 << 20;
/// Most levels of lists and maps.
const MAX_DEPTH: usize = 32;

/// Most keys of one map.
const MAX_KEYS: usize = 5_000;

/// Reads one YAML document. `set` is the index of the override that the text is the value of; `None`: the file.
/// Gives `None` where nothing is written.
pub(super) fn parse(text: &str, set: Option<usize>) -> Result<Option<Node>, Fault> {
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder { set, ..Builder::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| syntax(set, &e))?;
        builder.event(event, span)?;
    }
    Ok(builder.root)
}

#[derive(Default)]
struct Builder {
    set: Option<usize>,
    root: Option<Node>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    values: usize,
    /// Bytes of text that aliases have repeated.
    repeated: usize,
    documents: usize,
}

/// A list or map that has begun.
struct Open {
    place: Place,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, key: Option<Key> },
}

impl Builder {
    fn event(&mut self, event: Event, span: Span) -> Result<(), Fault> {
        let place = place(self.set, &span);
        match event {
            Event::DocumentStart(..) => self.document(place),
            Event::Alias(id) => self.alias(id, place),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                let quoted = style != ScalarStyle::Plain;
                let content = match text {
                    text if !quoted && scalar::is_null(&text) => Content::Null,
                    text => Content::Scalar { text: text.into_owned(), quoted },
                };
                self.value(Node { place, content }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                self.begin(Open { place, anchor, kind: OpenKind::List(Vec::new()) })
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                self.begin(Open { place, anchor, kind: OpenKind::Map { entries: Vec::new(), key: None } })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            _ => Ok(()),
        }
    }

    fn document(&mut self, place: Place) -> Result<(), Fault> {
        self.documents += 1;
        if self.documents > 1 {
            let fault = Fault::new("a second document begins here, but a configuration is one document").at(place);
            return Err(fault.hint("remove the line `---`, or keep each configuration in a file of its own"));
        }
        Ok(())
    }

    fn begin(&mut self, open: Open) -> Result<(), Fault> {
        self.limit_depth(1, open.place)?;
        if let Some(Open { kind: OpenKind::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(Fault::new("expected a name before `:`, found a list or a map").at(open.place));
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        let Some(Open { place, anchor, kind }) = self.open.pop() else { return Ok(()) };
        let content = match kind {
            OpenKind::List(items) => Content::List(items),
            OpenKind::Map { entries, .. } => Content::Map(merge(entries)?),
        };
        self.value(Node { place, content }, anchor)
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<(), Fault> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(Fault::new("this alias stands inside of what it refers to").at(place));
        };
        self.values += node.size();
        self.limit_values(place)?;
        self.repeated += node.text_bytes();
        if self.repeated > MAX_REPEATED {
            return Err(Fault::new(format!("aliases repeat more than {} MiB of text", MAX_REPEATED >> 20)).at(place));
        }
        self.limit_depth(node.depth(), place)?;
        let node = node.clone();
        self.value(node, 0)
    }

    /// Puts a complete value where it belongs.
    fn value(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        self.values += 1;
        self.limit_values(node.place)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(as_key(node, entries)?),
            },
        }
        Ok(())
    }

    fn limit_values(&self, place: Place) -> Result<(), Fault> {
        if self.values > MAX_VALUES {
            return Err(Fault::new(format!("more than {MAX_VALUES} values, aliases expanded")).at(place));
        }
        Ok(())
    }

    fn limit_depth(&self, more: usize, place: Place) -> Result<(), Fault> {
        if self.open.len() + more > MAX_DEPTH {
            return Err(Fault::new(format!("more than {MAX_DEPTH} levels of lists and maps")).at(place));
        }
        Ok(())
    }
}

/// A scalar as a key that is not there yet.
fn as_key(node: Node, entries: &[(Key, Node)]) -> Result<Key, Fault> {
    if entries.len() >= MAX_KEYS {
        return Err(Fault::new(format!("more than {MAX_KEYS} keys in one map")).at(node.place));
    }
    let Content::Scalar { text, .. } = node.content else {
        return Err(Fault::new("expected a name before `:`").at(node.place));
    };
    match entries.iter().find(|(key, _)| key.text == text) {
        Some((Key { place: Place::File { line, .. }, .. }, _)) => {
            Err(Fault::new(format!("duplicate key {}, first given on line {line}", quote(&text))).at(node.place))
        }
        Some(_) => Err(Fault::new(format!("duplicate key {}", quote(&text))).at(node.place)),
        None => Ok(Key { text, place: node.place }),
    }
}

/// Takes the entries of `<<: *map` into the map; its own entries win.
fn merge(entries: Vec<(Key, Node)>) -> Result<Vec<(Key, Node)>, Fault> {
    let (merged, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key.text == "<<");
    for (key, value) in merged {
        let maps = match value.content {
            Content::List(items) => items,
            content => vec![Node { content, ..value }],
        };
        for map in maps {
            let Content::Map(more) = map.content else {
                return Err(Fault::new("`<<` needs a map, or a list of maps, to take entries from").at(key.place));
            };
            for (key, value) in more {
                if !own.iter().any(|(k, _)| k.text == key.text) {
                    own.push((key, value));
                }
            }
        }
    }
    Ok(own)
}

fn refuse_tag(tagged: bool, place: Place) -> Result<(), Fault> {
    if tagged {
        let fault = Fault::new("YAML tags (`!name`) have no meaning in a configuration").at(place);
        return Err(fault.hint("remove the tag; a choice with options is written `name: {option: value}`"));
    }
    Ok(())
}

fn place(set: Option<usize>, span: &Span) -> Place {
    if let Some(index) = set {
        return Place::Set(index);
    }
    let (start, end) = (span.start, span.end);
    let width = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { 1 };
    Place::File { line: start.line().max(1), column: start.col() + 1, width: width.max(1) }
}

fn syntax(set: Option<usize>, error: &ScanError) -> Fault {
    let info = error.info();
    let text = info.strip_prefix("while ").and_then(|rest| rest.split_once(", ")).map_or(info.as_str(), |(_, t)| t);
    let fault = Fault::new(format!("not valid YAML: {text}")).at(place(set, &Span::empty(*error.marker())));
    match error.kind() {
        _ if text.contains("tab") => fault.hint("indent with spaces"),
        ErrorKind::MappingValueNotAllowed => {
            fault.hint("a space belongs after each `:`, and quotes around text that holds `: `")
        }
        _ => fault,
    }
}
