//! Which scalars a record becomes, and under which tags.

use crate::log::{EvalRecord, RankRecord, TrainRecord};
use std::collections::BTreeSet;

/// Pairs of tasks get a chart each up to so many tasks (15 charts). Beyond that the mean, the minimum and the picture
/// of the matrix say more than the 780 charts that 40 tasks would make.
pub const PAIRS: usize = 6;

/// Ranks have a chart each up to so many ranks; of more, only the first so many that are slow.
pub const RANKS: usize = 16;

/// A scalar under a tag.
pub type Scalar = (String, f64);

/// Scalars of a training record. What a step did not have (no label of a task, no gradients seen) has no point.
pub fn train(record: &TrainRecord) -> Vec<Scalar> {
    let mut out = Vec::new();
    let tasks = &record.tasks;
    for (task, loss) in tasks.iter().zip(&record.loss) {
        out.extend(loss.map(|loss| (format!("train/loss/{task}"), loss)));
    }
    let mut per_task = |group: &str, values: &[f64]| {
        out.extend(tasks.iter().zip(values).map(|(task, value)| (format!("{group}/{task}"), *value)));
    };
    per_task("train/weight", &record.weight);
    per_task("train/coef", &record.coef);
    per_task("grad/norm", record.grad_norm.as_deref().unwrap_or_default());
    out.extend(record.conflict_rate.map(|rate| ("grad/conflict_rate".into(), rate)));
    out.extend(record.cosine.as_deref().map(|cosine| cosines(tasks, cosine)).unwrap_or_default());
    out.push(("opt/lr".into(), record.lr));
    out.push(("opt/update_norm".into(), record.update_norm));
    out.extend(performance(record));
    out.extend(record.ranks.as_ref().map(ranks).unwrap_or_default());
    out
}

fn ranks(record: &RankRecord) -> Vec<Scalar> {
    let [min, median, max] = record.spread();
    let spread = [("min", min), ("median", median), ("max", max)];
    let mut out: Vec<Scalar> = spread.map(|(name, ms)| (format!("rank/own_ms_{name}"), ms)).into();
    out.push(("rank/slowest".into(), record.slowest as f64));
    out.push(("rank/slowdown".into(), record.slowdown));
    let few = record.own_ms.len() <= RANKS;
    let shown = (0..record.own_ms.len()).filter(|rank| few || record.slow.contains(rank)).take(RANKS);
    out.extend(shown.map(|rank| (format!("rank/{rank}/own_ms"), record.own_ms[rank])));
    out
}

fn performance(record: &TrainRecord) -> Vec<Scalar> {
    let phases = record.time_ms.iter().map(|(phase, ms)| (format!("perf/time_ms/{phase}"), *ms));
    let mut out: Vec<_> = phases.collect();
    out.push(("perf/samples_per_s".into(), record.samples_per_s));
    out.push(("perf/step_ms".into(), record.time_ms.iter().map(|(_, ms)| ms).sum()));
    out.push(("perf/bytes_per_step".into(), record.bytes_per_step as f64));
    out.extend(record.checkpoint_ms.map(|ms| ("perf/checkpoint_ms".into(), ms)));
    if let Some(device) = &record.device {
        out.push(("perf/device_memory_mib".into(), device.memory_mib));
        let exchange = device.exchange.into_iter();
        out.extend(exchange.flat_map(|(ms, share)| [("perf/exchange_ms".into(), ms), ("perf/exposed".into(), share)]));
    }
    out
}

/// Cosines `[T * T]` of pairs, their mean and minimum. A pair with a zero gradient has no cosine.
fn cosines(tasks: &[String], cosine: &[f64]) -> Vec<Scalar> {
    let t = tasks.len();
    if t < 2 || cosine.len() != t * t {
        return Vec::new();
    }
    let pairs = (0..t).flat_map(|a| (a + 1..t).map(move |b| (a, b)));
    let defined: Vec<_> = pairs.map(|(a, b)| (a, b, cosine[a * t + b])).filter(|(_, _, c)| c.is_finite()).collect();
    if defined.is_empty() {
        return Vec::new();
    }
    let sum: f64 = defined.iter().map(|(_, _, c)| c).sum();
    let min = defined.iter().map(|(_, _, c)| *c).fold(f64::INFINITY, f64::min);
    let mut out = vec![("grad/cosine_mean".into(), sum / defined.len() as f64), ("grad/cosine_min".into(), min)];
    if t <= PAIRS {
        let joint = joint(tasks);
        out.extend(defined.iter().map(|&(a, b, c)| (format!("grad/cosine/{}{joint}{}", tasks[a], tasks[b]), c)));
    }
    out
}

