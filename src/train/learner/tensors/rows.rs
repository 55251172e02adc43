//! The rows of gradients on the device: packed as libtorch returns them, and sent off as soon as they are complete.
//!
//! The order in which rows are sent is the same on all ranks, whatever samples they have: tasks ascending, or, of a combined
//! row, segments from the last to the first. A rank without samples of a task sends zeros in its turn.

use super::super::engine::exchange;
use super::super::host::n_rows;
use super::Tensors;
use crate::comm::{Collective, CommError, Number};
use crate::error::Result;
use crate::ffi::TorchReal;
use crate::model::{Params, Rows, Segment};
use crate::step::{Grads, SharedRows};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// The rows of all segments; kept from step to step.
pub(super) struct Buffers {
    ranges: Vec<Range<usize>>,
    kind: Kind,
    wire: Kind,
    device: Device,
    /// `[R, segment]` by segment.
    rows: Vec<Tensor>,
    /// Whether a row holds something, and whether it is on its way, by segment and row.
    filled: Vec<Vec<bool>>,
    sent: Vec<Vec<bool>>,
    /// Rounded copies on their way: segment, row, numbers.
    rounded: Vec<(usize, i64, Tensor)>,
    /// Zeros for what has no gradient, and for the gaps between parameters, of which the longest is so long.
    zeros: Option<Tensor>,
    longest_gap: usize,
}

impl Buffers {
    pub fn new(params: &Params, kind: Kind, wire: Kind) -> Self {
        let ranges: Vec<Range<usize>> = params.segments.iter().map(|s| s.range.clone()).collect();
        let gap = |s: &Segment| {
            let entries = &params.entries[params.entries_in(s)];
            let ends = entries.iter().map(|e| e.range.end);
            let starts = entries.iter().skip(1).map(|e| e.range.start).chain([s.range.end]);
            ends.zip(starts).map(|(end, start)| start - end).max().unwrap_or(0)
        };
        Buffers {
            ranges,
            kind,
            wire,
            device: params.device(),
            rows: Vec::new(),
            filled: Vec::new(),
            sent: Vec::new(),
            rounded: Vec::new(),
            zeros: None,
            longest_gap: params.segments.iter().map(gap).max().unwrap_or(0),
        }
    }

    /// Rows of a segment, `[R, segment]`.
    pub fn rows(&self, segment: usize) -> &Tensor {
        &self.rows[segment]
    }

    /// Makes room for so many rows by segment; nothing is in them.
    fn begin(&mut self, n_rows: &[usize]) {
        let fits = |(rows, &n): (&Tensor, &usize)| rows.size()[0] as usize == n;
        if self.rows.len() != n_rows.len() || !self.rows.iter().zip(n_rows).all(fits) {
            self.rows.clear(); // before the new ones: both may not fit
            let options = (self.kind, self.device);
            let room = |(range, &n): (&Range<usize>, &usize)| Tensor::empty([n as i64, range.len() as i64], options);
            self.rows = self.ranges.iter().zip(n_rows).map(room).collect();
        }
        self.filled = n_rows.iter().map(|&n| vec![false; n]).collect();
        self.sent = self.filled.clone();
    }

    /// At least `n` zeros, and as many as there are between two parameters or at the end of a segment.
    fn zeros(&mut self, kind: Kind, n: usize) -> Tensor {
        let n = n.max(self.longest_gap);
        let fits = self.zeros.as_ref().is_some_and(|z| z.kind() == kind && z.numel() >= n);
        let zeros = if fits { self.zeros.take() } else { None };
        let zeros = zeros.unwrap_or_else(|| Tensor::zeros([n as i64], (kind, self.device)));
        self.zeros.insert(zeros).shallow_clone()
    }

