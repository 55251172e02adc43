//! How much better many tasks are learned together than each alone, as one number, against single-task baselines.
//!
//! Two definitions are in use and disagree in sign, weights and unit, so both are given, by name:
//!
//! * `delta_m`, of Maninis et al., 2019 (arXiv:1904.08918) as Nash-MTL, FAMO and FairGrad use it:
//!   `100 * mean over all metrics of (-1)^[higher is better] (m - b) / b`. In percent, **lower is better**. A task with many
//!   metrics weighs more than one with few.
//! * `improvement`, as in LibMTL: `(-1)^[lower is better] (m - b) / b` averaged within each task first, then over tasks.
//!   **Positive is better.** LibMTL prints a fraction; here it is in percent too.
//!
//! Departure: both divide by `|b|`. The published formulas were made for metrics that are never negative, where it is the
//! same; of a negative baseline (a correlation, an R²) they would call the better value the worse one.

/// A metric of a task, of a method and of the single-task baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Name of the metric.
    pub metric: String,
    /// Whether a larger value is better.
    pub higher_is_better: bool,
    /// The method's value; `None`: not defined.
    pub value: Option<f64>,
    /// The value of the task learned alone.
    pub baseline: Option<f64>,
}

/// Both definitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaM {
    /// Over all metrics, in percent; lower is better.
    pub delta_m: f64,
    /// Within tasks, then over tasks, in percent; positive is better.
    pub improvement: f64,
}

/// Why there is no number.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Undefined {
    /// Nothing can be relative to zero.
    #[error("the single-task value of {task}/{metric} is {baseline}, and nothing can be relative to that")]
    Zero {
        /// The task.
        task: String,
        /// Its metric.
        metric: String,
        /// Zero, or so near to it that the ratio is not finite.
        baseline: f64,
    },
    /// No baseline.
    #[error("there is no single-task value of {task}/{metric}")]
    NoBaseline {
        /// The task.
        task: String,
        /// Its metric.
        metric: String,
    },
    /// No value of the method.
    #[error("there is no value of {task}/{metric}")]
    NoValue {
        /// The task.
        task: String,
        /// Its metric.
        metric: String,
    },
    /// No task, or a task without metrics.
    #[error("there is nothing to compare")]
    Nothing,
}

/// Compares a method with the single-task baselines: per task (with its name) all its metrics.
///
/// # Errors
/// A value that is not there, or a baseline of 0. Leaving such a metric out would make another number of it.
pub fn delta_m(tasks: &[(String, Vec<Measured>)]) -> Result<DeltaM, Undefined> {
    let mut all = Vec::new();
    let mut within = Vec::new();
    for (task, metrics) in tasks {
        let gains = metrics.iter().map(|m| gain(task, m)).collect::<Result<Vec<f64>, _>>()?;
        within.push(mean(&gains).ok_or(Undefined::Nothing)?);
        all.extend(gains);
    }
    let over_metrics = mean(&all).ok_or(Undefined::Nothing)?;
    let over_tasks = mean(&within).ok_or(Undefined::Nothing)?;
    // `0 - x`, so that no gain at all is 0 and not -0.
    Ok(DeltaM { delta_m: 0.0 - 100.0 * over_metrics, improvement: 100.0 * over_tasks })
}

