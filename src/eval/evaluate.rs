//! Runs the model over a split on all ranks and judges the predictions.

use super::metrics::{Meter, Scored, Shape, meter};
use crate::comm::{Collective, CommError};
use crate::config::{self, Kind, Metric};
use crate::data::{Dataset, Part, Split, Target, TaskInfo};
use crate::model::Model;
use crate::step::losses::TaskLoss;
use tch::{Kind as Float, Tensor};

/// Metrics of all tasks, in config order: task, then (metric, value). `None`: not defined on this data.
pub type Metrics = Vec<(String, Vec<(String, Option<f64>)>)>;

/// Evaluates all tasks on a split. Each rank takes a slice; the result is the same bits on every rank.
///
/// `batch` is the number of samples of one forward pass.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// If the collective fails.
pub fn evaluate(
    model: &Model,
    losses: &[Box<dyn TaskLoss>],
    dataset: &Dataset,
    tasks: &[(String, config::Task)],
    split: Split,
    batch: usize,
    comm: &dyn Collective,
) -> Result<Metrics, CommError> {
    let mut judges: Vec<Judge> =
        tasks.iter().zip(dataset.tasks()).map(|((_, task), info)| Judge::new(&task.metrics(), info)).collect();
    let _no_grad = tch::no_grad_guard();
    for source in 0..dataset.n_sources() {
        for part in dataset.eval_batches(source, split, comm.world(), batch) {
            judge_part(model, losses, dataset.tasks(), &part, &mut judges);
        }
    }
    let mine: Vec<f64> = judges.iter().flat_map(Judge::states).collect();
    let all = comm.all_gather_bytes(bytemuck::cast_slice(&mine))?;
    for (rank, bytes) in all.iter().enumerate().filter(|(rank, _)| *rank != comm.world().rank) {
        let states: Vec<f64> = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
        let mut rest = states.as_slice();
        for judge in &mut judges {
            judge.keep(rank, &mut rest).map_err(|reason| CommError::Failed { op: "evaluation", reason })?;
        }
    }
    let world = comm.world();
    Ok(tasks.iter().zip(judges).map(|((name, _), judge)| (name.clone(), judge.values(world.rank))).collect())
}

/// Predictions of one task for some samples, `[n, outputs]` row-major: probabilities, or values in original units.
pub fn predictions(loss: &dyn TaskLoss, info: &TaskInfo, output: &Tensor) -> Vec<f64> {
    let mut values = to_f64(&loss.predict(output));
    to_original_units(&mut values, info);
    values
}

fn to_original_units(values: &mut [f64], info: &TaskInfo) {
    if info.target_mean.is_empty() {
        return;
    }
    for row in values.chunks_exact_mut(info.outputs) {
        for ((value, mean), std) in row.iter_mut().zip(&info.target_mean).zip(&info.target_std) {
            *value = *value * std + mean;
        }
    }
}

fn to_f64(t: &Tensor) -> Vec<f64> {
    Vec::try_from(t.to_kind(Float::Double).reshape([-1]).contiguous()).unwrap_or_default()
}

fn judge_part(model: &Model, losses: &[Box<dyn TaskLoss>], infos: &[TaskInfo], part: &Part, judges: &mut [Judge]) {
    if part.targets.iter().all(|t| t.n_labelled == 0) {
        return;
    }
    let stages = model.represent(&part.inputs, false);
    for target in part.targets.iter().filter(|t| t.n_labelled > 0) {
        let (task, loss) = (target.task, losses[target.task].as_ref());
        let output = model.output(task, &stages, false);
        let judge = &mut judges[task];
        judge.loss[0] += loss.sum(&output, target).to_kind(Float::Double).double_value(&[]);
        judge.loss[1] += loss.count(target);
        let scores = predictions(loss, &infos[task], &output);
        let targets = labels(target, &infos[task]);
        let scored = Scored { scores: &scores, targets: &targets, width: infos[task].outputs };
        judge.meters.iter_mut().flatten().for_each(|meter| meter.update(&scored));
    }
}

/// Labels as the meters take them: NaN where missing, class indices, values in original units.
fn labels(target: &Target, info: &TaskInfo) -> Vec<f64> {
    let mut values = to_f64(&target.values);
    if matches!(info.kind, Kind::Multiclass(_)) {
        values.iter_mut().filter(|v| **v < 0.0).for_each(|v| *v = f64::NAN);
        return values;
    }
    to_original_units(&mut values, info);
    if let Some(mask) = &target.mask {
        values.iter_mut().zip(to_f64(mask)).filter(|(_, m)| *m == 0.0).for_each(|(v, _)| *v = f64::NAN);
    }
    values
}

/// All meters of one task.
struct Judge {
    metrics: Vec<Metric>,
    /// One per metric; `None` for the loss, and for metrics that have no meaning for the task.
    meters: Vec<Option<Box<dyn Meter>>>,
    shape: Shape,
    /// Sum and count of the loss.
    loss: [f64; 2],
    /// States of the other ranks, by rank.
    others: Vec<(usize, [f64; 2], Vec<Vec<f64>>)>,
}

