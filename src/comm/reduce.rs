//! From each rank's local sums to the global ones: rows of gradients, laid out, summed, cut into shards.
//!
//! * `sharded`: reduce-scatter along the parameters. Rank `r` ends with block `r` of every segment: `T * P / W` numbers
//!   instead of `T * P`, and about half the traffic of an all-reduce.
//! * `all_reduce`: every rank ends with everything.
//! * one rank: nothing is copied; fragments point at the tensors that libtorch made.

use super::{Collective, CommError, Number};
use crate::config::Reduction;
use crate::kernel::Fragment;
use std::ops::Range;

/// One segment of the flat parameters, as the reduction sees it.
#[derive(Debug)]
pub struct SegmentRows<'a, F> {
    /// Place in the flat buffer; its length is a multiple of `W`.
    pub range: Range<usize>,
    /// Local gradients: (place in the flat buffer, rows). A row is empty where the gradient is zero.
    pub fragments: Vec<(Range<usize>, Vec<&'a [F]>)>,
    /// Number of rows.
    pub n_rows: usize,
}

/// Fragments of global sums, each with its place in the flat buffer.
pub type Reduced<'a, F> = Vec<Vec<(Range<usize>, Fragment<'a, F>)>>;

/// Reduces rows of gradients; keeps its buffers from step to step.
#[derive(Debug)]
pub struct Reducer<F> {
    mode: Reduction,
    send: Vec<F>,
    rows: Vec<Vec<Vec<F>>>,
}

impl<F: Number> Reducer<F> {
    /// A reducer of this mode.
    pub fn new(mode: Reduction) -> Self {
        Reducer { mode, send: Vec::new(), rows: Vec::new() }
    }

    /// Whether each rank ends with its block alone.
    pub fn is_sharded(&self) -> bool {
        self.mode == Reduction::Sharded
    }

    /// The part of a segment that this rank owns after the reduction.
    pub fn block(&self, segment: &Range<usize>, comm: &dyn Collective) -> Range<usize> {
        if !self.is_sharded() {
            return segment.clone();
        }
        let world = comm.world();
        let len = segment.len() / world.size;
        segment.start + world.rank * len..segment.start + (world.rank + 1) * len
    }

    /// Sums the rows of all segments over ranks. The result has one list of fragments per segment.
    ///
    /// # Collective
    /// All ranks, with the same segments and numbers of rows.
    ///
    /// # Errors
    /// If a collective fails.
    pub fn reduce<'a>(
        &'a mut self,
        segments: Vec<SegmentRows<'a, F>>,
        comm: &dyn Collective,
    ) -> Result<Reduced<'a, F>, CommError> {
        if comm.world().size == 1 {
            return Ok(segments
                .into_iter()
                .map(|s| {
                    s.fragments.into_iter().map(|(at, rows)| (at.clone(), Fragment { len: at.len(), rows })).collect()
                })
                .collect());
        }
        self.rows.resize_with(segments.len(), Vec::new);
        let mut places = Vec::with_capacity(segments.len());
        for (index, segment) in segments.iter().enumerate() {
            let block = self.block(&segment.range, comm);
            let sharded = self.is_sharded();
            let rows = &mut self.rows[index];
            rows.resize_with(segment.n_rows, Vec::new);
            for (row, out) in rows.iter_mut().enumerate() {
                out.resize(block.len(), F::default());
                if sharded {
                    self.send.resize(segment.range.len(), F::default());
                    lay_out(segment, row, &mut self.send);
                    F::reduce_scatter(comm, &self.send, out)?;
                } else {
                    lay_out(segment, row, out);
                    F::all_reduce(comm, out)?;
                }
            }
            places.push(block);
        }
        Ok(places
            .into_iter()
            .zip(&self.rows)
            .map(|(at, rows)| {
                let rows = rows.iter().map(Vec::as_slice).collect();
                vec![(at.clone(), Fragment { len: at.len(), rows })]
            })
            .collect())
    }
}

/// Writes one row of a segment, zeros where it has no gradient.
fn lay_out<F: Number>(segment: &SegmentRows<'_, F>, row: usize, out: &mut [F]) {
    let mut at = 0;
    for (range, rows) in &segment.fragments {
        let (start, end) = (range.start - segment.range.start, range.end - segment.range.start);
        out[at..start].fill(F::default());
        if rows[row].is_empty() {
            out[start..end].fill(F::default());
        } else {
            out[start..end].copy_from_slice(rows[row]);
        }
        at = end;
    }
    out[at..].fill(F::default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Threads;

    #[test]
    fn both_modes_give_the_sum_of_all_ranks() {
        for size in 1..=4 {
            for mode in [Reduction::Sharded, Reduction::AllReduce] {
                let blocks = Threads::run(size, |comm| {
                    let r = comm.world().rank as f64 + 1.0;
                    // Two parameters at 0..3 and 8..10 of a segment of 12; the second row lacks the second one.
                    let (a, b) = ([r, 2.0 * r, 3.0 * r], [10.0 * r, 20.0 * r]);
                    let segment = SegmentRows {
                        range: 0..12,
                        fragments: vec![(0..3, vec![&a[..], &a[..]]), (8..10, vec![&b[..], &[]])],
                        n_rows: 2,
                    };
                    let mut reducer = Reducer::new(mode);
                    let reduced = reducer.reduce(vec![segment], &comm).unwrap();
                    let mut dense = vec![[0.0; 12]; 2];
                    for (at, fragment) in &reduced[0] {
                        for (row, out) in fragment.rows.iter().zip(&mut dense) {
                            if !row.is_empty() {
                                out[at.clone()].copy_from_slice(row);
                            }
                        }
                    }
                    (reduced[0].iter().map(|(at, _)| at.len()).sum::<usize>(), dense)
                });
                let total: f64 = (1..=size).map(|r| r as f64).sum();
                let mut sum = [[0.0; 12]; 2];
                for (n, dense) in &blocks {
                    if size > 1 {
                        assert_eq!(*n, if mode == Reduction::Sharded { 12 / size } else { 12 });
                    }
                    for (sum, dense) in sum.iter_mut().zip(dense) {
                        for (s, d) in sum.iter_mut().zip(dense) {
                            *s = if mode == Reduction::Sharded { *s + d } else { *d };
                        }
                    }
                }
                assert_eq!(sum[0][..3], [total, 2.0 * total, 3.0 * total]);
                assert_eq!(sum[0][8..10], [10.0 * total, 20.0 * total]);
                assert_eq!((sum[0][4], sum[1][9]), (0.0, 0.0));
            }
        }
    }
}
