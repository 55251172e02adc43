//! MultiMNIST: two overlapping MNIST digits on one canvas, made at run time. Two tasks: which digit is the left one,
//! which the right one (Sabour et al. 2017; as a two-task problem, Sener & Koltun 2018).
//!
//! The recipe, exactly:
//!
//! - The canvas is 8 pixels larger than a digit on both axes (28 x 28 digits give 36 x 36), so that both keep their
//!   full resolution. The left digit's upper left corner is at (0, 0), the right digit's at (8, 8). Where they
//!   overlap, the larger pixel wins.
//! - Which two digits: pair `i` of a split draws two different images from the split's pool with the generator
//!   `rng(seed, Stream::Recipe, split, i)`, with `split` 0 for training, 1 for validation, 2 for test; classes may be
//!   equal. So a pair depends on nothing but the seed, its split and its number: more pairs never change earlier ones.
//! - The pools: test pairs draw from the MNIST test files. Without validation pairs, training pairs draw from all of
//!   the MNIST training files. With `n_val > 0`, the training images are permuted (Fisher-Yates with
//!   `rng(seed, Stream::Recipe, 3, 0)`); validation draws from the last sixth, training from the rest, so no image is
//!   in both. 60000 images give pools of 50000 and 10000.
//! - A number below `n` is `floor(u * n / 2^64)` for the generator's next 64-bit word `u`.
//!
//! Departures from the usual loader: that one puts the right digit at (6, 6) of a 36 x 36 canvas, which it then shrinks
//! to 28 x 28 with nearest-neighbour sampling.

use super::cells::count;
use super::idx::{self, Pair};
use crate::config::MultiMnist;
use crate::data::DataError;
use crate::data::table::{Table, Wanted};
use crate::rng::{ChaCha8Rng, Stream, rng};
use rand::Rng;
use std::path::Path;

/// The columns of the format.
pub const COLUMNS: [&str; 3] = ["image", "left", "right"];
/// How far the right digit is shifted, down and to the right; also how much larger the canvas is.
const SHIFT: usize = 8;
/// With validation pairs, one in so many training images is kept for them.
const VAL_SHARE: usize = 6;
/// Counter of the permutation that divides the training images.
const POOL: u64 = 3;

/// The split of a pair; the numbers are part of the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Training.
    Train = 0,
    /// Validation.
    Val = 1,
    /// Test.
    Test = 2,
}

/// Makes the pairs of one split from the MNIST images that its recipe draws from. `path` gives the name for messages.
///
/// # Errors
/// When there are fewer than two images to draw from, or a column is wanted that the recipe does not make.
pub fn make(
    recipe: &MultiMnist,
    split: Split,
    digits: &Pair,
    path: &Path,
    wanted: &[Wanted],
) -> Result<Table, DataError> {
    let pool = pool(recipe, split, digits.images.len());
    if pool.len() < 2 {
        return Err(DataError::file(
            path,
            format!("{} to draw pairs from; at least 2 are needed", count(pool.len(), "image")),
        ));
    }
    let n = match split {
        Split::Train => recipe.n_train,
        Split::Val => recipe.n_val,
        Split::Test => recipe.n_test,
    };
    let (h, w) = (digits.images.shape[1], digits.images.shape[2]);
    let canvas = [h + SHIFT, w + SHIFT];
    let mut images = Vec::new();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for item in 0..n {
        let (a, b) = draw(recipe.seed, split, item as u64, &pool);
        overlay(&mut images, digit(digits, a), digit(digits, b), [h, w]);
        left.push(digits.labels.values[a]);
        right.push(digits.labels.values[b]);
    }
    idx::assemble(path, n, (&canvas, images), &[("left", &left), ("right", &right)], wanted)
}

/// The images that a split draws from.
fn pool(recipe: &MultiMnist, split: Split, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    if recipe.n_val == 0 || split == Split::Test {
        return order;
    }
    let mut rng = rng(recipe.seed, Stream::Recipe, POOL, 0);
    for i in (1..n).rev() {
        order.swap(i, below(&mut rng, i + 1));
    }
    let kept = order.split_off(n - n / VAL_SHARE);
    if split == Split::Val { kept } else { order }
}

/// Two different images of the pool.
fn draw(seed: u64, split: Split, item: u64, pool: &[usize]) -> (usize, usize) {
    let mut rng = rng(seed, Stream::Recipe, split as u64, item);
    let a = below(&mut rng, pool.len());
    let b = below(&mut rng, pool.len() - 1);
    // The second draw skips the first one's place.
    (pool[a], pool[if b >= a { b + 1 } else { b }])
}

/// A number below `n`: our own arithmetic, so that the pairs do not change with a library's sampling.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

fn digit(digits: &Pair, index: usize) -> &[u8] {
    let size = digits.images.shape[1] * digits.images.shape[2];
    &digits.images.values[index * size..(index + 1) * size]
}

