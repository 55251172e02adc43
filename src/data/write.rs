//! Predictions into a file: CSV, TSV, Parquet or JSON lines, whole or not at all.

use super::DataError;
use crate::files::create_anew;
use arrow_array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
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
    let mut out = BufWriter::new(create_anew(path)?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float32Type, Float64Type, Int64Type};

    fn columns() -> Vec<(String, Column)> {
        vec![
            ("p".into(), Column::F32(vec![0.1, 1e-30, f32::NAN])),
            ("q, r".into(), Column::F64(vec![1.0 / 3.0, -0.0, f64::INFINITY])),
            ("row".into(), Column::Int(vec![0, 1, -2])),
            ("class".into(), Column::Text(vec!["a,b".into(), "say \"hi\"".into(), "é\n".into()])),
        ]
    }

    fn written(name: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        write_predictions(&path, &columns()).unwrap();
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [name]);
        (folder, path)
    }

    #[test]
    fn csv_quotes_what_needs_it_and_numbers_come_back_the_same() {
        let (_folder, path) = written("p.csv");
        let text = std::fs::read_to_string(path).unwrap();
        let first = "p,\"q, r\",row,class\n0.1,0.3333333333333333,0,\"a,b\"\n";
        assert!(text.starts_with(first), "{text}");
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows[1][0].parse::<f32>().unwrap(), 1e-30);
        assert_eq!((&rows[1][1], &rows[2][0], &rows[2][3]), ("-0", "NaN", "é\n"));
        let (_folder, path) = written("p.tsv");
        assert!(std::fs::read_to_string(path).unwrap().starts_with("p\tq, r\trow\tclass\n0.1\t"));
    }

    #[test]
    fn json_lines_hold_one_object_a_row() {
        let (_folder, path) = written("p.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("{\"p\":0.1,\"q, r\":0.3333333333333333,\"row\":0,\"class\":\"a,b\"}\n"), "{text}");
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[1]["p"].as_f64().unwrap() as f32, 1e-30);
        assert_eq!((&rows[2]["q, r"], &rows[2]["class"]), (&serde_json::Value::Null, &"é\n".into()));
    }

    #[test]
    fn parquet_keeps_types_and_bits() {
        let (_folder, path) = written("p.parquet");
        let reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(std::fs::File::open(path).unwrap(), 10);
        let batch = reader.unwrap().next().unwrap().unwrap();
        assert_eq!(batch.schema().field(1).name(), "q, r");
        assert_eq!(batch.column(0).as_primitive::<Float32Type>().values()[..2], [0.1, 1e-30]);
        assert_eq!(batch.column(1).as_primitive::<Float64Type>().values()[0], 1.0 / 3.0);
        assert_eq!(batch.column(2).as_primitive::<Int64Type>().values()[..], [0, 1, -2]);
        assert_eq!(batch.column(3).as_string::<i32>().value(2), "é\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.txt");
        let e = write_predictions(&path, &columns()).unwrap_err().to_string();
        let endings = "predictions are written to .csv, .tsv, .jsonl or .parquet; choose one of these endings";
        assert_eq!(e, format!("{}: {endings}", path.display()));
        // A folder in the way: the rename fails.
        let path = folder.path().join("p.csv");
        std::fs::create_dir(&path).unwrap();
        let e = write_predictions(&path, &columns()).unwrap_err().to_string();
        assert!(e.starts_with(&format!("{}: ", path.display())), "{e}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let uneven = [("a".to_string(), Column::Int(vec![1])), ("b".to_string(), Column::Int(vec![]))];
        let e = write_predictions(&folder.path().join("q.csv"), &uneven).unwrap_err().to_string();
        assert!(e.ends_with("q.csv: column `b` has 0 rows, `a` has 1"), "{e}");
    }
}
