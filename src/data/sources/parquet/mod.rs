//! Apache Parquet: columns of numbers, booleans and strings. A null is a missing value.

mod footer;
mod pages;
mod thrift;

use super::cells::{Collector, Column, shown};
use super::contain::contain;
use super::names;
use crate::data::DataError;
use crate::data::table::{Table, Wanted};
use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use ::parquet::basic::Compression;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::ChunkReader;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use std::path::Path;

/// Rows decoded at a time.
const BATCH: usize = 8192;
/// A file may have so many rows whatever its size.
const MODEST_ROWS: u64 = 1 << 20;
/// A file with more rows may have so many per byte: runs of one value pack without limit, but such data is no use.
const MAX_ROWS_PER_BYTE: u64 = 1024;

/// Reads the wanted columns of a Parquet file.
///
/// # Errors
/// [`DataError`] with file, row (from 0) and column: for damaged files, columns that are not there or have a type
/// that is not read, and cells that are not what they are wanted as.
pub fn parse<R: ChunkReader + 'static>(input: R, path: &Path, wanted: &[Wanted]) -> Result<Table, DataError> {
    contained(path, || decode(input, path, wanted))
}

/// The names of the columns of a Parquet file.
///
/// # Errors
/// When the file's footer is damaged.
pub fn columns<R: ChunkReader + 'static>(input: R, path: &Path) -> Result<Vec<String>, DataError> {
    contained(path, || Ok(field_names(&open(&input, path)?)))
}

/// A panic of the library means a damaged file.
fn contained<T>(path: &Path, read: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    contain(read).unwrap_or_else(|panic| Err(DataError::file(path, format!("the file is damaged ({panic})"))))
}

fn decode<R: ChunkReader + 'static>(input: R, path: &Path, wanted: &[Wanted]) -> Result<Table, DataError> {
    let metadata = open(&input, path)?;
    let picks = names::pick(path, &field_names(&metadata), wanted)?;
    check_chunks(&input, metadata.metadata(), path, &picks)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata);
    let mask = ProjectionMask::roots(builder.parquet_schema(), picks.iter().copied());
    let mut roots = picks.clone();
    roots.sort_unstable();
    roots.dedup();
    let mut table = Collector::new(path, wanted)?;
    let mut n_rows = 0;
    let batches = builder.with_projection(mask).with_batch_size(BATCH).build();
    for batch in batches.map_err(|error| damaged(path, n_rows, error))? {
        let batch = batch.map_err(|error| damaged(path, n_rows, error))?;
        for ((column, pick), want) in table.columns.iter_mut().zip(&picks).zip(wanted) {
            let place = roots.binary_search(pick).unwrap_or_default();
            append(column, batch.column(place)).map_err(|(row, message)| {
                let row = row.map(|row| DataError::row(path, n_rows + row, &*message));
                row.unwrap_or_else(|| DataError::file(path, message)).in_column(&want.name)
            })?;
        }
        n_rows += batch.num_rows();
    }
    table.finish(n_rows)
}

fn open(input: &impl ChunkReader, path: &Path) -> Result<ArrowReaderMetadata, DataError> {
    if input.len() == 0 {
        return Err(DataError::file(path, "the file is empty"));
    }
    footer::check(input).map_err(|message| DataError::file(path, message))?;
    // The embedded Arrow schema adds nothing that is read here, and would be one more thing to trust.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ArrowReaderMetadata::load(input, options)
        .map_err(|error| DataError::file(path, format!("not a Parquet file, or a damaged one ({})", cause(error))))
}

fn field_names(metadata: &ArrowReaderMetadata) -> Vec<String> {
    metadata.schema().fields().iter().map(|field| field.name().clone()).collect()
}

