//! Who this process is among all processes of the run.

/// The place of this rank in the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// This process, `0 .. size`.
    pub rank: usize,
    /// Number of processes, `W`.
    pub size: usize,
    /// This process among those of the same node.
    pub local_rank: usize,
    /// Number of processes on this node.
    pub local_size: usize,
}

impl World {
    /// A world of one.
    pub const SOLO: World = World { rank: 0, size: 1, local_rank: 0, local_size: 1 };

    /// Whether this is rank 0, which prints and writes.
    pub fn is_main(self) -> bool {
        self.rank == 0
    }

    /// This rank's contiguous part of `n` items: parts differ by one item at most and together are `0 .. n`.
    pub fn slice(self, n: usize) -> std::ops::Range<usize> {
        n * self.rank / self.size..n * (self.rank + 1) / self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_everything_once_and_evenly() {
        for n in [0, 1, 5, 16, 1001] {
            for size in 1..6 {
                let parts: Vec<_> = (0..size).map(|rank| World { rank, size, ..World::SOLO }.slice(n)).collect();
                assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
                let (min, max) = (parts.iter().map(|p| p.len()).min(), parts.iter().map(|p| p.len()).max());
                assert!(max.unwrap() - min.unwrap() <= 1);
            }
        }
    }
}
