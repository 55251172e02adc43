//! Property: a configuration that is written as YAML is read back equal, whatever its names and numbers are.

use super::de::De;
use super::*;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use serde::Deserialize;
use std::path::PathBuf;

/// Text with a liking for what YAML treats specially.
fn text() -> impl Strategy<Value = String> {
    const SPECIAL: &[&str] = &[
        "null",
        "~",
        "",
        "true",
        "no",
        "1",
        "1.0",
        "1e3",
        "0x1f",
        ".nan",
        "-",
        "- a",
        "a: b",
        "a #b",
        "#",
        "'",
        "\"",
        "*a",
        "&a",
        "!t",
        "[",
        "{}",
        "%",
        "@",
        "`",
        "|",
        ">",
        "?",
        "<<",
        "=",
        " a ",
        "a\n",
        "\na\n\n",
        "\t",
        "\u{85}",
        "\u{feff}a",
        "---",
        "...",
        "é",
        "\u{2028}",
        "\u{7}",
        "2026-01-01",
        "y\\t",
    ];
    prop_oneof![2 => proptest::sample::select(SPECIAL).prop_map(String::from), 1 => any::<String>(), 1 => "[a-z]{1,90}( [a-z]{1,20}){0,9}"]
}

fn number() -> impl Strategy<Value = f64> {
    use proptest::num::f64;
    prop_oneof![f64::NORMAL | f64::SUBNORMAL | f64::ZERO, Just(1e-8), Just(0.1), Just(1e21), Just(123456789.0)]
}

fn path() -> impl Strategy<Value = PathBuf> {
    text().prop_map(PathBuf::from)
}

fn paths() -> impl Strategy<Value = Paths> {
    prop_oneof![Just(Paths::None), path().prop_map(Paths::One), vec(path(), 0..3).prop_map(Paths::Many)]
}

fn split() -> impl Strategy<Value = Split> {
    let names = || vec(text(), 0..3);
    prop_oneof![
        (text(), names(), names(), names()).prop_map(|(name, train, val, test)| Split::Column(SplitColumn {
            name,
            train,
            val,
            test
        })),
        (number(), number(), any::<u64>()).prop_map(|(val, test, seed)| Split::Fraction(SplitFraction {
            val,
            test,
            seed
        })),
    ]
}

fn table() -> impl Strategy<Value = Box<Table>> {
    let files = (paths(), paths(), paths(), paths(), of(split()));
    let columns = (vec(text(), 0..4), vec(text(), 0..2));
    let dialect = (of(any::<char>()), any::<bool>(), of(vec(text(), 0..3)), vec(text(), 0..3));
    (files, columns, dialect).prop_map(|(files, (numeric, words), (delimiter, trim, header, na))| {
        let (train, val, test, file, split) = files;
        let dialect = Dialect { delimiter, header, na, trim, encoding: Encoding::Utf8Lossy, ..Dialect::default() };
        let missing = Missing::Mean;
        Box::new(Table { train, val, test, file, split, numeric, text: words, missing, dialect, ..Table::default() })
    })
}

fn pair() -> impl Strategy<Value = IdxPair> {
    (path(), path()).prop_map(|(images, labels)| IdxPair { images, labels })
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        table().prop_map(Source::Csv),
        table().prop_map(Source::Arff),
        (paths(), vec(text(), 0..3), of(text())).prop_map(|(train, dense, image)| Source::Arrays(Box::new(Arrays {
            train,
            dense,
            image,
            ..Arrays::default()
        }))),
        (pair(), of(pair()), of(split())).prop_map(|(train, val, split)| Source::Idx(Box::new(Idx {
            train,
            val,
            test: None,
            split
        }))),
        (pair(), pair(), any::<(usize, usize, usize, u64)>()).prop_map(
            |(train, test, (n_train, n_val, n_test, seed))| Source::Multimnist(Box::new(MultiMnist {
                train,
                test,
                n_train,
                n_val,
                n_test,
                seed
            }))
        ),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (vec(text(), 0..3), of(number())).prop_map(|(positive, pos_weight)| Kind::Binary(Binary {
            positive,
            pos_weight,
            ..Binary::default()
        })),
        (of(any::<usize>()), vec(number(), 0..3)).prop_map(|(classes, class_weights)| Kind::Multiclass(Multiclass {
            classes,
            class_weights,
            ..Multiclass::default()
        })),
        vec(number(), 0..3).prop_map(|pos_weight| Kind::Multilabel(Multilabel { pos_weight, ..Multilabel::default() })),
        number().prop_map(|delta| Kind::Regression(Regression { delta, ..Regression::default() })),
    ]
}

