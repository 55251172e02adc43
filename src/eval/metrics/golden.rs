//! Values of scikit-learn and SciPy, and merging over ranks.

use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

pub(super) const BINARY: Shape = Shape::Binary;
pub(super) const CLASSES: Shape = Shape::Multiclass { classes: 4 };
pub(super) const LABELS: Shape = Shape::Multilabel { labels: 4 };
pub(super) const OUTPUTS: Shape = Shape::Regression { outputs: 2 };

const ALL: [Metric; 12] = [
    Metric::Accuracy,
    Metric::Auc,
    Metric::AveragePrecision,
    Metric::F1,
    Metric::Mcc,
    Metric::Mae,
    Metric::Rmse,
    Metric::Rrmse,
    Metric::R2,
    Metric::Pearson,
    Metric::Spearman,
    Metric::Loss,
];

// Printed by this script with scikit-learn 1.9.1 and SciPy 1.17.1:
//
// import numpy as np
// from scipy import stats
// from sklearn import metrics as m
//
// def draw(n, seed, levels):
//     x, out = seed, []
//     for _ in range(n):
//         x = (1103515245 * x + 12345) % 2**31
//         out.append((x >> 16) % levels)
//     return np.array(out, float)
//
// def show(kind, name, values):
//     print(f'    ({kind}, Metric::{name}, {float(np.mean(values))!r}),')
//
// n = 200
// p = draw(n, 1, 20) / 20
// y = (draw(n, 2, 20) / 20 < p).astype(float)
// for name, f, s in [('Accuracy', m.accuracy_score, p > .5), ('F1', m.f1_score, p > .5), ('Mcc', m.matthews_corrcoef, p > .5),
//                    ('Auc', m.roc_auc_score, p), ('AveragePrecision', m.average_precision_score, p)]:
//     show('BINARY', name, f(y, s))
//
// raw = draw(n * 4, 3, 50).reshape(n, 4) + 1
// p = raw / raw.sum(1, keepdims=True)
// y = np.where(draw(n, 5, 3) == 0, draw(n, 4, 4), p.argmax(1))
// d = p.argmax(1)
// show('CLASSES', 'Accuracy', m.accuracy_score(y, d))
// show('CLASSES', 'F1', m.f1_score(y, d, average='macro'))
// show('CLASSES', 'Mcc', m.matthews_corrcoef(y, d))
// show('CLASSES', 'Auc', m.roc_auc_score(y, p, multi_class='ovr', average='macro'))
// show('CLASSES', 'AveragePrecision', m.average_precision_score(y, p, average='macro'))
//
// p = draw(n * 4, 6, 20).reshape(n, 4) / 20
// y = (draw(n * 4, 7, 20).reshape(n, 4) / 20 < p).astype(float)
// y[:, 3] = 0  # never positive: no AUC, no average precision, no MCC
// y[draw(n * 4, 8, 10).reshape(n, 4) == 0] = np.nan
// seen = ~np.isnan(y)
// cols = [(y[seen[:, l], l], p[seen[:, l], l]) for l in range(4)]
// show('LABELS', 'Accuracy', ((p > .5) == y)[seen])
// show('LABELS', 'F1', [m.f1_score(a, b > .5, zero_division=np.nan) for a, b in cols])
// show('LABELS', 'Mcc', [m.matthews_corrcoef(a, b > .5) for a, b in cols[:3]])
// show('LABELS', 'Auc', [m.roc_auc_score(a, b) for a, b in cols[:3]])
// show('LABELS', 'AveragePrecision', [m.average_precision_score(a, b) for a, b in cols[:3]])
//
// y = draw(n * 2, 9, 300).reshape(n, 2) / 10
// p = y + (draw(n * 2, 10, 50).reshape(n, 2) - 20) / 4
// y[draw(n * 2, 11, 10).reshape(n, 2) == 0] = np.nan
// seen = ~np.isnan(y)
// cols = [(y[seen[:, l], l], p[seen[:, l], l]) for l in range(2)]
// show('OUTPUTS', 'Mae', [m.mean_absolute_error(a, b) for a, b in cols])
// show('OUTPUTS', 'Rmse', [m.root_mean_squared_error(a, b) for a, b in cols])
// show('OUTPUTS', 'Rrmse', [np.sqrt(((a - b) ** 2).sum() / ((a - a.mean()) ** 2).sum()) for a, b in cols])
// show('OUTPUTS', 'R2', [m.r2_score(a, b) for a, b in cols])
// show('OUTPUTS', 'Pearson', [stats.pearsonr(a, b).statistic for a, b in cols])
// show('OUTPUTS', 'Spearman', [stats.spearmanr(a, b).statistic for a, b in cols])
pub(super) const GOLDEN: [(Shape, Metric, f64); 21] = [
    (BINARY, Metric::Accuracy, 0.795),
    (BINARY, Metric::F1, 0.7783783783783784),
    (BINARY, Metric::Mcc, 0.5909342128854308),
    (BINARY, Metric::Auc, 0.8518166349714743),
    (BINARY, Metric::AveragePrecision, 0.8266901458516519),
    (CLASSES, Metric::Accuracy, 0.805),
    (CLASSES, Metric::F1, 0.8017781796262808),
    (CLASSES, Metric::Mcc, 0.7390859049469005),
    (CLASSES, Metric::Auc, 0.8542436117662078),
    (CLASSES, Metric::AveragePrecision, 0.7069667175448251),
    (LABELS, Metric::Accuracy, 0.6868131868131868),
    (LABELS, Metric::F1, 0.5313860421522562),
    (LABELS, Metric::Mcc, 0.4643847533640697),
    (LABELS, Metric::Auc, 0.8271135468425775),
    (LABELS, Metric::AveragePrecision, 0.7850539092486922),
    (OUTPUTS, Metric::Mae, 2.9553274428274428),
    (OUTPUTS, Metric::Rmse, 3.5507926000760293),
    (OUTPUTS, Metric::Rrmse, 0.41193667885473373),
    (OUTPUTS, Metric::R2, 0.8303080839941939),
    (OUTPUTS, Metric::Pearson, 0.9290768774780942),
    (OUTPUTS, Metric::Spearman, 0.9305462442637444),
];

