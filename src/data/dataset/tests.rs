//! From tables in memory to tensors, and every way in which tables do not fit.

use super::super::table::{Cells, Table};
use super::super::testing::{column, config, numbers, strings, table};
use super::*;

fn list(tensor: &tch::Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(tch::Kind::Double).flatten(0, -1)).unwrap()
}

fn dense(part: &Part) -> Vec<f64> {
    list(part.inputs.dense.as_ref().unwrap())
}

/// A configuration of one source `s` with options in JSON and one task `t`.
fn one(source: &str, task: &str) -> Config {
    config(&format!(
        r#"{{"data": {{"sources": {{"s": {source}}}}}, "tasks": {{"t": {{"source": "s", "target": "y", "kind": {task}}}}}}}"#
    ))
}

const CSV: &str = r#"{"csv": {"train": "train.csv", "val": "val.csv", "numeric": ["x"]}}"#;
const ARRAYS: &str = r#"{"arrays": {"train": "train.npz", "numeric": ["x"]}}"#;

fn tables(train: Table, val: Option<Table>) -> Vec<SourceTables> {
    vec![SourceTables { train: Some(train), val, ..Default::default() }]
}

/// Rows with the input column `x` and the target column `y`.
fn xy(path: &str, x: Cells, y: Cells) -> Table {
    let n = super::super::values::n_values(&y);
    table(path, n, vec![column("x", x), column("y", y)])
}

/// The message about a dataset of one source that is refused.
fn refused(config: &Config, train: Table, val: Option<Table>) -> String {
    Dataset::from_tables(config, tables(train, val)).unwrap_err().to_string()
}

/// The message about targets that are refused, given for training and validation.
fn bad_target(source: &str, kind: &str, train: Cells, val: Option<Cells>) -> String {
    let x = |y: &Cells| numbers(&vec![0.5; super::super::values::n_values(y)]);
    let train = xy("train.csv", x(&train), train);
    refused(&one(source, kind), train, val.map(|val| xy("val.csv", x(&val), val)))
}

#[test]
fn numbers_are_standardised_by_the_training_split_of_all_sources() {
    let config = config(
        r#"{"data": {"sources": {"a": {"csv": {"train": "a.csv", "val": "av.csv", "numeric": ["x", "c"], "missing": "mean"}},
                                 "b": {"csv": {"train": "b.csv", "numeric": ["x", "c"]}}}},
            "tasks": {"t": {"source": "a", "target": "y", "kind": {"binary": {}}},
                      "u": {"source": "b", "target": "y", "kind": {"regression": {}}}}}"#,
    );
    let of = |path: &str, x: &[f64], y: Cells| {
        let constant = numbers(&vec![0.1; x.len()]);
        table(path, x.len(), vec![column("x", numbers(x)), column("c", constant), column("y", y)])
    };
    let a = SourceTables {
        train: Some(of("a.csv", &[1.0, 3.0, f64::NAN], strings(&["0", "true", ""]))),
        val: Some(of("av.csv", &[100.0], strings(&["1.0"]))),
        ..Default::default()
    };
    let b = of("b.csv", &[5.0, 7.0], numbers(&[10.0, 30.0]));
    let d = Dataset::from_tables(&config, vec![a, SourceTables { train: Some(b), ..Default::default() }]).unwrap();

    // 1, 3, 5, 7: mean 4, variance 5. The validation split has no say in it, and a constant column becomes 0.
    let std = 5f64.sqrt();
    assert_eq!(d.fitted().numeric[0].mean, [4.0]);
    assert_eq!(d.fitted().numeric[0].std, [std]);
    assert_eq!(d.fitted().numeric[1].std, [1.0]);
    let close = |found: Vec<f64>, expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-7 * b.abs()), "{found:?} {expected:?}");
    };
    close(dense(&d.gather(0, Split::Train, &[0, 1, 2])), &[-3.0 / std, 0.0, -1.0 / std, 0.0, 0.0, 0.0]);
    close(dense(&d.gather(0, Split::Val, &[0])), &[96.0 / std, 0.0]);
    // Targets by their own task, and only where there is a label.
    let part = d.gather(0, Split::Train, &[2, 1]);
    assert_eq!(list(&part.targets[0].values), [0.0, 1.0]);
    assert_eq!(list(part.targets[0].mask.as_ref().unwrap()), [0.0, 1.0]);
    assert_eq!(part.targets[0].n_labelled, 1);
    let part = d.gather(1, Split::Train, &[0, 1]);
    assert_eq!((part.targets[0].task, part.source, part.len), (1, 1, 2));
    assert_eq!(list(&part.targets[0].values), [-1.0, 1.0]);
    assert!(part.targets[0].mask.is_none());
    assert_eq!((&d.tasks()[1].target_mean[..], &d.tasks()[1].target_std[..]), (&[20.0][..], &[10.0][..]));
    assert_eq!((d.n_labels(0, Split::Train), d.n_labels(1, Split::Train), d.n_labels(1, Split::Val)), (2, 2, 0));
    assert_eq!((d.n_rows(0, Split::Train), d.n_rows(0, Split::Val), d.n_rows(1, Split::Test)), (3, 1, 0));
}

