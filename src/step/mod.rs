//! What one rank does by itself in a step: losses of its slice, and gradients of their sums.
//!
//! Everything here is a **sum over local samples**; division by global counts comes after the reduction.

mod forward;
pub mod losses;
mod pass;
mod probe;
mod products;
mod recompute;
mod representation;
mod sketch;
mod staged;
mod task_grads;

pub use forward::{Forward, LossSums, Term, counts, forward};
pub use pass::{Done, Pass, pass};
pub use probe::{ScopeError, probe_scopes};
pub use products::row_products;
pub use recompute::{Masks, Pieces};
pub use representation::{Cut, LeafGrads, add_leaf_gram, forward_cut, leaf_products};
pub use sketch::sketches;
pub use staged::staged_grads;
pub use task_grads::{Factors, Grads, Row, SharedRows, task_grads, weighted_grads};