    /// Adds gradients, by place in the flat parameters and ascending, to a row.
    fn add(&mut self, segment: usize, row: usize, grads: &[(Range<usize>, Option<Tensor>)]) {
        let mut kinds = grads.iter().filter_map(|(_, g)| g.as_ref().map(Tensor::kind));
        let Some(kind) = kinds.next() else { return };
        let as_summed = kind == self.kind && kinds.all(|other| other == kind);
        let _no_grad = tch::no_grad_guard();
        let longest = grads.iter().filter(|(_, g)| g.is_none()).map(|(r, _)| r.len()).max().unwrap_or(0);
        let zeros = self.zeros(kind, longest);
        let zeros = |n: usize| zeros.narrow(0, 0, n as i64);
        let (mut pieces, mut at) = (Vec::with_capacity(2 * grads.len() + 1), self.ranges[segment].start);
        for (range, grad) in grads {
            if range.start > at {
                pieces.push(zeros(range.start - at));
            }
            pieces.push(grad.as_ref().map_or_else(|| zeros(range.len()), |g| g.reshape([-1])));
            at = range.end;
        }
        if self.ranges[segment].end > at {
            pieces.push(zeros(self.ranges[segment].end - at));
        }
        let mut out = self.rows[segment].select(0, row as i64);
        if std::mem::replace(&mut self.filled[segment][row], true) {
            let _ = out.g_add_(&Tensor::cat(&pieces, 0));
        } else if as_summed {
            let _ = Tensor::cat_out(&out, &pieces, 0);
        } else {
            out.copy_(&Tensor::cat(&pieces, 0));
        }
    }

    /// What is to travel of a row: zeros if nothing is in it, rounded if the wire is narrower. `None`: it has gone already.
    fn outgoing(&mut self, segment: usize, row: usize) -> Option<Tensor> {
        if std::mem::replace(&mut self.sent[segment][row], true) {
            return None;
        }
        let mut whole = self.rows[segment].select(0, row as i64);
        if !std::mem::replace(&mut self.filled[segment][row], true) {
            let _ = whole.zero_();
        }
        if self.wire == self.kind {
            return Some(whole);
        }
        let rounded = whole.to_kind(self.wire);
        self.rounded.push((segment, row as i64, rounded.shallow_clone()));
        Some(rounded)
    }
}

impl<F: TorchReal + Number> Tensors<F> {
    /// Makes room for the rows of a step.
    pub fn begin(&mut self, params: &Params, shared: SharedRows) {
        let wanted: Vec<usize> = params.segments.iter().map(|s| n_rows(s, shared)).collect();
        self.buffers.begin(&wanted);
        let batches = if let SharedRows::Tasks { batches } = shared { batches } else { 0 };
        self.complete = vec![false; batches * params.n_tasks];
        (self.shared, self.next) = (shared, 0);
    }

    /// Packs the rows of one task on one independent batch.
    pub fn task(
        &mut self,
        params: &Params,
        grads: &mut Grads,
        batch: usize,
        task: usize,
        last: bool,
        comm: &dyn Collective,
    ) -> Result<()> {
        for (segment, row) in rows_of_task(params, batch, task) {
            self.take(params, grads, segment, row);
        }
        self.complete[batch * params.n_tasks + task] |= last;
        Ok(self.send_complete(params, comm)?)
    }

    /// Packs and sends the combined rows of the stages from `first` on.
    pub fn stages(&mut self, params: &Params, grads: &mut Grads, first: usize, comm: &dyn Collective) -> Result<()> {
        let done = |s: &Segment| {
            let mut entries = params.entries[params.entries_in(s)].iter();
            entries.all(|e| e.stage.is_some_and(|stage| stage >= first))
        };
        let shared = |s: &usize| matches!(params.segments[*s].rows, Rows::Shared(_));
        // Up to the first that is not ready: ranks whose pieces differ, or that have none, send in one order all the same.
        let ready = (0..params.segments.len()).rev().filter(shared).take_while(|&s| done(&params.segments[s]));
        let ready: Vec<(usize, usize)> = ready.filter(|&s| !self.buffers.sent[s][0]).map(|s| (s, 0)).collect();
        ready.iter().for_each(|&(segment, row)| self.take(params, grads, segment, row));
        Ok(self.send(&ready, comm)?)
    }

