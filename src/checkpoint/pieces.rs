//! Tensors in pieces, a file per rank: `optim.rank00001-of-00004.safetensors`.
//!
//! Each file lists all tensors, in the same order and under their own names, each as a row of the values that lie in this
//! file; none for a tensor of which the rank has nothing. The entry `pieces` of the file's metadata says where: a JSON object
//! of `name: [start, [shape]]`, with the first value's place in the flattened tensor, and the shape of the whole one. In the
//! order of the ranks the pieces of a tensor lie end to end.

use super::tensors::{self, Metadata};
use super::{CheckpointError, Floats, NamedTensor, Result};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The entry of a file's metadata.
const KEY: &str = "pieces";

/// What one rank has of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Name of the tensor.
    pub name: String,
    /// Shape of the whole tensor.
    pub shape: Vec<usize>,
    /// Place of the first value in the flattened tensor.
    pub start: usize,
    /// The values from there on; there may be none.
    pub data: Floats,
}

/// Where the values of a file lie in the whole tensors, by name: start and shape.
type Places = BTreeMap<String, (usize, Vec<usize>)>;

/// As a file holds them: the values as tensors of one dimension, and their places.
pub(super) fn pack(pieces: Vec<Piece>) -> (Vec<NamedTensor>, Metadata) {
    let mut places = Places::new();
    let mut tensors = Vec::with_capacity(pieces.len());
    for Piece { name, shape, start, data } in pieces {
        places.insert(name.clone(), (start, shape));
        tensors.push(NamedTensor { name, shape: vec![data.len()], data });
    }
    let mut metadata = tensors::plain();
    // Numbers and strings always have a JSON form.
    metadata.insert(KEY.into(), serde_json::to_string(&places).unwrap_or_default());
    (tensors, metadata)
}

/// Reads the file of one rank.
pub(super) fn read(input: &mut dyn Read, bytes: u64) -> std::result::Result<Vec<Piece>, String> {
    let (tensors, metadata) = tensors::read_all(input, bytes)?;
    let mut places = places(&metadata)?;
    let piece = |NamedTensor { name, data, .. }: NamedTensor| {
        let (start, shape) = places.remove(&name).ok_or_else(|| no_place(&name))?;
        Ok(Piece { name, shape, start, data })
    };
    tensors.into_iter().map(piece).collect()
}

/// The places that the metadata of a file tell.
pub(super) fn places(metadata: &Metadata) -> std::result::Result<Places, String> {
    let text = metadata.get(KEY).ok_or_else(|| format!("header: no `{KEY}` in the metadata"))?;
    serde_json::from_str(text).map_err(|e| format!("header: `{KEY}` in the metadata: {e}"))
}

pub(super) fn no_place(name: &str) -> String {
    format!("header: `{KEY}` in the metadata says nothing of tensor `{name}`")
}

/// Follows the pieces of one tensor through the files.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// The shape of the whole tensor, and how many values have come so far.
    so_far: Option<(Vec<usize>, usize)>,
}

impl Row {
    /// The next piece, which must lie where the one before ended.
    pub(super) fn add(
        &mut self,
        name: &str,
        shape: &[usize],
        start: usize,
        n: usize,
    ) -> std::result::Result<(), String> {
        let (whole, at) = self.so_far.get_or_insert_with(|| (shape.to_vec(), 0));
        if whole != shape {
            return Err(format!("tensor `{name}` has shape {shape:?}, and {whole:?} in the file before"));
        }
        // A rank that has nothing of a tensor may say so of any place.
        if n > 0 && start != *at {
            return Err(format!("tensor `{name}` goes on at value {start}, expected {at}"));
        }
        *at = at.checked_add(n).ok_or_else(|| format!("tensor `{name}` is longer than can be"))?;
        Ok(())
    }

    /// The shape, once the last piece was added.
    pub(super) fn end(self, name: &str) -> std::result::Result<Vec<usize>, String> {
        let (shape, n) = self.so_far.unwrap_or_default();
        match shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)) {
            Some(wanted) if wanted == n => Ok(shape),
            _ => Err(format!("tensor `{name}` of shape {shape:?} ends after {n} values")),
        }
    }
}

/// The whole tensors of all ranks' files, in the order of the ranks.
///
/// # Errors
/// Names the file whose pieces do not continue those before.
pub(super) fn assemble(files: Vec<(PathBuf, Vec<Piece>)>) -> Result<Vec<NamedTensor>> {
    let (mut paths, mut columns) = (Vec::new(), Vec::new());
    for (path, pieces) in files {
        paths.push(path);
        columns.push(pieces.into_iter());
    }
    let mut whole = Vec::new();
    loop {
        let row: Vec<Option<Piece>> = columns.iter_mut().map(Iterator::next).collect();
        if row.iter().all(Option::is_none) {
            return Ok(whole);
        }
        whole.push(join(&paths, row)?);
    }
}

