//! The numbers of a comparison: means and deviations over seeds, against the single tasks, and against equal weights.

use super::plan::{Plan, Slot};
use super::results::Outcome;
use crate::config::Metric;
use crate::eval::{DeltaM, Measured, Undefined, delta_m};
use std::collections::BTreeMap;

/// What is known so far, by (entrant, learning rate, seed).
pub type Known = BTreeMap<(usize, usize, u64), Outcome>;

/// A number over seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Stat {
    /// Per seed; `None`: no such run, or not defined in it.
    pub values: Vec<Option<f64>>,
}

impl Stat {
    fn defined(&self) -> Vec<f64> {
        self.values.iter().flatten().copied().collect()
    }

    /// How many there are.
    pub fn n(&self) -> usize {
        self.values.iter().flatten().count()
    }

    /// Their mean.
    pub fn mean(&self) -> Option<f64> {
        let values = self.defined();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Their standard deviation, with `n - 1`; `None` for fewer than two.
    pub fn sd(&self) -> Option<f64> {
        let (values, mean) = (self.defined(), self.mean()?);
        let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        (values.len() > 1).then(|| (squares / (values.len() as f64 - 1.0)).sqrt())
    }
}

/// A metric of a task, or of all tasks that have it, as a column of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Index of the task; `None`: the mean over tasks.
    pub task: Option<usize>,
    /// Its index among the task's metrics.
    pub index: usize,
    /// The metric.
    pub metric: Metric,
    /// Of the task alone.
    pub single: Stat,
    /// Of every method.
    pub methods: Vec<Stat>,
}

/// A method, beside its metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its learning rate; `None`: not chosen yet, or none could be.
    pub rate: Option<f64>,
    /// Runs that have ended well, and runs that failed.
    pub runs: [usize; 2],
    /// Per seed, whether its run failed.
    pub failed: Vec<Option<bool>>,
    /// Over all metrics, in percent, lower is better.
    pub delta_m: Stat,
    /// Within tasks, then over tasks, in percent, higher is better.
    pub improvement: Stat,
    /// Milliseconds of a step.
    pub step_ms: Stat,
    /// The same, relative to equal weights with the same seed.
    pub relative: Stat,
}

/// Validation scores by which the learning rate of an entrant was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Per learning rate; `None`: no run, a failed one, or not defined.
    pub scores: Vec<Option<f64>>,
    /// Index of the chosen one.
    pub chosen: Option<usize>,
}

/// All numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// By method.
    pub rows: Vec<Row>,
    /// By task and metric.
    pub columns: Vec<Column>,
    /// By metric that two tasks have or more, the mean over these.
    pub means: Vec<Column>,
    /// By entrant.
    pub choices: Vec<Choice>,
    /// By task, the runs of its baseline that failed.
    pub failed_alone: Vec<usize>,
    /// Why a method has no delta-m.
    pub undefined: Vec<String>,
    /// Runs that have ended or will not be made, and all runs.
    pub progress: [usize; 2],
}

/// The learning rate of an entrant: that of the best validation score with the first seed (the first one of equals), once
/// all have been tried. `None` before, and if all runs failed.
pub fn choose(plan: &Plan, known: &Known, entrant: usize) -> Option<usize> {
    if !plan.tunes() {
        return Some(0);
    }
    let seed = *plan.seeds.first()?;
    let mut best: Option<(usize, f64)> = None;
    for rate in 0..plan.rates.len() {
        let outcome = known.get(&(entrant, rate, seed))?;
        let score = outcome.score.unwrap_or(f64::NEG_INFINITY);
        if !outcome.failed && best.is_none_or(|(_, most)| score > most) {
            best = Some((rate, score));
        }
    }
    best.map(|(rate, _)| rate)
}

/// Whether a run will never be made: no learning rate of its entrant came to an end.
fn hopeless(plan: &Plan, known: &Known, slot: &Slot) -> bool {
    let tried = |rate| plan.seeds.first().is_some_and(|seed| known.contains_key(&(slot.entrant, rate, *seed)));
    slot.rate.is_none() && (0..plan.rates.len()).all(tried) && choose(plan, known, slot.entrant).is_none()
}