/// A source with every kind of input of a table.
fn rich() -> (Config, Vec<SourceTables>) {
    let config = config(
        r#"{"data": {"sources": {"s": {"csv": {"train": "train.csv", "val": "val.csv", "numeric": ["x"], "categorical": ["c"],
                 "bits": ["b"], "text": ["p", "q"]}}},
               "vocab": {"min_count": 2, "ngrams": 2}},
            "tasks": {"m": {"source": "s", "target": "k", "kind": {"multiclass": {}}},
                      "l": {"source": "s", "target": ["u", "v"], "kind": {"multilabel": {}}}}}"#,
    );
    let of = |path: &str, c: &[&str], p: &[&str], q: &[&str], k: &[&str], u: &[&str], v: &[&str]| {
        let bits = (0..c.len()).flat_map(|i| [i as u8 & 1, 1, 0]).collect();
        let columns = [
            ("x", numbers(&vec![2.0; c.len()])),
            ("c", strings(c)),
            ("b", Cells::Bits { width: 3, values: bits }),
            ("p", strings(p)),
            ("q", strings(q)),
            ("k", strings(k)),
            ("u", strings(u)),
            ("v", strings(v)),
        ];
        table(path, c.len(), columns.into_iter().map(|(name, cells)| column(name, cells)).collect())
    };
    let train = of(
        "train.csv",
        &["10", "9", "10"],
        &["Good food", "a good food", ""],
        &["bad", "x good", "food bad"],
        &["red", "", "blue"],
        &["1", "0", ""],
        &["", "1", ""],
    );
    let val = of("val.csv", &["8", ""], &["good news", ""], &["", "good"], &["blue", "red"], &["1", "0"], &["1", "1"]);
    (config, tables(train, Some(val)))
}

