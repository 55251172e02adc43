//! Randomness as a pure function of (seed, stream, counters): nothing to save, nothing to drift.
//!
//! A rank never enters unless a stream says so: what shapes an update must be drawn alike everywhere.

use rand::SeedableRng;
pub use rand_chacha::ChaCha8Rng;

/// What a random sequence is for. The numbers are part of the run's reproducibility: never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Initial parameters; counters: (index of the parameter, 0).
    Init = 1,
    /// Order of a source's samples; counters: (source, epoch).
    Shuffle = 2,
    /// Random split of a source's rows; counters: (source, 0).
    Split = 3,
    /// Order of projections and other draws of surgery; counters: (step, 0).
    Surgery = 4,
    /// libtorch's generators before a forward pass (dropout); counters: (step, rank).
    Model = 5,
    /// Recipes that make data at run time; counters: (split, item).
    Recipe = 6,
    /// Draws of weightings; counters: (step, 0).
    Weighting = 7,
    /// Draws per coordinate of the gradient; counters: (step, 0). See `balance/shard`.
    Coordinate = 8,
    /// Random projections of gradients; counters: (step, 0).
    Sketch = 9,
    /// libtorch's generators before a piece of the encoder that is computed twice; the seed is that of [`Stream::Model`],
    /// counters: (micro-batch and part, piece).
    Recompute = 10,
}

/// The generator of one stream at two counters.
pub fn rng(seed: u64, stream: Stream, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (part, word) in key.chunks_exact_mut(8).zip([seed, stream as u64, a, b]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// One 63-bit number of a stream, to seed a generator that is not ours.
pub fn seed(seed: u64, stream: Stream, a: u64, b: u64) -> i64 {
    use rand::Rng;
    (rng(seed, stream, a, b).next_u64() >> 1) as i64
}
