//! IDX files (MNIST and its kin): unsigned bytes, a file of images `[n, h, w]` and one of labels `[n]`.
//!
//! Gives the columns `image` (bytes of shape `[h, w]`) and `label`.

use super::cells::count;
use super::open::{read_error, unpack};
use crate::data::DataError;
use crate::data::table::{Cells, Role, Table, Wanted};
use std::io::Read;
use std::path::Path;

/// The columns of the format.
pub const COLUMNS: [&str; 2] = ["image", "label"];

/// What an IDX file holds.
#[derive(Debug)]
pub struct Idx {
    /// Sizes of the axes; the first counts items.
    pub shape: Vec<usize>,
    /// All items, row-major.
    pub values: Vec<u8>,
}

impl Idx {
    /// Reads a file with `axes` axes, through gzip where it is packed. Memory grows with what is really there,
    /// whatever the header claims.
    ///
    /// # Errors
    /// When this is no IDX file of unsigned bytes with so many axes, or holds fewer or more bytes than its header says.
    pub fn parse(input: impl Read, path: &Path, axes: u8) -> Result<Idx, DataError> {
        let mut input = unpack(input, path)?;
        let header = exactly(&mut input, 4, path)?;
        match header[..] {
            [] => return Err(DataError::file(path, "the file is empty")),
            [0, 0, 8, found] if found == axes => {}
            [0, 0, 8, found] => {
                let hint = if matches!(found, 1 | 3) { "; are `images` and `labels` swapped?" } else { "" };
                return Err(DataError::file(
                    path,
                    format!(
                        "{}, where {axes} are expected{hint}",
                        if found == 1 { "1 axis".into() } else { format!("{found} axes") }
                    ),
                ));
            }
            [0, 0, kind, _] => {
                let message = format!("elements of type 0x{kind:02x}, where unsigned bytes (0x08) are expected");
                return Err(DataError::file(path, message));
            }
            _ => return Err(DataError::file(path, "not an IDX file: it does not begin with two zero bytes")),
        }
        let sizes = exactly(&mut input, 4 * u64::from(axes), path)?;
        let (sizes, _) = sizes.as_chunks::<4>();
        let shape: Vec<usize> = sizes.iter().map(|&size| u32::from_be_bytes(size) as usize).collect();
        let Some(expected) = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)) else {
            return Err(DataError::file(path, format!("shape {shape:?} is more than memory can hold")));
        };
        if shape.len() < usize::from(axes) {
            return Err(DataError::file(path, "ends within the header: the file is truncated"));
        }
        if expected == 0 {
            return Err(DataError::file(path, format!("shape {shape:?}: no rows")));
        }
        let values = exactly(&mut input, (expected as u64).saturating_add(1), path)?;
        match values.len() {
            n if n < expected => {
                let message =
                    format!("shape {shape:?} needs {expected} bytes, but only {n} follow: the file is truncated");
                Err(DataError::file(path, message))
            }
            n if n > expected => {
                Err(DataError::file(path, format!("more bytes follow than the {expected} of shape {shape:?}")))
            }
            _ => Ok(Idx { shape, values }),
        }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// Whether there are no items; a file without items is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads `n` bytes, or fewer when the input ends.
fn exactly(input: &mut dyn Read, n: u64, path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    input.take(n).read_to_end(&mut bytes).map_err(|error| read_error(path, None, error))?;
    Ok(bytes)
}

/// Images with their labels.
#[derive(Debug)]
pub struct Pair {
    /// `[n, h, w]`.
    pub images: Idx,
    /// `[n]`.
    pub labels: Idx,
}

impl Pair {
    /// Reads both files.
    ///
    /// # Errors
    /// As [`Idx::parse`], and when there are not as many labels as images.
    pub fn parse(images: (impl Read, &Path), labels: (impl Read, &Path)) -> Result<Pair, DataError> {
        let pair = Pair { images: Idx::parse(images.0, images.1, 3)?, labels: Idx::parse(labels.0, labels.1, 1)? };
        let (n, m) = (pair.labels.len(), pair.images.len());
        if n != m {
            let images = format!("{} in {}", count(m, "image"), images.1.display());
            let message = format!("{}, but {images}", count(n, "label"));
            return Err(DataError::file(labels.1, message));
        }
        Ok(pair)
    }
}

/// The wanted columns of images with their labels. `path` gives the name for messages.
///
/// # Errors
/// When another column is wanted, or one as something that it is not.
pub fn table(pair: Pair, path: &Path, wanted: &[Wanted]) -> Result<Table, DataError> {
    let labels = [("label", &pair.labels.values[..])];
    let n_rows = pair.images.len();
    assemble(path, n_rows, (&pair.images.shape[1..], pair.images.values), &labels, wanted)
}

/// Columns of images and of byte labels as they are wanted.
pub(super) fn assemble(
    path: &Path,
    n_rows: usize,
    (shape, images): (&[usize], Vec<u8>),
    labels: &[(&str, &[u8])],
    wanted: &[Wanted],
) -> Result<Table, DataError> {
    let known: Vec<String> = ["image"].into_iter().chain(labels.iter().map(|(n, _)| *n)).map(str::to_owned).collect();
    let mut images = Some(images);
    let mut columns = Vec::with_capacity(wanted.len());
    for want in wanted {
        let label = labels.iter().find(|(name, _)| *name == want.name).map(|(_, values)| *values);
        let cells = match (label, want.role) {
            (None, Role::Image) if want.name == "image" => match images.take() {
                Some(values) => Cells::Bytes { shape: shape.to_vec(), values },
                None => return Err(DataError::file(path, "wanted twice").in_column("image")),
            },
            (Some(values), Role::Category) => {
                Cells::Strings(values.iter().map(|v| Some(v.to_string().into())).collect())
            }
            (Some(values), Role::Number) => {
                Cells::Numbers { shape: Vec::new(), values: values.iter().map(|&v| f64::from(v)).collect() }
            }
            (None, _) if want.name != "image" => return Err(super::names::absent(path, &known, &want.name)),
            (_, role) => {
                let message =
                    format!("cannot be read as {role:?}: `image` is an image, labels are categories or numbers");
                return Err(DataError::file(path, message).in_column(&want.name));
            }
        };
        columns.push((want.name.clone(), cells));
    }
    Ok(Table::from_file(path, n_rows, columns, Vec::new()))
}
