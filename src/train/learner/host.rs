//! The engine on slices of numbers: gradients are read where libtorch put them, and our own kernels do the rest.

use super::engine::{Measured, Rows, Update};
use super::moves::{Layout, Move, Shared, cut, moves, pieces};
use crate::balance::global::GramSum;
use crate::comm::reduce::{Reduced, Reducer, SegmentRows};
use crate::comm::{Collective, CommError, Number};
use crate::config::Reduction;
use crate::error::Result;
use crate::ffi::{self, TorchReal};
use crate::kernel::Fragment;
use crate::model::{Params, Rows as SegmentKind, Segment};
use crate::optim::Optimizer;
use crate::step::{Grads, LossSums, SharedRows};
use std::ops::Range;

/// Reduces rows of numbers.
pub(super) struct Host<F> {
    reducer: Reducer<F>,
}

/// The reduced rows of one step.
pub(super) struct HostRows<'a, F> {
    reduced: Reduced<'a, F>,
    shared: SharedRows,
}

impl<F: TorchReal + Number> Host<F> {
    pub fn new(reduction: Reduction) -> Self {
        Host { reducer: Reducer::new(reduction) }
    }

    /// Sums the rows over ranks.
    pub fn reduced<'a>(
        &'a mut self,
        grads: &'a Grads,
        params: &Params,
        comm: &dyn Collective,
    ) -> Result<HostRows<'a, F>, CommError> {
        let reduced = self.reducer.reduce(rows_of::<F>(params, grads), comm)?;
        Ok(HostRows { reduced, shared: grads.shared })
    }

    /// The shards of all ranks become the parameters of all.
    pub fn gather(&self, params: &mut Params, comm: &dyn Collective) -> Result<(), CommError> {
        let segments: Vec<Range<usize>> = params.segments.iter().map(|s| s.range.clone()).collect();
        let flat = ffi::numbers_mut::<F>(params.flat_mut());
        segments.into_iter().try_for_each(|range| F::all_gather(comm, &mut flat[range]))
    }

    /// This rank's shard of the parameters.
    pub fn shard(params: &Params, blocks: &[Range<usize>]) -> Vec<F> {
        let flat = ffi::numbers::<F>(params.flat());
        blocks.iter().flat_map(|b| flat[b.clone()].iter().copied()).collect()
    }

    /// This rank's shard of the parameters becomes `start + length * along`; exactly `start` for length 0.
    pub fn set_shard(params: &mut Params, blocks: &[Range<usize>], start: &[F], length: f64, along: &[F]) {
        let length = F::from_f64(length);
        let flat = ffi::numbers_mut::<F>(params.flat_mut());
        let mut at = 0;
        for block in blocks {
            let here = at..at + block.len();
            for ((p, s), v) in flat[block.clone()].iter_mut().zip(&start[here.clone()]).zip(&along[here]) {
                *p = if length == F::default() { *s } else { *s + length * *v };
            }
            at += block.len();
        }
    }
}

impl<F: TorchReal + Number> Rows<F> for HostRows<'_, F> {
    fn measure(&mut self, params: &Params, layout: &Layout, n_tasks: usize, losses: &LossSums) -> Measured {
        let gram = match self.shared {
            SharedRows::Tasks { batches } => Some(add_up(&params.segments, layout, &self.reduced, batches, n_tasks)),
            SharedRows::Combined => None,
        };
        Measured { losses: losses.read(n_tasks), gram }
    }

    fn on_host(&self) -> Reduced<'_, F> {
        self.reduced.clone()
    }

    fn squared_norm(&self, params: &Params, layout: &Layout, shared: &Shared<'_, F>, heads: &[f64]) -> f64 {
        moves(&params.segments, layout, &self.reduced, shared, heads).iter().map(Move::squared_norm).sum()
    }

    fn update(&mut self, how: Update<'_, F>, params: &mut Params, optimizer: &mut Optimizer<F>) -> Result<Option<f64>> {
        let Update { layout, shared, heads, scale, lr } = how;
        let mut moves = moves(&params.segments, layout, &self.reduced, &shared, heads);
        moves.iter_mut().flat_map(|m| &mut m.coef).for_each(|c| *c *= F::from_f64(scale));
        let rule = optimizer.rule(lr);
        let pieces = pieces(&moves, layout, ffi::numbers_mut::<F>(params.flat_mut()), optimizer);
        Ok(Some(Optimizer::apply(rule, pieces)))
    }
}

/// The gradients as the reduction takes them.
fn rows_of<'a, F: TorchReal>(params: &Params, grads: &'a Grads) -> Vec<SegmentRows<'a, F>> {
    let segment_rows = |segment: &Segment| {
        let fragments = params.entries_in(segment).map(|e| {
            let rows = grads.rows[e].iter().map(|row| row.tensor().map_or(&[][..], ffi::numbers::<F>)).collect();
            (params.entries[e].range.clone(), rows)
        });
        let n_rows = n_rows(segment, grads.shared);
        SegmentRows { range: segment.range.clone(), fragments: fragments.collect(), n_rows }
    };
    params.segments.iter().map(segment_rows).collect()
}

/// Rows of a segment's gradient.
pub(super) fn n_rows(segment: &Segment, shared: SharedRows) -> usize {
    match (&segment.rows, shared) {
        (SegmentKind::Shared(scope), SharedRows::Tasks { batches }) => batches * scope.len(),
        _ => 1,
    }
}

/// This rank's part of the Gram matrices and of the private norms.
fn add_up<F: TorchReal>(
    segments: &[Segment],
    layout: &Layout,
    reduced: &Reduced<'_, F>,
    batches: usize,
    n_tasks: usize,
) -> GramSum {
    let mut sum = GramSum::new(layout.n_groups, batches * n_tasks, n_tasks);
    for (segment, parts) in segments.iter().zip(reduced) {
        match &segment.rows {
            SegmentKind::Shared(scope) => {
                let rows: Vec<usize> = (0..batches).flat_map(|b| scope.iter().map(move |t| b * n_tasks + t)).collect();
                let mut by_group: Vec<Vec<Fragment<'_, F>>> = vec![Vec::new(); layout.n_groups];
                layout.by_group(parts).into_iter().for_each(|(group, _, fragment)| by_group[group].push(fragment));
                for (group, fragments) in by_group.iter().enumerate() {
                    sum.add_shared(group, &rows, fragments);
                }
            }
            SegmentKind::Private(owned) => {
                for (task, _, fragment) in cut(owned, parts) {
                    sum.add_private(task, fragment.rows[0]);
                }
            }
        }
    }
    sum
}
