//! GO4Align: tasks that need a similar weight form a group and share it.
//!
//! Shen et al., "GO4Align: Group Optimization for Multi-Task Alignment", 2024 (arXiv:2404.06486). In each step every
//! task has an indicator `gamma_t = p_t sum_s L_s / L_t`: the second factor balances scales, and `p`, with
//! `p_t <- p_t exp(-step_size L_t)` scaled to the sum 1, carries the losses of earlier steps. k-means puts the
//! indicators into `groups` groups, and the weight of a task is the mean indicator of its group. With one group all
//! weights are equal.
//!
//! The rule is that of the authors' code, which works step by step, not by epochs.
//!
//! Departures: k-means on numbers is solved exactly (a group is a stretch of the sorted indicators), where the code
//! starts Lloyd's iteration at random: no draw, and never a bad local optimum. The code's `groups: 1` gives all tasks
//! the same weight; the default here is 2. A loss that is not positive counts as a 10^-8th of the least positive loss
//! of the step. Tasks without a label in a step are left out of its sums and groups, and keep their `p`.
//!
//! Remembers the logarithms of `p`; saved in checkpoints.

use super::{Moment, Weighting, load_tasks, of_present, positive, present, softmax};
use crate::config;
use serde_json::Value;

/// The memory of earlier losses.
#[derive(Debug, Clone, PartialEq)]
pub struct Go4Align {
    groups: usize,
    step_size: f64,
    log_p: Vec<f64>,
}

impl Go4Align {
    /// All tasks alike.
    pub fn new(config: &config::Go4Align, n_tasks: usize) -> Self {
        Go4Align { groups: config.groups, step_size: config.step_size, log_p: vec![0.0; n_tasks] }
    }

    /// Logarithms of `p` of these tasks after a step, not yet scaled.
    fn moved(&self, tasks: &[usize], losses: &[f64]) -> Vec<f64> {
        tasks.iter().zip(losses).map(|(&t, loss)| self.log_p[t] - self.step_size * loss).collect()
    }
}

impl Weighting for Go4Align {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        of_present(at, |tasks, losses| {
            let losses = positive(losses);
            let sum: f64 = losses.iter().sum();
            let p = softmax(&self.moved(tasks, &losses));
            let indicators: Vec<f64> = p.iter().zip(&losses).map(|(p, loss)| p * (sum / loss)).collect();
            group_means(&indicators, self.groups)
        })
    }

    fn needs_losses(&self) -> bool {
        true
    }

    fn observe(&mut self, at: &Moment<'_>) {
        let (tasks, losses) = present(at.losses);
        let moved = self.moved(&tasks, &positive(&losses));
        let before: Vec<f64> = tasks.iter().map(|&t| self.log_p[t]).collect();
        // These tasks keep, together, the share of `p` that they had.
        let shift = log_sum(&before) - log_sum(&moved);
        tasks.iter().zip(moved).for_each(|(&t, log_p)| self.log_p[t] = log_p + shift);
    }

    fn save(&self) -> Value {
        serde_json::json!(self.log_p)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.log_p = load_tasks("go4align", state, self.log_p.len())?;
        Ok(())
    }
}

