//! Where metrics are not defined, and what else is easy to get wrong.

use super::golden::{BINARY, CLASSES, GOLDEN, OUTPUTS, data, value};
use super::*;

#[test]
fn without_samples_nothing_is_defined() {
    for (shape, metric, _) in GOLDEN {
        let mut empty = meter(metric, shape).unwrap();
        assert_eq!(empty.value(), None, "{metric:?} of {shape:?}");
        empty.update(&Scored { scores: &[], targets: &[], width: shape.width() });
        let n_targets = if shape == CLASSES { 1 } else { shape.width() };
        empty.update(&Scored {
            scores: &vec![0.5; shape.width()],
            targets: &vec![f64::NAN; n_targets],
            width: shape.width(),
        });
        let mut merged = meter(metric, shape).unwrap();
        merged.merge(&empty.state()).unwrap();
        assert_eq!((empty.value(), merged.value()), (None, None), "{metric:?} of {shape:?}");
    }
}

#[test]
fn a_nan_score_makes_every_metric_undefined_also_after_merging() {
    for (shape, metric, _) in GOLDEN {
        let data = data(shape);
        for score in [f64::NAN, -f64::NAN] {
            let width = shape.width();
            let n_targets = if shape == CLASSES { 1 } else { width };
            let mut rank = meter(metric, shape).unwrap();
            rank.update(&Scored { scores: &vec![score; width], targets: &vec![0.0; n_targets], width });
            let mut merged = meter(metric, shape).unwrap();
            merged.update(&data.whole());
            assert!(merged.value().is_some());
            merged.merge(&rank.state()).unwrap();
            assert_eq!((rank.value(), merged.value()), (None, None), "{metric:?} of {shape:?}");
        }
        // Without a label the score does not count.
        let mut unlabelled = meter(metric, shape).unwrap();
        unlabelled.update(&data.whole());
        let before = unlabelled.value();
        let n_targets = if shape == CLASSES { 1 } else { shape.width() };
        let (scores, targets) = (vec![f64::NAN; shape.width()], vec![f64::NAN; n_targets]);
        unlabelled.update(&Scored { scores: &scores, targets: &targets, width: shape.width() });
        assert_eq!(unlabelled.value(), before);
    }
}

#[test]
fn a_nan_score_of_one_output_is_not_hidden_by_the_others() {
    let scores = [f64::NAN, 1.0, 2.0, 2.0, 3.0, 4.0];
    // The targets of the spoiled output are constant: skipping it as undefined would leave a value of the other one.
    let targets = [5.0, 1.0, 5.0, 2.5, 5.0, 3.5];
    for metric in [Metric::Mae, Metric::Rmse, Metric::Rrmse, Metric::R2, Metric::Pearson, Metric::Spearman] {
        assert_eq!(value(metric, OUTPUTS, &scores, &targets), None, "{metric:?}");
    }
}

#[test]
fn degenerate_targets_are_undefined_and_constant_decisions_are_not() {
    let (scores, zeros) = ([0.1, 0.9, 0.4], [0.0; 3]);
    let of = |metric, targets: &[f64]| value(metric, BINARY, &scores, targets);
    assert_eq!(of(Metric::Auc, &zeros), None);
    assert_eq!(of(Metric::AveragePrecision, &zeros), None);
    assert_eq!(of(Metric::AveragePrecision, &[1.0; 3]), Some(1.0));
    assert_eq!(of(Metric::Mcc, &zeros), None);
    assert_eq!(of(Metric::F1, &zeros), Some(0.0));
    assert_eq!(of(Metric::Accuracy, &zeros), Some(2.0 / 3.0));
    assert_eq!(value(Metric::F1, BINARY, &[0.1, 0.2], &[0.0, 0.0]), None);
    assert_eq!(value(Metric::Mcc, BINARY, &[0.1, 0.2], &[0.0, 1.0]), Some(0.0));

    let one = Shape::Regression { outputs: 1 };
    let of = |metric, scores: &[f64], targets: &[f64]| value(metric, one, scores, targets);
    for metric in [Metric::R2, Metric::Rrmse, Metric::Pearson, Metric::Spearman] {
        assert_eq!(of(metric, &[1.0, 2.0, 3.0], &[0.1; 3]), None, "{metric:?}");
        assert_eq!(of(metric, &[1.0], &[2.0]), None, "{metric:?} of one sample");
    }
    for metric in [Metric::Pearson, Metric::Spearman] {
        assert_eq!(of(metric, &[0.1; 3], &[1.0, 2.0, 3.0]), None, "{metric:?}");
        let reversed = of(metric, &[1.0, 2.0, 3.0], &[30.0, 20.0, 10.0]).unwrap();
        assert!((reversed + 1.0).abs() < 1e-15, "{metric:?}");
    }
    assert_eq!(of(Metric::Rmse, &[f64::INFINITY], &[1.0]), None);
    assert_eq!(of(Metric::Mae, &[1.0, 3.0], &[1.0, 1.0]), Some(1.0));
}

#[test]
fn both_zeros_are_one_score() {
    assert_eq!(value(Metric::Auc, BINARY, &[0.0, -0.0], &[1.0, 0.0]), Some(0.5));
    assert_eq!(value(Metric::AveragePrecision, BINARY, &[-0.0, 0.0], &[0.0, 1.0]), Some(0.5));
    let one = Shape::Regression { outputs: 1 };
    let with = |zero| value(Metric::Spearman, one, &[zero, 0.0, 1.0, 2.0], &[2.0, 1.0, 3.0, 4.0]);
    assert_eq!(with(0.0), with(-0.0));
}

#[test]
fn a_score_of_one_half_decides_for_zero() {
    assert_eq!(value(Metric::Accuracy, BINARY, &[0.5, 0.5], &[0.0, 1.0]), Some(0.5));
    assert_eq!(value(Metric::F1, BINARY, &[0.5, 0.6], &[1.0, 1.0]), Some(2.0 / 3.0));
}

#[test]
fn states_of_another_shape_are_refused() {
    for (shape, metric, _) in GOLDEN {
        let mut full = meter(metric, shape).unwrap();
        full.update(&data(shape).whole());
        let state = full.state();
        let fresh = || meter(metric, shape).unwrap();
        assert!(matches!(fresh().merge(&state[..state.len() - 1]), Err(MergeError::Length { .. })));
        assert!(matches!(fresh().merge(&[&state[..], &[0.0]].concat()), Err(MergeError::Length { .. })));
        assert!(matches!(fresh().merge(&[]), Err(MergeError::Length { found: 0, .. })));
    }
    let error = meter(Metric::Auc, BINARY).unwrap().merge(&[0.0, 1.5]).unwrap_err();
    assert_eq!(error.to_string(), "the state of the metric has 1.5 where a count is expected");
    let error = meter(Metric::Auc, BINARY).unwrap().merge(&[0.0, 3.0, 0.1]).unwrap_err();
    assert_eq!(error.to_string(), "the state of the metric has 3 numbers, expected 5");
}

#[test]
#[should_panic(expected = "class 4 of 4")]
fn an_impossible_class_is_a_bug() {
    let _ = value(Metric::Accuracy, CLASSES, &[0.25; 4], &[4.0]);
}
