//! The training loop; alone in seeing every stage.

mod learner;
pub mod phases;

pub use learner::{Learner, StepReport};
