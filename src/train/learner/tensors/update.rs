//! `c^T J`, and the optimizer's pass over this rank's shard.

use super::{Shared, Tensors, Update};
use crate::comm::Number;
use crate::config::Optim;
use crate::error::{Error, Result};
use crate::ffi::{self, FusedAdam, TorchReal};
use crate::model::{Params, Rows};
use crate::optim::Optimizer;
use std::ops::Range;
use tch::{Device, Kind, TchError, Tensor};

/// States of the optimizer, by segment.
pub(super) struct States {
    /// Momentum or first moment; empty without.
    first: Vec<Tensor>,
    /// Second moment; empty for SGD.
    second: Vec<Tensor>,
}

impl States {
    pub fn new(optim: &Optim, blocks: &[Range<usize>], kind: Kind, device: Device) -> Self {
        let zeros = || blocks.iter().map(|b| Tensor::zeros([b.len() as i64], (kind, device))).collect();
        match optim {
            Optim::Sgd(c) if c.momentum == 0.0 => States { first: Vec::new(), second: Vec::new() },
            Optim::Sgd(_) => States { first: zeros(), second: Vec::new() },
            Optim::Adam(_) | Optim::Adamw(_) => States { first: zeros(), second: zeros() },
        }
    }

    /// Those that are there, in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = &[Tensor]> {
        [&self.first, &self.second].into_iter().map(Vec::as_slice).filter(|state| !state.is_empty())
    }

    /// Moves parameters by gradients, both by segment.
    pub fn step<F>(&self, params: &[Tensor], grads: &[Tensor], optimizer: &Optimizer<F>, lr: f64) -> Result<()> {
        match optimizer.config() {
            Optim::Adam(c) | Optim::Adamw(c) => {
                let decoupled = matches!(optimizer.config(), Optim::Adamw(_));
                let rule = FusedAdam { lr, betas: c.betas, eps: c.eps, weight_decay: c.weight_decay, decoupled };
                ffi::fused_adam(params, grads, &self.first, &self.second, optimizer.updates + 1, rule)
                    .map_err(|refusal| Error::from(TchError::Torch(refusal)))
            }
            Optim::Sgd(c) => {
                let _no_grad = tch::no_grad_guard();
                for (k, (param, grad)) in params.iter().zip(grads).enumerate() {
                    let mut param = param.shallow_clone();
                    let mut u =
                        if c.weight_decay == 0.0 { grad.shallow_clone() } else { grad + &param * c.weight_decay };
                    if let Some(buffer) = self.first.get(k) {
                        let mut buffer = buffer.shallow_clone();
                        if optimizer.updates == 0 {
                            buffer.copy_(&u);
                        } else {
                            let _ = buffer.g_mul_scalar_(c.momentum).g_add_(&u);
                        }
                        u = if c.nesterov { u + &buffer * c.momentum } else { buffer };
                    }
                    let _ = param.g_sub_(&(u * lr));
                }
                Ok(())
            }
        }
    }
}

/// Numbers that go to the device in one transfer, to be cut there.
struct Numbers {
    all: Vec<f64>,
}

impl Numbers {
    fn push(&mut self, more: impl IntoIterator<Item = f64>) -> Range<usize> {
        let start = self.all.len();
        self.all.extend(more);
        start..self.all.len()
    }
}

impl<F: TorchReal + Number> Tensors<F> {
    /// The update's gradient, by segment.
    pub(super) fn combine(&self, params: &Params, how: &Update<'_, F>) -> Vec<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let device = params.device();
        let mut numbers = Numbers { all: Vec::new() };
        let n_tasks = how.heads.len();
        // First all coefficients, by segment and group of layers; then the products.
        let plan: Vec<Vec<(Range<usize>, Range<usize>)>> = params
            .segments
            .iter()
            .zip(&self.blocks)
            .enumerate()
            .map(|(index, (segment, block))| match (&segment.rows, &how.shared) {
                (Rows::Private(_), _) => {
                    let tasks = self.owners.of(index).map_or(&[][..], |owned| &owned.tasks);
                    let factors = tasks.iter().map(|&t| how.scale * how.heads[t]).chain([0.0]);
                    vec![(block.clone(), numbers.push(factors))]
                }
                (Rows::Shared(scope), Shared::Rows { coef, batches }) => {
                    let of =
                        |group: usize| scope.iter().map(move |t| how.scale * coef[group][(batches - 1) * n_tasks + t]);
                    how.layout
                        .groups_in(block)
                        .into_iter()
                        .map(|(group, range)| (range, numbers.push(of(group))))
                        .collect()
                }
                (Rows::Shared(_), _) => Vec::new(),
            })
            .collect();
        let sent = ffi::send(&ffi::tensor_of(&numbers.all, &[numbers.all.len()]).to_kind(F::KIND), device);
        let cut = |r: &Range<usize>| sent.narrow(0, r.start as i64, r.len() as i64);
        let scaled = |x: Tensor| if how.scale == 1.0 { x } else { x * how.scale };
        plan.iter()
            .enumerate()
            .map(|(index, parts)| {
                let (rows, block) = (self.block(index, params), &self.blocks[index]);
                match (self.owners.of(index), &how.shared) {
                    (Some(owned), _) => {
                        let factors = cut(&parts[0].1).index_select(0, &owned.range_of);
                        rows.select(0, 0) * factors
                    }
                    (None, Shared::Rows { .. }) => combined(&rows, block, parts, &cut),
                    (None, Shared::Combined) => scaled(rows.select(0, 0).contiguous()),
                    (None, Shared::Direction(direction)) => {
                        let local = &direction[how.layout.local(block)];
                        scaled(ffi::send(&ffi::tensor_of(local, &[local.len()]), device))
                    }
                }
            })
            .collect()
    }
}

/// `c^T J` of one segment: (range, where its coefficients are) by group of layers.
fn combined(
    rows: &Tensor,
    block: &Range<usize>,
    parts: &[(Range<usize>, Range<usize>)],
    cut: &dyn Fn(&Range<usize>) -> Tensor,
) -> Tensor {
    let product = |(range, coef): &(Range<usize>, Range<usize>)| {
        // Batches that only surgery looked at come first and are not read again.
        let unused = rows.size()[0] - coef.len() as i64;
        let used = rows.narrow(0, unused, coef.len() as i64);
        let used = used.narrow(1, (range.start - block.start) as i64, range.len() as i64);
        used.transpose(0, 1).mv(&cut(coef))
    };
    if let [whole] = parts
        && whole.0 == *block
    {
        return product(whole);
    }
    let out = Tensor::zeros([block.len() as i64], (rows.kind(), rows.device()));
    for part in parts {
        out.narrow(0, (part.0.start - block.start) as i64, part.0.len() as i64).copy_(&product(part));
    }
    out
}