impl Report {
    /// Works out everything from what is known so far.
    pub fn new(plan: &Plan, known: &Known) -> Report {
        let chosen: Vec<Option<usize>> = (0..plan.entrants.len()).map(|e| choose(plan, known, e)).collect();
        // Per entrant and seed.
        let runs: Vec<Vec<Option<&Outcome>>> = chosen
            .iter()
            .enumerate()
            .map(|(e, rate)| plan.seeds.iter().map(|seed| known.get(&(e, (*rate)?, *seed))).collect())
            .collect();
        let columns = columns(plan, &runs);
        let mut undefined = Vec::new();
        let rows = (0..plan.n_methods).map(|m| row(plan, m, chosen[m], &runs, &columns, &mut undefined)).collect();
        let choices = (0..plan.entrants.len()).map(|entrant| choice(plan, known, entrant, chosen[entrant])).collect();
        let slots = plan.slots();
        let settled = |slot: &&Slot| {
            let rate = slot.rate.or(chosen[slot.entrant]);
            rate.is_some_and(|rate| known.contains_key(&(slot.entrant, rate, slot.seed))) || hopeless(plan, known, slot)
        };
        Report {
            rows,
            means: means(&columns),
            columns,
            choices,
            failed_alone: runs[plan.n_methods..].iter().map(|runs| count(runs, true)).collect(),
            undefined,
            progress: [slots.iter().filter(settled).count(), slots.len()],
        }
    }
}

fn count(runs: &[Option<&Outcome>], failed: bool) -> usize {
    runs.iter().flatten().filter(|run| run.failed == failed).count()
}

/// Of every run that has ended well.
fn stat(runs: &[Option<&Outcome>], value: impl Fn(&Outcome) -> Option<f64>) -> Stat {
    let one = |run: &Option<&Outcome>| run.filter(|run| !run.failed).and_then(&value);
    Stat { values: runs.iter().map(one).collect() }
}

fn columns(plan: &Plan, runs: &[Vec<Option<&Outcome>>]) -> Vec<Column> {
    let mut columns = Vec::new();
    for (task, (_, config)) in plan.config.tasks.iter().enumerate() {
        for (index, metric) in config.metrics().into_iter().enumerate() {
            let of = |task: usize| move |run: &Outcome| *run.metrics.get(task)?.get(index)?;
            columns.push(Column {
                task: Some(task),
                index,
                metric,
                single: stat(&runs[plan.n_methods + task], of(0)),
                methods: runs[..plan.n_methods].iter().map(|runs| stat(runs, of(task))).collect(),
            });
        }
    }
    columns
}

fn means(columns: &[Column]) -> Vec<Column> {
    let mut means: Vec<Column> = Vec::new();
    for column in columns {
        let of: Vec<&Column> = columns.iter().filter(|c| c.metric == column.metric).collect();
        if of.len() < 2 || means.iter().any(|mean| mean.metric == column.metric) {
            continue;
        }
        means.push(Column {
            task: None,
            index: means.len(),
            metric: column.metric,
            single: mean_of(&of.iter().map(|c| &c.single).collect::<Vec<_>>()),
            methods: (0..column.methods.len())
                .map(|m| mean_of(&of.iter().map(|c| &c.methods[m]).collect::<Vec<_>>()))
                .collect(),
        });
    }
    means
}