#[test]
fn categories_bits_and_text_become_indices_and_unknown_ones_have_a_place() {
    let (config, tables) = rich();
    let d = Dataset::from_tables(&config, tables).unwrap();
    assert_eq!(d.fitted().categorical[0].values, ["9", "10"]);
    // food and good thrice, bad and the pair `good food` twice; `a`, `x` and the other pairs once.
    assert_eq!(d.fitted().text.as_ref().unwrap().words, ["food", "good", "bad", "good food"]);
    assert_eq!(*d.dims(), InputDims { dense: 4, categories: vec![3], vocab: 5, image: None });

    let part = d.gather(0, Split::Train, &[0, 1, 2]);
    assert_eq!(part.inputs.dense.as_ref().unwrap().size(), [3, 4]);
    assert_eq!(dense(&part), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(list(part.inputs.categorical.as_ref().unwrap()), [2.0, 1.0, 2.0]);
    let tokens = part.inputs.tokens.as_ref().unwrap();
    // `good food good-food bad`, `a good food good-food x good`, `food bad`; unknown pairs are left out.
    assert_eq!(list(&tokens.ids), [2.0, 1.0, 4.0, 3.0, 0.0, 2.0, 1.0, 4.0, 0.0, 2.0, 1.0, 3.0]);
    assert_eq!(list(&tokens.offsets), [0.0, 4.0, 10.0]);
    assert_eq!((tokens.ids.kind(), tokens.offsets.kind()), (tch::Kind::Int64, tch::Kind::Int64));

    let part = d.gather(0, Split::Val, &[1, 0]);
    assert_eq!(list(part.inputs.categorical.as_ref().unwrap()), [0.0, 0.0]);
    let tokens = part.inputs.tokens.as_ref().unwrap();
    assert_eq!((list(&tokens.ids), list(&tokens.offsets)), (vec![2.0, 2.0, 0.0], vec![0.0, 1.0]));
}

#[test]
fn missing_labels_are_masked_and_counted() {
    let (config, tables) = rich();
    let d = Dataset::from_tables(&config, tables).unwrap();
    let part = d.gather(0, Split::Train, &[0, 1, 2]);
    let [classes, labels] = &part.targets[..] else { panic!("two targets") };
    assert_eq!((list(&classes.values), classes.n_labelled), (vec![1.0, -100.0, 0.0], 2));
    assert!(classes.mask.is_none() && classes.values.kind() == tch::Kind::Int64);
    assert_eq!(labels.values.size(), [3, 2]);
    assert_eq!(list(&labels.values), [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    assert_eq!(list(labels.mask.as_ref().unwrap()), [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!((labels.task, labels.n_labelled), (1, 2));
    assert_eq!(d.tasks()[0].output_names, ["blue", "red"]);
    assert_eq!((d.tasks()[1].outputs, &d.tasks()[1].output_names[..]), (2, &["u".to_string(), "v".to_string()][..]));
    assert_eq!((d.n_labels(0, Split::Train), d.n_labels(1, Split::Train)), (2, 2));
}

#[test]
fn an_empty_batch_of_words_is_a_tensor_of_whole_numbers() {
    let (config, mut tables) = rich();
    tables[0].val.as_mut().unwrap().columns[4].1 = strings(&["", ""]);
    let d = Dataset::from_tables(&config, tables).unwrap();
    let tokens = d.gather(0, Split::Val, &[1]).inputs.tokens.unwrap();
    assert_eq!((tokens.ids.size(), tokens.ids.kind(), list(&tokens.offsets)), (vec![0], tch::Kind::Int64, vec![0.0]));
}

#[test]
fn fitted_transforms_survive_json_and_are_applied_as_they_are() {
    let (config, tables) = rich();
    let d = Dataset::from_tables(&config, tables).unwrap();
    let json = serde_json::to_string(d.fitted()).unwrap();
    let fitted: Fitted = serde_json::from_str(&json).unwrap();
    assert_eq!(fitted, *d.fitted());
    // Another training split, as if the file had changed: the transforms stay.
    let (config, mut tables) = rich();
    tables[0].train.as_mut().unwrap().columns[1].1 = strings(&["7", "8", "9"]);
    let again = Dataset::from_tables_with(&config, tables, &fitted).unwrap();
    assert_eq!(again.dims(), d.dims());
    assert_eq!(list(&again.gather(0, Split::Train, &[0, 1, 2]).inputs.categorical.unwrap()), [0.0, 0.0, 1.0]);
    let other = one(CSV, r#"{"binary": {}}"#);
    let train = xy("train.csv", numbers(&[1.0]), strings(&["1"]));
    let e = Dataset::from_tables_with(&other, super::tests::tables(train, None), &fitted).unwrap_err();
    assert_eq!(e.to_string(), "the configuration has the tasks t, the model was fitted for m, l");
}

#[test]
fn transforms_that_contradict_themselves_or_the_tasks_are_refused() {
    let config = config(
        r#"{"data": {"sources": {"s": {"csv": {"train": "train.csv", "numeric": ["x"]}}}},
            "tasks": {"t": {"source": "s", "target": "y", "kind": {"regression": {}}},
                      "u": {"source": "s", "target": "z", "kind": {"multiclass": {"classes": 3}}}}}"#,
    );
    let tables = || {
        let columns = [("x", numbers(&[1.0, 2.0])), ("y", numbers(&[3.0, 5.0])), ("z", strings(&["0", "2"]))];
        let columns = columns.map(|(name, cells)| column(name, cells)).into();
        super::tests::tables(table("train.csv", 2, columns), None)
    };
    let good = Dataset::from_tables(&config, tables()).unwrap().fitted().clone();
    let refused = |change: &dyn Fn(&mut Fitted)| {
        let mut fitted = good.clone();
        change(&mut fitted);
        let error = Dataset::from_tables_with(&config, tables(), &fitted).unwrap_err().to_string();
        let (head, message) = error.split_at(32);
        assert_eq!(head, "the transforms of the checkpoint");
        message.to_string()
    };
    let block = |width| super::super::fit::Block { name: "b".into(), width };
    assert_eq!(refused(&|f| f.numeric[0].std.clear()), ": column `x`: 1 means and 0 deviations, expected 1");
    assert_eq!(refused(&|f| f.numeric[0].std[0] = 0.0), ": column `x`: 0 is no mean, or no deviation");
    assert_eq!(refused(&|f| f.numeric[0].mean[0] = f64::NAN), ": column `x`: NaN is no mean, or no deviation");
    assert_eq!(refused(&|f| f.bits = vec![block(usize::MAX), block(2)]), ": more than 2147483648 inputs");
    assert_eq!(refused(&|f| f.image = Some([1 << 20; 3])), ": more than 2147483648 inputs");
    let text = || Some(super::super::Vocabulary { ngrams: 11, max_tokens: 1, words: vec![] });
    assert_eq!(refused(&|f| f.text = text()), ": runs of 11 words, at most 10 are read");
    assert_eq!(refused(&|f| f.tasks[0].outputs.clear()), ": task `t`: no outputs");
    assert_eq!(refused(&|f| f.tasks[0].mean.clear()), ": task `t`: 0 means and 1 deviations, expected 1");
    assert_eq!(refused(&|f| drop(f.tasks[1].outputs.pop())), ": task `u`: 2 outputs, expected 3");
    let mut wider = good.clone();
    let FittedTask { outputs, mean, std, .. } = &mut wider.tasks[0];
    outputs.push("more".into());
    mean.push(0.0);
    std.push(1.0);
    let error = Dataset::from_tables_with(&config, tables(), &wider).unwrap_err().to_string();
    assert_eq!(error, "task `t`: 1 target values a row, but the model was fitted for 2");
}

#[test]
fn images_are_widened_when_they_are_gathered() {
    let config =
        one(r#"{"arrays": {"train": "t.npz", "val": "v.npz", "image": "x"}}"#, r#"{"multiclass": {"classes": 3}}"#);
    let bytes = |n: usize| Cells::Bytes { shape: vec![1, 2], values: (0..2 * n).map(|i| 51 * i as u8).collect() };
    let train = xy("t.npz", bytes(2), strings(&["2", "0"]));
    let floats = Cells::Numbers { shape: vec![1, 2], values: vec![0.25, 0.5] };
    let d = Dataset::from_tables(&config, tables(train, Some(xy("v.npz", floats, strings(&["1"]))))).unwrap();
    assert_eq!(d.dims().image, Some([1, 1, 2]));
    let image = d.gather(0, Split::Train, &[1, 0]).inputs.image.unwrap();
    assert_eq!(image.size(), [2, 1, 1, 2]);
    let expected = [0.4f32, 0.6, 0.0, 0.2].map(f64::from);
    assert!(list(&image).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7));
    assert_eq!(list(&d.gather(0, Split::Val, &[0]).inputs.image.unwrap()), [0.25, 0.5]);
    assert_eq!(d.tasks()[0].output_names, ["0", "1", "2"]);
}

#[test]
fn arrays_of_numbers_are_standardised_by_column_or_taken_as_they_are() {
    let source = r#"{"arrays": {"train": "t.npz", "numeric": ["x"], "dense": ["d"]}}"#;
    let config = one(source, r#"{"regression": {}}"#);
    let block = |width: usize, values: &[f64]| Cells::Numbers { shape: vec![width], values: values.to_vec() };
    let of = |d: &[f64]| {
        let x = block(2, &[1.0, 5.0, 3.0, 5.0]);
        table("t.npz", 2, vec![column("x", x), column("d", block(1, d)), column("y", block(2, &[0.0, 1.0, 2.0, 1.0]))])
    };
    let d = Dataset::from_tables(&config, tables(of(&[8.0, 9.0]), None)).unwrap();
    let part = d.gather(0, Split::Train, &[0, 1]);
    assert_eq!(dense(&part), [-1.0, 0.0, 8.0, 1.0, 0.0, 9.0]);
    assert_eq!(list(&part.targets[0].values), [-1.0, 0.0, 1.0, 0.0]);
    assert_eq!(d.tasks()[0].output_names, ["y[0]", "y[1]"]);
    let bad = |x| refused(&config, of(&[8.0, x]), None);
    assert_eq!(bad(f64::NAN), "t.npz:3: column `d`: NaN; remove or replace it");
    assert_eq!(bad(f64::INFINITY), "t.npz:3: column `d`: inf is not finite; remove or replace it");
    assert_eq!(bad(1e300), format!("t.npz:3: column `d`: 1{} is too large for a 32-bit float", "0".repeat(300)));
}

#[test]
fn a_missing_number_is_refused_unless_it_may_be_the_mean() {
    let config = one(CSV, r#"{"binary": {}}"#);
    let train = || xy("train.csv", numbers(&[1.0, 2.0]), strings(&["0", "1"]));
    let val = xy("val.csv", numbers(&[f64::NAN]), strings(&["0"]));
    let expected = "val.csv:2: column `x`: blank; give a number, or set `missing: mean` on the source";
    assert_eq!(refused(&config, train(), Some(val.clone())), expected);
    let config = one(
        r#"{"csv": {"train": "train.csv", "val": "val.csv", "numeric": ["x"], "missing": "mean"}}"#,
        r#"{"binary": {}}"#,
    );
    let d = Dataset::from_tables(&config, tables(train(), Some(val))).unwrap();
    assert_eq!(dense(&d.gather(0, Split::Val, &[0])), [0.0]);
}

#[test]
fn labels_that_do_not_fit_are_refused_with_their_place() {
    let binary = |kind, y: &[&str]| bad_target(CSV, kind, strings(y), None);
    assert_eq!(
        binary(r#"{"binary": {}}"#, &["0", "1", "2"]),
        "train.csv:4: column `y`: label `2` is not binary; expected 0/1 or true/false, or name the positive values in \
         `kind: {binary: {positive: [..]}}`"
    );
    assert_eq!(
        binary(r#"{"binary": {"positive": ["yes"]}}"#, &["ja", "no"]),
        "task `t`: none of the values in `positive` (yes) occurs in `y` in the training split (ja, no)"
    );
    assert_eq!(
        bad_target(CSV, r#"{"multiclass": {"classes": 3}}"#, strings(&["0", "2"]), Some(strings(&["1", "3"]))),
        "val.csv:3: column `y`: label `3` is out of range; expected a whole number from 0 to 2"
    );
    assert_eq!(
        bad_target(CSV, r#"{"multiclass": {"classes": 3}}"#, strings(&["0", "1.5"]), None),
        "train.csv:3: column `y`: label `1.5` is out of range; expected a whole number from 0 to 2"
    );
    assert_eq!(
        bad_target(CSV, r#"{"multiclass": {}}"#, strings(&["cat", "dog"]), Some(strings(&["dog", "cow"]))),
        "val.csv:3: column `y`: class `cow` does not occur in the training split (cat, dog)"
    );
    let many: Vec<String> = (0..30).map(|i| i.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        bad_target(CSV, r#"{"multiclass": {}}"#, strings(&many), Some(strings(&["30"]))),
        "val.csv:2: column `y`: class `30` does not occur in the training split (0, 1, 2, 3, 4, 5, 6, 7, .. 30 in all)"
    );
    assert_eq!(
        bad_target(CSV, r#"{"multiclass": {}}"#, strings(&["cat", "", "cat"]), None),
        "task `t`: `y` has the one class `cat` in the training split; two or more are needed"
    );
}

#[test]
fn numbers_that_are_no_targets_are_refused_with_their_place() {
    let regression = r#"{"regression": {}}"#;
    assert_eq!(
        bad_target(ARRAYS, regression, numbers(&[1.0, f64::NAN]), None),
        "train.csv:3: column `y`: NaN target; remove the row, or give the label"
    );
    assert_eq!(
        bad_target(CSV, regression, numbers(&[1.0, 2.0]), Some(numbers(&[f64::INFINITY]))),
        "val.csv:2: column `y`: target inf is not finite; remove the row, or correct the label"
    );
    assert_eq!(
        bad_target(CSV, regression, numbers(&[1.0, 2e200]), None),
        "column `y`: the numbers are too large to be standardised"
    );
    assert!(
        bad_target(CSV, r#"{"regression": {"standardize": false}}"#, numbers(&[1.0, 1e50]), None)
            .ends_with("is too large for a 32-bit float")
    );
}

#[test]
fn a_task_without_labels_is_refused_and_one_with_a_single_binary_class_is_not() {
    let none = |column: &str| {
        format!(
            "task `t`: no row of the training split has a label in `{column}`; check the column, or remove the task"
        )
    };
    for (kind, y) in [
        (r#"{"binary": {}}"#, strings(&["", ""])),
        (r#"{"multiclass": {}}"#, strings(&["", ""])),
        (r#"{"multilabel": {}}"#, strings(&["", ""])),
        (r#"{"regression": {}}"#, numbers(&[f64::NAN, f64::NAN])),
    ] {
        assert_eq!(bad_target(CSV, kind, y, None), none("y"));
    }
    let train = xy("train.csv", numbers(&[1.0, 2.0]), strings(&["0", "0"]));
    let d = Dataset::from_tables(&one(CSV, r#"{"binary": {}}"#), tables(train, None)).unwrap();
    assert_eq!(d.n_labels(0, Split::Train), 2);
}

#[test]
fn sources_with_different_inputs_are_refused() {
    let pair = |b: &str| {
        config(&format!(
            r#"{{"data": {{"sources": {{"a": {{"csv": {{"train": "a.csv", "numeric": ["x"], "bits": ["f"]}}}}, "b": {b}}}}},
                "tasks": {{"t": {{"source": "a", "target": "y", "kind": {{"binary": {{}}}}}}}}}}"#
        ))
    };
    let bits = |width: usize| column("f", Cells::Bits { width, values: vec![0; 2 * width] });
    let x = |name| column(name, numbers(&[1.0, 2.0]));
    let message = |config: &Config, b: Vec<(String, Cells)>| {
        let a = table("a.csv", 2, vec![x("x"), bits(4), column("y", strings(&["0", "1"]))]);
        let of = |table| SourceTables { train: Some(table), ..Default::default() };
        Dataset::from_tables(config, vec![of(a), of(table("b.csv", 2, b))]).unwrap_err().to_string()
    };
    let rest = "; the encoder is shared, so all inputs must have the same columns and widths, in the same order";
    let same = pair(r#"{"csv": {"train": "b.csv", "numeric": ["x"], "bits": ["f"]}}"#);
    assert_eq!(
        message(&same, vec![x("x"), bits(8)]),
        format!("source `b` has bits `f` of width 8 where source `a` has bits `f` of width 4{rest}")
    );
    let other = pair(r#"{"csv": {"train": "b.csv", "numeric": ["z"], "bits": ["f"]}}"#);
    assert_eq!(
        message(&other, vec![x("z"), bits(4)]),
        format!("source `b` has numeric `z` of width 1 where source `a` has numeric `x` of width 1{rest}")
    );
    let fewer = pair(r#"{"csv": {"train": "b.csv", "numeric": ["x"]}}"#);
    assert_eq!(
        message(&fewer, vec![x("x")]),
        format!("source `b` has nothing where source `a` has bits `f` of width 4{rest}")
    );
}

#[test]
fn a_split_with_inputs_other_than_the_training_split_is_refused() {
    let config = one(r#"{"csv": {"train": "t.csv", "val": "v.csv", "bits": ["x"]}}"#, r#"{"binary": {}}"#);
    let of =
        |path: &str, width: usize| xy(path, Cells::Bits { width, values: vec![1; 2 * width] }, strings(&["0", "1"]));
    assert_eq!(
        refused(&config, of("t.csv", 8), Some(of("v.csv", 4))),
        "the val split of source `s` has bits `x` of width 4 where the training data has bits `x` of width 8; the encoder \
         is shared, so all inputs must have the same columns and widths, in the same order"
    );
    let empty =
        table("v.csv", 0, vec![column("x", Cells::Bits { width: 8, values: vec![] }), column("y", strings(&[]))]);
    assert_eq!(
        refused(&config, of("t.csv", 8), Some(empty)),
        "source `s`: the val split is empty (0 rows were read from v.csv); check the files and `split`"
    );
}

#[test]
fn files_are_read_and_divided() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..40).map(|i| format!("{i},{},{}\n", i % 2, i % 4)).collect();
    std::fs::write(folder.path().join("all.csv"), format!("x,y,fold\n{rows}")).unwrap();
    let mut config = one(
        r#"{"csv": {"file": "all.csv", "numeric": ["x"],
            "split": {"column": {"name": "fold", "train": ["0", "1"], "val": ["2"], "test": ["3"]}}}}"#,
        r#"{"binary": {}}"#,
    );
    config.data.root = Some(folder.path().to_path_buf());
    let d = Dataset::open(&config).unwrap();
    assert_eq!(Split::ALL.map(|split| d.n_rows(0, split)), [20, 10, 10]);
    let again = Dataset::open_with(&config, d.fitted()).unwrap();
    assert_eq!(dense(&again.gather(0, Split::Test, &[3])), dense(&d.gather(0, Split::Test, &[3])));
}

#[test]
fn evaluation_takes_every_row_once_in_order_over_all_ranks() {
    let config = one(CSV, r#"{"regression": {"standardize": false}}"#);
    let y: Vec<f64> = (0..11).map(f64::from).collect();
    let d = Dataset::from_tables(&config, tables(xy("t.csv", numbers(&y), numbers(&y)), None)).unwrap();
    for size in 1..6 {
        for batch in [1, 3, 100] {
            let mut all = Vec::new();
            for rank in 0..size {
                let world = World { rank, size, ..World::SOLO };
                for part in d.eval_batches(0, Split::Train, world, batch) {
                    assert!((1..=batch).contains(&part.len));
                    all.extend(list(&part.targets[0].values));
                }
            }
            assert_eq!(all, y);
        }
    }
    assert_eq!(d.eval_batches(0, Split::Val, World::SOLO, 4).count(), 0);
}
