//! Ranges of tensors straight from the files of a checkpoint, for ranks that need a part of what is there.

use super::manifest::{Content, FileInfo, Manifest};
use super::pieces::{self, Row};
use super::read::{checked_manifest, read_file, read_files};
use super::tensors::{self, Dtype};
use super::{CheckpointError, Floats, Result, Snapshot};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An open checkpoint folder: where every value of every tensor lies, whichever way the files are cut.
///
/// Sizes and headers are checked on opening, hashes are not: [`Self::verify`] does that, file by file, so that many can share
/// the work.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    manifest: Manifest,
    /// By file stem, tensors by name.
    stems: BTreeMap<String, BTreeMap<String, Stored>>,
    /// The file that was read last: the next range mostly lies in it, too.
    open: Option<(usize, File)>,
}

/// A tensor and the files that it lies in, in order.
#[derive(Debug)]
struct Stored {
    shape: Vec<usize>,
    dtype: Dtype,
    spans: Vec<Span>,
}

/// Values of a tensor that lie end to end in one file.
#[derive(Debug)]
struct Span {
    /// Place in the manifest.
    file: usize,
    /// Places in the flattened tensor.
    values: Range<usize>,
    /// Place of the first byte.
    at: u64,
}

impl Archive {
    /// Opens a checkpoint folder.
    ///
    /// # Errors
    /// The first file that is missing, has another size than the manifest says, or a header that does not fit.
    pub fn open(dir: &Path) -> Result<Archive> {
        let manifest = checked_manifest(dir)?;
        // By stem, files in the order of the ranks.
        let mut files: BTreeMap<&str, BTreeMap<usize, usize>> = BTreeMap::new();
        for (i, file) in manifest.files.iter().enumerate() {
            match file.content() {
                Some(Content::Tensors(stem)) => drop(files.entry(stem).or_default().insert(0, i)),
                Some(Content::Pieces(stem, rank, _)) => drop(files.entry(stem).or_default().insert(rank, i)),
                Some(Content::Json(_)) | None => {}
            }
        }
        let index = |(stem, files): (&str, BTreeMap<usize, usize>)| {
            let files: Vec<usize> = files.into_values().collect();
            Ok((stem.to_string(), index(dir, &manifest, &files)?))
        };
        let stems = files.into_iter().map(index).collect::<Result<_>>()?;
        Ok(Archive { dir: dir.into(), manifest, stems, open: None })
    }

    /// What tells this checkpoint apart from any other.
    pub fn fingerprint(&self) -> &str {
        self.manifest.fingerprint()
    }

    /// Its files.
    pub fn files(&self) -> &[FileInfo] {
        &self.manifest.files
    }

    /// Checks the hash of a file.
    ///
    /// # Errors
    /// If it is another one than the manifest says.
    pub fn verify(&self, file: &FileInfo) -> Result<()> {
        read_file(&self.dir, file, |_| Ok(()))
    }

    /// Reads and verifies everything that is in these files. Of tensors in pieces all files must be among them.
    ///
    /// # Errors
    /// The first file that has another hash than the manifest says, or does not parse.
    pub fn read_files(&self, files: &[FileInfo]) -> Result<Snapshot> {
        read_files(&self.dir, self.manifest.step, files)
    }

    /// The shape of a tensor; `None`: it is not there.
    pub fn shape(&self, stem: &str, name: &str) -> Option<&[usize]> {
        Some(&self.stems.get(stem)?.get(name)?.shape)
    }

    /// Values of a flattened tensor.
    ///
    /// # Errors
    /// If there is no such tensor, it is shorter, or its file cannot be read.
    pub fn read(&mut self, stem: &str, name: &str, range: Range<usize>) -> Result<Floats> {
        let Archive { dir, manifest, stems, open } = self;
        let tensor = stems.get(stem).and_then(|tensors| tensors.get(name));
        let tensor =
            tensor.ok_or_else(|| CheckpointError::bad(dir, format!("holds no tensor `{name}` of `{stem}`")))?;
        let mut whole = tensor.dtype.none();
        for span in &tensor.spans {
            let wanted = range.start.max(span.values.start)..range.end.min(span.values.end);
            if wanted.is_empty() {
                continue;
            }
            let path = dir.join(&manifest.files[span.file].name);
            let file = match open.take() {
                Some((i, file)) if i == span.file => file,
                _ => File::open(&path).map_err(CheckpointError::io(&path))?,
            };
            let (_, file) = open.insert((span.file, file));
            let at = span.at + (wanted.start - span.values.start) as u64 * tensor.dtype.bytes();
            let part = file.seek(SeekFrom::Start(at)).and_then(|_| tensor.dtype.read(file, wanted.len()));
            // All parts have this tensor's kind of float.
            whole =
                pieces::append(whole, part.map_err(CheckpointError::io(&path))?).unwrap_or_else(|| tensor.dtype.none());
        }
        if whole.len() != range.len() {
            let message = format!("tensor `{name}` of `{stem}` has no values {range:?}");
            return Err(CheckpointError::bad(dir, message));
        }
        Ok(whole)
    }
}

/// Finds the tensors of files that are given in the order of the ranks.
fn index(dir: &Path, manifest: &Manifest, files: &[usize]) -> Result<BTreeMap<String, Stored>> {
    let mut found: BTreeMap<String, (Row, Stored)> = BTreeMap::new();
    for &i in files {
        let path = dir.join(&manifest.files[i].name);
        let refuse = |message: String| CheckpointError::bad(&path, message);
        let mut input = BufReader::new(File::open(&path).map_err(CheckpointError::io(&path))?);
        let header = tensors::read_header(&mut input, manifest.files[i].bytes).map_err(refuse)?;
        let in_pieces = matches!(manifest.files[i].content(), Some(Content::Pieces(..)));
        let mut places = if in_pieces { pieces::places(&header.metadata).map_err(refuse)? } else { BTreeMap::new() };
        for (name, entry) in header.entries {
            let n = entry.shape.iter().product();
            let (start, shape) = match in_pieces {
                true => places.remove(&name).ok_or_else(|| refuse(pieces::no_place(&name)))?,
                false => (0, entry.shape),
            };
            let new = || (Row::default(), Stored { shape: shape.clone(), dtype: entry.dtype, spans: Vec::new() });
            let (row, stored) = found.entry(name.clone()).or_insert_with(new);
            row.add(&name, &shape, start, n).map_err(refuse)?;
            if stored.dtype != entry.dtype {
                return Err(refuse(pieces::two_kinds(&name)));
            }
            let at = header.values + entry.data_offsets.0;
            stored.spans.push(Span { file: i, values: start..start + n, at });
        }
    }
    let last = files.last().map_or_else(|| dir.to_path_buf(), |&i| dir.join(&manifest.files[i].name));
    let whole = |(name, (row, stored)): (String, (Row, Stored))| match row.end(&name) {
        Ok(_) => Ok((name, stored)),
        Err(message) => Err(CheckpointError::bad(&last, message)),
    };
    found.into_iter().map(whole).collect()
}
