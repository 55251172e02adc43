//! From reduced gradients and coefficients to what the optimizer's pass reads and changes.

use crate::comm::reduce::Reduced;
use crate::ffi::TorchReal;
use crate::kernel::{Fragment, Piece, dot};
use crate::model::{Rows, Segment};
use crate::optim::Optimizer;
use std::ops::Range;

/// A range of parameters, the global gradient rows that move it, and what they are multiplied with.
pub(super) struct Move<'a, F> {
    pub at: Range<usize>,
    pub grads: Fragment<'a, F>,
    pub coef: Vec<F>,
}

impl<F: TorchReal> Move<'_, F> {
    /// Squared norm of the combined gradient, if there is a single row.
    pub fn squared_norm(&self) -> f64 {
        let rows = self.grads.rows.iter().zip(&self.coef);
        rows.map(|(row, c)| c.to_f64() * c.to_f64() * dot(row, row)).sum()
    }
}

/// What the rows of the shared segments are multiplied with.
pub(super) enum Shared<'a, F> {
    /// The one row is the update.
    Combined,
    /// Coefficients of the local sums' rows `[R]`, by group of layers; and how many rows a task has.
    Rows { coef: &'a [Vec<f64>], batches: usize },
    /// A direction of its own, laid out as the shard.
    Direction(&'a [F]),
}

/// All moves of this rank, by place. `heads` `[T]` multiplies the rows of the tasks' own parameters.
pub(super) fn moves<'a, F: TorchReal>(
    segments: &[Segment],
    layout: &Layout,
    reduced: &Reduced<'a, F>,
    shared: &Shared<'a, F>,
    heads: &[f64],
) -> Vec<Move<'a, F>> {
    let mut moves = Vec::new();
    for (segment, parts) in segments.iter().zip(reduced) {
        match &segment.rows {
            Rows::Private(owned) => {
                let all = cut(owned, parts).into_iter();
                moves.extend(all.map(|(t, at, grads)| Move { at, grads, coef: vec![F::from_f64(heads[t])] }));
            }
            Rows::Shared(scope) => match shared {
                Shared::Combined => {
                    let coef = || vec![F::from_f64(1.0)];
                    moves.extend(parts.iter().map(|(at, f)| Move { at: at.clone(), grads: f.clone(), coef: coef() }));
                }
                Shared::Rows { coef, batches } => {
                    let n_tasks = heads.len();
                    for (group, at, mut grads) in layout.by_group(parts) {
                        let rows = (0..*batches).flat_map(|b| scope.iter().map(move |t| b * n_tasks + t));
                        let mut c: Vec<F> = rows.map(|r| F::from_f64(coef[group][r])).collect();
                        // Batches that only surgery looked at are not read again.
                        let unused = (batches - 1) * scope.len();
                        c.drain(..unused);
                        grads.rows.drain(..unused);
                        moves.push(Move { at, grads, coef: c });
                    }
                }
                Shared::Direction(direction) => {
                    for (at, _) in parts {
                        let row = &direction[layout.local(at)];
                        let grads = Fragment { len: at.len(), rows: vec![row] };
                        moves.push(Move { at: at.clone(), grads, coef: vec![F::from_f64(1.0)] });
                    }
                }
            },
        }
    }
    moves.sort_by_key(|m| m.at.start);
    moves
}

/// The parts of a segment by key: (key, place, rows).
pub(super) fn cut<'a, F>(
    keys: &[(usize, Range<usize>)],
    parts: &[(Range<usize>, Fragment<'a, F>)],
) -> Vec<(usize, Range<usize>, Fragment<'a, F>)> {
    let mut found = Vec::new();
    for (key, range) in keys {
        for (at, fragment) in parts {
            let (start, end) = (range.start.max(at.start), range.end.min(at.end));
            if start < end {
                let cut = |row: &&'a [F]| {
                    if row.is_empty() { &[][..] } else { &row[start - at.start..end - at.start] }
                };
                let rows = fragment.rows.iter().map(cut).collect();
                found.push((*key, start..end, Fragment { len: end - start, rows }));
            }
        }
    }
    found
}

