//! `MANIFEST.json`: which files make the checkpoint, and what they must hash to.
//!
//! It vouches for itself too: `check` is the SHA-256 of the manifest with an empty `check`, and the file must be
//! byte for byte what the program writes. So any changed byte of a checkpoint is found.

use super::durable::sha256;
use super::{CheckpointError, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Name of the manifest in a checkpoint folder.
pub(super) const FILE: &str = "MANIFEST.json";
/// Version of the folder's layout.
const FORMAT: u64 = 1;
const MAX_BYTES: u64 = 1 << 24;

/// What a checkpoint folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u64,
    pub(super) step: u64,
    pub(super) files: Vec<FileEntry>,
    check: String,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    /// Name in the folder: stem and suffix, never a path.
    pub(super) name: String,
    /// Length.
    pub(super) bytes: u64,
    /// SHA-256 as hexadecimal digits.
    pub(super) sha256: String,
}

/// What the suffix of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// `<stem>.safetensors`.
    Tensors(&'a str),
    /// `<stem>.json`.
    Json(&'a str),
}

impl FileEntry {
    /// Stem and kind; `None` for a name that no checkpoint of ours has.
    pub(super) fn content(&self) -> Option<Content<'_>> {
        let (stem, suffix) = self.name.split_once('.')?;
        match suffix {
            "safetensors" if is_stem(stem) => Some(Content::Tensors(stem)),
            "json" if is_stem(stem) => Some(Content::Json(stem)),
            _ => None,
        }
    }
}

/// Whether files of a checkpoint may have this stem: no separators, no dots, not the manifest's own.
pub(super) fn is_stem(stem: &str) -> bool {
    let plain = stem.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    plain && !stem.is_empty() && stem.len() <= 100 && !stem.eq_ignore_ascii_case("manifest")
}

impl Manifest {
    pub(super) fn new(step: u64, files: Vec<FileEntry>) -> Self {
        let mut manifest = Manifest { format: FORMAT, step, files, check: String::new() };
        manifest.check = manifest.digest();
        manifest
    }

    fn digest(&self) -> String {
        sha256(Manifest { check: String::new(), ..self.clone() }.render().as_bytes())
    }

    /// The text of the file.
    pub(super) fn render(&self) -> String {
        // Plain numbers and strings always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Reads and checks the manifest of a folder.
    pub(super) fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(FILE);
        let meta = fs::metadata(&path).map_err(CheckpointError::io(&path))?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            return Err(CheckpointError::bad(&path, format!("is no regular file below {MAX_BYTES} bytes")));
        }
        let bytes = fs::read(&path).map_err(CheckpointError::io(&path))?;
        Manifest::parse(&bytes).map_err(|message| CheckpointError::bad(&path, message))
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Manifest, String> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| format!("damaged: {e}"))?;
        if let Some(format) = value.get("format").and_then(serde_json::Value::as_u64)
            && format > FORMAT
        {
            return Err(format!("format {format} is newer than the {FORMAT} of this program; use a newer polytask"));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|e| format!("damaged: {e}"))?;
        if manifest.format != FORMAT {
            return Err(format!("format {}, expected {FORMAT}", manifest.format));
        }
        if manifest.check != manifest.digest() || manifest.render().as_bytes() != bytes {
            return Err("damaged: its content does not fit its own `check`".into());
        }
        manifest.check_files()?;
        Ok(manifest)
    }

    fn check_files(&self) -> std::result::Result<(), String> {
        let mut seen = BTreeSet::new();
        for file in &self.files {
            if file.content().is_none() {
                return Err(format!("lists `{}`, which is no name of a checkpoint file", file.name));
            }
            if !seen.insert(&file.name) {
                return Err(format!("lists `{}` twice", file.name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> FileEntry {
        FileEntry { name: name.into(), bytes: 3, sha256: sha256(b"abc") }
    }

    #[test]
    fn a_manifest_comes_back_and_every_flipped_bit_is_found() {
        let manifest = Manifest::new(1200, vec![entry("model.safetensors"), entry("state.json")]);
        let text = manifest.render().into_bytes();
        assert_eq!(Manifest::parse(&text).unwrap(), manifest);
        for i in 0..text.len() {
            assert!(Manifest::parse(&text[..i]).is_err(), "cut at {i}");
            for bit in 0..8 {
                let mut text = text.clone();
                text[i] ^= 1 << bit;
                assert!(Manifest::parse(&text).is_err(), "bit {bit} of byte {i}");
            }
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in [
            "../model.json",
            "/etc/passwd",
            "a/b.json",
            "a\\b.json",
            "..",
            "",
            ".json",
            "model",
            "a.b.json",
            "x.txt",
            "MANIFEST.json",
            "manifest.json",
            "a\0.json",
        ] {
            let text = Manifest::new(1, vec![entry(name)]).render();
            let message = Manifest::parse(text.as_bytes()).unwrap_err();
            assert_eq!(message, format!("lists `{name}`, which is no name of a checkpoint file"));
        }
        let twice = Manifest::new(1, vec![entry("a.json"), entry("a.json")]).render();
        assert_eq!(Manifest::parse(twice.as_bytes()).unwrap_err(), "lists `a.json` twice");
    }

    #[test]
    fn another_format_is_named() {
        let newer = br#"{"format": 2, "shards": []}"#;
        let message = "format 2 is newer than the 1 of this program; use a newer polytask";
        assert_eq!(Manifest::parse(newer).unwrap_err(), message);
    }
}
