//! Permutations whose algorithm is fixed here, so that no update of a crate can change a split or a sample order.

use crate::rng::ChaCha8Rng;
use rand::Rng;

/// A uniformly random permutation of `0 .. n` (Fisher-Yates from the end).
pub(crate) fn permutation(rng: &mut ChaCha8Rng, n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        order.swap(i, below(rng, i as u64 + 1) as usize);
    }
    order
}

/// A uniform number in `0 .. n` without bias (Lemire, "Fast Random Integer Generation in an Interval", 2019).
fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    loop {
        let wide = u128::from(rng.next_u64()) * u128::from(n);
        let low = wide as u64;
        if low >= n || low >= n.wrapping_neg() % n {
            return (wide >> 64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, rng};

    #[test]
    fn the_order_of_a_seed_never_changes() {
        assert_eq!(permutation(&mut rng(1, Stream::Shuffle, 0, 0), 8), PINNED);
        assert_eq!(permutation(&mut rng(1, Stream::Shuffle, 0, 0), 0), Vec::<u32>::new());
    }

    /// Recorded once; a change means that stored runs can no longer be continued in the same order.
    const PINNED: [u32; 8] = [4, 5, 3, 0, 6, 7, 1, 2];

    #[test]
    fn every_position_is_equally_likely() {
        let mut counts = [[0u32; 4]; 4];
        for epoch in 0..4000 {
            for (at, &value) in permutation(&mut rng(7, Stream::Shuffle, 0, epoch), 4).iter().enumerate() {
                counts[at][value as usize] += 1;
            }
        }
        // 1000 expected, standard deviation 27.
        assert!(counts.iter().flatten().all(|&c| (860..1140).contains(&c)), "{counts:?}");
    }
}