/// What stands between the names of a pair: `_`, unless tasks like `a`, `a_b`, `b_c` and `c` would share a tag.
fn joint(tasks: &[String]) -> &'static str {
    let pairs = tasks.iter().enumerate().flat_map(|(i, a)| tasks[i + 1..].iter().map(move |b| format!("{a}_{b}")));
    let mut seen = BTreeSet::new();
    if pairs.into_iter().all(|pair| seen.insert(pair)) { "_" } else { " | " }
}

/// Scalars of an evaluation: every metric, its mean over the tasks that have it, and the score.
pub fn eval(record: &EvalRecord) -> Vec<Scalar> {
    let split = &record.split;
    let mut out = Vec::new();
    let mut means: Vec<(&str, f64, u32)> = Vec::new();
    for (task, metrics) in &record.metrics {
        for (metric, value) in metrics {
            let Some(value) = *value else { continue };
            out.push((format!("eval/{split}/{metric}/{task}"), value));
            match means.iter_mut().find(|(name, ..)| name == metric) {
                Some((_, sum, n)) => (*sum, *n) = (*sum + value, *n + 1),
                None => means.push((metric, value, 1)),
            }
        }
    }
    for (metric, sum, n) in means {
        let tag = format!("eval/{split}/{metric}/mean");
        // A task of that name keeps its tag.
        if out.iter().all(|(other, _)| *other != tag) {
            out.push((tag, sum / f64::from(n)));
        }
    }
    out.extend(record.score.map(|score| (format!("eval/{split}/score"), score)));
    out
}

