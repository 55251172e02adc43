//! One clear message per mistake.

/// A configuration that cannot be used: where, what, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// The whole message: `file:line:column: ...`, with a `hint:` line where the fix is known.
    pub message: String,
}
