//! Reading a meter's state back from numbers.

/// A state that no meter of this metric and shape has made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Too few or too many numbers.
    #[error("the state of the metric has {found} numbers, expected {expected}")]
    Length {
        /// Numbers that are there.
        found: usize,
        /// Numbers this meter needs (at least, where its state grows with the samples).
        expected: usize,
    },
    /// A number that should count something does not.
    #[error("the state of the metric has {0} where a count is expected")]
    Count(String),
}

/// Takes numbers from the front of a state.
pub(super) struct Reader<'a> {
    state: &'a [f64],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(state: &'a [f64]) -> Self {
        Reader { state, at: 0 }
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [f64], MergeError> {
        let length = MergeError::Length { found: self.state.len(), expected: self.at.saturating_add(n) };
        let part = self.state[self.at..].get(..n).ok_or(length)?;
        self.at += n;
        Ok(part)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[f64; N], MergeError> {
        let mut values = [0.0; N];
        values.copy_from_slice(self.take(N)?);
        Ok(values)
    }

    /// A count; as `f64` it is exact below 2^53.
    pub(super) fn count(&mut self) -> Result<u64, MergeError> {
        let [count] = self.array()?;
        let whole = (0.0..9.1e15).contains(&count) && count.fract() == 0.0;
        if whole { Ok(count as u64) } else { Err(MergeError::Count(count.to_string())) }
    }

    pub(super) fn done(self) -> Result<(), MergeError> {
        let (found, expected) = (self.state.len(), self.at);
        if found == expected { Ok(()) } else { Err(MergeError::Length { found, expected }) }
    }
}