/// Scores, targets and shape of one kind of task.
pub(super) struct Data {
    scores: Vec<f64>,
    targets: Vec<f64>,
    shape: Shape,
}

impl Data {
    fn rows(&self) -> usize {
        self.scores.len() / self.shape.width()
    }

    fn part(&self, rows: std::ops::Range<usize>) -> Scored<'_> {
        let width = self.shape.width();
        let per_target = self.targets.len() / self.rows().max(1);
        Scored {
            scores: &self.scores[rows.start * width..rows.end * width],
            targets: &self.targets[rows.start * per_target..rows.end * per_target],
            width,
        }
    }

    pub(super) fn whole(&self) -> Scored<'_> {
        self.part(0..self.rows())
    }
}

/// The same numbers as `draw` of the script.
fn draw(n: usize, seed: u64, levels: u64) -> Vec<f64> {
    let mut x = seed;
    let mut next = || {
        x = (1_103_515_245 * x + 12_345) % (1 << 31);
        ((x >> 16) % levels) as f64
    };
    (0..n).map(|_| next()).collect()
}

/// The four data sets of the script.
fn made(shape: Shape) -> Data {
    let n = 200;
    let cells = n * shape.width();
    let below = |seed, scores: &[f64]| -> Vec<f64> {
        draw(cells, seed, 20).iter().zip(scores).map(|(a, &p)| f64::from(a / 20.0 < p)).collect()
    };
    let without = |seed, mut targets: Vec<f64>| {
        targets.iter_mut().zip(draw(cells, seed, 10)).filter(|(_, hole)| *hole == 0.0).for_each(|(y, _)| *y = f64::NAN);
        targets
    };
    let twentieths = |seed| -> Vec<f64> { draw(cells, seed, 20).iter().map(|a| a / 20.0).collect() };
    let (scores, targets) = match shape {
        Shape::Binary => {
            let scores = twentieths(1);
            let targets = below(2, &scores);
            (scores, targets)
        }
        Shape::Multiclass { classes } => classes_made(n, classes),
        Shape::Multilabel { .. } => {
            let scores = twentieths(6);
            let mut targets = below(7, &scores);
            targets.iter_mut().skip(3).step_by(4).for_each(|y| *y = 0.0);
            (scores, without(8, targets))
        }
        Shape::Regression { .. } => {
            let targets: Vec<f64> = draw(cells, 9, 300).iter().map(|a| a / 10.0).collect();
            let scores = targets.iter().zip(draw(cells, 10, 50)).map(|(y, a)| y + (a - 20.0) / 4.0).collect();
            (scores, without(11, targets))
        }
    };
    Data { scores, targets, shape }
}

