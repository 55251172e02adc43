//! Sketches of gradients where they are: the map of [`Sketch`] in operations of libtorch.
//!
//! ```text
//! coordinates  lo .. hi of some rows, whole blocks of `dim`     [rows, blocks, dim]
//! signs        drawn on the host, 1 bit per coordinate, expanded on the device
//! turns        each block is read from where its turn begins     gather
//! sum          over blocks                                      [rows, dim]
//! ```
//!
//! Blocks go through in groups, so that what is in between takes little memory beside the gradients.

use super::Grads;
use crate::ffi::{send, tensor_of};
use crate::kernel::Sketch;
use crate::model::Params;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Numbers of some rows together that go through at a time, unless a single block has more.
const GROUP: usize = 1 << 24;
/// Coordinates whose signs are the bits of a word.
const WORD: usize = 32;

/// Sketches `[T, dim]` of the rows of the shared parameters, in `kind` on `device`, enqueued. A coordinate has its number
/// among the shared parameters, without padding.
pub fn sketches(sketch: Sketch, params: &Params, grads: &Grads, kind: Kind, device: Device) -> Tensor {
    sketches_in_groups(sketch, params, grads, kind, device, GROUP)
}

fn sketches_in_groups(
    sketch: Sketch,
    params: &Params,
    grads: &Grads,
    kind: Kind,
    device: Device,
    group: usize,
) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let (n_tasks, dim) = (params.n_tasks, sketch.dim());
    let (places, n) = places(params);
    let n_blocks = n.div_ceil(dim);
    let rows_at_a_time = (group / dim).clamp(1, n_tasks);
    let blocks_at_a_time = (group / (rows_at_a_time * dim)).max(1);
    let sums = Tensor::zeros([n_tasks as i64, dim as i64], (kind, device));
    let zeros = Tensor::zeros([(blocks_at_a_time.min(n_blocks) * dim) as i64], (kind, device));
    for first in (0..n_blocks).step_by(blocks_at_a_time) {
        let blocks = first..n_blocks.min(first + blocks_at_a_time);
        let coordinates = blocks.start * dim..blocks.end * dim;
        let (signs, origins) = (signs(sketch, &coordinates, kind, device), origins(sketch, &blocks, device));
        for task in (0..n_tasks).step_by(rows_at_a_time) {
            let tasks = task..n_tasks.min(task + rows_at_a_time);
            let rows = |task| row(params, grads, &places, task, &coordinates, &zeros);
            let rows: Vec<Tensor> = tasks.clone().flat_map(rows).collect();
            let shape = [tasks.len(), blocks.len(), dim].map(|d| d as i64);
            let rows = Tensor::cat(&rows, 0).reshape([tasks.len() as i64, coordinates.len() as i64]);
            let signed = (rows * &signs).reshape(shape);
            let turned = signed.gather(2, &origins.expand(shape, false), false);
            let mut sum = sums.narrow(0, tasks.start as i64, tasks.len() as i64);
            let _ = sum.g_add_(&turned.sum_dim_intlist([1i64].as_slice(), false, kind));
        }
    }
    sums
}

/// The shared parameters: entry, and the number of its first coordinate; and how many coordinates there are.
fn places(params: &Params) -> (Vec<(usize, usize)>, usize) {
    let (mut places, mut n) = (Vec::new(), 0);
    for (e, entry) in params.entries.iter().enumerate().filter(|(_, entry)| params.is_shared(entry)) {
        places.push((e, n));
        n += entry.range.len();
    }
    (places, n)
}

/// Some coordinates of a task's row, in pieces. `zeros` are as many as they are, of the kind that is wanted.
fn row(
    params: &Params,
    grads: &Grads,
    places: &[(usize, usize)],
    task: usize,
    coordinates: &Range<usize>,
    zeros: &Tensor,
) -> Vec<Tensor> {
    let (mut pieces, mut at) = (Vec::new(), coordinates.start);
    let nothing = |n: usize| zeros.narrow(0, 0, n as i64);
    for &(e, place) in places {
        let entry = &params.entries[e];
        let here = place.max(coordinates.start)..(place + entry.range.len()).min(coordinates.end);
        let row = entry.scope.binary_search(&task).ok().and_then(|row| grads.rows[e][row].tensor());
        if let Some(row) = row.filter(|_| here.start < here.end) {
            if here.start > at {
                pieces.push(nothing(here.start - at));
            }
            let part = row.reshape([-1]).narrow(0, (here.start - place) as i64, here.len() as i64);
            pieces.push(part.to_kind(zeros.kind()));
            at = here.end;
        }
    }
    if coordinates.end > at {
        pieces.push(nothing(coordinates.end - at));
    }
    pieces
}

