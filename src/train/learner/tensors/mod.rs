//! The engine on tensors: rows of gradients, optimizer states and updates stay on the device.
//!
//! ```text
//! rows.rs     gradients packed into J as they come; finished rows sent off at once           comm/tensors
//! products.rs inner products of the rows, enqueued
//! update.rs   c^T J, then libtorch's fused optimizer
//! gather.rs   parameters of all ranks, which arrive while the next forward pass computes     comm/tensors
//! ```
//!
//! Nothing here waits for the device but [`ffi::read`](crate::ffi::read) in `measure`, once per step; what comes before (weights
//! that need losses, sketches) may have a wait of its own.

mod gather;
mod products;
mod rows;
mod update;

use super::engine::{Measured, Rows, Update};
use super::moves::{Layout, Shared};
use crate::comm::Number;
use crate::comm::reduce::Reduced;
use crate::comm::tensors::TensorCollective;
use crate::config::{Optim, Reduction};
use crate::error::Result;
use crate::ffi::{self, TorchReal};
use crate::kernel::{Fragment, dot};
use crate::model::Params;
use crate::optim::Optimizer;
use crate::step::{LossSums, SharedRows};
use products::Products;
use rows::Buffers;
use std::mem::ManuallyDrop;
use std::ops::Range;
use tch::{Kind, Tensor};

/// Rows, states and updates of one rank, on its device.
pub(super) struct Tensors<F> {
    /// The exchange between devices; `None`: tensors on the host, or a world of one.
    /// Never dropped by itself: closing waits for the other ranks.
    exchange: Option<ManuallyDrop<Box<dyn TensorCollective>>>,
    sharded: bool,
    /// This rank's block of each segment.
    blocks: Vec<Range<usize>>,
    buffers: Buffers,
    states: update::States,
    /// Parameters of this rank's shard, by segment: views of the model's, or masters of wider floats.
    masters: Vec<Tensor>,
    /// Which task owns which private coordinate.
    owners: products::Owners,
    /// What the rows of this step are, and which tasks' rows are complete `[batches * T]`.
    shared: SharedRows,
    complete: Vec<bool>,
    /// The first task's row that is not on its way yet.
    next: usize,
    /// Products of this step's rows.
    norms: Option<Products>,
    /// Copies of this step's rows on the host, by segment and row.
    copies: Vec<Vec<Vec<F>>>,
}

impl<F: TorchReal + Number> Tensors<F> {
    /// Takes over a model whose parameters are in `F` on its device; turns its parameters into `compute`.
    pub fn new(
        params: &mut Params,
        compute: Kind,
        wire: Kind,
        reduction: Reduction,
        blocks: Vec<Range<usize>>,
        optim: &Optim,
    ) -> Self {
        let device = params.device();
        let view = |flat: &Tensor, b: &Range<usize>| flat.narrow(0, b.start as i64, b.len() as i64);
        let masters = if compute == F::KIND {
            blocks.iter().map(|b| view(params.flat(), b)).collect()
        } else {
            let masters = blocks.iter().map(|b| view(params.flat(), b).copy()).collect();
            params.place(compute, device);
            masters
        };
        Tensors {
            exchange: None,
            sharded: reduction == Reduction::Sharded,
            buffers: Buffers::new(params, F::KIND, wire),
            states: update::States::new(optim, &blocks, F::KIND, device),
            owners: products::Owners::new(&params.segments, &blocks, device),
            blocks,
            masters,
            shared: SharedRows::Combined,
            complete: Vec::new(),
            next: 0,
            norms: None,
            copies: Vec::new(),
        }
    }

    /// Exchanges tensors over this from now on.
    pub fn exchange_over(&mut self, exchange: Box<dyn TensorCollective>) {
        self.exchange = Some(ManuallyDrop::new(exchange));
    }

    /// Ends the exchange; all ranks.
    pub fn close_exchange(&mut self) {
        drop(self.exchange.take().map(ManuallyDrop::into_inner));
    }

    /// The exchange between devices, if there is one.
    pub fn own_exchange(&self) -> Option<&dyn TensorCollective> {
        self.exchange.as_ref().map(|exchange| &***exchange)
    }

    /// Bytes sent beside those of the ordinary collective.
    pub fn bytes_sent(&self) -> u64 {
        self.exchange.as_ref().map_or(0, |e| e.bytes_sent())
    }

    /// Milliseconds that exchanges between devices have taken so far.
    pub fn exchange_ms(&self) -> Option<f64> {
        self.exchange.as_ref().and_then(|e| e.busy_ms())
    }

    /// This rank's rows of one segment, `[R, block]`.
    fn block(&self, segment: usize, params: &Params) -> Tensor {
        let (block, range) = (&self.blocks[segment], &params.segments[segment].range);
        self.buffers.rows(segment).narrow(1, (block.start - range.start) as i64, block.len() as i64)
    }