/// Appends a canvas with both digits.
fn overlay(images: &mut Vec<u8>, left: &[u8], right: &[u8], [h, w]: [usize; 2]) {
    let (start, width) = (images.len(), w + SHIFT);
    images.resize(start + (h + SHIFT) * width, 0);
    let canvas = &mut images[start..];
    for (digit, shift) in [(left, 0), (right, SHIFT)] {
        for (y, row) in digit.chunks_exact(w).enumerate() {
            let begin = (y + shift) * width + shift;
            for (pixel, &value) in canvas[begin..begin + w].iter_mut().zip(row) {
                *pixel = (*pixel).max(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IdxPair;
    use crate::data::sources::idx::Idx;
    use crate::data::table::{Cells, Role};

    fn recipe(n_train: usize, n_val: usize) -> MultiMnist {
        let files = IdxPair { images: "i".into(), labels: "l".into() };
        MultiMnist { train: files.clone(), test: files, n_train, n_val, n_test: 5, seed: 7 }
    }

    /// `n` images of 2 x 3 pixels, all of the value of their index plus one; the label is the index.
    fn digits(n: usize) -> Pair {
        let values = (0..n).flat_map(|i| [i as u8 + 1; 6]).collect();
        let labels = Idx { shape: vec![n], values: (0..n).map(|i| i as u8).collect() };
        Pair { images: Idx { shape: vec![n, 2, 3], values }, labels }
    }

    fn wanted() -> Vec<Wanted> {
        let want = |name: &str, role| Wanted { name: name.into(), role };
        vec![want("image", Role::Image), want("left", Role::Number), want("right", Role::Number)]
    }

    fn made(recipe: &MultiMnist, split: Split) -> (Vec<u8>, Vec<f64>, Vec<f64>) {
        let table = make(recipe, split, &digits(24), Path::new("images"), &wanted()).expect("a table");
        match &table.columns[..] {
            [
                (_, Cells::Bytes { shape, values }),
                (_, Cells::Numbers { values: l, .. }),
                (_, Cells::Numbers { values: r, .. }),
            ] => {
                assert_eq!(shape, &[10, 11]);
                (values.clone(), l.clone(), r.clone())
            }
            other => panic!("unexpected columns {other:?}"),
        }
    }

    #[test]
    fn digits_stand_in_their_corners_and_the_larger_pixel_wins() {
        let mut canvas = Vec::new();
        overlay(&mut canvas, &[9; 100], &[5; 100], [10, 10]);
        let at = |y: usize, x: usize| canvas[y * 18 + x];
        assert_eq!((at(0, 0), at(7, 7), at(9, 9), at(17, 17), at(0, 10), at(17, 0)), (9, 9, 9, 5, 0, 0));
        assert_eq!((at(10, 10), at(9, 10), at(8, 9)), (5, 5, 9));
    }

    #[test]
    fn labels_belong_to_the_images_and_the_two_differ() {
        let (images, left, right) = made(&recipe(200, 0), Split::Train);
        for (item, canvas) in images.chunks_exact(110).enumerate() {
            assert_eq!(f64::from(canvas[0]), left[item] + 1.0, "pair {item}");
            assert_eq!(f64::from(canvas[109]), right[item] + 1.0, "pair {item}");
            assert_ne!(left[item], right[item], "pair {item} draws one image twice");
        }
    }

    #[test]
    fn a_pair_does_not_depend_on_how_many_there_are() {
        let (few, many) = (made(&recipe(10, 4), Split::Train), made(&recipe(50, 9), Split::Train));
        assert_eq!(few.0, many.0[..10 * 110]);
        assert_ne!(many.1[..10], many.1[10..20]);
    }

    #[test]
    fn validation_uses_images_that_training_does_not() {
        let recipe = recipe(500, 200);
        let (train, val) = (made(&recipe, Split::Train), made(&recipe, Split::Val));
        let seen = |pairs: &(Vec<u8>, Vec<f64>, Vec<f64>)| -> Vec<u8> {
            let mut all: Vec<u8> = pairs.1.iter().chain(&pairs.2).map(|&v| v as u8).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (train, val) = (seen(&train), seen(&val));
        assert_eq!((train.len(), val.len()), (20, 4), "500 and 200 pairs see all of 24 images");
        assert!(val.iter().all(|v| !train.contains(v)));
    }

    #[test]
    fn the_recipe_is_pinned() {
        // These pairs are data: a change here changes every run's training set. The values come from another
        // implementation of the recipe (ChaCha8 and all), in Python.
        let (_, left, right) = made(&recipe(6, 0), Split::Train);
        let pairs: Vec<(u8, u8)> = left.iter().zip(&right).map(|(&l, &r)| (l as u8, r as u8)).collect();
        assert_eq!(pairs, PINNED);
        assert_eq!(pool(&recipe(1, 1), Split::Val, 24), PINNED_VAL_POOL);
    }

    const PINNED: [(u8, u8); 6] = [(2, 22), (2, 23), (9, 10), (20, 1), (1, 3), (20, 5)];
    const PINNED_VAL_POOL: [usize; 4] = [8, 17, 6, 15];

    #[test]
    fn too_few_images_are_refused() {
        let error = make(&recipe(5, 5), Split::Val, &digits(8), Path::new("images"), &wanted()).expect_err("one image");
        assert_eq!(error.to_string(), "images: 1 image to draw pairs from; at least 2 are needed");
    }
}
