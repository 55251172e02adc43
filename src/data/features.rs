//! Transformed inputs of one split in memory, and their way into tensors.
//!
//! Kept compactly (bits and images as bytes, indices in 32 bits) and widened when a batch is gathered: a batch costs one
//! pass over its own rows.

use super::columns::Columns;
use super::fit::{Fitted, check_same, image_shape, signature};
use super::split::View;
use super::table::Cells;
use super::values::width;
use super::words::{Index, tokenize};
use super::{DataError, Inputs, Tokens};
use crate::config::Missing;
use crate::ffi::tensor_of;
use tch::Tensor;

/// Transformed inputs, a row per sample.
#[derive(Debug)]
pub(crate) struct Features {
    n: usize,
    /// Standardised numbers, then arrays as they are: `[n, n_floats]`.
    floats: Vec<f32>,
    n_floats: usize,
    /// Bits as bytes 0/1: `[n, n_bits]`.
    bits: Vec<u8>,
    n_bits: usize,
    /// `[n, n_categories]`.
    categories: Vec<u32>,
    n_categories: usize,
    words: Option<Words>,
    image: Option<Image>,
}

/// Bags of word indices; bag `i` is `ids[starts[i]..starts[i + 1]]`.
#[derive(Debug)]
struct Words {
    starts: Vec<usize>,
    ids: Vec<u32>,
}

#[derive(Debug)]
struct Image {
    shape: [usize; 3],
    pixels: Pixels,
}

#[derive(Debug)]
enum Pixels {
    /// To be divided by 255.
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

/// [`Fitted`] with what makes it quick to apply.
pub(crate) struct Encoder<'a> {
    fitted: &'a Fitted,
    signature: Vec<String>,
    words: Index,
    categories: Vec<Index>,
}