    /// Packs what a micro-batch has left, and sends what is complete with it.
    pub fn micro(
        &mut self,
        params: &Params,
        grads: &mut Grads,
        batch: usize,
        last: bool,
        end: bool,
        comm: &dyn Collective,
    ) -> Result<()> {
        let combined = self.shared == SharedRows::Combined;
        let single = |s: &usize| combined || matches!(params.segments[*s].rows, Rows::Private(_));
        let singles: Vec<usize> = (0..params.segments.len()).rev().filter(single).collect();
        singles.iter().filter(|&&s| !self.buffers.sent[s][0]).copied().collect::<Vec<_>>().iter().for_each(|&s| {
            self.take(params, grads, s, 0);
        });
        if last && !combined {
            self.complete[batch * params.n_tasks..][..params.n_tasks].fill(true);
            self.send_complete(params, comm)?;
        }
        if end {
            self.send(&singles.into_iter().map(|s| (s, 0)).collect::<Vec<_>>(), comm)?;
        }
        Ok(())
    }

    /// The computation that follows sees the sums over ranks.
    pub fn finish(&mut self, comm: &dyn Collective) -> Result<(), CommError> {
        if comm.world().size > 1 {
            exchange(self.own_exchange(), comm, |over| over.join())?;
        }
        let _no_grad = tch::no_grad_guard();
        for (segment, row, numbers) in self.buffers.rounded.drain(..) {
            self.buffers.rows[segment].select(0, row).copy_(&numbers);
        }
        Ok(())
    }

    /// Adds the gradients of one row of a segment's parameters to the buffer, and drops them.
    fn take(&mut self, params: &Params, grads: &mut Grads, segment: usize, row: usize) {
        let entries = params.entries_in(&params.segments[segment]);
        let taken: Vec<_> = entries.map(|e| (params.entries[e].range.clone(), grads.take(e, row))).collect();
        self.buffers.add(segment, row, &taken);
    }

    /// Sends the rows of all tasks whose turn it is.
    fn send_complete(&mut self, params: &Params, comm: &dyn Collective) -> Result<(), CommError> {
        while self.complete.get(self.next) == Some(&true) {
            let (batch, task) = (self.next / params.n_tasks, self.next % params.n_tasks);
            self.send(&rows_of_task(params, batch, task), comm)?;
            self.next += 1;
        }
        Ok(())
    }

    /// Sends rows, given by segment and row.
    fn send(&mut self, rows: &[(usize, usize)], comm: &dyn Collective) -> Result<(), CommError> {
        let outgoing = |&(segment, row): &(usize, usize)| self.buffers.outgoing(segment, row);
        let outgoing: Vec<Tensor> = rows.iter().filter_map(outgoing).collect();
        if comm.world().size == 1 || outgoing.is_empty() {
            return Ok(());
        }
        let sharded = self.sharded;
        exchange(self.own_exchange(), comm, |over| {
            over.fork()?;
            let mut send = |row: &Tensor| if sharded { over.reduce_scatter(row) } else { over.all_reduce(row) };
            over.grouped(&mut || outgoing.iter().try_for_each(&mut send))
        })
    }
}

/// Segment and row of a task's gradients in the shared parameters.
fn rows_of_task(params: &Params, batch: usize, task: usize) -> Vec<(usize, usize)> {
    let row = |(index, segment): (usize, &Segment)| match &segment.rows {
        Rows::Shared(scope) => scope.binary_search(&task).ok().map(|k| (index, batch * scope.len() + k)),
        Rows::Private(_) => None,
    };
    params.segments.iter().enumerate().filter_map(row).collect()
}
