//! Inner products of this rank's rows, on the device and in 64 bits at the end.

use super::{Layout, Tensors};
use crate::balance::global::GramSum;
use crate::comm::Number;
use crate::ffi::TorchReal;
use crate::model::{Params, Rows, Segment};
use crate::step::row_products;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Which task owns which of this rank's private coordinates.
pub(super) struct Owners {
    /// By segment with private parameters.
    by_segment: Vec<(usize, Owned)>,
}

pub(super) struct Owned {
    /// Task of each range.
    pub tasks: Vec<usize>,
    /// Where ranges start and end in the block, `[2 * ranges]`, on the device.
    edges: Tensor,
    /// Range of each coordinate of the block, `[block]`; the number of ranges where there is none.
    pub range_of: Tensor,
}

impl Owners {
    pub fn new(segments: &[Segment], blocks: &[Range<usize>], device: Device) -> Self {
        let mut by_segment = Vec::new();
        for (index, (segment, block)) in segments.iter().zip(blocks).enumerate() {
            let Rows::Private(owned) = &segment.rows else { continue };
            let local = |r: &Range<usize>| r.start.max(block.start)..r.end.min(block.end);
            let here: Vec<(usize, Range<usize>)> =
                owned.iter().map(|(t, r)| (*t, local(r))).filter(|(_, r)| r.start < r.end).collect();
            let mut range_of = vec![here.len() as i64; block.len()];
            for (k, (_, r)) in here.iter().enumerate() {
                range_of[r.start - block.start..r.end - block.start].fill(k as i64);
            }
            let edge = |at: usize| (at - block.start) as i64;
            let edges: Vec<i64> =
                here.iter().map(|(_, r)| edge(r.start)).chain(here.iter().map(|(_, r)| edge(r.end))).collect();
            let sent = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(device);
            let tasks = here.iter().map(|(t, _)| *t).collect();
            by_segment.push((index, Owned { tasks, edges: sent(&edges), range_of: sent(&range_of) }));
        }
        Owners { by_segment }
    }

    /// Owners of a segment's coordinates, if they are private.
    pub fn of(&self, segment: usize) -> Option<&Owned> {
        self.by_segment.iter().find(|(s, _)| *s == segment).map(|(_, owned)| owned)
    }
}

/// What has been multiplied, in the order of the numbers.
enum Item {
    /// `[n, n]` products of the rows of a segment, within a group of layers.
    Gram { segment: usize, group: usize, n: usize },
    /// Squared norms of the ranges of these tasks.
    Private { tasks: Vec<usize> },
}

/// Products of one step.
pub(super) struct Products {
    items: Vec<Item>,
    values: Vec<f64>,
}

impl Products {
    /// Enqueues all products; the tensors are what is to be read.
    pub fn enqueue<F: TorchReal + Number>(
        of: &Tensors<F>,
        params: &Params,
        layout: &Layout,
    ) -> (Products, Vec<Tensor>) {
        let _no_grad = tch::no_grad_guard();
        let (mut items, mut wanted) = (Vec::new(), Vec::new());
        for (segment, (info, block)) in params.segments.iter().zip(&of.blocks).enumerate() {
            let rows = of.block(segment, params);
            match &info.rows {
                Rows::Shared(_) => {
                    for (group, range) in layout.groups_in(block) {
                        let part = rows.narrow(1, (range.start - block.start) as i64, range.len() as i64);
                        items.push(Item::Gram { segment, group, n: part.size()[0] as usize });
                        wanted.push(row_products(&part));
                    }
                }
                Rows::Private(_) => {
                    let Some(owned) = of.owners.of(segment).filter(|o| !o.tasks.is_empty()) else { continue };
                    items.push(Item::Private { tasks: owned.tasks.clone() });
                    wanted.push(squares(&rows.select(0, 0), owned));
                }
            }
        }
        (Products { items, values: Vec::new() }, wanted)
    }

    /// With their values.
    pub fn with(self, values: Vec<f64>) -> Products {
        Products { values, ..self }
    }

    /// As the sums over ranks take them.
    pub fn gram(&self, params: &Params, layout: &Layout, batches: usize, n_tasks: usize) -> GramSum {
        let mut sum = GramSum::new(layout.n_groups, batches * n_tasks, n_tasks);
        for (item, values) in self.each() {
            match item {
                Item::Gram { segment, group, .. } => {
                    let Rows::Shared(scope) = &params.segments[*segment].rows else { continue };
                    let rows: Vec<usize> =
                        (0..batches).flat_map(|b| scope.iter().map(move |t| b * n_tasks + t)).collect();
                    sum.add_products(*group, &rows, values);
                }
                Item::Private { tasks } => {
                    tasks.iter().zip(values).for_each(|(&task, &square)| sum.add_private_square(task, square));
                }
            }
        }
        sum
    }

    /// Squared norm of the shared rows, of which there is one per segment.
    pub fn combined(&self) -> f64 {
        self.each().filter(|(item, _)| matches!(item, Item::Gram { .. })).flat_map(|(_, values)| values).sum()
    }

    /// Squared norms of the tasks' own rows `[T]`.
    pub fn private(&self, n_tasks: usize) -> Vec<f64> {
        let mut squares = vec![0.0; n_tasks];
        for (item, values) in self.each() {
            if let Item::Private { tasks } = item {
                tasks.iter().zip(values).for_each(|(&task, square)| squares[task] += square);
            }
        }
        squares
    }

    fn each(&self) -> impl Iterator<Item = (&Item, &[f64])> {
        let mut at = 0;
        self.items.iter().map(move |item| {
            let n = match item {
                Item::Gram { n, .. } => n * n,
                Item::Private { tasks } => tasks.len(),
            };
            at += n;
            (item, &self.values[at - n..at])
        })
    }
}

/// Squared norms of ranges of a row, `[ranges]`: differences of a running sum, in a fixed number of operations however many
/// ranges there are.
fn squares(row: &Tensor, owned: &Owned) -> Tensor {
    let wide = row.to_kind(Kind::Double);
    let running = (&wide * &wide).cumsum(0, Kind::Double);
    let from_zero = Tensor::cat(&[running.narrow(0, 0, 1).zeros_like(), running], 0);
    let at_edges = from_zero.index_select(0, &owned.edges);
    let n = owned.tasks.len() as i64;
    // A running sum may round a range of zeros to a little less than nothing.
    (at_edges.narrow(0, n, n) - at_edges.narrow(0, 0, n)).clamp_min(0.0)
}
