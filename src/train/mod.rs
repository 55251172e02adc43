//! The training loop; alone in seeing every stage.

mod learner;
pub mod persist;
pub mod phases;
mod progress;

pub use learner::{Learner, StepReport};
pub use progress::Progress;
