//! A Rust file as text without comments, strings and tests.

/// One source file.
pub struct Source {
    /// Below `src`, separated by `/`.
    pub path: String,
    /// Files and folders of modules that exist for tests alone (`#[cfg(test)] mod tests;`).
    pub test_modules: Vec<String>,
    code: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let mut source = Source { path: path.into(), test_modules: Vec::new(), code: blank_comments_and_strings(text) };
        source.blank_tests();
        source
    }

    /// The top-level module; `None` for the crate roots.
    pub fn module(&self) -> Option<&str> {
        let first = self.path.split('/').next().unwrap_or_default();
        (!matches!(first, "main.rs" | "lib.rs")).then(|| first.trim_end_matches(".rs"))
    }

    /// (line, top-level module) of every `crate::x`, and of every chain of `super::` that ends at the crate root.
    pub fn uses(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for at in self.words("crate") {
            if let Some(rest) = self.code[at..].strip_prefix("crate::") {
                found.push((at, ident(rest)));
            }
        }
        for at in self.words("super") {
            let before = self.code[..at].trim_end_matches(' ');
            let mut rest = &self.code[at..];
            let mut climbed = 0;
            while let Some(further) = rest.strip_prefix("super::") {
                rest = further;
                climbed += 1;
            }
            if climbed >= self.depth() && !before.ends_with("super::") {
                found.push((at, ident(rest)));
            }
        }
        // `crate::Error` and `crate::Result` are re-exports.
        let module = |name: &str| if name.starts_with(char::is_uppercase) { "error".into() } else { name.into() };
        let named = found.into_iter().filter(|(_, name)| !name.is_empty());
        named.map(|(at, name)| (self.line(at), module(&name))).collect()
    }

    /// Lines with `crate::{`.
    pub fn grouped_uses(&self) -> Vec<usize> {
        let starts = self.words("crate").into_iter();
        starts.filter(|&at| self.code[at..].starts_with("crate::{")).map(|at| self.line(at)).collect()
    }

    /// Lines where a word stands: `name::` is the crate of that name, anything else stands for itself.
    pub fn find(&self, word: &str) -> Vec<usize> {
        let Some(name) = word.strip_suffix("::") else {
            return self.words(word).into_iter().map(|at| self.line(at)).collect();
        };
        let is_own_module = self.words("mod").iter().any(|&at| ident(self.code[at + 3..].trim_start()) == name);
        let is_crate = |&at: &usize| {
            let before = self.code[..at].trim_end_matches(' ');
            let absolute = before.strip_suffix("::").map(|path| !path.ends_with(|c: char| is_ident(c) || c == '>'));
            let is_path = self.code[at + name.len()..].starts_with("::");
            absolute.unwrap_or(!is_own_module && (is_path || before.ends_with("use")))
        };
        self.words(name).into_iter().filter(is_crate).map(|at| self.line(at)).collect()
    }

    /// Where a word stands, as a whole word.
    fn words(&self, word: &str) -> Vec<usize> {
        let alone = |&(at, _): &(usize, &str)| {
            let before = self.code[..at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            !before.is_some_and(is_ident) && !after.is_some_and(is_ident)
        };
        self.code.match_indices(word).filter(alone).map(|(at, _)| at).collect()
    }

    fn line(&self, at: usize) -> usize {
        1 + self.code[..at].matches('\n').count()
    }

    /// Number of modules from the crate root down to this file.
    fn depth(&self) -> usize {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        if matches!(path, "lib" | "main") { 0 } else { path.split('/').count() }
    }

    /// The folder where the modules of this file lie, with `/` at the end.
    fn children(&self) -> String {
        let path = self.path.trim_end_matches(".rs");
        match path.rsplit_once('/') {
            Some((folder, "mod")) => format!("{folder}/"),
            None if self.depth() == 0 => String::new(),
            _ => format!("{path}/"),
        }
    }

    /// Blanks every item under `#[cfg(test)]`, and the whole file under `#![cfg(test)]`.
    fn blank_tests(&mut self) {
        let attributes = ["#[cfg(", "#![cfg("].map(|start| -> Vec<(usize, usize)> {
            let starts = self.code.match_indices(start).map(|(at, _)| at);
            starts.map(|at| (at, at + close(&self.code[at..], &['['], ']'))).collect()
        });
        let is_test = |&&(start, end): &&(usize, usize)| is_test_condition(&self.code[start..end]);
        if attributes[1].iter().any(|attribute| is_test(&attribute)) {
            self.code.clear();
            return;
        }
        let tests: Vec<(usize, usize)> = attributes[0].iter().filter(is_test).copied().collect();
        for (start, end) in tests {
            let item = self.code[end..].len() - skip_attributes(&self.code[end..]).len() + end;
            let end = item + item_end(&self.code[item..]);
            let text = &self.code[item..end];
            let name = text.split("mod ").nth(1).and_then(|rest| rest.strip_suffix(';')).map(str::trim);
            if let Some(name) = name {
                let place = format!("{}{name}", self.children());
                self.test_modules.extend([format!("{place}.rs"), format!("{place}/")]);
            }
            let blank = blanked(&self.code[start..end]);
            self.code.replace_range(start..end, &blank);
        }
    }
}

/// Whether `#[cfg(...)]` asks for tests.
fn is_test_condition(attribute: &str) -> bool {
    attribute.split(|c| !is_ident(c)).any(|word| word == "test") && !attribute.contains("not(")
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn ident(text: &str) -> String {
    text.chars().take_while(|&c| is_ident(c)).collect()
}

/// The same number of bytes, with only the ends of lines kept.
fn blanked(text: &str) -> String {
    text.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect()
}

fn skip_attributes(text: &str) -> &str {
    let rest = text.trim_start();
    if rest.starts_with("#[") { skip_attributes(&rest[close(rest, &['['], ']')..]) } else { rest }
}

/// Just after the bracket that closes the first of `open`.
fn close(text: &str, open: &[char], closing: char) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        if open.contains(&c) {
            depth += 1;
        } else if c == closing {
            depth -= 1;
            if depth == 0 {
                return at + 1;
            }
        }
    }
    text.len()
}

/// Just after the item that `text` starts with: its `;` or its block.
fn item_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            '{' if depth == 0 => return at + close(&text[at..], &['{'], '}'),
            _ => {}
        }
    }
    text.len()
}

/// Blanks what is no code. Bytes and lines stay where they are.
fn blank_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let mut after_ident = false;
    while let Some(c) = rest.chars().next() {
        let skipped = if after_ident && c != '"' { 0 } else { not_code(rest) };
        if skipped > 0 {
            code.push_str(&blanked(&rest[..skipped]));
            after_ident = false;
        } else {
            code.push(c);
            after_ident = is_ident(c);
        }
        rest = &rest[if skipped > 0 { skipped } else { c.len_utf8() }..];
    }
    code
}

/// Length of the comment, string or character that `text` starts with; 0 if it starts with none of them.
fn not_code(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    let raw = text.trim_start_matches('b').strip_prefix('r').unwrap_or("");
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if raw[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = text.len() - raw.len() + hashes + 1;
        return text[start..].find(&end).map_or(text.len(), |at| start + at + end.len());
    }
    let quote = text.strip_prefix('b').unwrap_or(text);
    let prefix = text.len() - quote.len();
    match quote.chars().next() {
        Some('"') => prefix + quoted(quote, '"'),
        // A lifetime has no closing quote after one character.
        Some('\'') if quote[1..].starts_with('\\') || quote[1..].chars().nth(1) == Some('\'') => {
            prefix + quoted(quote, '\'')
        }
        _ => 0,
    }
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}
