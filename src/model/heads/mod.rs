//! Heads: a task's own layers after the shared representation.

mod dense;

pub use dense::Dense;

use super::{Head, ParamBuilder, TaskSpec};

/// The configured head of a task on a representation of this width.
pub fn build(task: &TaskSpec, width: usize, builder: &mut ParamBuilder) -> Box<dyn Head> {
    Box::new(Dense::new(&format!("heads.{}", task.name), &task.head, width, task.outputs, builder))
}
