use super::*;
use crate::data::table::Role;
use npyz::WriterBuilder;
use std::io::Cursor;

fn want(name: &str, role: Role) -> Wanted {
    Wanted { name: name.into(), role }
}

fn numbers(shape: &[usize], values: &[f64]) -> Cells {
    Cells::Numbers { shape: shape.to_vec(), values: values.to_vec() }
}

/// An npy file as the npyz crate writes it.
fn npy<T: npyz::Serialize + npyz::AutoSerialize + Clone>(shape: &[u64], order: npyz::Order, values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = npyz::WriteOptions::new().default_dtype().shape(shape).order(order);
    let mut writer = options.writer(&mut bytes).begin_nd().expect("memory");
    writer.extend(values.iter().cloned()).expect("memory");
    writer.finish().expect("memory");
    bytes
}

fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = npyz::npz::NpzWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        let zip = writer.zip_writer();
        zip.start_file(format!("{name}.npy"), Default::default()).expect("memory");
        std::io::Write::write_all(zip, bytes).expect("memory");
    }
    writer.zip_writer().finish().expect("memory").into_inner()
}

fn one(bytes: &[u8], role: Role) -> Result<Cells, String> {
    let table = parse(bytes, Path::new("x.npy"), Format::Npy, &[want("x", role)]).map_err(|e| e.to_string())?;
    Ok(table.columns[0].1.clone())
}

#[test]
fn every_element_type_of_npy() {
    use npyz::Order::C;
    let expected = numbers(&[], &[0.0, 1.0, 100.0]);
    assert_eq!(one(&npy(&[3], C, &[0i8, 1, 100]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0i16, 1, 100]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0i32, 1, 100]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0i64, 1, 100]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0u8, 1, 100]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0u16, 1, 100]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0u32, 1, 100]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0u64, 1, 100]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0f32, 1.0, 100.0]), Role::Number), Ok(expected.clone()));
    assert_eq!(one(&npy(&[3], C, &[0f64, 1.0, 100.0]), Role::Number), Ok(expected));
    assert_eq!(one(&npy(&[2], C, &[true, false]), Role::Number), Ok(numbers(&[], &[1.0, 0.0])));
}

/// An npy file with a hand-written header, for what npyz does not write.
fn npy_raw(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

#[test]
fn half_precision_and_big_endian() {
    let half = npy_raw("{'descr': '<f2', 'fortran_order': False, 'shape': (2,)}", &[0x00, 0x3c, 0x00, 0xc1]);
    assert_eq!(one(&half, Role::Number), Ok(numbers(&[], &[1.0, -2.5])));
    let big = npy_raw("{'descr': '>i4', 'fortran_order': False, 'shape': (2,)}", &[0, 0, 1, 0, 255, 255, 255, 255]);
    assert_eq!(one(&big, Role::Number), Ok(numbers(&[], &[256.0, -1.0])));
}

#[test]
fn fortran_order_is_brought_into_row_order() {
    // [[0, 1, 2], [10, 11, 12]], then a third axis.
    let flat = npy(&[2, 3], npyz::Order::Fortran, &[0i32, 10, 1, 11, 2, 12]);
    assert_eq!(one(&flat, Role::Number), Ok(numbers(&[3], &[0.0, 1.0, 2.0, 10.0, 11.0, 12.0])));
    let values: Vec<i32> = (0..24).collect();
    let deep = npy(&[2, 3, 4], npyz::Order::Fortran, &values);
    let expected: Vec<f64> = (0..24).map(|i| f64::from(i / 12 + 2 * (i / 4 % 3) + 6 * (i % 4))).collect();
    assert_eq!(one(&deep, Role::Number), Ok(numbers(&[3, 4], &expected)));
}

#[test]
fn categories_are_written_shortest_and_nan_is_a_missing_label() {
    let strings = |cells: &[Option<&str>]| Ok(Cells::Strings(cells.iter().map(|c| c.map(Into::into)).collect()));
    let c = npyz::Order::C;
    assert_eq!(one(&npy(&[2], c, &[i64::MIN, 3]), Role::Category), strings(&[Some("-9223372036854775808"), Some("3")]));
    assert_eq!(one(&npy(&[1], c, &[u64::MAX]), Role::Category), strings(&[Some("18446744073709551615")]));
    assert_eq!(one(&npy(&[2, 1], c, &[7u8, 0]), Role::Category), strings(&[Some("7"), Some("0")]));
    assert_eq!(
        one(&npy(&[4], c, &[1f32, 0.1, f32::NAN, -0.0]), Role::Category),
        strings(&[Some("1"), Some("0.1"), None, Some("0")])
    );
    let error = one(&npy(&[2], c, &[1.0, f64::NAN]), Role::Number).expect_err("NaN");
    assert_eq!(error, "x.npy: row 1: column `x`: NaN is not a finite number");
}

#[test]
fn byte_images_stay_bytes() {
    let values: Vec<u8> = (0..8).collect();
    let cells = one(&npy(&[2, 2, 2], npyz::Order::C, &values), Role::Image);
    assert_eq!(cells, Ok(Cells::Bytes { shape: vec![2, 2], values }));
}

#[test]
fn npz_and_safetensors_hold_the_same() {
    let c = npyz::Order::C;
    let archive = npz(&[("x", npy(&[2, 2], c, &[1f32, 2.0, 3.0, 4.0])), ("y", npy(&[2], c, &[0i64, 1]))]);
    let wanted = [want("y", Role::Category), want("x", Role::Number)];
    let zipped = parse(&archive, Path::new("d"), Format::Npz, &wanted).expect("good");

    let x: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let y: Vec<u8> = [0i64, 1].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], data| ::safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data);
    let tensors = [
        ("x", view(::safetensors::Dtype::F32, &[2, 2], &x).expect("fits")),
        ("y", view(::safetensors::Dtype::I64, &[2], &y).expect("fits")),
    ];
    let bytes = ::safetensors::serialize(tensors, None).expect("memory");
    let tensors = parse(&bytes, Path::new("d"), Format::SafeTensors, &wanted).expect("good");

    assert_eq!(zipped, tensors);
    assert_eq!(zipped.columns[1].1, numbers(&[2], &[1.0, 2.0, 3.0, 4.0]));
    assert_eq!(columns(&archive, Path::new("d"), Format::Npz).expect("good"), ["x", "y"]);
    assert_eq!(columns(&bytes, Path::new("d"), Format::SafeTensors).expect("good"), ["x", "y"]);
}

#[test]
fn files_lie_side_by_side_until_a_name_comes_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let c = npyz::Order::C;
    let save = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let paths = [
        save("a/x.npy", &npy(&[2], c, &[1f64, 2.0])),
        save("a/y.npy", &npy(&[2], c, &[10i32, 20])),
        save("b.npz", &npz(&[("x", npy(&[1], c, &[3f64])), ("y", npy(&[1], c, &[30u8]))])),
    ];
    let wanted = [want("y", Role::Number), want("x", Role::Number)];
    let table = read(&paths, &wanted).expect("good").expect("files");
    assert_eq!(table.n_rows, 3);
    assert_eq!(table.columns[0].1, numbers(&[], &[10.0, 20.0, 30.0]));
    assert_eq!(table.columns[1].1, numbers(&[], &[1.0, 2.0, 3.0]));
    assert_eq!(table.place(2), format!("{}: row 0", paths[2].display()));
    assert_eq!(all_columns(&paths).expect("good"), ["x", "y"]);
}