/// Relative to the baseline, positive where the method is better.
fn gain(task: &str, m: &Measured) -> Result<f64, Undefined> {
    let (task, metric) = (task.to_string(), m.metric.clone());
    let Some(baseline) = m.baseline else { return Err(Undefined::NoBaseline { task, metric }) };
    let Some(value) = m.value else { return Err(Undefined::NoValue { task, metric }) };
    let change = (value - baseline) / baseline.abs();
    if !change.is_finite() {
        return Err(Undefined::Zero { task, metric, baseline });
    }
    Ok(if m.higher_is_better { change } else { -change })
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A metric: its name, direction, value and baseline.
    fn measured(metric: &str, higher_is_better: bool, value: f64, baseline: f64) -> Measured {
        Measured { metric: metric.into(), higher_is_better, value: Some(value), baseline: Some(baseline) }
    }

    fn tasks(tasks: &[(&str, Vec<Measured>)]) -> Vec<(String, Vec<Measured>)> {
        tasks.iter().map(|(name, metrics)| (name.to_string(), metrics.clone())).collect()
    }

    #[test]
    fn by_hand_the_definitions_differ_in_sign_and_weights() {
        // a: accuracy 0.5 -> 0.6 (+20 %), auc 0.8 -> 0.8 (0 %); b: rmse 2 -> 3 (-50 %).
        let a = vec![measured("accuracy", true, 0.6, 0.5), measured("auc", true, 0.8, 0.8)];
        let found = delta_m(&tasks(&[("a", a), ("b", vec![measured("rmse", false, 3.0, 2.0)])])).unwrap();
        assert!((found.delta_m - 10.0).abs() < 1e-12, "100 * (-0.2 + 0 + 0.5) / 3, not {}", found.delta_m);
        assert!((found.improvement + 20.0).abs() < 1e-12, "100 * (0.1 - 0.5) / 2, not {}", found.improvement);
    }

    #[test]
    fn the_baseline_itself_is_zero_without_a_sign() {
        let found = delta_m(&tasks(&[("a", vec![measured("auc", true, 0.7, 0.7)])])).unwrap();
        assert_eq!((found.delta_m.to_bits(), found.improvement), (0.0f64.to_bits(), 0.0));
    }

    /// Whether a larger value is better: mIoU, pixel accuracy; absolute and relative error; mean and median angle, and the
    /// shares of pixels within 11.25, 22.5 and 30 degrees.
    const NYU: [bool; 9] = [true, true, false, false, false, false, true, true, true];
    const NYU_SINGLE: [f64; 9] = [38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15];

    fn nyu(row: [f64; 9]) -> DeltaM {
        let metric = |i: usize| measured(&format!("m{i}"), NYU[i], row[i], NYU_SINGLE[i]);
        let task = |range: std::ops::Range<usize>| range.map(metric).collect::<Vec<_>>();
        delta_m(&tasks(&[("segmentation", task(0..2)), ("depth", task(2..4)), ("normals", task(4..9))])).unwrap()
    }

    #[test]
    fn published_rows_of_nyuv2_give_the_published_numbers() {
        for (name, row, published) in [
            ("LS", [39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08], 5.59),
            ("UW", [36.87, 63.17, 0.5446, 0.2260, 27.04, 22.61, 23.54, 49.05, 63.65], 4.05),
            ("PCGrad", [38.06, 64.64, 0.5550, 0.2325, 27.41, 22.80, 23.86, 49.83, 63.14], 3.97),
            ("CAGrad", [39.79, 65.49, 0.5486, 0.2250, 26.31, 21.58, 25.61, 52.36, 65.58], 0.20),
            ("Nash-MTL", [40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15], -4.04),
            ("FAMO", [38.88, 64.90, 0.5474, 0.2194, 25.06, 19.57, 29.21, 56.61, 68.98], -4.10),
        ] {
            let found = nyu(row).delta_m;
            assert!((found - published).abs() < 0.02, "{name}: {found}, published {published}");
        }
        // Weighted by task the normals count 1/3 instead of 5/9, and LS is better than the single tasks.
        assert!(nyu([39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08]).improvement > 0.0);
    }

    #[test]
    fn published_rows_of_cityscapes_give_the_published_numbers() {
        let single = [74.01, 93.16, 0.0125, 27.77];
        for (name, row, published) in [
            ("LS", [75.18, 93.49, 0.0155, 46.77], 22.60),
            ("Nash-MTL", [75.41, 93.66, 0.0129, 35.02], 6.82),
            ("FairGrad", [75.72, 93.68, 0.0134, 32.25], 5.18),
        ] {
            let metric = |i: usize| measured(&format!("m{i}"), i < 2, row[i], single[i]);
            let both = tasks(&[("segmentation", vec![metric(0), metric(1)]), ("depth", vec![metric(2), metric(3)])]);
            let found = delta_m(&both).unwrap();
            // The absolute error and its baseline are published with three digits: up to 0.1 of the result each.
            assert!((found.delta_m - published).abs() < 0.2, "{name}: {}, published {published}", found.delta_m);
            // Both tasks have two metrics, so the definitions differ in the sign alone.
            assert!((found.delta_m + found.improvement).abs() < 1e-9, "{name}");
        }
    }

    #[test]
    fn of_negative_baselines_the_better_value_is_better() {
        let found = delta_m(&tasks(&[("a", vec![measured("r2", true, 0.1, -0.2)])])).unwrap();
        assert!((found.delta_m + 150.0).abs() < 1e-9 && (found.improvement - 150.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let of = |m: Measured| delta_m(&tasks(&[("a", vec![m])])).unwrap_err().to_string();
        let good = measured("mcc", true, 0.1, 0.2);
        assert_eq!(
            of(Measured { baseline: Some(0.0), ..good.clone() }),
            "the single-task value of a/mcc is 0, and nothing can be relative to that"
        );
        assert!(of(Measured { baseline: Some(1e-320), ..good.clone() }).contains("nothing can be relative"));
        assert_eq!(of(Measured { baseline: None, ..good.clone() }), "there is no single-task value of a/mcc");
        assert_eq!(of(Measured { value: None, ..good }), "there is no value of a/mcc");
        assert_eq!(delta_m(&[]), Err(Undefined::Nothing));
        assert_eq!(delta_m(&tasks(&[("a", Vec::new())])), Err(Undefined::Nothing));
    }
}