/// One tensor of the pieces at the same place in all files.
fn join(paths: &[PathBuf], row: Vec<Option<Piece>>) -> Result<NamedTensor> {
    let name = row.iter().flatten().next().map(|piece| piece.name.clone()).unwrap_or_default();
    let mut check = Row::default();
    for (path, piece) in paths.iter().zip(&row) {
        let piece = piece.as_ref().filter(|piece| piece.name == name).ok_or_else(|| other_tensors(path, &name))?;
        let added = check.add(&name, &piece.shape, piece.start, piece.data.len());
        added.map_err(|message| CheckpointError::bad(path, message))?;
    }
    let last = paths.last().map_or(Path::new(""), PathBuf::as_path);
    let shape = check.end(&name).map_err(|message| CheckpointError::bad(last, message))?;
    let mut parts = row.into_iter().flatten().map(|piece| piece.data);
    let first = parts.next().unwrap_or(Floats::F32(Vec::new()));
    let data = parts.try_fold(first, append).ok_or_else(|| CheckpointError::bad(last, two_kinds(&name)))?;
    Ok(NamedTensor { name, shape, data })
}

pub(super) fn other_tensors(path: &Path, name: &str) -> CheckpointError {
    CheckpointError::bad(path, format!("does not list the tensors of the other ranks' files, first `{name}`"))
}

pub(super) fn two_kinds(name: &str) -> String {
    format!("tensor `{name}` is in 32 bits in one file and in 64 in another")
}

/// Both, one after the other; `None` if they are of two kinds.
pub(super) fn append(whole: Floats, part: Floats) -> Option<Floats> {
    match (whole, part) {
        // Most tensors lie in one file: nothing is copied then.
        (a, b) if a.is_empty() => Some(b),
        (a, b) if b.is_empty() => Some(a),
        (Floats::F32(mut a), Floats::F32(b)) => {
            a.extend_from_slice(&b);
            Some(Floats::F32(a))
        }
        (Floats::F64(mut a), Floats::F64(b)) => {
            a.extend_from_slice(&b);
            Some(Floats::F64(a))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(name: &str, shape: &[usize], start: usize, values: &[f32]) -> Piece {
        Piece { name: name.into(), shape: shape.to_vec(), start, data: Floats::F32(values.to_vec()) }
    }

    type Files = Vec<(PathBuf, Vec<Piece>)>;

    fn two_ranks() -> Files {
        let first = vec![piece("z", &[2, 2], 0, &[1.0, 2.0, 3.0]), piece("a", &[2], 0, &[])];
        let second = vec![piece("z", &[2, 2], 3, &[4.0]), piece("a", &[2], 0, &[5.0, 6.0])];
        vec![("first".into(), first), ("second".into(), second)]
    }

    #[test]
    fn pieces_go_through_a_file_and_make_whole_tensors_in_their_order() {
        let through_files = two_ranks().into_iter().map(|(path, pieces)| {
            let (tensors, metadata) = pack(pieces.clone());
            tensors::check(&tensors, &metadata).unwrap();
            let mut bytes = Vec::new();
            tensors::write(&tensors, &metadata, &mut bytes).unwrap();
            assert_eq!(read(&mut &bytes[..], bytes.len() as u64).unwrap(), pieces);
            (path, pieces)
        });
        let whole = assemble(through_files.collect()).unwrap();
        let tensor = |name: &str, shape: &[usize], values: &[f32]| NamedTensor {
            name: name.into(),
            shape: shape.to_vec(),
            data: Floats::F32(values.to_vec()),
        };
        assert_eq!(whole, [tensor("z", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), tensor("a", &[2], &[5.0, 6.0])]);
    }

    #[test]
    fn pieces_that_do_not_fit_together_are_refused_with_the_name_of_the_file() {
        let refused = |change: &dyn Fn(&mut Files), message: &str| {
            let mut files = two_ranks();
            change(&mut files);
            assert_eq!(assemble(files).unwrap_err().to_string(), message);
        };
        refused(&|f| f.swap(0, 1), "second: tensor `z` goes on at value 3, expected 0");
        refused(&|f| f[1].1[0].start = 2, "second: tensor `z` goes on at value 2, expected 3");
        refused(&|f| f[1].1[1] = piece("a", &[2], 0, &[5.0]), "second: tensor `a` of shape [2] ends after 1 values");
        refused(&|f| f[1].1[0].shape = vec![4], "second: tensor `z` has shape [4], and [2, 2] in the file before");
        refused(
            &|f| f[1].1[0].data = Floats::F64(vec![4.0]),
            "second: tensor `z` is in 32 bits in one file and in 64 in another",
        );
        let other = "does not list the tensors of the other ranks' files, first";
        refused(&|f| drop(f[1].1.pop()), &format!("second: {other} `a`"));
        refused(&|f| f[1].1.swap(0, 1), &format!("second: {other} `z`"));
        let huge = vec![piece("z", &[usize::MAX, 2], 0, &[1.0])];
        let error = assemble(vec![("first".into(), huge)]).unwrap_err().to_string();
        assert_eq!(error, format!("first: tensor `z` of shape [{}, 2] ends after 1 values", usize::MAX));
    }

    #[test]
    fn a_file_without_places_is_no_file_of_pieces() {
        let (tensors, _) = pack(vec![piece("z", &[1], 0, &[1.0])]);
        for (metadata, message) in [
            (tensors::plain(), "header: no `pieces` in the metadata"),
            (
                [(KEY.to_string(), "{}".to_string())].into(),
                "header: `pieces` in the metadata says nothing of tensor `z`",
            ),
        ] {
            let mut bytes = Vec::new();
            tensors::write(&tensors, &metadata, &mut bytes).unwrap();
            assert_eq!(read(&mut &bytes[..], bytes.len() as u64).unwrap_err(), message);
        }
    }
}
