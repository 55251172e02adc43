//! Section `data`: files and splits fit together, columns are used once, options fit the format.

use super::super::fault::{Fault, any_of, quote};
use super::super::{
    Arrays, Config, Data, Dialect, Idx, IdxPair, MultiMnist, Paths, Source, Split, SplitFraction, Table,
};
use super::{At, Checked, MANY};

pub(super) fn check(config: &Config) -> Checked {
    let data = At::key("data");
    let at = data.then("sources");
    at.need(!config.data.sources.is_empty(), "at least one source is needed")?;
    data.then("root").need(config.data.root.as_ref().is_none_or(|r| !r.as_os_str().is_empty()), "must not be blank")?;
    for (name, source) in &config.data.sources {
        let at = at.then(name);
        at.need(!name.trim().is_empty(), "a source needs a name").map_err(Fault::on_key)?;
        one(&at.then(source.format()), source)?;
    }
    vocab(&data.then("vocab"), &config.data)
}

impl Source {
    /// Name of the format, as written in the configuration.
    pub(in crate::config) fn format(&self) -> &'static str {
        match self {
            Source::Csv(_) => "csv",
            Source::Parquet(_) => "parquet",
            Source::Arff(_) => "arff",
            Source::Arrays(_) => "arrays",
            Source::Idx(_) => "idx",
            Source::Multimnist(_) => "multimnist",
        }
    }
}

fn vocab(at: &At, data: &Data) -> Checked {
    let vocab = &data.vocab;
    at.then("max_words").within(vocab.max_words as u64, 1, 1 << 31)?;
    at.then("min_count").within(vocab.min_count as u64, 1, MANY)?;
    at.then("ngrams").within(vocab.ngrams as u64, 1, 10)?;
    at.then("max_tokens").within(vocab.max_tokens as u64, 1, 1 << 31)
}

fn one(at: &At, source: &Source) -> Checked {
    match source {
        Source::Csv(table) => {
            self::table(at, table)?;
            dialect(&at.then("dialect"), table)
        }
        Source::Parquet(table) | Source::Arff(table) => {
            self::table(at, table)?;
            let message = format!("is for csv alone, not for {}", source.format());
            at.then("dialect").need(table.dialect == Dialect::default(), message)
        }
        Source::Arrays(arrays) => self::arrays(at, arrays),
        Source::Idx(idx) => self::idx(at, idx),
        Source::Multimnist(recipe) => multimnist(at, recipe),
    }
}

fn table(at: &At, table: &Table) -> Checked {
    files(at, [&table.train, &table.val, &table.test, &table.file], table.split.as_ref())?;
    let lists = [
        ("numeric", &table.numeric[..]),
        ("categorical", &table.categorical),
        ("bits", &table.bits),
        ("text", &table.text),
    ];
    columns(at, &lists, table.split.as_ref())
}

fn arrays(at: &At, arrays: &Arrays) -> Checked {
    files(at, [&arrays.train, &arrays.val, &arrays.test, &arrays.file], arrays.split.as_ref())?;
    let lists = [("numeric", &arrays.numeric[..]), ("dense", &arrays.dense), ("image", arrays.image.as_slice())];
    columns(at, &lists, arrays.split.as_ref())
}

/// Every split comes from one place: its own file, a column of `file`, or a share of `file` or `train`.
fn files(at: &At, [train, val, test, file]: [&Paths; 4], split: Option<&Split>) -> Checked {
    for (key, paths) in [("train", train), ("val", val), ("test", test), ("file", file)] {
        for path in paths.list() {
            at.then(key).need(!path.as_os_str().is_empty(), "a path must not be blank")?;
        }
    }
    let there = |paths: &Paths| !paths.list().is_empty();
    if there(file) {
        for (key, paths) in [("train", train), ("val", val), ("test", test)] {
            at.then(key).need(!there(paths), "`file` holds all splits, so no other files are expected")?;
        }
        let fault = at.then("file").fault("`file` holds all splits and needs `split` to divide them");
        split.map(|_| ()).ok_or(fault.hint("add `split: {fraction: {val: 0.1, test: 0.1}}`, or call it `train`"))?;
    } else {
        let fault = at.fault("no training data");
        there(train).then_some(()).ok_or(fault.hint("give `train` files, or `file` and `split`"))?;
    }
    self::split(&at.then("split"), split, [there(val), there(test)], there(file))
}

