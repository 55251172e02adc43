//! A file per format: bytes in, [`Table`](super::table::Table) out. No tensors here.
