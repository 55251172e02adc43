//! Section `tasks`: what is learned from which column, how its loss is made, how it is judged.

use serde::{Deserialize, Serialize};

/// One learning task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name of the source that holds its samples.
    pub source: String,
    /// Target column, or several for multi-label and vector regression.
    pub target: Target,
    /// Kind, with the kind's options.
    pub kind: Kind,
    /// Metrics at evaluation; the first one counts for `train.best_by: mean`. Default: by kind.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// Head between representation and output.
    #[serde(default)]
    pub head: Head,
}

/// One column or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Target {
    /// One column.
    One(String),
    /// Several columns.
    Many(Vec<String>),
}

impl Target {
    /// The columns in order.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Target::One(name) => vec![name],
            Target::Many(names) => names.iter().map(String::as_str).collect(),
        }
    }
}

/// What kind of task it is; fixes output width, loss and possible metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// One logit, binary cross-entropy. A blank cell is a missing label.
    Binary(Binary),
    /// `C` logits, cross-entropy. Classes are the sorted values of the training split.
    Multiclass(Multiclass),
    /// One logit per column, binary cross-entropy averaged over the labels that are there.
    Multilabel(Multilabel),
    /// One output per column.
    Regression(Regression),
}

/// Options of a binary task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Binary {
    /// Values that count as 1; every other value is 0. Default: `1`/`true` against `0`/`false`, anything else is an error.
    pub positive: Vec<String>,
    /// Factor of the loss of positive samples.
    pub pos_weight: Option<f64>,
    /// Label smoothing in `[0, 1)`: targets become `y (1 - s) + s/2`.
    pub label_smoothing: f64,
}

/// Options of a multi-class task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Multiclass {
    /// Number of classes when the target holds `0 .. n`; default: found in the training split.
    pub classes: Option<usize>,
    /// Weight per class; the loss is divided by the sum of the weights of its samples, as in PyTorch.
    pub class_weights: Vec<f64>,
    /// Label smoothing in `[0, 1)`, as in PyTorch.
    pub label_smoothing: f64,
}

/// Options of a multi-label task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Multilabel {
    /// Factor of the loss of positive labels, one per column.
    pub pos_weight: Vec<f64>,
    /// Label smoothing in `[0, 1)`: targets become `y (1 - s) + s/2`.
    pub label_smoothing: f64,
}

/// Options of a regression task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Regression {
    /// The loss, on the standardised target.
    pub loss: RegressionLoss,
    /// Where `huber` turns from square to linear, in standardised units.
    pub delta: f64,
    /// Standardise the target with mean and standard deviation of the training split; metrics are in original units.
    pub standardize: bool,
}

impl Default for Regression {
    fn default() -> Self {
        Regression { loss: RegressionLoss::Mse, delta: 1.0, standardize: true }
    }
}

/// Loss of a regression task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegressionLoss {
    /// Mean squared error.
    Mse,
    /// Mean absolute error.
    L1,
    /// Huber loss.
    Huber,
}

/// Head between the representation and a task's output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Head {
    /// Hidden layers (with ReLU); none: one linear layer.
    pub widths: Vec<usize>,
    /// Dropout after each hidden layer.
    pub dropout: f64,
    /// Stage of the encoder it is attached to, counted from 0; default: the last.
    pub stage: Option<usize>,
}

/// A number that judges predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of right predictions (threshold 0.5 for binary and multi-label).
    Accuracy,
    /// Area under the ROC curve; macro average over labels, one-vs-rest for classes.
    Auc,
    /// Average precision (area under precision-recall by the step rule); macro average.
    AveragePrecision,
    /// F1 score; macro average.
    F1,
    /// Matthews correlation coefficient (its multi-class form for classes).
    Mcc,
    /// Mean absolute error.
    Mae,
    /// Root mean squared error.
    Rmse,
    /// Root of the relative squared error: RMSE / RMSE of predicting the mean of the evaluated targets.
    Rrmse,
    /// Coefficient of determination.
    R2,
    /// Pearson correlation.
    Pearson,
    /// Spearman rank correlation.
    Spearman,
    /// The task's mean loss.
    Loss,
}

impl Metric {
    /// Name in records and tables.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::Auc => "auc",
            Metric::AveragePrecision => "average_precision",
            Metric::F1 => "f1",
            Metric::Mcc => "mcc",
            Metric::Mae => "mae",
            Metric::Rmse => "rmse",
            Metric::Rrmse => "rrmse",
            Metric::R2 => "r2",
            Metric::Pearson => "pearson",
            Metric::Spearman => "spearman",
            Metric::Loss => "loss",
        }
    }

    /// Whether a larger value is better.
    pub fn higher_is_better(self) -> bool {
        !matches!(self, Metric::Mae | Metric::Rmse | Metric::Rrmse | Metric::Loss)
    }
}

impl Task {
    /// The metrics to report: those configured, or the kind's usual ones.
    pub fn metrics(&self) -> Vec<Metric> {
        if !self.metrics.is_empty() {
            return self.metrics.clone();
        }
        match self.kind {
            Kind::Binary(_) => vec![Metric::Auc, Metric::Accuracy],
            Kind::Multiclass(_) => vec![Metric::Accuracy],
            Kind::Multilabel(_) => vec![Metric::Auc, Metric::F1],
            Kind::Regression(_) => vec![Metric::Rmse, Metric::R2],
        }
    }
}