/// Refuses, in the columns picked, page sizes that the file cannot justify and compressions that are not built in.
fn check_chunks(
    input: &impl ChunkReader,
    metadata: &ParquetMetaData,
    path: &Path,
    picks: &[usize],
) -> Result<(), DataError> {
    let (rows, bytes) = (metadata.file_metadata().num_rows(), input.len());
    if u64::try_from(rows).map_or(true, |rows| rows > MODEST_ROWS && rows / MAX_ROWS_PER_BYTE > bytes) {
        return Err(DataError::file(path, format!("damaged: {rows} rows are said to be in {bytes} bytes")));
    }
    let schema = metadata.file_metadata().schema_descr();
    for group in metadata.row_groups() {
        for (leaf, chunk) in group.columns().iter().enumerate() {
            if leaf >= schema.num_columns() || !picks.contains(&schema.get_column_root_idx(leaf)) {
                continue;
            }
            let bad = |message: String| DataError::file(path, message).in_column(&chunk.column_path().string());
            if matches!(chunk.compression(), Compression::GZIP(_) | Compression::BROTLI(_) | Compression::LZO) {
                let kind = chunk.compression().to_string();
                let kind = kind.split('(').next().unwrap_or_default();
                return Err(bad(format!(
                    "compression {kind} is not read; write the file with snappy, zstd, lz4 or none"
                )));
            }
            pages::check(input, chunk).map_err(bad)?;
        }
    }
    Ok(())
}

fn damaged(path: &Path, row: usize, error: impl Into<ParquetError>) -> DataError {
    DataError::row(path, row, format!("the file is damaged near here ({})", cause(error.into())))
}

/// The innermost message of an error of the library, on one line.
fn cause(error: ParquetError) -> String {
    let text = match error {
        ParquetError::General(text) | ParquetError::EOF(text) | ParquetError::ArrowError(text) => text,
        other => other.to_string(),
    };
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("Parquet argument error: ").unwrap_or(line).trim_start_matches("Parquet error: ").to_owned()
}

/// What is wrong, and with which row of the batch.
type Fault = (Option<usize>, String);

/// Appends the cells of one column of a batch.
fn append(column: &mut Column, array: &ArrayRef) -> Result<(), Fault> {
    let cast = |to: DataType| {
        arrow_cast::cast(array, &to).map_err(|error| (None, format!("cannot be read as {to} ({error})")))
    };
    use DataType as T;
    match array.data_type() {
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => {
            let values = cast(T::Int64)?;
            let values = values.as_primitive::<Int64Type>();
            each(column, values, |column, row| {
                let value = values.value(row);
                column.number(value as f64, || value.to_string())
            })
        }
        T::UInt64 => {
            let values = array.as_primitive::<UInt64Type>();
            each(column, values, |column, row| {
                let value = values.value(row);
                column.number(value as f64, || value.to_string())
            })
        }
        T::Float16 | T::Float32 => {
            let values = cast(T::Float32)?;
            let values = values.as_primitive::<Float32Type>();
            each(column, values, |column, row| {
                let value = values.value(row);
                column.number(f64::from(value), || super::shortest_f32(value))
            })
        }
        T::Float64 | T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => {
            let values = cast(T::Float64)?;
            let values = values.as_primitive::<Float64Type>();
            each(column, values, |column, row| {
                let value = values.value(row);
                column.number(value, || super::shortest_f64(value))
            })
        }
        T::Boolean => {
            let values = array.as_boolean();
            each(column, values, |column, row| match (column, values.value(row)) {
                (column @ Column::Numbers(_), value) => column.number(f64::from(u8::from(value)), String::new),
                (column, value) => column.text(if value { "true" } else { "false" }),
            })
        }
        T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Dictionary(..) => {
            let values = cast(T::LargeUtf8)?;
            let values = values.as_string::<i64>();
            each(column, values, |column, row| match values.value(row) {
                "" => column.missing(),
                text => column.text(text),
            })
        }
        T::Null => each(column, array, |column, _| column.missing()),
        T::Binary | T::LargeBinary => Err((None, "a column of bytes; write it as strings (UTF-8)".into())),
        other => {
            Err((None, format!("type {} is not read; write numbers, booleans or strings", shown(&other.to_string()))))
        }
    }
}

/// Calls `push` for each row that is not null.
fn each(
    column: &mut Column,
    array: &dyn Array,
    mut push: impl FnMut(&mut Column, usize) -> Result<(), String>,
) -> Result<(), Fault> {
    for row in 0..array.len() {
        let pushed = if array.is_null(row) { column.missing() } else { push(column, row) };
        pushed.map_err(|message| (Some(row), message))?;
    }
    Ok(())
}
