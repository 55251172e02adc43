//! The `npz` format: a zip archive of `npy` files.

use super::RawArray;
use super::npy;
use crate::data::DataError;
use npyz::npz::NpzArchive;
use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::path::Path;

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
        let mut bytes = Vec::new();
        let mut file = match self.zip.zip_archive().by_name(&member) {
            Ok(file) => file,
            Err(error) => return Err(bad(format!("the archive is damaged ({error})"))),
        };
        file.read_to_end(&mut bytes).map_err(|error| bad(format!("the archive is damaged ({error})")))?;
        let array = npy::parse(&bytes).map_err(bad)?;
        Ok(RawArray { bytes: Cow::Owned(array.bytes.into_owned()), ..array })
    }
}