impl Judge {
    fn new(metrics: &[Metric], info: &TaskInfo) -> Self {
        let shape = match info.kind {
            Kind::Binary(_) => Shape::Binary,
            Kind::Multiclass(_) => Shape::Multiclass { classes: info.outputs },
            Kind::Multilabel(_) => Shape::Multilabel { labels: info.outputs },
            Kind::Regression(_) => Shape::Regression { outputs: info.outputs },
        };
        let meters = metrics.iter().map(|&m| meter(m, shape)).collect();
        Judge { metrics: metrics.to_vec(), meters, shape, loss: [0.0; 2], others: Vec::new() }
    }

    /// Everything another rank needs: the loss, then each meter's state behind its length.
    fn states(&self) -> Vec<f64> {
        let mut all = self.loss.to_vec();
        for meter in self.meters.iter().flatten() {
            let state = meter.state();
            all.push(state.len() as f64);
            all.extend(state);
        }
        all
    }

    /// Takes this task's part of another rank's states off the front.
    fn keep(&mut self, rank: usize, rest: &mut &[f64]) -> Result<(), String> {
        let short = || format!("rank {rank} sent too little");
        let mut take = |n: usize| {
            let (front, back) = rest.split_at_checked(n).ok_or_else(short)?;
            *rest = back;
            Ok::<_, String>(front)
        };
        let loss = take(2)?;
        let loss = [loss[0], loss[1]];
        let mut states = Vec::new();
        for _ in self.meters.iter().flatten() {
            let len = take(1)?[0] as usize;
            states.push(take(len)?.to_vec());
        }
        self.others.push((rank, loss, states));
        Ok(())
    }

    /// Merges all ranks **in rank order**, so that every rank computes the same bits, and reads the meters.
    fn values(mut self, rank: usize) -> Vec<(String, Option<f64>)> {
        let own = self.meters.iter().flatten().map(|m| m.state()).collect();
        self.others.push((rank, self.loss, own));
        self.others.sort_by_key(|(rank, ..)| *rank);
        let mut loss = [0.0; 2];
        let mut merged: Vec<Option<Box<dyn Meter>>> = self.metrics.iter().map(|&m| meter(m, self.shape)).collect();
        for (_, more, states) in &self.others {
            loss[0] += more[0];
            loss[1] += more[1];
            for (meter, state) in merged.iter_mut().flatten().zip(states) {
                if let Err(e) = meter.merge(state) {
                    tracing::error!("a metric's state does not fit: {e}");
                }
            }
        }
        let value = |(metric, meter): (&Metric, &Option<Box<dyn Meter>>)| {
            let value = match metric {
                Metric::Loss => (loss[1] > 0.0).then(|| loss[0] / loss[1]).filter(|mean| mean.is_finite()),
                _ => meter.as_ref().and_then(|m| m.value()),
            };
            (metric.name().to_string(), value)
        };
        self.metrics.iter().zip(&merged).map(value).collect()
    }
}

/// What `train.best_by` makes of an evaluation; larger is better. `None` if a metric it needs is not defined.
///
/// `mean` is the mean over tasks of each task's first metric, with the sign turned for metrics where less is better;
/// `task/metric` is that metric alone.
pub fn score(best_by: &str, tasks: &[(String, config::Task)], metrics: &Metrics) -> Option<f64> {
    let signed = |metric: Metric, value: f64| if metric.higher_is_better() { value } else { -value };
    let mut values = Vec::new();
    for ((name, task), (_, found)) in tasks.iter().zip(metrics) {
        for (index, (metric, (_, value))) in task.metrics().iter().zip(found).enumerate() {
            let wanted = match best_by.split_once('/') {
                None => index == 0,
                Some((t, m)) => t == name && m == metric.name(),
            };
            if wanted {
                values.push(signed(*metric, (*value)?));
            }
        }
    }
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_is_the_mean_of_first_metrics_or_one_of_them() {
        let task = |kind: &str, metrics: &str| -> config::Task {
            serde_json::from_value(serde_json::json!({
                "source": "s", "target": "y",
                "kind": serde_json::from_str::<serde_json::Value>(kind).unwrap(),
                "metrics": serde_json::from_str::<serde_json::Value>(metrics).unwrap(),
            }))
            .unwrap()
        };
        let tasks = vec![
            ("a".to_string(), task(r#"{"binary": {}}"#, r#"["auc", "accuracy"]"#)),
            ("b".to_string(), task(r#"{"regression": {}}"#, r#"["rmse", "r2"]"#)),
        ];
        let of = |auc: Option<f64>| -> Metrics {
            vec![
                ("a".into(), vec![("auc".into(), auc), ("accuracy".into(), Some(0.5))]),
                ("b".into(), vec![("rmse".into(), Some(0.2)), ("r2".into(), Some(0.9))]),
            ]
        };
        assert_eq!(score("mean", &tasks, &of(Some(0.8))), Some((0.8 - 0.2) / 2.0));
        assert_eq!(score("b/r2", &tasks, &of(None)), Some(0.9));
        assert_eq!(score("b/rmse", &tasks, &of(None)), Some(-0.2));
        assert_eq!(score("mean", &tasks, &of(None)), None);
    }
}
