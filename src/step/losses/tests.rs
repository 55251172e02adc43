//! Sums and counts: what a mean over the labels that are there would be, and nothing from those that are missing.

use super::*;
use crate::config::{Binary, Kind as TaskKind, Multiclass, Multilabel, Regression, RegressionLoss};
use tch::Reduction;

fn output(values: &[f64], width: i64) -> Tensor {
    Tensor::from_slice(values).reshape([-1, width]).set_requires_grad(true)
}

fn target(values: Tensor, mask: Option<&[f32]>) -> Target {
    let mask = mask.map(|m| Tensor::from_slice(m).view_as(&values));
    let n_labelled = values.size()[0] as usize;
    Target { task: 0, values, mask, n_labelled }
}

fn floats(values: &[f32], width: i64) -> Tensor {
    Tensor::from_slice(values).reshape([-1, width])
}

/// Mean loss, and gradient of the sum with respect to the output.
fn mean_and_gradient(kind: &TaskKind, output: &Tensor, target: &Target) -> (f64, Vec<f64>) {
    let loss = build(kind);
    let sum = loss.sum(output, target);
    let gradient = Tensor::run_backward(&[&sum], &[output], false, false).swap_remove(0);
    (sum.double_value(&[]) / loss.count(target), Vec::try_from(gradient.reshape([-1])).unwrap())
}

#[test]
fn missing_labels_count_nothing_and_pull_nothing() {
    let mask = Some(&[1.0, 0.0, 1.0][..]);
    for kind in [
        TaskKind::Binary(Binary::default()),
        TaskKind::Binary(Binary { pos_weight: Some(3.0), label_smoothing: 0.2, ..Binary::default() }),
        TaskKind::Regression(Regression::default()),
        TaskKind::Regression(Regression { loss: RegressionLoss::L1, ..Regression::default() }),
        TaskKind::Regression(Regression { loss: RegressionLoss::Huber, delta: 0.5, standardize: true }),
    ] {
        // The second sample is missing; its output must not matter.
        let (mean, gradient) =
            mean_and_gradient(&kind, &output(&[0.3, 9.0, -1.2], 1), &target(floats(&[1.0, 0.0, 0.0], 1), mask));
        let (alone, rest) = mean_and_gradient(&kind, &output(&[0.3, -1.2], 1), &target(floats(&[1.0, 0.0], 1), None));
        assert!((mean - alone).abs() < 1e-12, "{kind:?}");
        assert_eq!(gradient, [rest[0], 0.0, rest[1]], "{kind:?}");
    }
}

#[test]
fn multilabel_divides_by_the_labels_that_are_there() {
    let kind = TaskKind::Multilabel(Multilabel::default());
    let values = floats(&[1.0, 0.0, 0.0, 1.0], 2);
    let (mean, gradient) =
        mean_and_gradient(&kind, &output(&[0.5, 7.0, -0.5, 2.0], 2), &target(values, Some(&[1.0, 0.0, 1.0, 1.0])));
    let bce = |x: f64, y: f64| (1.0 + x.exp()).ln() - x * y;
    assert!((mean - (bce(0.5, 1.0) + bce(-0.5, 0.0) + bce(2.0, 1.0)) / 3.0).abs() < 1e-12);
    assert_eq!(gradient[1], 0.0);
}

#[test]
fn multiclass_is_pytorchs_weighted_mean() {
    let kind =
        TaskKind::Multiclass(Multiclass { classes: None, class_weights: vec![1.0, 2.0, 0.5], label_smoothing: 0.1 });
    let logits = output(&[0.1, 0.2, -0.3, 1.0, -1.0, 0.0, 0.5, 0.5, 0.5, 2.0, 0.0, 1.0], 3);
    let classes = Tensor::from_slice(&[1i64, 2, -100, 0]);
    let weights = Tensor::from_slice(&[1.0, 2.0, 0.5]);
    let expected = logits.cross_entropy_loss(&classes, Some(weights), Reduction::Mean, -100, 0.1).double_value(&[]);
    let (mean, gradient) = mean_and_gradient(&kind, &logits, &target(classes, None));
    assert!((mean - expected).abs() < 1e-12, "{mean} {expected}");
    assert_eq!(gradient[6..9], [0.0; 3]);
}

#[test]
fn huber_turns_linear_at_delta() {
    let kind = TaskKind::Regression(Regression { loss: RegressionLoss::Huber, delta: 0.5, standardize: true });
    let (mean, gradient) = mean_and_gradient(&kind, &output(&[0.2, 3.0], 1), &target(floats(&[0.0, 0.0], 1), None));
    assert!((mean - (0.5 * 0.04 + 0.5 * (3.0 - 0.25)) / 2.0).abs() < 1e-7, "{mean}");
    assert!((gradient[0] - 0.2).abs() < 1e-7 && (gradient[1] - 0.5).abs() < 1e-7, "{gradient:?}");
}
