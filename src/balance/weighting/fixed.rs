//! Constant weights: 1 for all tasks (equal weighting, linear scalarisation), or given by the user.

use super::{Moment, Weighting, by_task};
use crate::config::Named;

/// Weights that never change.
#[derive(Debug, Clone, PartialEq)]
pub struct Fixed(Vec<f64>);

impl Fixed {
    /// Weight 1 for every task: the objective is the sum of the mean losses.
    pub fn equal(n_tasks: usize) -> Self {
        Fixed(vec![1.0; n_tasks])
    }

    /// Weights by name; tasks that are not named have 1.
    pub fn named(tasks: &[String], by_name: &Named) -> Self {
        Fixed(by_task(tasks, by_name, 1.0))
    }
}

impl Weighting for Fixed {
    fn weights(&self, _: &Moment<'_>) -> Vec<f64> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    #[test]
    fn unnamed_tasks_have_weight_one() {
        let tasks = ["a".to_string(), "b".to_string()];
        let weights = Fixed::named(&tasks, &Named::from([("b".to_string(), 0.25)])).weights(&at(&[None, None]));
        assert_eq!(weights, [1.0, 0.25]);
    }
}