fn split(at: &At, split: Option<&Split>, [val, test]: [bool; 2], file: bool) -> Checked {
    match split {
        None => Ok(()),
        Some(Split::Column(column)) => {
            let at = at.then("column");
            at.need(file, "a split by column divides `file`, which is not given")?;
            at.then("name").need(!column.name.is_empty(), "must not be blank")?;
            at.then("train").need(!column.train.is_empty(), "no value means training")?;
            let mut seen: Vec<&str> = Vec::new();
            for (key, values) in [("train", &column.train), ("val", &column.val), ("test", &column.test)] {
                at.then(key).names(values)?;
                for (i, value) in values.iter().enumerate() {
                    let message = format!("{} is listed for two splits", quote(value));
                    at.then(key).then(i).need(!seen.contains(&value.as_str()), message)?;
                }
                seen.extend(values.iter().map(String::as_str));
            }
            Ok(())
        }
        Some(Split::Fraction(shares)) => fraction(&at.then("fraction"), shares, [val, test]),
    }
}

fn fraction(at: &At, shares: &SplitFraction, [val, test]: [bool; 2]) -> Checked {
    for (key, share, file) in [("val", shares.val, val), ("test", shares.test, test)] {
        at.then(key).share(share)?;
        at.then(key).need(!(file && share > 0.0), format_args!("there are `{key}` files already"))?;
    }
    let sum = shares.val + shares.test;
    at.need(sum < 1.0, format_args!("`val` and `test` leave nothing to train on: together {sum}"))?;
    at.need(sum > 0.0, "`val` and `test` are both 0, so nothing is split off")
}

/// Columns of inputs: at least one, none twice, none of them the split column.
fn columns(at: &At, lists: &[(&str, &[String])], split: Option<&Split>) -> Checked {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (list, names) in lists {
        at.then(list).names(names)?;
        for (i, name) in names.iter().enumerate() {
            let at = at.then(list).then(i);
            if let Some((other, _)) = seen.iter().find(|(_, earlier)| earlier == name) {
                return Err(at.fault(format!("{} is in `{other}` already", quote(name))));
            }
            if let Some(Split::Column(column)) = split {
                at.need(column.name != *name, format_args!("{} is the split column", quote(name)))?;
            }
            seen.push((list, name));
        }
    }
    let names: Vec<&str> = lists.iter().map(|(list, _)| *list).collect();
    at.need(!seen.is_empty(), format_args!("no inputs: name columns in {}", any_of(&names)))
}

fn dialect(at: &At, table: &Table) -> Checked {
    let dialect = &table.dialect;
    if let Some(delimiter) = dialect.delimiter {
        let fits = delimiter.is_ascii() && !matches!(delimiter, '"' | '\n' | '\r' | '\0');
        let shown = delimiter.escape_default();
        at.then("delimiter")
            .need(fits, format_args!("must be one ASCII character other than a quote, found `{shown}`"))?;
    }
    let Some(header) = &dialect.header else { return Ok(()) };
    let at = at.then("header");
    at.need(!header.is_empty(), "must name the columns")?;
    at.names(header)?;
    let inputs = [&table.numeric, &table.categorical, &table.bits, &table.text].into_iter().flatten();
    let by = table.split.iter().filter_map(|split| if let Split::Column(by) = split { Some(&by.name) } else { None });
    for column in inputs.chain(by) {
        at.need(
            header.contains(column),
            format_args!("does not name column {}, which the source uses", quote(column)),
        )?;
    }
    Ok(())
}

fn idx(at: &At, idx: &Idx) -> Checked {
    pair(&at.then("train"), &idx.train)?;
    for (key, files) in [("val", &idx.val), ("test", &idx.test)] {
        files.as_ref().map_or(Ok(()), |files| pair(&at.then(key), files))?;
    }
    split(&at.then("split"), idx.split.as_ref(), [idx.val.is_some(), idx.test.is_some()], false)
}

fn pair(at: &At, pair: &IdxPair) -> Checked {
    at.then("images").need(!pair.images.as_os_str().is_empty(), "a path must not be blank")?;
    at.then("labels").need(!pair.labels.as_os_str().is_empty(), "a path must not be blank")
}

fn multimnist(at: &At, recipe: &MultiMnist) -> Checked {
    pair(&at.then("train"), &recipe.train)?;
    pair(&at.then("test"), &recipe.test)?;
    at.then("n_train").within(recipe.n_train as u64, 1, MANY)?;
    at.then("n_val").within(recipe.n_val as u64, 0, MANY)?;
    at.then("n_test").within(recipe.n_test as u64, 0, MANY)
}
