//! The YAML file as a tree in which every value knows its place.
//!
//! Everything is read into this tree first: `--set` overrides change it, the types are read from it ([`super::de`]),
//! and the semantic checks find the place of a bad value in it. So every message can name line and column.

/// Where a key or value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file.
    File {
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// Characters to underline, at least 1.
        width: usize,
    },
    /// In the override of this index.
    Set(usize),
}

impl Place {
    fn line(self) -> Option<usize> {
        match self {
            Place::File { line, .. } => Some(line),
            Place::Set(_) => None,
        }
    }

    /// The override it was written in.
    pub fn set(self) -> Option<usize> {
        match self {
            Place::File { .. } => None,
            Place::Set(index) => Some(index),
        }
    }
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub place: Place,
    pub content: Content,
}

/// What a value is, before anybody says which type it should have.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Blank, `~` or `null`.
    Null,
    /// Text as written. Quoted text is never a number, a boolean or null.
    Scalar { text: String, quoted: bool },
    /// `[a, b]` or lines with `-`.
    List(Vec<Node>),
    /// `{a: b}` or lines with `key:`, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub text: String,
    pub place: Place,
}

/// A map without entries: the options of a choice that is written by its name alone.
pub(super) static EMPTY: Node = Node { place: Place::Set(0), content: Content::Map(Vec::new()) };

impl Node {
    /// Number of values in it, itself included.
    pub fn size(&self) -> usize {
        1 + match &self.content {
            Content::Null | Content::Scalar { .. } => 0,
            Content::List(items) => items.iter().map(Node::size).sum(),
            Content::Map(entries) => entries.iter().map(|(_, value)| value.size()).sum(),
        }
    }

    /// Bytes of all text in it, keys included.
    pub fn text_bytes(&self) -> usize {
        match &self.content {
            Content::Null => 0,
            Content::Scalar { text, .. } => text.len(),
            Content::List(items) => items.iter().map(Node::text_bytes).sum(),
            Content::Map(entries) => entries.iter().map(|(key, value)| key.text.len() + value.text_bytes()).sum(),
        }
    }

    /// Levels of lists and maps in it.
    pub fn depth(&self) -> usize {
        match &self.content {
            Content::Null | Content::Scalar { .. } => 0,
            Content::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Content::Map(entries) => 1 + entries.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
        }
    }

    /// The last override that wrote something of it.
    pub fn last_set(&self) -> Option<usize> {
        let inside = match &self.content {
            Content::Null | Content::Scalar { .. } => None,
            Content::List(items) => items.iter().filter_map(Node::last_set).max(),
            Content::Map(entries) => {
                entries.iter().filter_map(|(key, value)| key.place.set().max(value.last_set())).max()
            }
        };
        self.place.set().max(inside)
    }

    /// The place of what `path` names (of its last `key`, or of the value), or of the nearest part of it that was
    /// written; `None`: nothing of it was.
    pub fn find(&self, path: &[String], key: bool) -> Option<Place> {
        let (mut node, mut place) = (self, None);
        for (i, segment) in path.iter().enumerate() {
            let wants_key = key && i + 1 == path.len();
            let blamed = |key: &Key, value: &Node| if wants_key { key.place } else { blame(key, value) };
            let next = match &node.content {
                Content::Map(entries) => {
                    let entry = entries.iter().find(|(key, _)| key.text == *segment);
                    entry.map(|(key, value)| (value, blamed(key, value)))
                }
                Content::List(items) => {
                    segment.parse::<usize>().ok().and_then(|i| items.get(i)).map(|item| (item, item.place))
                }
                Content::Null | Content::Scalar { .. } => None,
            };
            let Some((value, at)) = next else { break };
            (node, place) = (value, Some(at));
        }
        place
    }
}

/// The place that a message about a value shows: the key where the value is a block that starts on a later line
/// (or blank), else the value.
pub(super) fn blame(key: &Key, value: &Node) -> Place {
    let below = matches!(value.content, Content::Map(_) | Content::List(_)) && key.place.line() != value.place.line();
    let overridden = value.place.set().is_some();
    if !overridden && (below || value.content == Content::Null) { key.place } else { value.place }
}
