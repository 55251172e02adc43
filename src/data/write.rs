//! Predictions into a file: CSV, TSV, Parquet or JSON lines, whole or not at all.

use super::DataError;
use arrow_array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One column of predictions.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Numbers, written so that reading them gives the same bits.
    F32(Vec<f32>),
    /// Numbers, written so that reading them gives the same bits.
    F64(Vec<f64>),
    /// Whole numbers.
    Int(Vec<i64>),
    /// Text, such as names of classes.
    Text(Vec<String>),
}

impl Column {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Column::F32(v) => v.len(),
            Column::F64(v) => v.len(),
            Column::Int(v) => v.len(),
            Column::Text(v) => v.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn text(&self, row: usize) -> String {
        match self {
            Column::F32(v) => v[row].to_string(),
            Column::F64(v) => v[row].to_string(),
            Column::Int(v) => v[row].to_string(),
            Column::Text(v) => v[row].clone(),
        }
    }

    /// As JSON; numbers that are not finite become null, as JSON knows none.
    fn json(&self, row: usize) -> String {
        match self {
            Column::F32(v) if !v[row].is_finite() => "null".into(),
            Column::F64(v) if !v[row].is_finite() => "null".into(),
            Column::Text(v) => serde_json::Value::from(v[row].as_str()).to_string(),
            numbers => numbers.text(row),
        }
    }

    fn arrow(&self) -> ArrayRef {
        match self {
            Column::F32(v) => Arc::new(Float32Array::from(v.clone())),
            Column::F64(v) => Arc::new(Float64Array::from(v.clone())),
            Column::Int(v) => Arc::new(Int64Array::from(v.clone())),
            Column::Text(v) => Arc::new(StringArray::from_iter_values(v)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Delimited(u8),
    JsonLines,
    Parquet,
}

/// Writes columns of one length to a file whose ending tells the format: `.csv`, `.tsv`, `.jsonl` or `.parquet`. The file
/// appears under its name only once it is complete; one that was there before is replaced.
///
/// # Errors
/// Another ending, columns of different lengths, or a file that cannot be written.
pub fn write_predictions(path: &Path, columns: &[(String, Column)]) -> Result<(), DataError> {
    let format = format_of(path)?;
    let n = columns.first().map_or(0, |(_, column)| column.len());
    if let Some((name, column)) = columns.iter().find(|(_, column)| column.len() != n) {
        return Err(DataError::Unfit(format!(
            "{}: column `{name}` has {} rows, `{}` has {n}",
            path.display(),
            column.len(),
            columns[0].0
        )));
    }
    let temporary = temporary(path);
    let written = write(&temporary, format, columns, n).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        // Best effort: the error to report is the first one.
        let _ = std::fs::remove_file(&temporary);
        DataError::Io { path: path.display().to_string(), source }
    })
}

/// Refuses an ending that [`write_predictions`] does not know, before any work is done.
///
/// # Errors
/// The ending, and those that are known.
pub fn check_predictions_path(path: &Path) -> Result<(), DataError> {
    format_of(path).map(|_| ())
}

fn format_of(path: &Path) -> Result<Format, DataError> {
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => Ok(Format::Delimited(b',')),
        Some("tsv") => Ok(Format::Delimited(b'\t')),
        Some("jsonl") => Ok(Format::JsonLines),
        Some("parquet") => Ok(Format::Parquet),
        _ => Err(DataError::Unfit(format!(
            "{}: predictions are written to .csv, .tsv, .jsonl or .parquet; choose one of these endings",
            path.display()
        ))),
    }
}

/// A hidden name in the same folder, since a rename does not cross file systems.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn write(path: &Path, format: Format, columns: &[(String, Column)], n: usize) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    match format {
        Format::Delimited(delimiter) => write_delimited(&mut out, delimiter, columns, n)?,
        Format::JsonLines => write_json_lines(&mut out, columns, n)?,
        Format::Parquet => write_parquet(&mut out, columns)?,
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn write_delimited(out: &mut impl Write, delimiter: u8, columns: &[(String, Column)], n: usize) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(out);
    writer.write_record(columns.iter().map(|(name, _)| name))?;
    for row in 0..n {
        writer.write_record(columns.iter().map(|(_, column)| column.text(row)))?;
    }
    writer.flush()
}

fn write_json_lines(out: &mut impl Write, columns: &[(String, Column)], n: usize) -> io::Result<()> {
    let names: Vec<String> =
        columns.iter().map(|(name, _)| serde_json::Value::from(name.as_str()).to_string()).collect();
    for row in 0..n {
        let fields = names.iter().zip(columns).map(|(name, (_, column))| format!("{name}:{}", column.json(row)));
        writeln!(out, "{{{}}}", fields.collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

fn write_parquet(out: &mut (impl Write + Send), columns: &[(String, Column)]) -> io::Result<()> {
    let arrays = columns.iter().map(|(name, column)| (name, column.arrow()));
    let batch = RecordBatch::try_from_iter(arrays).map_err(io::Error::other)?;
    let mut writer = parquet::arrow::ArrowWriter::try_new(out, batch.schema(), None).map_err(io::Error::other)?;
    writer.write(&batch).map_err(io::Error::other)?;
    writer.close().map_err(io::Error::other)?;
    Ok(())
}