fn classes_made(n: usize, classes: usize) -> (Vec<f64>, Vec<f64>) {
    let raw: Vec<f64> = draw(n * classes, 3, 50).iter().map(|a| a + 1.0).collect();
    let rows = raw.chunks(classes);
    let scores: Vec<f64> = rows.flat_map(|row| row.iter().map(|a| a / row.iter().sum::<f64>())).collect();
    let largest = |row: &[f64]| (0..classes).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let guesses = draw(n, 5, 3).into_iter().zip(draw(n, 4, 4));
    let targets = scores.chunks(classes).zip(guesses);
    let targets = targets.map(|(row, (lot, guess))| if lot == 0.0 { guess } else { largest(row).unwrap() as f64 });
    let targets = targets.collect();
    (scores, targets)
}

static DATA: LazyLock<[Data; 4]> = LazyLock::new(|| [BINARY, CLASSES, LABELS, OUTPUTS].map(made));

pub(super) fn data(shape: Shape) -> &'static Data {
    DATA.iter().find(|data| data.shape == shape).unwrap()
}

pub(super) fn value(metric: Metric, shape: Shape, scores: &[f64], targets: &[f64]) -> Option<f64> {
    let mut meter = meter(metric, shape).unwrap();
    meter.update(&Scored { scores, targets, width: shape.width() });
    meter.value()
}

/// Metrics that count whole numbers and so come out the same to the bit, in whatever order.
fn is_exact(metric: Metric) -> bool {
    applies(metric, BINARY) || metric == Metric::Spearman
}

#[test]
fn values_are_those_of_scikit_learn_and_scipy() {
    for (shape, metric, expected) in GOLDEN {
        let mut meter = meter(metric, shape).unwrap();
        meter.update(&data(shape).whole());
        let found = meter.value().unwrap();
        assert!((found - expected).abs() <= 1e-14 * expected.abs(), "{metric:?} of {shape:?}: {found}, not {expected}");
    }
}

#[test]
fn the_table_has_every_metric_of_every_shape() {
    for shape in [BINARY, CLASSES, LABELS, OUTPUTS] {
        for metric in ALL {
            let in_table = GOLDEN.iter().any(|&(s, m, _)| (s, m) == (shape, metric));
            assert_eq!(meter(metric, shape).is_some(), in_table, "{metric:?} of {shape:?}");
            assert_eq!(applies(metric, shape), in_table || metric == Metric::Loss);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ranks_together_have_the_value_of_one(
        cuts in proptest::collection::vec(0usize..=200, 0..6),
        batch in 1usize..70,
        used in 0usize..=200,
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(used)).chain([0, used]).collect();
        cuts.sort_unstable();
        for (shape, metric, _) in GOLDEN {
            let data = data(shape);
            let mut one = meter(metric, shape).unwrap();
            one.update(&data.part(0..used));
            let mut merged = meter(metric, shape).unwrap();
            for ends in cuts.windows(2) {
                let mut rank = meter(metric, shape).unwrap();
                for start in (ends[0]..ends[1]).step_by(batch) {
                    rank.update(&data.part(start..(start + batch).min(ends[1])));
                }
                merged.merge(&rank.state()).unwrap();
            }
            match (one.value(), merged.value()) {
                (Some(a), Some(b)) if !is_exact(metric) => {
                    prop_assert!((a - b).abs() <= 1e-12 * a.abs().max(1e-3), "{metric:?} of {shape:?}: {a} and {b}");
                }
                (a, b) => prop_assert_eq!(a.map(f64::to_bits), b.map(f64::to_bits), "{:?} of {:?}", metric, shape),
            }
        }
    }

    #[test]
    fn auc_is_the_share_of_pairs_in_order(samples in proptest::collection::vec((0u8..6, any::<bool>()), 1..40)) {
        let scores: Vec<f64> = samples.iter().map(|s| f64::from(s.0) / 5.0).collect();
        let targets: Vec<f64> = samples.iter().map(|s| f64::from(s.1)).collect();
        let (mut right, mut pairs) = (0.0, 0.0);
        for (p, _) in samples.iter().filter(|s| s.1) {
            for (n, _) in samples.iter().filter(|s| !s.1) {
                pairs += 1.0;
                right += match p.cmp(n) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
            }
        }
        prop_assert_eq!(value(Metric::Auc, BINARY, &scores, &targets), (pairs > 0.0).then(|| right / pairs));
    }

    #[test]
    fn no_state_makes_merging_panic(state in proptest::collection::vec(prop_oneof![0.0..9.0f64, Just(2.0), any::<f64>()], 0..60)) {
        for (shape, metric, _) in GOLDEN {
            let _ = meter(metric, shape).unwrap().merge(&state);
        }
    }
}
