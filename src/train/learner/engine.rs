//! The two ways to compute a step once the gradients exist, and what the step asks of either.
//!
//! * [`Host`]: our own kernels on slices of numbers; on CPUs.
//! * [`Tensors`]: operations of libtorch on tensors that never leave their device, one host-device synchronisation per step;
//!   on GPUs, and for 16-bit floats.
//!
//! Both see the same layout and the same coefficients; `tests/equivalence.rs` runs every method through both.

use super::host::{Host, HostRows};
use super::moves::{Layout, Shared};
use super::tensors::Tensors;
use crate::balance::global::GramSum;
use crate::comm::reduce::Reduced;
use crate::comm::tensors::{OnHost, TensorCollective};
use crate::comm::{Collective, CommError, Number};
use crate::error::Result;
use crate::ffi::{TorchReal, read};
use crate::kernel::dot;
use crate::model::Params;
use crate::optim::Optimizer;
use crate::step::{Grads, LossSums, SharedRows};
use tch::{Kind, Tensor};

/// Gradients, states and updates of one rank.
pub(super) enum Engine<F> {
    Host(Host<F>),
    Tensors(Box<Tensors<F>>),
}

/// A vector that is laid out as the shard, wherever the engine keeps such.
pub(super) enum Vector<F> {
    Host(Vec<F>),
    Tensor(Tensor),
}

/// What is known before the ranks add up.
pub(super) struct Measured {
    /// Local loss sums `[T]`.
    pub losses: Vec<f64>,
    /// Inner products of the rows, if there are rows of tasks.
    pub gram: Option<GramSum>,
}

/// The reduced gradients of one step.
pub(super) trait Rows<F> {
    /// Reads the loss sums, and multiplies the rows of tasks: for a device, the one wait of the step.
    fn measure(&mut self, params: &Params, layout: &Layout, n_tasks: usize, losses: &LossSums) -> Measured;

    /// Brings this rank's rows to the host, if they are elsewhere, for methods that work on the gradients themselves.
    fn fetch(&mut self, _params: &Params) {}

    /// This rank's rows as numbers on the host, by segment; [`Self::fetch`] comes first.
    fn on_host(&self) -> Reduced<'_, F>;

    /// The combined rows as one tensor, laid out as the shard, if that is how the engine keeps vectors.
    fn combined(&self, _params: &Params) -> Option<Tensor> {
        None
    }

    /// Whether [`Self::squared_norm`] costs nothing.
    fn knows_norms(&self) -> bool {
        false
    }

    /// Squared norm of the update on this rank's shard, for rows that are combined already or replaced by a direction.
    fn squared_norm(&self, params: &Params, layout: &Layout, shared: &Shared<'_, F>, heads: &[f64]) -> f64;

    /// Moves this rank's parameters by `scale` times the combined gradient; returns its squared norm, where that comes
    /// for free.
    ///
    /// # Errors
    /// If libtorch refuses.
    fn update(&mut self, how: Update<'_, F>, params: &mut Params, optimizer: &mut Optimizer<F>) -> Result<Option<f64>>;
}

/// How the rows move the parameters.
pub(super) struct Update<'a, F> {
    pub layout: &'a Layout,
    pub shared: Shared<'a, F>,
    /// What multiplies the rows of the tasks' own parameters `[T]`.
    pub heads: &'a [f64],
    pub scale: f64,
    pub lr: f64,
}

/// The exchange of tensors: NCCL between GPUs, or the ordinary collective for tensors on the host.
pub(super) fn exchange<R>(
    own: Option<&dyn TensorCollective>,
    comm: &dyn Collective,
    body: impl FnOnce(&dyn TensorCollective) -> R,
) -> R {
    match own {
        Some(tensors) => body(tensors),
        None => body(&OnHost(comm)),
    }
}

/// Takes the gradients of a step as they come: the tensor engine packs finished rows and sends them off while the next
/// ones are computed; the host engine leaves them where libtorch put them.
pub(super) struct Collector<'a, F> {
    pub engine: &'a mut Engine<F>,
    pub params: &'a Params,
    pub comm: &'a dyn Collective,
}

