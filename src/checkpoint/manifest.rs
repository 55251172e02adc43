//! `MANIFEST.json`: which files make the checkpoint, and what they must hash to.
//!
//! It vouches for itself too: `check` is the SHA-256 of the manifest with an empty `check`, and the file must be
//! byte for byte what the program writes. So any changed byte of a checkpoint is found.

use super::durable::sha256;
use super::{CheckpointError, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Name of the manifest in a checkpoint folder.
pub(super) const FILE: &str = "MANIFEST.json";
/// Version of the folder's layout where every file is whole: what all versions of the program read.
const WHOLE: u64 = 1;
/// Version of the layout with files in parts.
const SHARDED: u64 = 2;
const MAX_BYTES: u64 = 1 << 24;

/// What a checkpoint folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u64,
    pub(super) step: u64,
    pub(super) files: Vec<FileInfo>,
    check: String,
}

/// A file of a checkpoint, as its manifest tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileInfo {
    /// Name in the folder: stem and suffix, never a path.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 as hexadecimal digits.
    pub sha256: String,
}

/// What the suffix of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// `<stem>.safetensors`.
    Tensors(&'a str),
    /// `<stem>.rank<r>-of-<W>.safetensors`: stem, rank, number of ranks.
    Pieces(&'a str, usize, usize),
    /// `<stem>.json`.
    Json(&'a str),
}

impl FileInfo {
    /// Stem and kind; `None` for a name that no checkpoint of ours has.
    pub(super) fn content(&self) -> Option<Content<'_>> {
        let (stem, suffix) = self.name.split_once('.').filter(|(stem, _)| is_stem(stem))?;
        match suffix {
            "safetensors" => Some(Content::Tensors(stem)),
            "json" => Some(Content::Json(stem)),
            _ => {
                let (rank, of) = suffix.strip_prefix("rank")?.strip_suffix(".safetensors")?.split_once("-of-")?;
                let (rank, of) = (rank.parse().ok()?, of.parse().ok()?);
                (rank < of && pieces_name(stem, rank, of) == self.name).then_some(Content::Pieces(stem, rank, of))
            }
        }
    }
}

/// Name of the file with one rank's pieces of the tensors of `stem`.
pub(super) fn pieces_name(stem: &str, rank: usize, of: usize) -> String {
    format!("{stem}.rank{rank:05}-of-{of:05}.safetensors")
}

/// Whether files of a checkpoint may have this stem: no separators, no dots, not the manifest's own.
pub(super) fn is_stem(stem: &str) -> bool {
    let plain = stem.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    plain && !stem.is_empty() && stem.len() <= 100 && !stem.eq_ignore_ascii_case("manifest")
}

impl Manifest {
    pub(super) fn new(step: u64, files: Vec<FileInfo>) -> Self {
        let mut manifest = Manifest { format: WHOLE, step, files, check: String::new() };
        manifest.format = manifest.fitting_format();
        manifest.check = manifest.digest();
        manifest
    }

    /// The lowest version whose readers know all these files.
    fn fitting_format(&self) -> u64 {
        let in_pieces = self.files.iter().any(|file| matches!(file.content(), Some(Content::Pieces(..))));
        if in_pieces { SHARDED } else { WHOLE }
    }

    /// What tells it apart from any other.
    pub(super) fn fingerprint(&self) -> &str {
        &self.check
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
            && format > SHARDED
        {
            return Err(format!("format {format} is newer than the {SHARDED} of this program; use a newer polytask"));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|e| format!("damaged: {e}"))?;
        if manifest.format != manifest.fitting_format() {
            return Err(format!("format {}, expected {}", manifest.format, manifest.fitting_format()));
        }
        if manifest.check != manifest.digest() || manifest.render().as_bytes() != bytes {
            return Err("damaged: its content does not fit its own `check`".into());
        }
        manifest.check_files()?;
        Ok(manifest)
    }

    fn check_files(&self) -> std::result::Result<(), String> {
        let mut seen = BTreeSet::new();
        // By stem: of how many ranks the pieces are (0: it is whole), and how many of them are there.
        let mut stems: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for file in &self.files {
            if !seen.insert(&file.name) {
                return Err(format!("lists `{}` twice", file.name));
            }
            let (stem, of) = match file.content() {
                None => return Err(format!("lists `{}`, which is no name of a checkpoint file", file.name)),
                Some(Content::Json(_)) => continue,
                Some(Content::Tensors(stem)) => (stem, 0),
                Some(Content::Pieces(stem, _, of)) => (stem, of),
            };
            let (ranks, there) = stems.entry(stem).or_insert((of, 0));
            *there += 1;
            if *ranks != of {
                return Err(format!("lists `{}` beside files of another number of ranks", file.name));
            }
        }
        match stems.into_iter().find(|(_, (ranks, there))| *ranks > 0 && ranks != there) {
            Some((stem, (ranks, there))) => Err(format!("lists {there} of the {ranks} parts of `{stem}`")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> FileInfo {
        FileInfo { name: name.into(), bytes: 3, sha256: sha256(b"abc") }
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
            "a.rank1-of-2.safetensors",
            "a.rank00002-of-00002.safetensors",
            "a.rank00000-of-00002.json",
            "a.b.rank00000-of-00001.safetensors",
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
        let newer = br#"{"format": 3, "shards": []}"#;
        let message = "format 3 is newer than the 2 of this program; use a newer polytask";
        assert_eq!(Manifest::parse(newer).unwrap_err(), message);
        // A reader of whole files alone must not take pieces for foreign names.
        let part = |rank| entry(&pieces_name("optim", rank, 2));
        let (whole, parts) =
            (Manifest::new(1, vec![entry("optim.safetensors")]), Manifest::new(1, vec![part(0), part(1)]));
        assert_eq!((whole.format, parts.format), (WHOLE, SHARDED));
        let text = parts.render().replace("\"format\": 2", "\"format\": 1");
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap_err(), "format 1, expected 2");
    }

    #[test]
    fn parts_are_all_there_or_the_manifest_is_refused() {
        let part = |rank, of| entry(&pieces_name("optim", rank, of));
        let parse = |files: Vec<FileInfo>| Manifest::parse(Manifest::new(1, files).render().as_bytes()).map(drop);
        assert_eq!(part(1, 2).name, "optim.rank00001-of-00002.safetensors");
        assert_eq!(part(1, 2).content(), Some(Content::Pieces("optim", 1, 2)));
        assert_eq!(parse(vec![part(0, 2), entry("model.safetensors"), part(1, 2)]), Ok(()));
        assert_eq!(parse(vec![part(1, 2)]).unwrap_err(), "lists 1 of the 2 parts of `optim`");
        let other = "beside files of another number of ranks";
        assert_eq!(parse(vec![part(0, 2), part(1, 3)]).unwrap_err(), format!("lists `{}` {other}", part(1, 3).name));
        let beside = parse(vec![part(0, 1), entry("optim.safetensors")]);
        assert_eq!(beside.unwrap_err(), format!("lists `optim.safetensors` {other}"));
    }
}
