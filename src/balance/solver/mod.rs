//! Small convex problems in `f64`: deterministic, with a stated tolerance and a cap on iterations.

pub mod eigen;
pub mod simplex;