/// Seed by seed; none where one of them has none.
fn mean_of(stats: &[&Stat]) -> Stat {
    let seeds = stats.first().map_or(0, |stat| stat.values.len());
    let one = |s: usize| {
        let values: Option<Vec<f64>> = stats.iter().map(|stat| stat.values[s]).collect();
        values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    Stat { values: (0..seeds).map(one).collect() }
}

fn row(
    plan: &Plan,
    method: usize,
    rate: Option<usize>,
    runs: &[Vec<Option<&Outcome>>],
    columns: &[Column],
    undefined: &mut Vec<String>,
) -> Row {
    let mine = &runs[method];
    let mut compared: Vec<Option<DeltaM>> = Vec::new();
    for (s, run) in mine.iter().enumerate() {
        let against = match run.filter(|run| !run.failed) {
            Some(_) => against_single_tasks(plan, columns, method, s).map(Some),
            None => Ok(None),
        };
        compared.push(against.unwrap_or_else(|reason| {
            let who = match reason {
                Undefined::NoValue { .. } => format!("{}, seed {}: ", plan.entrants[method].name, plan.seeds[s]),
                _ => String::new(),
            };
            let text = format!("{who}{reason}");
            if !undefined.contains(&text) {
                undefined.push(text);
            }
            None
        }));
    }
    let delta = |of: fn(&DeltaM) -> f64| Stat { values: compared.iter().map(|d| d.as_ref().map(of)).collect() };
    let step_ms = stat(mine, |run| run.step_ms);
    let equal = stat(&runs[0], |run| run.step_ms);
    let ratios = step_ms.values.iter().zip(&equal.values).map(|(a, b)| Some((*a)? / (*b)?));
    Row {
        rate: rate.map(|rate| plan.rates[rate]),
        runs: [count(mine, false), count(mine, true)],
        failed: mine.iter().map(|run| run.map(|run| run.failed)).collect(),
        delta_m: delta(|d| d.delta_m),
        improvement: delta(|d| d.improvement),
        relative: Stat { values: ratios.collect() },
        step_ms,
    }
}

/// One run of a method against the means of the baselines, which are the row that the table shows.
fn against_single_tasks(plan: &Plan, columns: &[Column], method: usize, s: usize) -> Result<DeltaM, Undefined> {
    let task = |(t, (name, _)): (usize, &(String, _))| {
        let measured = columns.iter().filter(|c| c.task == Some(t)).map(|c| Measured {
            metric: c.metric.name().into(),
            higher_is_better: c.metric.higher_is_better(),
            value: c.methods[method].values[s],
            baseline: c.single.mean(),
        });
        (name.clone(), measured.collect())
    };
    delta_m(&plan.config.tasks.iter().enumerate().map(task).collect::<Vec<_>>())
}

fn choice(plan: &Plan, known: &Known, entrant: usize, chosen: Option<usize>) -> Choice {
    let first = plan.seeds.first().copied().unwrap_or_default();
    let score = |rate| known.get(&(entrant, rate, first)).filter(|run| !run.failed).and_then(|run| run.score);
    Choice { scores: (0..plan.rates.len()).map(score).collect(), chosen }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{outcome, plan, sample};
    use super::*;

    #[test]
    fn means_and_deviations_are_over_the_seeds_that_have_a_value() {
        let stat = |values: &[Option<f64>]| {
            let stat = Stat { values: values.to_vec() };
            (stat.n(), stat.mean(), stat.sd())
        };
        assert_eq!(stat(&[Some(1.0), None, Some(3.0)]), (2, Some(2.0), Some(2.0f64.sqrt())));
        assert_eq!(stat(&[Some(5.0), None]), (1, Some(5.0), None));
        assert_eq!(stat(&[None]), (0, None, None));
    }

    #[test]
    fn a_whole_comparison_by_hand() {
        let (plan, _, known) = sample();
        let report = Report::new(&plan, &known);
        // a alone: auc 0.5 and 0.5; b alone: rmse 2 and 4.
        assert_eq!(report.columns[0].single.values, [Some(0.5), Some(0.5)]);
        assert_eq!(report.columns[1].single.mean(), Some(3.0));
        // Equal weights: auc 0.6 (+20 %), rmse 3 (0 %); then auc 0.5 (0 %), rmse 6 (-100 %).
        let close = |stat: &Stat, expected: [f64; 2]| {
            let found: Vec<f64> = stat.values.iter().flatten().copied().collect();
            assert_eq!(found.len(), 2, "{stat:?}");
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}, not {expected:?}");
        };
        close(&report.rows[0].delta_m, [-10.0, 50.0]);
        close(&report.rows[0].improvement, [10.0, -50.0]);
        close(&report.rows[0].relative, [1.0, 1.0]);
        // The other one takes 3 instead of 2 ms, then 8 instead of 4.
        close(&report.rows[1].relative, [1.5, 2.0]);
        assert_eq!(report.rows.iter().map(|row| row.runs).collect::<Vec<_>>(), [[2, 0], [2, 0]]);
        assert_eq!((report.progress, report.undefined.len()), ([8, 8], 0));
    }

    #[test]
    fn the_mean_of_the_seeds_is_the_delta_of_the_means_in_the_table() {
        let (plan, _, known) = sample();
        let report = Report::new(&plan, &known);
        let means: Vec<(String, Vec<Measured>)> = report
            .columns
            .iter()
            .map(|c| {
                let higher_is_better = c.metric.higher_is_better();
                let (value, baseline) = (c.methods[0].mean(), c.single.mean());
                (c.metric.name().to_string(), vec![Measured { metric: "m".into(), higher_is_better, value, baseline }])
            })
            .collect();
        let of_means = delta_m(&means).unwrap();
        assert!((report.rows[0].delta_m.mean().unwrap() - of_means.delta_m).abs() < 1e-9);
        assert!((report.rows[0].improvement.mean().unwrap() - of_means.improvement).abs() < 1e-9);
    }

    #[test]
    fn metrics_that_several_tasks_have_are_averaged_over_them() {
        let (mut plan, _, known) = sample();
        plan.config.tasks[0].1.metrics = vec![Metric::Loss];
        plan.config.tasks[1].1.metrics = vec![Metric::Loss];
        let report = Report::new(&plan, &known);
        assert_eq!((report.means.len(), report.means[0].task, report.means[0].metric), (1, None, Metric::Loss));
        assert_eq!(report.means[0].single.values, [Some(1.25), Some(2.25)]);
        assert_eq!(report.means[0].methods[0].values, [Some(1.8), Some(3.25)]);
        let one = Stat { values: vec![Some(1.0), Some(2.0)] };
        assert_eq!(mean_of(&[&one, &Stat { values: vec![None, Some(4.0)] }]).values, [None, Some(3.0)]);
        let (plan, _, known) = sample();
        assert_eq!(Report::new(&plan, &known).means, []);
    }

    #[test]
    fn failed_and_missing_runs_are_counted_and_left_out() {
        let (plan, _, mut known) = sample();
        known.get_mut(&(1, 0, 2)).unwrap().failed = true;
        known.remove(&(0, 0, 2));
        let report = Report::new(&plan, &known);
        assert_eq!(report.rows.iter().map(|row| row.runs).collect::<Vec<_>>(), [[1, 0], [1, 1]]);
        assert_eq!(report.rows[1].failed, [Some(false), Some(true)]);
        assert_eq!((report.rows[1].delta_m.n(), report.columns[0].methods[1].n()), (1, 1));
        assert_eq!(report.progress, [7, 8]);
    }

    #[test]
    fn why_there_is_no_delta_is_said_once() {
        let (plan, _, mut known) = sample();
        for seed in [1, 2] {
            known.insert((3, 0, seed), outcome(&[&[Some(0.0)]], 1.0));
        }
        let report = Report::new(&plan, &known);
        assert_eq!(report.undefined, ["the single-task value of b/rmse is 0, and nothing can be relative to that"]);
        assert_eq!(report.rows[0].delta_m.n(), 0);
        let (.., mut known) = sample();
        known.insert((1, 0, 2), outcome(&[&[None], &[Some(1.0)]], 1.0));
        let report = Report::new(&plan, &known);
        assert_eq!(report.undefined, ["pcgrad, seed 2: there is no value of a/auc"]);
        assert_eq!((report.rows[0].delta_m.n(), report.rows[1].delta_m.n()), (2, 1));
    }

    #[test]
    fn learning_rates_are_chosen_by_the_first_seed_once_all_were_tried() {
        let plan = plan(&[0.1, 0.2, 0.3]);
        let scored =
            |score: Option<f64>, failed| Outcome { score, failed, ..outcome(&[&[Some(0.5)], &[Some(1.0)]], 1.0) };
        let mut known = Known::new();
        known.insert((0, 0, 1), scored(Some(0.5), false));
        known.insert((0, 1, 1), scored(Some(0.7), false));
        assert_eq!(choose(&plan, &known, 0), None, "one is missing");
        known.insert((0, 2, 1), scored(Some(0.7), false));
        assert_eq!(choose(&plan, &known, 0), Some(1), "the first of equals");
        known.insert((0, 1, 1), scored(Some(0.9), true));
        assert_eq!(choose(&plan, &known, 0), Some(2), "a failed run is not chosen");
        known.insert((0, 2, 1), scored(None, false));
        assert_eq!(choose(&plan, &known, 0), Some(0), "a score that is not defined is the worst");
        let slot = |entrant| Slot { entrant, seed: 2, rate: None };
        assert!(!hopeless(&plan, &known, &slot(0)) && !hopeless(&plan, &known, &slot(1)));
        (0..3).for_each(|rate| drop(known.insert((1, rate, 1), scored(None, true))));
        assert!(hopeless(&plan, &known, &slot(1)));
        assert_eq!(choose(&plan, &known, 1), None);
    }
}