impl<'a> Encoder<'a> {
    pub fn new(fitted: &'a Fitted) -> Encoder<'a> {
        let index = |values: &'a [String]| Index::of(values.iter().map(String::as_str));
        Encoder {
            fitted,
            signature: fitted.signature(),
            words: fitted.text.as_ref().map_or_else(Index::new, |v| index(&v.words)),
            categories: fitted.categorical.iter().map(|c| index(&c.values)).collect(),
        }
    }

    /// Transforms the inputs of some rows; `what` names them in messages.
    ///
    /// # Errors
    /// Inputs other than those fitted, a missing number where it is refused, a number that is not finite.
    pub fn encode(&self, what: &str, columns: &Columns, view: View) -> Result<Features, DataError> {
        check_same(("the training data", &self.signature), (what, &signature(columns, view)?))?;
        let dims = self.fitted.dims();
        let n_bits = self.fitted.bits.iter().map(|b| b.width).sum();
        let text = (!columns.text.is_empty()).then(|| self.text(columns, view));
        let image = columns.image.map(|column| Image::encode(view, column, columns.refuse_nan));
        Ok(Features {
            n: view.rows.len(),
            floats: self.floats(columns, view, dims.dense - n_bits)?,
            n_floats: dims.dense - n_bits,
            bits: self.bits(columns, view, n_bits)?,
            n_bits,
            categories: self.categories(columns, view)?,
            n_categories: dims.categories.len(),
            words: text,
            image: image.transpose()?,
        })
    }

    fn floats(&self, columns: &Columns, view: View, stride: usize) -> Result<Vec<f32>, DataError> {
        let mut out = vec![0.0; view.rows.len() * stride];
        let mut at = 0;
        for (&column, standard) in columns.numeric.iter().zip(&self.fitted.numeric) {
            let scale: Vec<(f64, f64)> = standard.mean.iter().copied().zip(standard.std.iter().copied()).collect();
            let fill = !columns.refuse_nan && columns.missing == Missing::Mean;
            copy_floats(view, column, (&mut out, stride, at), |i, x| match scale[i] {
                _ if x.is_nan() && fill => Ok(0.0),
                (mean, std) => finite((x - mean) / std, x, columns.refuse_nan),
            })?;
            at += scale.len();
        }
        for (&column, block) in columns.dense.iter().zip(&self.fitted.dense) {
            copy_floats(view, column, (&mut out, stride, at), |_, x| finite(x, x, true))?;
            at += block.width;
        }
        Ok(out)
    }

    fn bits(&self, columns: &Columns, view: View, stride: usize) -> Result<Vec<u8>, DataError> {
        let mut out = Vec::with_capacity(view.rows.len() * stride);
        for &row in view.rows {
            for &column in &columns.bits {
                let Cells::Bits { width, values } = view.cells(column) else {
                    return Err(not(view, column, "bits"));
                };
                out.extend_from_slice(&values[row as usize * width..][..*width]);
            }
        }
        Ok(out)
    }

    fn categories(&self, columns: &Columns, view: View) -> Result<Vec<u32>, DataError> {
        let stride = columns.categorical.len();
        let mut out = vec![0; view.rows.len() * stride];
        for (at, (&column, known)) in columns.categorical.iter().zip(&self.categories).enumerate() {
            let Cells::Strings(cells) = view.cells(column) else {
                return Err(not(view, column, "categories"));
            };
            for (i, &row) in view.rows.iter().enumerate() {
                let index = cells[row as usize].as_deref().and_then(|value| known.get(value));
                out[i * stride + at] = index.map_or(0, |index| index + 1);
            }
        }
        Ok(out)
    }

    /// Unknown words have index 0; unknown runs of words are left out, since nearly all runs of a new text are unknown.
    fn text(&self, columns: &Columns, view: View) -> Words {
        let mut words = Words { starts: vec![0], ids: Vec::new() };
        let (ngrams, max_tokens) = self.fitted.text.as_ref().map_or((1, 0), |v| (v.ngrams, v.max_tokens));
        for &row in view.rows {
            for &column in &columns.text {
                let Cells::Strings(cells) = view.cells(column) else { continue };
                let text = cells[row as usize].as_deref().unwrap_or_default();
                tokenize(text, ngrams, max_tokens, |token, n| match self.words.get(token) {
                    Some(index) => words.ids.push(index + 1),
                    None if n == 1 => words.ids.push(0),
                    None => {}
                });
            }
            words.starts.push(words.ids.len());
        }
        words.ids.shrink_to_fit();
        words
    }
}

fn not(view: View, column: usize, what: &str) -> DataError {
    DataError::Unfit(format!("column `{}` does not hold {what}", view.name(column)))
}

/// The transformed number as a 32-bit float, or what is wrong with the number `x` it came from.
fn finite(y: f64, x: f64, array: bool) -> Result<f32, String> {
    match y as f32 {
        y if y.is_finite() => Ok(y),
        _ if x.is_nan() && array => Err("NaN; remove or replace it".into()),
        _ if x.is_nan() => Err("blank; give a number, or set `missing: mean` on the source".into()),
        _ if x.is_infinite() => Err(format!("{x} is not finite; remove or replace it")),
        _ => Err(format!("{x} is too large for a 32-bit float")),
    }
}

/// Writes a column's blocks into rows of `stride` floats, from `at` on, each value changed by `f(index in the block, value)`.
fn copy_floats(
    view: View,
    column: usize,
    (out, stride, at): (&mut [f32], usize, usize),
    f: impl Fn(usize, f64) -> Result<f32, String>,
) -> Result<(), DataError> {
    let cells = view.cells(column);
    let width = width(cells);
    for (i, &row) in view.rows.iter().enumerate() {
        let from = row as usize * width..(row as usize + 1) * width;
        let to = &mut out[i * stride + at..][..width];
        match cells {
            Cells::Numbers { values, .. } => {
                for (j, (y, &x)) in to.iter_mut().zip(&values[from]).enumerate() {
                    *y = f(j, x).map_err(|message| view.bad(row, column, message))?;
                }
            }
            Cells::Bytes { values, .. } => {
                for (j, (y, &x)) in to.iter_mut().zip(&values[from]).enumerate() {
                    *y = f(j, f64::from(x)).map_err(|message| view.bad(row, column, message))?;
                }
            }
            Cells::Strings(_) | Cells::Bits { .. } => return Err(not(view, column, "numbers")),
        }
    }
    Ok(())
}

impl Image {
    fn encode(view: View, column: usize, array: bool) -> Result<Image, DataError> {
        let shape = image_shape(view, column)?;
        let size: usize = shape.iter().product();
        let pixels = match view.cells(column) {
            Cells::Bytes { values, .. } => {
                let rows = view.rows.iter().map(|&row| &values[row as usize * size..][..size]);
                Pixels::Bytes(rows.collect::<Vec<_>>().concat())
            }
            _ => {
                let mut out = vec![0.0; view.rows.len() * size];
                copy_floats(view, column, (&mut out, size, 0), |_, x| finite(x, x, array))?;
                Pixels::Floats(out)
            }
        };
        Ok(Image { shape, pixels })
    }

