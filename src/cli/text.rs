//! Plain tables for the terminal, and standard output.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Prints on standard output, as [`plain`] text. A reader that has seen enough (`polytask check CONFIG | head`) is no failure.
///
/// # Errors
/// When nothing can be written, for example to a full disk.
pub fn print(text: fmt::Arguments<'_>) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(plain(&text.to_string()).as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|source| Error::Io { path: "standard output".into(), source }),
    }
}

/// Text without what makes a terminal do more than show it: control characters other than the end of a line become
/// `\\u001b`, which in a JSON string means the same character. Names come out of files, and files come from strangers.
pub fn plain(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && c != '\n';
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| if acts(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(text.chars().map(shown).collect())
}

/// A table with aligned columns: the first `left` columns to the left, numbers to the right.
pub fn table(header: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().enumerate().map(|(c, cell)| {
            let pad = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
            if c < left { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    line(header.to_vec()) + &body.collect::<String>()
}

/// The words of a text in lines of at most `width` columns, longer only for longer words.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `1234567` as `1,234,567`.
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

/// A number with four decimals; `-` for none.
pub fn number(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{x:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_filled_and_long_words_stand_alone() {
        assert_eq!(wrap("a bb ccc dddddd e", 6), ["a bb", "ccc", "dddddd", "e"]);
        assert_eq!(wrap("abcdefgh i", 4), ["abcdefgh", "i"]);
        assert!(wrap("  ", 4).is_empty());
    }

    #[test]
    fn names_cannot_command_a_terminal() {
        assert!(matches!(plain("plain, é\n"), Cow::Borrowed(_)));
        assert_eq!(plain("a\u{1b}]0;owned\u{7}\n\u{9b}2J\r\0"), "a\\u001b]0;owned\\u0007\n\\u009b2J\\u000d\\u0000");
        let name = "a\u{9b}2J";
        let json = serde_json::json!(name).to_string();
        assert_eq!(serde_json::from_str::<String>(&plain(&json)).unwrap(), name, "JSON stays JSON");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["long".into(), "23".into()]];
        assert_eq!(table(&["name", "n"], &rows, 1), "name   n\na      1\nlong  23\n");
        assert_eq!([count(7), count(1234), count(1_234_567)], ["7", "1,234", "1,234,567"]);
    }
}
