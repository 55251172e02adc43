//! Numbers that are broken on purpose, to prove what the guards do: the fault kinds `nan` and `spike`.
//!
//! The loss of a task is where its numbers come from, for every engine and every way to its gradient. A task that no fault
//! names keeps its loss as it is.

use crate::data::Target;
use crate::error::Result;
use crate::fault::{self, BadNumbers};
use crate::step::losses::TaskLoss;
use crate::world::World;
use tch::Tensor;

/// How much larger loss and gradient are in a spike.
const SPIKE: f64 = 1e6;

/// The losses `[T]`, of which those named by an armed fault turn bad in its step.
///
/// # Errors
/// A fault that names a task that does not exist.
pub(in crate::train) fn arm(
    mut losses: Vec<Box<dyn TaskLoss>>,
    tasks: &[String],
    world: World,
) -> Result<Vec<Box<dyn TaskLoss>>> {
    for task in fault::tasks_with_bad_numbers(tasks, world)? {
        let whole = losses.remove(task);
        losses.insert(task, Box::new(Faulty { whole, task: tasks[task].clone(), world }));
    }
    Ok(losses)
}

/// A loss that is bad in some step.
struct Faulty {
    whole: Box<dyn TaskLoss>,
    task: String,
    world: World,
}

impl TaskLoss for Faulty {
    fn sum(&self, output: &Tensor, target: &Target) -> Tensor {
        broken(self.whole.sum(output, target), fault::bad_numbers(&self.task, self.world))
    }

    fn count(&self, target: &Target) -> f64 {
        self.whole.count(target)
    }

    fn predict(&self, output: &Tensor) -> Tensor {
        self.whole.predict(output)
    }
}

fn broken(sum: Tensor, how: Option<BadNumbers>) -> Tensor {
    match how {
        None => sum,
        Some(BadNumbers::Spike) => sum * SPIKE,
        // Nothing is added, but the root has no slope at 0.
        Some(BadNumbers::Nan) => &sum + (&sum - sum.detach()).sqrt() * 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn a_bad_gradient_leaves_the_loss_and_a_spike_scales_both() {
        let numbers = |how| {
            let x = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
            let sum = broken((&x * &x).sum(Kind::Double), how);
            sum.backward();
            (sum.double_value(&[]), Vec::<f64>::try_from(x.grad()).unwrap())
        };
        assert_eq!(numbers(None), (5.0, vec![2.0, 4.0]));
        assert_eq!(numbers(Some(BadNumbers::Spike)), (5e6, vec![2e6, 4e6]));
        let (loss, gradient) = numbers(Some(BadNumbers::Nan));
        assert!(loss == 5.0 && gradient.iter().all(|x| x.is_nan()), "{loss} {gradient:?}");
    }
}
