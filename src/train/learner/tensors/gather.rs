//! Parameters of all ranks, in parts that arrive one after the other while the next forward pass computes.

use super::super::engine::exchange;
use super::Tensors;
use crate::comm::tensors::TensorCollective;
use crate::comm::{Collective, CommError, Number};
use crate::ffi::TorchReal;
use crate::model::{Params, Segment};
use crate::train::phases::{Phase, within};

/// A part has a bucket for so many ranks at least. Exchanges go round a ring: the hops of a part cost the more the more ranks
/// there are, and its bytes must be worth them. With buckets of 25 MiB, a rank's block is 3 MiB.
const RANKS_PER_BUCKET: usize = 8;

impl<F: TorchReal + Number> Tensors<F> {
    /// The shards of all ranks become the parameters of all: enqueued, in the order in which a forward pass needs them.
    pub fn gather(&mut self, params: &Params, comm: &dyn Collective) -> Result<(), CommError> {
        let flat = params.flat();
        exchange(self.own_exchange(), comm, |tensors| {
            tensors.fork()?;
            for part in parts(&params.segments, params.bucket, comm.world().size) {
                tensors.grouped(&mut || {
                    let whole = |s: &Segment| flat.narrow(0, s.range.start as i64, s.range.len() as i64);
                    part.iter().try_for_each(|segment| tensors.all_gather(&whole(segment)))
                })?;
                let there = tensors.milestone()?;
                let join = move || {
                    // The next exchange tells it, and a step has one before its parameters move.
                    let _ = within(Phase::Gather, || there.join());
                };
                params.arrivals().expect(part[0].first_stage, Box::new(join));
            }
            Ok(())
        })
    }

    /// Waits for parameters that are on their way.
    pub fn settle(&self, params: &Params) -> Result<(), CommError> {
        params.arrivals().all();
        self.own_exchange().map_or(Ok(()), TensorCollective::join)
    }
}

/// Segments in the order in which stages need them, cut where a stage comes that can wait for the next part.
fn parts(segments: &[Segment], bucket: usize, size: usize) -> Vec<Vec<&Segment>> {
    let long_enough = bucket.saturating_mul(size) / RANKS_PER_BUCKET;
    let mut order: Vec<&Segment> = segments.iter().collect();
    order.sort_by_key(|segment| segment.first_stage);
    let mut parts: Vec<Vec<&Segment>> = Vec::new();
    for segment in order {
        match parts.last_mut() {
            Some(part)
                if part.last().is_some_and(|last| last.first_stage == segment.first_stage)
                    || part.iter().map(|s| s.range.len()).sum::<usize>() < long_enough =>
            {
                part.push(segment);
            }
            _ => parts.push(vec![segment]),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Rows;

    #[test]
    fn parts_follow_the_stages_and_are_worth_a_round_of_all_ranks() {
        let mut at = 0;
        let mut segment = |first_stage, len| {
            at += len;
            Segment { range: at - len..at, rows: Rows::Shared(vec![0, 1]), first_stage }
        };
        // Two scopes, and heads.
        let last = usize::MAX;
        let all = [(0, 40), (1, 30), (3, 50), (0, 10), (2, 20), (last, 8)].map(|(stage, len)| segment(stage, len));
        let cut = |bucket, size| -> Vec<Vec<usize>> {
            let parts = parts(&all, bucket, size);
            parts.iter().map(|part| part.iter().map(|s| s.first_stage).collect()).collect()
        };
        assert_eq!(cut(1, 2), [vec![0, 0], vec![1], vec![2], vec![3], vec![last]]);
        assert_eq!(cut(25, 8), [vec![0, 0], vec![1], vec![2, 3], vec![last]]);
        assert_eq!(cut(25, 16), [vec![0, 0], vec![1, 2], vec![3], vec![last]]);
        assert_eq!(cut(25, 512), [vec![0, 0, 1, 2, 3, last]]);
        assert_eq!(cut(usize::MAX, 512).len(), 1);
        let first = parts(&all, 1, 2)[0].iter().map(|s| s.range.start).collect::<Vec<_>>();
        assert_eq!(first, [0, 120], "the same order on all ranks");
    }
}
