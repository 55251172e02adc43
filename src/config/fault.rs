//! One mistake on its way to the user: it gathers place and path while it passes outwards, then becomes a message.

use super::error::ConfigError;
use super::hints;
use super::tree::Place;
use serde::de;
use std::fmt::{self, Display};

/// A mistake in a configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    /// Keys from the root to what is wrong.
    pub path: Vec<String>,
    /// Whether the last key of the path is wrong, not its value.
    pub key: bool,
    /// Where it is written; `None`: nowhere, or not known yet.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

impl Fault {
    /// A mistake that has no place yet.
    pub fn new(message: impl Display) -> Self {
        Fault { path: Vec::new(), key: false, place: None, message: message.to_string(), hint: None }
    }

    /// Adds the way out.
    pub fn hint(self, hint: impl Display) -> Self {
        Fault { hint: Some(hint.to_string()), ..self }
    }

    /// The key itself is wrong.
    pub fn on_key(self) -> Self {
        Fault { key: true, ..self }
    }

    /// Adds the place, unless something further inside did already.
    pub fn at(self, place: Place) -> Self {
        Fault { place: self.place.or(Some(place)), ..self }
    }

    /// Puts a key in front of the path.
    pub fn under(mut self, key: impl Display) -> Self {
        self.path.insert(0, key.to_string());
        self
    }

    /// The message without a place: `path: message`, and the hint on a line of its own.
    pub fn plain(&self) -> String {
        format!("{}{}{}", self.path_prefix(), self.message, self.hint_line())
    }

    /// The whole message: `file:line:column: path: message`, the line of the file, and the hint.
    pub fn render(&self, name: &str, text: &str, overrides: &[String]) -> ConfigError {
        let message = match self.place {
            Some(Place::File { line, column, width }) => {
                let head = format!("{name}:{line}:{column}: {}{}", self.path_prefix(), self.message);
                format!("{head}{}{}", snippet(text, line, column, width), self.hint_line())
            }
            Some(Place::Set(index)) => {
                let set = overrides.get(index).map(|s| shorten(s)).unwrap_or_default();
                format!("--set {set}: {}{}", self.message, self.hint_line())
            }
            None => format!("{name}: {}", self.plain()),
        };
        ConfigError { message }
    }

    fn path_prefix(&self) -> String {
        if self.path.is_empty() {
            return String::new();
        }
        let parts: Vec<String> = self.path.iter().map(|part| shorten(part)).collect();
        format!("{}: ", parts.join("."))
    }

    fn hint_line(&self) -> String {
        self.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default()
    }
}

/// The line of the file with the place underlined, cropped to the neighbourhood of the place.
fn snippet(text: &str, line: usize, column: usize, width: usize) -> String {
    const BEFORE: usize = 60;
    const AFTER: usize = 50;
    let Some(source) = text.lines().nth(line - 1) else { return String::new() };
    let skip = (column - 1).saturating_sub(BEFORE);
    let shown: String = source
        .chars()
        .skip(skip)
        .take(BEFORE + AFTER)
        .map(|c| if c.is_control() || c == '\u{feff}' { ' ' } else { c })
        .collect();
    let room = shown.chars().count().saturating_sub(column - 1 - skip).max(1);
    let (number, marks) = (line.to_string(), "^".repeat(width.clamp(1, room)));
    let (gutter, indent) = (" ".repeat(number.len()), " ".repeat(column - 1 - skip));
    format!("\n{gutter} |\n{number} | {}\n{gutter} | {indent}{marks}", shown.trim_end())
}

/// Text in backquotes, short and on one line.
pub(super) fn quote(text: &str) -> String {
    format!("`{}`", shorten(text))
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let short: String = text.chars().take(LONGEST).map(escape).collect();
    if text.chars().nth(LONGEST).is_some() { format!("{short}...") } else { short }
}

/// `a`, `b` or `c`.
pub(super) fn any_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| quote(name)).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".into(),
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.plain())
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Fault::new(message)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let fault = Fault::new(match expected {
            [] => format!("unknown field {}, no option is expected here", quote(field)),
            names => format!("unknown field {}, expected {}", quote(field), any_of(names)),
        });
        hints::similar(fault, field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        hints::similar(
            Fault::new(format!("unknown choice {}, expected {}", quote(variant), any_of(expected))),
            variant,
            expected,
        )
    }

    fn missing_field(field: &'static str) -> Self {
        Fault::new(format!("missing field `{field}`"))
    }

    fn invalid_type(found: de::Unexpected, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Str(text) => format!("text {}", quote(text)),
            de::Unexpected::Unit => "nothing".into(),
            de::Unexpected::Seq => "a list".into(),
            de::Unexpected::Map => "a map".into(),
            other => other.to_string(),
        };
        Fault::new(format!("expected {expected}, found {found}"))
    }
}