/// What a tag means, shown beside its chart.
pub fn describe(tag: &str) -> &'static str {
    const TEXTS: [(&str, &str); 20] = [
        ("train/loss/", "Mean training loss of the task over the global batch."),
        ("train/weight/", "Weight of the task's loss, before gradient surgery."),
        ("train/coef/", "Coefficient of the task's gradient in the update of the shared parameters."),
        ("grad/norm/", "Norm of the task's global gradient on the shared parameters."),
        ("grad/conflict_rate", "Share of task pairs whose gradients have a negative inner product."),
        ("grad/cosine", "Cosine of the global gradients of task pairs: below 0 they conflict."),
        ("opt/lr", "Learning rate."),
        ("opt/update_norm", "Norm of the combined gradient before clipping."),
        ("perf/samples_per_s", "Samples of all ranks per second."),
        ("perf/step_ms", "Milliseconds per step, mean since the last point."),
        ("perf/time_ms/", "Milliseconds per step spent in the phase, mean since the last point."),
        ("perf/device_memory_mib", "Memory in use on rank 0's GPU, by whomever."),
        ("perf/exchange_ms", "Milliseconds per step that exchanges between GPUs took."),
        ("perf/exposed", "Share of these for which the computation waited."),
        ("perf/bytes_per_step", "Bytes one rank sends in a step, by the program's own count."),
        ("rank/slowest", "The rank that needs longest by itself."),
        ("rank/slowdown", "How many times longer it needs than the median of the others."),
        ("rank/", "Milliseconds per step that ranks spend by themselves: data, forward, backward, gram, update."),
        ("eval/", "Evaluation on the whole split, over all ranks."),
        ("", ""),
    ];
    TEXTS.iter().find(|(prefix, _)| tag.starts_with(prefix)).map_or("", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::{eval_record, train_record};

    fn tags(scalars: &[Scalar]) -> Vec<&str> {
        scalars.iter().map(|(tag, _)| tag.as_str()).collect()
    }

    #[test]
    fn a_training_record_has_every_documented_tag() {
        let scalars = train(&train_record(20, &["a", "b", "c"]));
        assert_eq!(
            tags(&scalars),
            [
                "train/loss/a", // and none of `b`, which has no label in this step
                "train/loss/c",
                "train/weight/a",
                "train/weight/b",
                "train/weight/c",
                "train/coef/a",
                "train/coef/b",
                "train/coef/c",
                "grad/norm/a",
                "grad/norm/b",
                "grad/norm/c",
                "grad/conflict_rate",
                "grad/cosine_mean",
                "grad/cosine_min",
                "grad/cosine/a_b",
                "grad/cosine/a_c",
                "grad/cosine/b_c",
                "opt/lr",
                "opt/update_norm",
                "perf/time_ms/forward",
                "perf/time_ms/backward",
                "perf/samples_per_s",
                "perf/step_ms",
                "perf/bytes_per_step",
            ]
        );
        assert!(scalars.iter().all(|(tag, _)| !describe(tag).is_empty()));
    }

    #[test]
    fn few_ranks_have_a_tag_each_and_of_many_only_the_slow_ones() {
        let of = |n: usize, slow: Vec<usize>| {
            let own_ms = (0..n).map(|rank| rank as f64).collect();
            ranks(&RankRecord { own_ms, slowest: n - 1, slowdown: 2.0, slow })
        };
        let all = ["rank/own_ms_min", "rank/own_ms_median", "rank/own_ms_max", "rank/slowest", "rank/slowdown"];
        assert_eq!(tags(&of(2, vec![])), [&all[..], &["rank/0/own_ms", "rank/1/own_ms"]].concat());
        let many = of(512, vec![7, 300]);
        assert_eq!(tags(&many), [&all[..], &["rank/7/own_ms", "rank/300/own_ms"]].concat());
        assert_eq!(many[..3].iter().map(|(_, ms)| *ms).collect::<Vec<_>>(), [0.0, 255.5, 511.0]);
        assert_eq!(of(512, (0..100).collect()).len(), all.len() + RANKS);
        assert!(many.iter().all(|(tag, _)| !describe(tag).is_empty()));
    }

    #[test]
    fn pairs_are_named_only_while_they_are_few() {
        let names: Vec<String> = (0..7).map(|i| format!("t{i}")).collect();
        let scalars = cosines(&names, &[0.5; 49]);
        assert_eq!(tags(&scalars), ["grad/cosine_mean", "grad/cosine_min"]);
        assert_eq!(cosines(&names[..6], &[0.5; 36]).len(), 2 + 15);
    }

    #[test]
    fn pairs_never_share_a_tag() {
        let names = ["a", "a_b", "b_c", "c"].map(String::from);
        let unique: BTreeSet<_> = cosines(&names, &[0.5; 16]).into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(unique.len(), 2 + 6);
        assert!(unique.contains("grad/cosine/a | b_c"));
    }

    #[test]
    fn undefined_cosines_leave_no_point() {
        let names = ["a", "b"].map(String::from);
        assert!(cosines(&names, &[f64::NAN; 4]).is_empty());
    }

    #[test]
    fn an_evaluation_has_values_means_and_the_score() {
        let scalars = eval(&eval_record(100, "val", &[("a", Some(0.5)), ("b", Some(0.75)), ("c", None)]));
        let expected = [("a", 0.5), ("b", 0.75), ("mean", 0.625)];
        let expected: Vec<_> = expected.map(|(name, v)| (format!("eval/val/auc/{name}"), v)).into();
        assert_eq!(scalars[..3], expected);
        assert_eq!(scalars[3], ("eval/val/score".into(), 0.625));
    }

    #[test]
    fn a_task_called_mean_keeps_its_tag() {
        let scalars = eval(&eval_record(100, "val", &[("a", Some(0.5)), ("mean", Some(0.75))]));
        let of_mean: Vec<_> = scalars.iter().filter(|(tag, _)| tag == "eval/val/auc/mean").collect();
        assert_eq!(of_mean, [&("eval/val/auc/mean".to_string(), 0.75)]);
    }
}
