//! The `safetensors` format: a JSON header of names, types, shapes and offsets, then the elements.

use super::RawArray;
use super::raw::{Element, n_bytes};
use crate::data::DataError;
use safetensors::{Dtype, SafeTensors};
use std::borrow::Cow;
use std::path::Path;

/// An opened file.
pub(super) struct File<'a> {
    pub path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl<'a> File<'a> {
    pub fn open(bytes: &'a [u8], path: &'a Path) -> Result<Self, DataError> {
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| DataError::file(path, format!("not a safetensors file, or a damaged one ({error})")))?;
        Ok(File { path, tensors })
    }

    /// The tensors in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors.names().into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    /// One tensor.
    pub fn read(&self, name: &str) -> Result<RawArray<'a>, DataError> {
        let bad = |message: String| DataError::file(self.path, message).in_column(name);
        let tensor = self.tensors.tensor(name).map_err(|error| bad(error.to_string()))?;
        let element = element(tensor.dtype()).ok_or_else(|| {
            bad(format!(
                "elements of type {:?} are not read; bool, integers and floats of 16 to 64 bits are",
                tensor.dtype()
            ))
        })?;
        let (shape, bytes) = (tensor.shape().to_vec(), tensor.data());
        if n_bytes(&shape, element) != Some(bytes.len()) {
            return Err(bad(format!("shape {shape:?} does not fit its {} bytes", bytes.len())));
        }
        Ok(RawArray { shape, element, big_endian: false, bytes: Cow::Borrowed(bytes) })
    }
}

fn element(dtype: Dtype) -> Option<Element> {
    Some(match dtype {
        Dtype::BOOL => Element::Bool,
        Dtype::I8 => Element::I8,
        Dtype::I16 => Element::I16,
        Dtype::I32 => Element::I32,
        Dtype::I64 => Element::I64,
        Dtype::U8 => Element::U8,
        Dtype::U16 => Element::U16,
        Dtype::U32 => Element::U32,
        Dtype::U64 => Element::U64,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::Bf16,
        Dtype::F32 => Element::F32,
        Dtype::F64 => Element::F64,
        _ => return None,
    })
}
