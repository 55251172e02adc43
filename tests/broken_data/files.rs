//! Makes the files of the binary formats, whole or broken.
#![allow(dead_code, reason = "each test program uses some of these")]

use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, Float64Array, ListArray, RecordBatch, StringArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{self, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use std::io::{Cursor, Write};
use std::sync::Arc;

/// Packs bytes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// A good file of two rows: `x` is 1, null; `nan` is 1, NaN; `word` is a, b; `list` holds lists.
pub fn parquet() -> Vec<u8> {
    let lists = [Some(vec![Some(1.0)]), Some(vec![])];
    let columns: [(&str, ArrayRef); 4] = [
        ("x", Arc::new(Float64Array::from(vec![Some(1.0), None]))),
        ("nan", Arc::new(Float64Array::from(vec![1.0, f64::NAN]))),
        ("word", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("list", Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("equal lengths");
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("memory");
    writer.write(&batch).expect("memory");
    writer.close().expect("memory");
    bytes
}

/// A file of one snappy page of `x` whose header says that it unpacks to almost 2 GiB.
pub fn parquet_that_claims_too_much() -> Vec<u8> {
    let values: ArrayRef = Arc::new(Float64Array::from(vec![0.0; 2000]));
    let batch = RecordBatch::try_from_iter([("x", values)]).expect("one column");
    let properties = WriterProperties::builder()
        .set_compression(basic::Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).expect("memory");
    writer.write(&batch).expect("memory");
    writer.close().expect("memory");
    // After the magic: page type (2 bytes), then field 2, the unpacked size, a varint of 3 bytes at this size. Five
    // bytes take their place, and two bytes that the page then has too many go from its end.
    assert_eq!(bytes[6], 0x15, "field 2 is an integer");
    assert!(bytes[7] & bytes[8] & 0x80 != 0 && bytes[9] & 0x80 == 0, "of three bytes");
    bytes.splice(7..10, [0xfe, 0xff, 0xff, 0xff, 0x0f]);
    // Field 3, the packed size, is smaller by as much.
    assert!(bytes[12] == 0x15 && bytes[13] & 0x80 != 0, "field 3 is an integer of two bytes: {:?}", &bytes[12..16]);
    bytes[13] -= 4;
    let page_end = bytes.len() - footer_len(&bytes);
    bytes.drain(page_end - 2..page_end);
    bytes
}

/// A file of one column `x` of strings in a delta encoding.
pub fn parquet_of_delta_strings() -> Vec<u8> {
    let values: ArrayRef = Arc::new(StringArray::from(vec!["ab", "abc"]));
    let batch = RecordBatch::try_from_iter([("x", values)]).expect("one column");
    let properties = WriterProperties::builder().set_dictionary_enabled(false).set_encoding(Encoding::DELTA_BYTE_ARRAY);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).expect("memory");
    writer.write(&batch).expect("memory");
    writer.close().expect("memory");
    bytes
}

/// Length of the footer with its size and the magic after it.
fn footer_len(bytes: &[u8]) -> usize {
    let at = bytes.len() - 8;
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize + 8
}

/// An npy file of version 1 with these header entries.
pub fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

/// An archive of one array `x`.
pub fn npz(array: &[u8]) -> Vec<u8> {
    let mut writer = npyz::npz::NpzWriter::new(Cursor::new(Vec::new()));
    let zip = writer.zip_writer();
    zip.start_file("x.npy", Default::default()).expect("memory");
    zip.write_all(array).expect("memory");
    zip.finish().expect("memory").into_inner()
}

/// The same with a checksum that is not that of its bytes.
pub fn npz_with_a_wrong_checksum(array: &[u8]) -> Vec<u8> {
    let mut bytes = npz(array);
    let directory = bytes.windows(4).position(|w| w == b"PK\x01\x02").expect("a central directory");
    // In an entry of the central directory, the checksum follows after 16 bytes.
    bytes[directory + 16] ^= 1;
    bytes
}

/// A safetensors file with this header.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// An IDX file of unsigned bytes.
pub fn idx(shape: &[u32], values: &[u8]) -> Vec<u8> {
    let sizes: Vec<u8> = shape.iter().flat_map(|size| size.to_be_bytes()).collect();
    [&[0, 0, 8, shape.len() as u8][..], &sizes, values].concat()
}
