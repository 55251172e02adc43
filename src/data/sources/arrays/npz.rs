//! The `npz` format: a zip archive of `npy` files.

use super::RawArray;
use super::npy;
use crate::data::DataError;
use npyz::npz::NpzArchive;
use npyz::zip::CompressionMethod;
use std::borrow::Cow;
use std::fmt::Display;
use std::io::{Cursor, Read};
use std::path::Path;

/// Deflate cannot do more, whatever is packed.
const MAX_INFLATION: u64 = 1032;

/// An opened archive.
pub(super) struct Archive<'a> {
    pub path: &'a Path,
    zip: NpzArchive<Cursor<&'a [u8]>>,
}

impl<'a> Archive<'a> {
    pub fn open(bytes: &'a [u8], path: &'a Path) -> Result<Self, DataError> {
        let zip = NpzArchive::new(Cursor::new(bytes))
            .map_err(|error| DataError::file(path, format!("not an npz file, or a damaged one ({error})")))?;
        Ok(Archive { path, zip })
    }

    /// The arrays in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.zip.array_names().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    /// Unpacks one array. Memory grows with what is really there, whatever the archive claims.
    pub fn read(&mut self, name: &str) -> Result<RawArray<'static>, DataError> {
        let bad = |message: String| DataError::file(self.path, message).in_column(name);
        let member = npyz::npz::file_name_from_array_name(name);
        let damaged = |error: &dyn Display| bad(format!("the archive is damaged ({error})"));
        let file = self.zip.zip_archive().by_name(&member).map_err(|error| damaged(&error))?;
        if !matches!(file.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            let method = file.compression();
            return Err(bad(format!("packed with {method}; NumPy packs with deflate, or not at all")));
        }
        let most = file.compressed_size().saturating_mul(MAX_INFLATION).saturating_add(1);
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
        if bytes.len() as u64 == most {
            return Err(damaged(&format!("it unpacks to more than {MAX_INFLATION} times its size")));
        }
        let array = npy::parse(&bytes).map_err(bad)?;
        Ok(RawArray { bytes: Cow::Owned(array.bytes.into_owned()), ..array })
    }
}