/// 1 or -1 for each coordinate.
fn signs(sketch: Sketch, coordinates: &Range<usize>, kind: Kind, device: Device) -> Tensor {
    // A draw has two words.
    let draws = coordinates.start / (2 * WORD)..coordinates.end.div_ceil(2 * WORD);
    let words: Vec<i32> = draws
        .clone()
        .map(|k| sketch.sign_bits(k as u64))
        .flat_map(|draw| [draw as u32, (draw >> 32) as u32].map(u32::cast_signed))
        .collect();
    let places: Vec<i32> = (0..WORD as i32).rev().collect();
    let sent = |numbers: &[i32]| send(&tensor_of(numbers, &[numbers.len()]), device);
    let minus = sent(&words).unsqueeze(1).bitwise_right_shift(&sent(&places)).bitwise_and(1).to_kind(kind);
    let skipped = coordinates.start - draws.start * 2 * WORD;
    let mut minus = minus.reshape([-1]).narrow(0, skipped as i64, coordinates.len() as i64);
    minus.g_mul_scalar_(-2.0).g_add_scalar_(1.0)
}

/// Which number of its block goes to each number of the sketch, `[blocks, dim]`.
fn origins(sketch: Sketch, blocks: &Range<usize>, device: Device) -> Tensor {
    let dim = sketch.dim() as i64;
    let starts: Vec<i64> = blocks.clone().map(|b| dim - sketch.shift(b as u64) as i64).collect();
    let starts = send(&tensor_of(&starts, &[starts.len(), 1]), device);
    (starts + Tensor::arange(dim, (Kind::Int64, device))).remainder(dim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::numbers;
    use crate::kernel::Span;
    use crate::model::{Init, ParamBuilder};
    use crate::step::SharedRows;

    /// Three tasks, one of which reaches only the first stage, and a parameter without a gradient.
    fn example() -> (Params, Grads) {
        let mut b = ParamBuilder::new(Kind::Double, Device::Cpu, 1, vec![None, Some(0), None]);
        b.stage(0);
        let _ = b.param("a", &[7, 31], Init::Constant(0.0));
        let _ = b.param("idle", &[45], Init::Constant(0.0));
        b.stage(1);
        let _ = b.param("b", &[211], Init::Constant(0.0));
        b.tasks(&[1]);
        let _ = b.param("head", &[9], Init::Constant(0.0));
        let params = b.finish(2);
        let mut grads = Grads::zero(SharedRows::Tasks { batches: 1 }, &params);
        for (e, entry) in params.entries.iter().enumerate().filter(|(_, entry)| entry.name != "idle") {
            for row in 0..grads.rows[e].len() {
                let shape: Vec<i64> = entry.shape.iter().map(|&d| d as i64).collect();
                grads.add(e, row, Tensor::randn(shape, (Kind::Double, Device::Cpu)));
            }
        }
        (params, grads)
    }

    /// The same by the kernel on slices.
    fn on_slices(map: Sketch, params: &Params, grads: &Grads) -> Vec<f64> {
        let mut out = vec![0.0; params.n_tasks * map.dim()];
        for (e, place) in places(params).0 {
            for (row, values) in params.entries[e].scope.iter().zip(&grads.rows[e]) {
                let Some(values) = values.tensor() else { continue };
                map.add(&[Span { row: *row, place: place as u64, values: numbers::<f64>(values) }], &mut out);
            }
        }
        out
    }

    #[test]
    fn the_map_is_that_of_the_kernel() {
        let (params, grads) = example();
        for dim in [1, 3, 64, 100, 128, 473, 4096] {
            for step in 0..3 {
                let map = Sketch::new(9, step, dim);
                let expected = Tensor::from_slice(&on_slices(map, &params, &grads)).reshape([3, dim as i64]);
                // A row and a block at a time, two of three rows, some blocks of all, and everything.
                for group in [1, 2 * dim, 3 * 200, GROUP] {
                    let found = sketches_in_groups(map, &params, &grads, Kind::Double, Device::Cpu, group);
                    let error = (&found - &expected).abs().max().double_value(&[]);
                    assert!(error < 1e-12, "dim {dim}, group {group}: {error:e}");
                }
            }
        }
    }

    #[test]
    fn halves_are_added_up_in_32_bits() {
        let (params, mut grads) = example();
        let halves = |rows: &mut Vec<crate::step::Row>| {
            for row in rows.iter_mut() {
                if let Some(tensor) = row.tensor() {
                    *row = crate::step::Row::Given(tensor.to_kind(Kind::BFloat16));
                }
            }
        };
        grads.rows.iter_mut().for_each(halves);
        let map = Sketch::new(9, 0, 64);
        let found = sketches(map, &params, &grads, Kind::Float, Device::Cpu);
        grads.rows.iter_mut().flatten().for_each(|row| {
            if let Some(tensor) = row.tensor() {
                *row = crate::step::Row::Sum(tensor.to_kind(Kind::Double));
            }
        });
        let expected = Tensor::from_slice(&on_slices(map, &params, &grads)).reshape([3, 64]);
        let error = (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
        assert_eq!(found.kind(), Kind::Float);
        assert!(error < 1e-5, "{error:e}");
    }
}