/// `log sum exp(x)`.
fn log_sum(x: &[f64]) -> f64 {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

/// Each value replaced by the mean of its group, for the `groups` groups with the least sum of squared distances.
fn group_means(values: &[f64], groups: usize) -> Vec<f64> {
    let n = values.len();
    let groups = groups.clamp(1, n.max(1));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let cost = stretch_costs(&order.iter().map(|&k| values[k]).collect::<Vec<f64>>());
    // least[end]: the least cost of the first `end` values in g groups; starts[g - 1][end]: where the last one starts.
    let mut least: Vec<f64> = (0..=n).map(|end| if end == 0 { 0.0 } else { cost[end - 1] }).collect();
    let mut starts: Vec<Vec<usize>> = vec![vec![0; n + 1]];
    for g in 1..groups {
        let mut next = vec![f64::INFINITY; n + 1];
        let mut start = vec![0; n + 1];
        for end in g + 1..=n {
            for from in g..end {
                let total = least[from] + cost[from * n + end - 1];
                if total < next[end] {
                    (next[end], start[end]) = (total, from);
                }
            }
        }
        least = next;
        starts.push(start);
    }
    let mut means = vec![0.0; n];
    let mut end = n;
    for start in starts.iter().rev() {
        let group = &order[start[end]..end];
        let mean = group.iter().map(|&k| values[k] / group.len() as f64).sum::<f64>();
        group.iter().for_each(|&k| means[k] = mean);
        end = start[end];
    }
    means
}

/// Sums of squared distances to the mean `[n * n]`, from each first to each last value of a stretch.
fn stretch_costs(sorted: &[f64]) -> Vec<f64> {
    let n = sorted.len();
    let mut costs = vec![0.0; n * n];
    for first in 0..n {
        let (mut mean, mut sum) = (0.0, 0.0);
        for last in first..n {
            let off = sorted[last] - mean;
            mean += off / (last - first + 1) as f64;
            sum += off * (sorted[last] - mean);
            costs[first * n + last] = sum;
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::super::testing::{close, some};
    use super::*;
    use proptest::prelude::*;

    fn go4align(groups: usize, step_size: f64) -> Go4Align {
        Go4Align::new(&config::Go4Align { groups, step_size }, 3)
    }

    #[test]
    fn indicators_follow_the_published_recursion() {
        let mut method = go4align(3, 0.1);
        let mut p = [1.0 / 3.0; 3];
        for step in 0..20 {
            let losses = [0.2 + 0.01 * f64::from(step), 5.0, 1.0 / f64::from(step + 1)];
            let moved = [0, 1, 2].map(|t| p[t] * (-0.1 * losses[t]).exp());
            p = moved.map(|x| x / moved.iter().sum::<f64>());
            let expected = [0, 1, 2].map(|t| p[t] * losses.iter().sum::<f64>() / losses[t]);
            // As many groups as tasks: every task has its own indicator.
            close(&method.weights(&at(&some(&losses))), &expected, 1e-12);
            method.observe(&at(&some(&losses)));
        }
        assert!((log_sum(&method.log_p) - 3f64.ln()).abs() < 1e-12, "{:?}", method.log_p);
    }

    #[test]
    fn tasks_of_a_group_share_its_mean() {
        let losses = some(&[1.0, 1.25, 10.0]);
        let single = go4align(3, 0.0).weights(&at(&losses));
        let pairs = go4align(2, 0.0).weights(&at(&losses));
        close(&pairs, &[(single[0] + single[1]) / 2.0, (single[0] + single[1]) / 2.0, single[2]], 1e-15);
        let mean = single.iter().sum::<f64>() / 3.0;
        close(&go4align(1, 0.0).weights(&at(&losses)), &[mean; 3], 1e-15);
    }

    #[test]
    fn absent_tasks_keep_their_memory_and_more_groups_than_tasks_do_no_harm() {
        let mut method = go4align(2, 1.0);
        method.observe(&at(&some(&[1.0, 2.0, 3.0])));
        let before = method.clone();
        let alone = method.weights(&at(&[None, Some(2.0), None]));
        assert_eq!(alone, [0.0, 1.0, 0.0]);
        method.observe(&at(&[None, Some(2.0), None]));
        close(&method.log_p, &before.log_p, 1e-15);
        method.observe(&at(&[Some(0.1), Some(2.0), None]));
        assert_eq!(method.log_p[2], before.log_p[2]);
        assert!((log_sum(&method.log_p) - log_sum(&before.log_p)).abs() < 1e-14);
    }

    /// Sum of squared distances of the values to the means of their groups.
    fn spread_within(values: &[f64], means: &[f64]) -> f64 {
        values.iter().zip(means).map(|(v, m)| (v - m).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn no_assignment_is_better(values in prop::collection::vec(-1.0f64..1.0, 1..7), groups in 1usize..5) {
            let found = group_means(&values, groups);
            let mut best = f64::INFINITY;
            for code in 0..groups.pow(values.len() as u32) {
                let of = |k: usize| code / groups.pow(k as u32) % groups;
                let mean = |k: usize| {
                    let group: Vec<f64> = (0..values.len()).filter(|&j| of(j) == of(k)).map(|j| values[j]).collect();
                    group.iter().sum::<f64>() / group.len() as f64
                };
                let means: Vec<f64> = (0..values.len()).map(mean).collect();
                best = best.min(spread_within(&values, &means));
            }
            prop_assert!((spread_within(&values, &found) - best).abs() < 1e-12, "{:?}", found);
        }
    }
}
