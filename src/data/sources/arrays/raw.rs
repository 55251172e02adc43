//! An array as its file holds it, and its conversion to cells.

use crate::data::DataError;
use crate::data::table::{Cells, Role};
use half::{bf16, f16};
use std::borrow::Cow;
use std::path::Path;

/// Type of one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::Bool | Element::I8 | Element::U8 => 1,
            Element::I16 | Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::I32 | Element::U32 | Element::F32 => 4,
            Element::I64 | Element::U64 | Element::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Element::F16 | Element::Bf16 | Element::F32 | Element::F64)
    }
}

/// Shape, type and bytes of an array, in row-major order.
pub(super) struct RawArray<'a> {
    pub shape: Vec<usize>,
    pub element: Element,
    pub big_endian: bool,
    /// Exactly as many as shape and type say.
    pub bytes: Cow<'a, [u8]>,
}

/// What is wrong with an array, and in which row.
pub(super) struct Fault {
    row: Option<usize>,
    message: String,
}

impl Fault {
    fn whole(message: impl Into<String>) -> Fault {
        Fault { row: None, message: message.into() }
    }

    pub fn error(self, path: &Path, name: &str) -> DataError {
        self.in_file(path).in_column(name)
    }

    pub fn in_file(self, path: &Path) -> DataError {
        match self.row {
            Some(row) => DataError::row(path, row, self.message),
            None => DataError::file(path, self.message),
        }
    }
}

/// Number of bytes of an array, unless it overflows.
pub(super) fn n_bytes(shape: &[usize], element: Element) -> Option<usize> {
    shape.iter().try_fold(element.size(), |product, &dim| product.checked_mul(dim))
}

/// Brings column-major (Fortran) elements into row-major order.
pub(super) fn row_major(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for dim in shape {
        strides.push(stride);
        stride *= dim;
    }
    for _ in 0..bytes.len() / size {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        out.extend_from_slice(&bytes[at..at + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

impl RawArray<'_> {
    /// The array as a column of the wanted role.
    pub fn cells(&self, role: Role) -> Result<Cells, Fault> {
        let Some((&n, block)) = self.shape.split_first() else {
            return Err(Fault::whole("a single value; the first axis must count rows"));
        };
        if n == 0 {
            return Err(Fault::whole("no rows"));
        }
        if block.contains(&0) {
            return Err(Fault::whole(format!("of shape {:?}: rows without values", self.shape)));
        }
        match role {
            Role::Number => Ok(Cells::Numbers { shape: block.to_vec(), values: self.finite()? }),
            Role::Category if block.iter().product::<usize>() == 1 => Ok(Cells::Strings(self.strings()?)),
            Role::Category => {
                let shape = &self.shape;
                Err(Fault::whole(format!("of shape {shape:?}, where one value per row is expected: [n]")))
            }
            Role::Image if !(2..=3).contains(&block.len()) => {
                let shape = &self.shape;
                Err(Fault::whole(format!("of shape {shape:?}, where images are [n, h, w] or [n, c, h, w]")))
            }
            Role::Image if self.element == Element::U8 => {
                Ok(Cells::Bytes { shape: block.to_vec(), values: self.bytes.to_vec() })
            }
            Role::Image => Ok(Cells::Numbers { shape: block.to_vec(), values: self.finite()? }),
            Role::Bits => Err(Fault::whole("bit strings are columns of tables; list 0/1 arrays under `dense`")),
            Role::Text => Err(Fault::whole("text cannot be read from arrays; use csv or parquet")),
        }
    }

    /// All values as numbers, none of them NaN or infinite.
    fn finite(&self) -> Result<Vec<f64>, Fault> {
        let values = self.numbers();
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                let row = Some(at / (values.len() / self.shape[0]));
                Err(Fault { row, message: format!("{} is not a finite number", values[at]) })
            }
            None => Ok(values),
        }
    }

    fn numbers(&self) -> Vec<f64> {
        match self.element {
            Element::Bool => self.each(|b: [u8; 1]| f64::from(u8::from(b[0] != 0))),
            Element::I8 => self.each(|b| f64::from(i8::from_le_bytes(b))),
            Element::I16 => self.each(|b| f64::from(i16::from_le_bytes(b))),
            Element::I32 => self.each(|b| f64::from(i32::from_le_bytes(b))),
            Element::I64 => self.each(|b| i64::from_le_bytes(b) as f64),
            Element::U8 => self.each(|b| f64::from(u8::from_le_bytes(b))),
            Element::U16 => self.each(|b| f64::from(u16::from_le_bytes(b))),
            Element::U32 => self.each(|b| f64::from(u32::from_le_bytes(b))),
            Element::U64 => self.each(|b| u64::from_le_bytes(b) as f64),
            Element::F16 => self.each(|b| f16::from_le_bytes(b).to_f64()),
            Element::Bf16 => self.each(|b| bf16::from_le_bytes(b).to_f64()),
            Element::F32 => self.each(|b| f64::from(f32::from_le_bytes(b))),
            Element::F64 => self.each(f64::from_le_bytes),
        }
    }

    /// All values written shortest; NaN is missing, infinity an error.
    fn strings(&self) -> Result<Vec<Option<Box<str>>>, Fault> {
        if self.element.is_float() {
            let values = self.numbers();
            if let Some(row) = values.iter().position(|v| v.is_infinite()) {
                return Err(Fault { row: Some(row), message: format!("{} is not a category", values[row]) });
            }
            let double = self.element == Element::F64;
            let text =
                |v: f64| if double { super::super::shortest_f64(v) } else { super::super::shortest_f32(v as f32) };
            return Ok(values.into_iter().map(|v| (!v.is_nan()).then(|| text(v).into())).collect());
        }
        let signed = |v: i64| Some(v.to_string().into());
        Ok(match self.element {
            Element::I64 => self.each(|b| signed(i64::from_le_bytes(b))),
            Element::U64 => self.each(|b| Some(u64::from_le_bytes(b).to_string().into())),
            // Every other integer is exact as a double.
            _ => self.numbers().into_iter().map(|v| signed(v as i64)).collect(),
        })
    }

    /// Applies `f` to the little-endian bytes of each element.
    fn each<const N: usize, T>(&self, f: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (elements, _) = self.bytes.as_chunks::<N>();
        let little = |mut bytes: [u8; N]| {
            if self.big_endian {
                bytes.reverse();
            }
            f(bytes)
        };
        elements.iter().copied().map(little).collect()
    }
}