    /// This rank's shard of the parameters, in full precision.
    pub fn shard(&self) -> Tensor {
        Tensor::cat(&self.masters, 0)
    }

    /// This rank's shard of the parameters becomes `start + length * along`; exactly `start` for length 0. Nothing is on its
    /// way any more then: it is read until it has left.
    pub fn set_shard(&mut self, params: &Params, start: &Tensor, length: f64, along: &Tensor) {
        let _no_grad = tch::no_grad_guard();
        params.arrivals().all();
        let target = if length == 0.0 { start.shallow_clone() } else { start + along * length };
        let mut at = 0;
        for master in &self.masters {
            let n = master.numel() as i64;
            master.shallow_clone().copy_(&target.narrow(0, at, n));
            at += n;
        }
        self.show(params);
    }

    /// Brings the masters into the model, where they are not the model's own.
    fn show(&self, params: &Params) {
        if params.kind() == F::KIND {
            return;
        }
        let _no_grad = tch::no_grad_guard();
        for (master, b) in self.masters.iter().zip(&self.blocks) {
            params.flat().narrow(0, b.start as i64, b.len() as i64).copy_(master);
        }
    }

    /// Whether the model's parameters are not the masters themselves.
    pub fn has_masters(&self, params: &Params) -> bool {
        params.kind() != F::KIND
    }

    /// States of the optimizer for this rank's shard, in the order of their names.
    pub fn states(&self) -> Vec<Vec<F>> {
        self.states.all().map(|state| ffi::values(&Tensor::cat(state, 0))).collect()
    }

    /// Takes over the optimizer's states of this rank's shard.
    pub fn set_states(&mut self, states: &[Vec<F>]) {
        for (state, values) in self.states.all().zip(states) {
            let mut at = 0;
            for block in state {
                ffi::write(block, &values[at..at + block.numel()]);
                at += block.numel();
            }
        }
    }

    /// Takes over the whole flat parameters, in full precision.
    pub fn set_parameters(&mut self, params: &Params, flat: &[F]) {
        ffi::write(params.flat(), flat);
        if self.has_masters(params) {
            self.masters.iter().zip(&self.blocks).for_each(|(master, b)| ffi::write(master, &flat[b.clone()]));
        }
    }
}

impl<F: TorchReal + Number> Rows<F> for Tensors<F> {
    fn measure(&mut self, params: &Params, layout: &Layout, n_tasks: usize, losses: &LossSums) -> Measured {
        let (products, mut wanted) = Products::enqueue(self, params, layout);
        let n_products: usize = wanted.iter().map(Tensor::numel).sum();
        wanted.extend(losses.tensor());
        let mut values = ffi::read(&wanted);
        let sums = values.split_off(n_products);
        let products = products.with(values);
        let gram = match self.shared {
            SharedRows::Tasks { batches } => Some(products.gram(params, layout, batches, n_tasks)),
            SharedRows::Combined => None,
        };
        self.norms = Some(products);
        Measured { losses: losses.by_task(&sums, n_tasks), gram }
    }

    fn fetch(&mut self, params: &Params) {
        // One wait per segment.
        let rows = |(s, block): (usize, &Range<usize>)| {
            let numbers = ffi::values::<F>(&self.block(s, params));
            numbers.chunks_exact(block.len()).map(<[F]>::to_vec).collect()
        };
        self.copies = self.blocks.iter().enumerate().map(rows).collect();
    }

    fn on_host(&self) -> Reduced<'_, F> {
        fn fragment<'a, F>(block: &Range<usize>, rows: &'a [Vec<F>]) -> (Range<usize>, Fragment<'a, F>) {
            let rows = rows.iter().map(Vec::as_slice).collect();
            (block.clone(), Fragment { len: block.len(), rows })
        }
        self.blocks.iter().zip(&self.copies).map(|(block, rows)| vec![fragment(block, rows)]).collect()
    }

    fn combined(&self, params: &Params) -> Option<Tensor> {
        let row = |s: usize| self.block(s, params).select(0, 0);
        Some(Tensor::cat(&(0..self.blocks.len()).map(row).collect::<Vec<_>>(), 0))
    }

    fn knows_norms(&self) -> bool {
        true
    }

    fn squared_norm(&self, _: &Params, _: &Layout, shared: &Shared<'_, F>, heads: &[f64]) -> f64 {
        let Some(norms) = &self.norms else { return f64::NAN };
        let of_shared = match shared {
            Shared::Direction(direction) => dot(direction, direction),
            _ => norms.combined(),
        };
        let private: f64 = norms.private(heads.len()).iter().zip(heads).map(|(p, h)| h * h * p).sum();
        of_shared + private
    }

    fn update(&mut self, how: Update<'_, F>, params: &mut Params, optimizer: &mut Optimizer<F>) -> Result<Option<f64>> {
        let grads = self.combine(params, &how);
        self.states.step(&self.masters, &grads, optimizer, how.lr)?;
        self.show(params);
        Ok(None)
    }
}
