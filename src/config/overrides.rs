//! `--set a.b=value`: changes the tree before it is read, so that overrides are checked like the file.

use super::fault::{Fault, quote};
use super::parse;
use super::tree::{Content, Key, Node, Place};

/// Most names of a key.
const MAX_NAMES: usize = 32;

/// Applies the overrides in order.
pub(super) fn apply(root: &mut Node, overrides: &[String]) -> Result<(), Fault> {
    for (index, text) in overrides.iter().enumerate() {
        one(root, index, text).map_err(|fault| fault.at(Place::Set(index)))?;
    }
    Ok(())
}

fn one(root: &mut Node, index: usize, text: &str) -> Result<(), Fault> {
    let Some((path, value)) = text.split_once('=') else {
        return Err(Fault::new("expected `key=value`").hint("for example `--set optim.adamw.lr=1e-3`"));
    };
    let path = path.trim();
    if path.is_empty() {
        return Err(Fault::new("a key is missing before `=`"));
    }
    if path.split('.').any(str::is_empty) {
        return Err(Fault::new(format!("{} is not a key, expected names with dots between them", quote(path))));
    }
    if path.split('.').count() > MAX_NAMES {
        return Err(Fault::new(format!("more than {MAX_NAMES} names in a key")));
    }
    let place = Place::Set(index);
    let value = parse::parse(value, Some(index))?.unwrap_or(Node { place, content: Content::Null });
    set(root, path, value, place)
}

/// Puts `value` at `path`. Keys that are missing on the way are made; a name-only choice on the way
/// (`optim: adamw`) becomes one with options.
fn set(node: &mut Node, path: &str, value: Node, place: Place) -> Result<(), Fault> {
    match &mut node.content {
        Content::List(items) => {
            let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
            let len = items.len();
            let Some(item) = first.parse::<usize>().ok().and_then(|i| items.get_mut(i)) else {
                return Err(Fault::new(format!("{} is no index of this list of {len}", quote(first)))
                    .hint("indices count from 0; or give the whole list, as in `key=[a, b]`"));
            };
            put(item, rest, value, place)
        }
        Content::Map(entries) => {
            let (name, rest) = split(path, entries);
            if let Some((key, old)) = entries.iter_mut().find(|(key, _)| key.text == name) {
                if rest.is_none() {
                    key.place = place;
                }
                return put(old, rest, value, place);
            }
            let mut fresh = Node { place, content: Content::Null };
            put(&mut fresh, rest, value, place)?;
            entries.push((Key { text: name.to_string(), place }, fresh));
            Ok(())
        }
        Content::Null | Content::Scalar { .. } => {
            *node = Node { place, content: Content::Map(Vec::new()) };
            set(node, path, value, place)
        }
    }
}

fn put(node: &mut Node, rest: Option<&str>, value: Node, place: Place) -> Result<(), Fault> {
    match rest {
        Some(rest) => set(node, rest, value, place),
        None => {
            *node = value;
            Ok(())
        }
    }
}

/// The first name of a path and the rest. Names may contain dots themselves (tasks): the longest key that exists wins.
fn split<'p>(path: &'p str, entries: &[(Key, Node)]) -> (&'p str, Option<&'p str>) {
    let cuts: Vec<usize> = path.match_indices('.').map(|(at, _)| at).chain([path.len()]).collect();
    let known = |cut: &&usize| entries.iter().any(|(key, _)| key.text == path[..**cut]);
    let cut = cuts.iter().rev().find(known).or(cuts.first()).copied().unwrap_or(path.len());
    (&path[..cut], path.get(cut + 1..))
}
