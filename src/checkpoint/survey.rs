//! All checkpoints below a root, with what is wrong with each: for people who look.

use super::folder::{self, BEST, Entry, LATEST};
use super::manifest::{FileInfo, Manifest};
use super::read::verified;
use super::{CheckpointError, Result};
use std::path::{Path, PathBuf};

/// A checkpoint folder, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// Its folder.
    pub path: PathBuf,
    /// The step of its name.
    pub step: u64,
    /// Length of all files that its manifest lists; 0 without a manifest.
    pub bytes: u64,
    /// Why it cannot be used; `None`: it can.
    pub damage: Option<String>,
}

/// What lies below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// All checkpoints by step.
    pub checkpoints: Vec<Surveyed>,
    /// The step that `latest` names.
    pub latest: Option<u64>,
    /// The step that `best` names.
    pub best: Option<u64>,
    /// Pointers that cannot be read, or name what is not there.
    pub warnings: Vec<String>,
}

/// The files of a checkpoint folder, not verified.
///
/// # Errors
/// If its manifest is missing or damaged.
pub fn files(dir: &Path) -> Result<Vec<FileInfo>> {
    Ok(Manifest::read(dir)?.files)
}

/// Looks at every checkpoint below a root and verifies it.
///
/// # Errors
/// If the root cannot be listed. What is wrong with a checkpoint or a pointer is part of the result.
pub fn survey(root: &Path) -> Result<Survey> {
    let checkpoints: Vec<Surveyed> = folder::list(root)?.into_iter().map(look).collect();
    let mut survey = Survey { checkpoints, latest: None, best: None, warnings: Vec::new() };
    survey.latest = survey.pointer(root, LATEST);
    survey.best = survey.pointer(root, BEST);
    Ok(survey)
}

fn look(Entry { step, path, .. }: Entry) -> Surveyed {
    let bytes = files(&path).map_or(0, |files| files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes)));
    let damage = match verified(&path) {
        Ok(manifest) if manifest.step == step => None,
        Ok(manifest) => Some(CheckpointError::bad(&path, format!("holds step {}", manifest.step)).to_string()),
        Err(e) => Some(e.to_string()),
    };
    Surveyed { path, step, bytes, damage }
}

impl Survey {
    fn pointer(&mut self, root: &Path, pointer: &str) -> Option<u64> {
        let named = folder::read_pointer(root, pointer).unwrap_or_else(|e| {
            self.warnings.push(e.to_string());
            None
        });
        if let Some(step) = named
            && self.checkpoints.iter().all(|found| found.step != step)
        {
            let message = format!("names {}, which is not there", folder::name(step));
            self.warnings.push(CheckpointError::bad(&root.join(pointer), message).to_string());
        }
        named
    }
}