fn task() -> impl Strategy<Value = Task> {
    let target = prop_oneof![text().prop_map(Target::One), vec(text(), 0..3).prop_map(Target::Many)];
    let metrics =
        proptest::sample::subsequence(vec![Metric::Auc, Metric::R2, Metric::AveragePrecision, Metric::F1], 0..4);
    (text(), target, kind(), metrics, vec(any::<usize>(), 0..3), of(any::<usize>())).prop_map(
        |(source, target, kind, metrics, widths, stage)| Task {
            source,
            target,
            kind,
            metrics,
            head: Head { widths, stage, ..Head::default() },
        },
    )
}

/// Pairs with names that differ.
fn named<V: std::fmt::Debug + Clone>(value: impl Strategy<Value = V>) -> impl Strategy<Value = Vec<(String, V)>> {
    let name = text().prop_filter("a name that can be a key", |name| !matches!(name.as_str(), "<<"));
    btree_map(name, value, 0..3).prop_map(|map| map.into_iter().rev().collect())
}

fn optim() -> impl Strategy<Value = (Optim, Schedule)> {
    let adam = (number(), number(), of(number())).prop_map(|(lr, beta, clip_norm)| Adam {
        lr,
        betas: [beta, lr],
        clip_norm,
        ..Adam::default()
    });
    let optim = prop_oneof![
        adam.prop_map(Optim::Adam),
        (number(), any::<bool>()).prop_map(|(lr, nesterov)| Optim::Sgd(Sgd { lr, nesterov, ..Sgd::default() })),
    ];
    let schedule = prop_oneof![
        any::<u64>().prop_map(|warmup| Schedule::Constant(Warmup { warmup })),
        (any::<u64>(), number()).prop_map(|(warmup, floor)| Schedule::Linear(Decay { warmup, floor })),
        (any::<u64>(), number()).prop_map(|(every, gamma)| Schedule::Step(StepDecay { warmup: 0, every, gamma })),
    ];
    (optim, schedule)
}

fn config() -> impl Strategy<Value = Config> {
    let run = (text(), any::<u64>(), of(path())).prop_map(|(name, seed, dir)| Run { name, seed, dir });
    let data = (named(source()), of(path())).prop_map(|(sources, root)| Data {
        sources,
        root,
        vocab: Vocab::default(),
        timeout: 300,
    });
    let mix = prop_oneof![
        Just(Mix::Uniform),
        number().prop_map(|t| Mix::Temperature(Temperature { t })),
        btree_map("[a-z]{1,5}", number(), 0..3).prop_map(Mix::Weights),
        text().prop_map(Mix::Only),
    ];
    let encoder = prop_oneof![
        vec(any::<usize>(), 0..3).prop_map(|widths| Encoder::Mlp(Mlp { widths, ..Mlp::default() })),
        Just(Encoder::EmbeddingBag(EmbeddingBag::default())),
    ];
    (run, data, named(task()), mix, (encoder, any::<bool>()), optim(), text(), of(any::<usize>())).prop_map(
        |(run, data, tasks, mix, (encoder, recompute), (optim, schedule), best_by, threads)| Config {
            run,
            data,
            tasks,
            batch: Batch { mix, ..Batch::default() },
            model: Model { encoder, sharing: Sharing::Hard, recompute },
            balance: Balance::default(),
            optim,
            schedule,
            train: Train { best_by, threads, ..Train::default() },
            comm: Comm::default(),
            checkpoint: Checkpoint::default(),
            log: Log::default(),
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_equal(config in config()) {
        let yaml = config.to_yaml().unwrap();
        let tree = parse::parse(&yaml, None).unwrap().unwrap();
        let again = Config::deserialize(De(&tree));
        prop_assert_eq!(again.as_ref(), Ok(&config), "{}", yaml);
        prop_assert_eq!(again.unwrap().hash(), config.hash());
        prop_assert!(config.diff(&config).is_empty());
    }
}