impl<F: TorchReal + Number> Collector<'_, F> {
    /// Nothing is there yet.
    pub fn begin(&mut self, shared: SharedRows) {
        if let Engine::Tensors(tensors) = self.engine {
            tensors.begin(self.params, shared);
        }
    }

    /// The rows of one task on one independent batch are in `grads`; `last`: nothing is to be added to them.
    pub fn task(&mut self, grads: &mut Grads, batch: usize, task: usize, last: bool) -> Result<()> {
        match self.engine {
            Engine::Host(_) => Ok(()),
            Engine::Tensors(tensors) => tensors.task(self.params, grads, batch, task, last, self.comm),
        }
    }

    /// The combined rows of the stages from `first` on are in `grads`, complete.
    pub fn stages(&mut self, grads: &mut Grads, first: usize) -> Result<()> {
        match self.engine {
            Engine::Host(_) => Ok(()),
            Engine::Tensors(tensors) => tensors.stages(self.params, grads, first, self.comm),
        }
    }

    /// A micro-batch of independent batch `batch` is done: `last` of that batch, `end` of the step.
    pub fn micro(&mut self, grads: &mut Grads, batch: usize, last: bool, end: bool) -> Result<()> {
        match self.engine {
            Engine::Host(_) => Ok(()),
            Engine::Tensors(tensors) => tensors.micro(self.params, grads, batch, last, end, self.comm),
        }
    }

    /// Whether pieces of a backward pass are worth their overhead: there is something to overlap with.
    pub fn wants_pieces(&self) -> bool {
        matches!(self.engine, Engine::Tensors(_)) && self.comm.world().size > 1
    }
}

/// The reduced rows of either engine.
pub(super) enum ReducedRows<'a, F> {
    Host(HostRows<'a, F>),
    Tensors(&'a mut Tensors<F>),
}

impl<F: TorchReal + Number> ReducedRows<'_, F> {
    pub fn rows(&mut self) -> &mut dyn Rows<F> {
        match self {
            ReducedRows::Host(rows) => rows,
            ReducedRows::Tensors(rows) => *rows,
        }
    }
}

impl<F: TorchReal + Number> Engine<F> {
    /// Sums the rows over ranks.
    pub fn reduced<'a>(
        &'a mut self,
        grads: &'a Grads,
        params: &Params,
        comm: &dyn Collective,
    ) -> Result<ReducedRows<'a, F>, CommError> {
        match self {
            Engine::Host(host) => Ok(ReducedRows::Host(host.reduced(grads, params, comm)?)),
            Engine::Tensors(tensors) => {
                tensors.finish(comm)?;
                Ok(ReducedRows::Tensors(tensors))
            }
        }
    }

    /// Waits for parameters that are on their way from other ranks.
    ///
    /// # Errors
    /// If an exchange has failed.
    pub fn settle(&self, params: &Params) -> Result<(), CommError> {
        match self {
            Engine::Host(_) => Ok(()),
            Engine::Tensors(tensors) => tensors.settle(params),
        }
    }

    /// The shards of all ranks become the parameters of all. They may still be on their way when this returns.
    pub fn gather(&mut self, params: &mut Params, comm: &dyn Collective) -> Result<(), CommError> {
        match self {
            Engine::Host(host) => host.gather(params, comm),
            Engine::Tensors(tensors) => tensors.gather(params, comm),
        }
    }

    /// The exchange between devices, if there is one.
    pub fn own_exchange(&self) -> Option<&dyn TensorCollective> {
        match self {
            Engine::Host(_) => None,
            Engine::Tensors(tensors) => tensors.own_exchange(),
        }
    }

    /// Whether reading a number of a tensor costs no wait for a device.
    pub fn reads_for_free(&self) -> bool {
        matches!(self, Engine::Host(_))
    }

    /// This rank's shard of the parameters.
    pub fn shard(&self, params: &Params, layout: &Layout) -> Vector<F> {
        match self {
            Engine::Host(_) => Vector::Host(Host::shard(params, &layout.blocks)),
            Engine::Tensors(tensors) => Vector::Tensor(tensors.shard()),
        }
    }

    /// This rank's shard of the parameters becomes `start + length * along`; exactly `start` for length 0.
    pub fn set_shard(
        &mut self,
        params: &mut Params,
        layout: &Layout,
        start: &Vector<F>,
        length: f64,
        along: &Vector<F>,
    ) {
        match (self, start, along) {
            (Engine::Host(_), Vector::Host(start), Vector::Host(along)) => {
                Host::set_shard(params, &layout.blocks, start, length, along);
            }
            (Engine::Tensors(tensors), Vector::Tensor(start), Vector::Tensor(along)) => {
                tensors.set_shard(params, start, length, along);
            }
            _ => unreachable!("an engine makes vectors of one kind"),
        }
    }
}

impl<F: TorchReal> Vector<F> {
    /// Squared norm.
    pub fn squared_norm(&self) -> f64 {
        match self {
            Vector::Host(v) => dot(v, v),
            Vector::Tensor(v) => read(&[v.to_kind(Kind::Double).square().sum(Kind::Double)])[0],
        }
    }
}
