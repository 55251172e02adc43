use super::*;
use crate::data::table::{Cells, Role};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::io::Write;

fn want(name: &str, role: Role) -> Wanted {
    Wanted { name: name.into(), role }
}

fn read(text: &str, dialect: &Dialect, wanted: &[Wanted]) -> Result<Table, String> {
    parse(text.as_bytes(), Path::new("t.csv"), dialect, wanted).map_err(|error| error.to_string())
}

fn strings(cells: &[Option<&str>]) -> Cells {
    Cells::Strings(cells.iter().map(|cell| cell.map(Into::into)).collect())
}

fn numbers(values: &[f64]) -> Cells {
    Cells::Numbers { shape: Vec::new(), values: values.to_vec() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn columns_come_typed_and_in_the_order_asked_for() {
    let text = "id,fp,x,note\n1.0,0f,1e3,\"a,b\"\n02,A0,-2.5,\"say \"\"hi\"\"\"\n";
    let wanted =
        [want("note", Role::Text), want("x", Role::Number), want("fp", Role::Bits), want("id", Role::Category)];
    let table = read(text, &Dialect::default(), &wanted).expect("a good table");
    let bits = Cells::Bits { width: 8, values: vec![0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0] };
    let expected = [
        ("note", strings(&[Some("a,b"), Some("say \"hi\"")])),
        ("x", numbers(&[1000.0, -2.5])),
        ("fp", bits),
        ("id", strings(&[Some("1"), Some("02")])),
    ];
    assert_eq!(table.columns, expected.map(|(name, cells)| (name.to_owned(), cells)));
}

#[test]
fn blank_and_na_cells_are_missing_whatever_they_are_wanted_as() {
    let dialect = Dialect { na: vec!["?".into(), "NA".into()], ..Dialect::default() };
    let wanted = [want("x", Role::Number), want("c", Role::Category), want("t", Role::Text)];
    let table = read("x,c,t\n, ,\"\"\n?,NA, ? \n1,b,c\n", &dialect, &wanted).expect("a good table");
    match &table.columns[0].1 {
        Cells::Numbers { values, .. } => {
            assert!(values[0].is_nan() && values[1].is_nan() && values[2] == 1.0, "{values:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(table.columns[1].1, strings(&[None, None, Some("b")]));
    assert_eq!(table.columns[2].1, strings(&[None, None, Some("c")]));
}

#[test]
fn lines_are_right_after_quoted_newlines_blank_lines_and_crlf() {
    let text = "\u{feff}a,b\r\n1,\"x\r\ny\"\r\n\r\n  \n2,z\r\n\n\"3\",\"\n\n\"\r\n4,w";
    let table = read(text, &Dialect::default(), &[want("a", Role::Number), want("b", Role::Text)]).expect("good");
    assert_eq!(table.columns[0].1, numbers(&[1.0, 2.0, 3.0, 4.0]));
    assert_eq!(table.columns[1].1, strings(&[Some("x\r\ny"), Some("z"), Some("\n\n"), Some("w")]));
    assert_eq!(table.origins[0].lines, [2, 6, 8, 11]);
}

#[test]
fn a_quoted_empty_cell_is_a_row_and_a_blank_line_is_not() {
    let table = read("a\n\"\"\n\nx\n", &Dialect::default(), &[want("a", Role::Text)]).expect("good");
    assert_eq!(table.columns[0].1, strings(&[None, Some("x")]));
    assert_eq!(table.origins[0].lines, [2, 4]);
}

#[test]
fn blanks_stay_when_they_are_not_trimmed_and_within_quotes() {
    let text = "a,b\n x , \" y \"\t\n";
    let wanted = [want("a", Role::Category), want("b", Role::Category)];
    let trimmed = read(text, &Dialect::default(), &wanted).expect("good");
    assert_eq!(trimmed.columns[0].1, strings(&[Some("x")]));
    assert_eq!(trimmed.columns[1].1, strings(&[Some(" y ")]));
    let kept = read(text, &Dialect { trim: false, ..Dialect::default() }, &wanted).expect("good");
    assert_eq!(kept.columns[0].1, strings(&[Some(" x ")]));
    assert_eq!(kept.columns[1].1, strings(&[Some(" \" y \"\t")]));
}

#[test]
fn quotes_are_text_without_quoting_and_tabs_delimit_tsv() {
    let dialect = Dialect { quoting: false, header: Some(vec!["y".into(), "text".into()]), ..Dialect::default() };
    let text = "1\t`` it ''s \"fine\n0\t\"open , quote\n";
    let wanted = [want("text", Role::Text), want("y", Role::Category)];
    let table = parse(text.as_bytes(), Path::new("reviews.tsv"), &dialect, &wanted).expect("good");
    assert_eq!(table.columns[0].1, strings(&[Some("`` it ''s \"fine"), Some("\"open , quote")]));
    assert_eq!(table.origins[0].lines, [1, 2]);
}

#[test]
fn encodings() {
    let bytes = b"t\ncaf\xe9 \x80\n";
    let read = |encoding| {
        let dialect = Dialect { encoding, ..Dialect::default() };
        let table = parse(&bytes[..], Path::new("t.csv"), &dialect, &[want("t", Role::Text)])?;
        Ok::<_, DataError>(table.columns[0].1.clone())
    };
    assert_eq!(read(Encoding::Latin1).expect("latin1"), strings(&[Some("caf\u{e9} \u{80}")]));
    assert_eq!(read(Encoding::Utf8Lossy).expect("lossy"), strings(&[Some("caf\u{fffd} \u{fffd}")]));
    assert!(read(Encoding::Utf8).is_err());
}

#[test]
fn gzip_members_are_read_one_after_the_other() {
    let packed = [gzip(b"a,b\n1,2\n3"), gzip(b",4\n"), gzip(b"5,6\n")].concat();
    let wanted = [want("a", Role::Number), want("b", Role::Number)];
    let table = parse(&packed[..], Path::new("t.csv.gz"), &Dialect::default(), &wanted).expect("good");
    assert_eq!(table.columns[0].1, numbers(&[1.0, 3.0, 5.0]));
    assert_eq!(table.columns[1].1, numbers(&[2.0, 4.0, 6.0]));
}

#[test]
fn records_that_straddle_buffers_are_whole() {
    let mut text = String::from("i,t\n");
    let (mut lines, mut line) = (Vec::new(), 2);
    for i in 0..3000u32 {
        let filler = "ab\n\"\"".repeat(i as usize % 97);
        text += &format!("{i},\"{filler}\"\n");
        lines.push(line);
        line += 1 + i % 97;
    }
    assert!(text.len() > 600_000, "several buffers: {}", text.len());
    let long = format!("{text}3000,{}\n", "x".repeat(1_000_000));
    lines.push(line);
    let table = read(&long, &Dialect::default(), &[want("i", Role::Number), want("t", Role::Text)]).expect("good");
    assert_eq!(table.origins[0].lines, lines);
    assert_eq!(table.columns[0].1, numbers(&(0..=3000).map(f64::from).collect::<Vec<_>>()));
    match &table.columns[1].1 {
        Cells::Strings(cells) => {
            assert_eq!(cells[96].as_deref(), Some("ab\n\"".repeat(96).as_str()));
            assert_eq!(cells[3000].as_ref().map(|c| c.len()), Some(1_000_000));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_before_damaged_gzip_data_are_blamed_first() {
    let mut text = String::from("a\n");
    for i in 0..60_000 {
        text += &format!("{}\n", i * 7919 % 10_007);
    }
    let mut packed = gzip(text.as_bytes());
    packed.truncate(packed.len() - 2000);
    let error = parse(&packed[..], Path::new("t.csv.gz"), &Dialect::default(), &[want("a", Role::Number)]);
    let message = error.expect_err("truncated").to_string();
    let line: usize = message.split(':').nth(1).and_then(|line| line.parse().ok()).expect("a line");
    assert!((40_000..60_000).contains(&line), "{message}");
    assert!(message.ends_with("the gzip data ends early: the file is truncated; copy it again"), "{message}");
}

/// Cells with what makes delimited text hard.
fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,6}",
        "[ \",;\t\n\r'x\u{e9}\u{4e16}]{0,8}",
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| x.to_string()),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Vec<String>>> {
    (1usize..5, 1usize..12)
        .prop_flat_map(|(columns, rows)| proptest::collection::vec(proptest::collection::vec(cell(), columns), rows))
}

proptest! {
    /// What the csv crate writes (always quoted here, so that blanks stay) is read back equal, packed or not.
    #[test]
    fn written_tables_read_back_equal(rows in rows(), crlf: bool, packed: bool) {
        let end = if crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') };
        let mut writer = ::csv::WriterBuilder::new()
            .quote_style(::csv::QuoteStyle::Always)
            .terminator(end)
            .from_writer(Vec::new());
        let names: Vec<String> = (0..rows[0].len()).map(|i| format!("c{i}")).collect();
        writer.write_record(&names).expect("memory");
        for row in &rows {
            writer.write_record(row).expect("memory");
        }
        let bytes = writer.into_inner().expect("memory");
        let bytes = if packed { gzip(&bytes) } else { bytes };
        let wanted: Vec<Wanted> = names.iter().map(|name| want(name, Role::Text)).collect();
        let table = parse(&bytes[..], Path::new("t.csv"), &Dialect::default(), &wanted).expect("well-formed");
        for (index, (_, cells)) in table.columns.iter().enumerate() {
            let cell = |row: &Vec<String>| (!row[index].is_empty()).then(|| row[index].clone());
            let column: Vec<Option<String>> = rows.iter().map(cell).collect();
            let column: Vec<Option<&str>> = column.iter().map(Option::as_deref).collect();
            prop_assert_eq!(cells, &strings(&column));
        }
        let mut line = 2;
        for (row, &found) in rows.iter().zip(&table.origins[0].lines) {
            prop_assert_eq!(found, line);
            line += 1 + row.iter().map(|cell| cell.matches('\n').count() as u32).sum::<u32>();
        }
    }

    /// On unquoted text without carriage returns the csv crate splits alike.
    #[test]
    fn plain_text_splits_as_the_csv_crate_splits_it(lines in proptest::collection::vec("[a-z, ]{0,12}", 1..10)) {
        let text = format!("a,b,c\n{}", lines.join("\n"));
        let dialect = Dialect { trim: false, ..Dialect::default() };
        let wanted = ["a", "b", "c"].map(|name| want(name, Role::Text));
        let mut reader = ::csv::ReaderBuilder::new().from_reader(text.as_bytes());
        let theirs: Result<Vec<::csv::StringRecord>, _> = reader.records().collect();
        match (read(&text, &dialect, &wanted), theirs) {
            (Ok(ours), Ok(theirs)) => {
                for (index, (_, cells)) in ours.columns.iter().enumerate() {
                    let column: Vec<Option<&str>> =
                        theirs.iter().map(|row| row.get(index).filter(|c| !c.is_empty())).collect();
                    prop_assert_eq!(cells, &strings(&column));
                }
            }
            (Err(_), Err(_)) => {}
            (Err(ours), Ok(theirs)) => prop_assert!(theirs.is_empty(), "only we refuse: {ours}"),
            (Ok(_), Err(theirs)) => prop_assert!(false, "only they refuse: {theirs}"),
        }
    }
}