/// Which part of the flat parameters is where in this rank's shard, and in which group of layers.
#[derive(Debug)]
pub(super) struct Layout {
    /// This rank's block of each segment.
    pub blocks: Vec<Range<usize>>,
    /// Where each block starts in the shard.
    starts: Vec<usize>,
    /// Groups of layers with their places; empty if all layers are one group.
    groups: Vec<(usize, Range<usize>)>,
    /// Number of groups, at least 1.
    pub n_groups: usize,
}

impl Layout {
    /// The layout of these blocks, with these groups (none: all layers are one).
    pub fn new(blocks: Vec<Range<usize>>, groups: Vec<(usize, Range<usize>)>) -> Self {
        let starts = blocks.iter().scan(0, |at, b| Some(std::mem::replace(at, *at + b.len()))).collect();
        let n_groups = groups.iter().map(|(g, _)| g + 1).max().unwrap_or(1);
        Layout { blocks, starts, groups, n_groups }
    }

    /// Numbers in the shard.
    pub fn len(&self) -> usize {
        self.blocks.iter().map(Range::len).sum()
    }

    /// Where a range of the flat parameters lies in the shard.
    pub fn local(&self, at: &Range<usize>) -> Range<usize> {
        let block = self.blocks.partition_point(|b| b.end <= at.start);
        let start = self.starts[block] + at.start - self.blocks[block].start;
        start..start + at.len()
    }

    /// The groups of layers in a block of a shared segment, with their places.
    pub fn groups_in(&self, block: &Range<usize>) -> Vec<(usize, Range<usize>)> {
        if self.groups.is_empty() {
            return vec![(0, block.clone())];
        }
        let within = |(group, r): &(usize, Range<usize>)| (*group, r.start.max(block.start)..r.end.min(block.end));
        self.groups.iter().map(within).filter(|(_, r)| r.start < r.end).collect()
    }

    /// The parts of a shared segment by group of layers.
    pub fn by_group<'a, F: Clone>(
        &self,
        parts: &[(Range<usize>, Fragment<'a, F>)],
    ) -> Vec<(usize, Range<usize>, Fragment<'a, F>)> {
        if self.groups.is_empty() {
            return parts.iter().map(|(at, f)| (0, at.clone(), Fragment::clone(f))).collect();
        }
        cut(&self.groups, parts)
    }
}

/// Moves with the parameters and optimizer states they change: disjoint borrows, cut off from left to right.
pub(super) fn pieces<'a, F: TorchReal>(
    moves: &'a [Move<'a, F>],
    layout: &Layout,
    flat: &'a mut [F],
    optimizer: &'a mut Optimizer<F>,
) -> Vec<Piece<'a, F>> {
    let (has_first, has_second) = (!optimizer.first.is_empty(), !optimizer.second.is_empty());
    let mut param = Cutter { rest: flat, at: 0 };
    let mut first = Cutter { rest: &mut optimizer.first, at: 0 };
    let mut second = Cutter { rest: &mut optimizer.second, at: 0 };
    moves
        .iter()
        .map(|m| {
            let local = layout.local(&m.at);
            Piece {
                grads: m.grads.clone(),
                coef: &m.coef,
                param: param.cut(m.at.clone()),
                first: if has_first { first.cut(local.clone()) } else { &mut [] },
                second: if has_second { second.cut(local) } else { &mut [] },
            }
        })
        .collect()
}

/// Hands out disjoint ranges of a slice in ascending order.
struct Cutter<'a, F> {
    rest: &'a mut [F],
    at: usize,
}

impl<'a, F> Cutter<'a, F> {
    fn cut(&mut self, range: Range<usize>) -> &'a mut [F] {
        let rest = std::mem::take(&mut self.rest);
        let (_, rest) = rest.split_at_mut(range.start - self.at);
        let (wanted, rest) = rest.split_at_mut(range.len());
        self.rest = rest;
        self.at = range.end;
        wanted
    }
}