    fn gather(&self, rows: &[u32]) -> Tensor {
        let size: usize = self.shape.iter().product();
        let mut out: Vec<f32> = Vec::with_capacity(rows.len() * size);
        for &row in rows {
            match &self.pixels {
                Pixels::Bytes(values) => {
                    out.extend(values[row as usize * size..][..size].iter().map(|&b| f32::from(b) / 255.0));
                }
                Pixels::Floats(values) => out.extend_from_slice(&values[row as usize * size..][..size]),
            }
        }
        let [c, h, w] = self.shape;
        tensor_of(&out, &[rows.len(), c, h, w])
    }
}

impl Words {
    fn gather(&self, rows: &[u32]) -> Tokens {
        let bag = |row: u32| &self.ids[self.starts[row as usize]..self.starts[row as usize + 1]];
        let mut offsets = Vec::with_capacity(rows.len());
        let mut ids: Vec<i64> = Vec::with_capacity(rows.iter().map(|&row| bag(row).len()).sum());
        for &row in rows {
            offsets.push(ids.len() as i64);
            ids.extend(bag(row).iter().map(|&id| i64::from(id)));
        }
        Tokens { ids: tensor_of(&ids, &[ids.len()]), offsets: tensor_of(&offsets, &[rows.len()]) }
    }
}

impl Features {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.n
    }

    /// The inputs of some rows as tensors.
    pub fn gather(&self, rows: &[u32]) -> Inputs {
        Inputs {
            dense: (self.n_floats + self.n_bits > 0).then(|| self.gather_dense(rows)),
            categorical: (self.n_categories > 0).then(|| self.gather_categories(rows)),
            tokens: self.words.as_ref().map(|words| words.gather(rows)),
            image: self.image.as_ref().map(|image| image.gather(rows)),
        }
    }

    fn gather_dense(&self, rows: &[u32]) -> Tensor {
        let (n_floats, n_bits) = (self.n_floats, self.n_bits);
        let mut out: Vec<f32> = Vec::with_capacity(rows.len() * (n_floats + n_bits));
        for &row in rows {
            out.extend_from_slice(&self.floats[row as usize * n_floats..][..n_floats]);
            out.extend(self.bits[row as usize * n_bits..][..n_bits].iter().map(|&bit| f32::from(bit)));
        }
        tensor_of(&out, &[rows.len(), n_floats + n_bits])
    }

    fn gather_categories(&self, rows: &[u32]) -> Tensor {
        let width = self.n_categories;
        let mut out: Vec<i64> = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            out.extend(self.categories[row as usize * width..][..width].iter().map(|&c| i64::from(c)));
        }
        tensor_of(&out, &[rows.len(), width])
    }
}
