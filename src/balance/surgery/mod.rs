//! Gradient surgery on the Gram matrix, a file per method: what is done about conflicting task gradients.

mod aligned_mtl;
mod cagrad;
mod con_fig;
mod dualproj;
mod equiangular;
mod fairgrad;
mod gradnorm;
mod gradvac;
mod imtl_g;
mod krum;
mod mgda;
mod nash_mtl;
mod pcgrad;
mod upgrad;

pub use aligned_mtl::{AlignedMtl, aligned_mtl};
pub use cagrad::Cagrad;
pub use con_fig::{ConFig, con_fig};
pub use dualproj::DualProj;
pub use fairgrad::FairGrad;
pub use gradnorm::GradNorm;
pub use gradvac::GradVac;
pub use imtl_g::{ImtlG, imtl_g};
pub use krum::{Krum, krum};
pub use mgda::Mgda;
pub use nash_mtl::NashMtl;
pub use pcgrad::{PcGrad, pcgrad};
pub use upgrad::UpGrad;

use super::{Gram, cross};
use crate::config;
use crate::rng::ChaCha8Rng;
use serde_json::Value;

/// What a method needs to see, told apart by type.
pub enum Surgery {
    /// Nothing: the update is the gradient of the weighted loss, one backward.
    None,
    /// The inner products of the task gradients; the update is a combination of them. One instance per group of layers.
    Gram(Vec<Box<dyn GramSurgery>>),
    /// Inner products of gradients of independent batches.
    Cross(Box<dyn cross::CrossSurgery>),
    /// The gradients themselves: see [`super::shard`].
    Shard,
}

/// The tasks of a step as a Gram method sees them: only those with a label in this step and a weight other than 0.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Inner products of the weighted gradients, `[n, n]`.
    pub gram: &'a Gram,
    /// Weighted global mean losses `[n]`.
    pub losses: &'a [f64],
    /// Which of all tasks these are `[n]`, ascending: where a method keeps state by task.
    pub tasks: &'a [usize],
    /// The step; counts from 0.
    pub step: u64,
}

/// A method that is a function of the Gram matrix (and of small state).
pub trait GramSurgery {
    /// Coefficients `[n]` of the task gradients whose Gram matrix this is; `n >= 1`.
    ///
    /// `rng` is that of the step, the same on every rank.
    fn coefficients(&mut self, at: &View<'_>, rng: &mut ChaCha8Rng) -> Vec<f64>;

    /// State for a checkpoint; `null` if there is none.
    fn save(&self) -> Value {
        Value::Null
    }

    /// Takes over the state of [`Self::save`].
    ///
    /// # Errors
    /// What does not fit.
    fn load(&mut self, _state: &Value) -> Result<(), String> {
        Ok(())
    }
}

/// The configured surgery for `n_tasks` tasks and `n_groups` groups of layers.
pub fn build(config: &config::Surgery, n_tasks: usize, n_groups: usize) -> Surgery {
    let gram = |make: &dyn Fn() -> Box<dyn GramSurgery>| Surgery::Gram((0..n_groups).map(|_| make()).collect());
    match config {
        config::Surgery::None => Surgery::None,
        config::Surgery::Pcgrad => gram(&|| Box::new(PcGrad)),
        config::Surgery::Mgda(o) => gram(&|| Box::new(Mgda::new(o))),
        config::Surgery::Cagrad(o) => gram(&|| Box::new(Cagrad::new(o))),
        config::Surgery::NashMtl(o) => gram(&|| Box::new(NashMtl::new(o, n_tasks))),
        config::Surgery::Fairgrad(o) => gram(&|| Box::new(FairGrad::new(o))),
        config::Surgery::Upgrad(o) => gram(&|| Box::new(UpGrad::new(o))),
        config::Surgery::Dualproj(o) => gram(&|| Box::new(DualProj::new(o))),
        config::Surgery::Gradvac(o) => gram(&|| Box::new(GradVac::new(o, n_tasks))),
        config::Surgery::ImtlG => gram(&|| Box::new(ImtlG)),
        config::Surgery::AlignedMtl(o) => gram(&|| Box::new(AlignedMtl::new(o))),
        config::Surgery::Config => gram(&|| Box::new(ConFig)),
        config::Surgery::Krum(o) => gram(&|| Box::new(Krum::new(o))),
        config::Surgery::Gradnorm(o) => gram(&|| Box::new(GradNorm::new(o, n_tasks))),
        config::Surgery::Sdmgrad(o) => Surgery::Cross(Box::new(cross::SdmGrad::new(o, n_tasks))),
        config::Surgery::Modo(o) => Surgery::Cross(Box::new(cross::MoDo::new(o, n_tasks))),
        config::Surgery::Graddrop(_) | config::Surgery::TrimmedMean(_) => Surgery::Shard,
        config::Surgery::ExcessMtl(_) | config::Surgery::Moco(_) | config::Surgery::DbMtl(_) => Surgery::Shard,
    }
}

/// What the tests of the methods share.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::balance::gram::dot;
    use crate::balance::solver::eigen::Eigen;
    use crate::rng::{Stream, rng};
    use proptest::prelude::*;
    use rand::RngExt;

    /// The Gram matrix of the rows of `j`.
    pub fn gram_of(j: &[Vec<f64>]) -> Gram {
        Gram::new(j.iter().flat_map(|a| j.iter().map(|b| dot(a, b))).collect()).unwrap()
    }

    /// `sum_t c[t] * j[t]`.
    pub fn combine(j: &[Vec<f64>], c: &[f64]) -> Vec<f64> {
        (0..j[0].len()).map(|k| j.iter().zip(c).map(|(g, c)| c * g[k]).sum()).collect()
    }

    /// Coefficients at step 0, all losses 1.
    pub fn run(method: &mut dyn GramSurgery, j: &[Vec<f64>]) -> Vec<f64> {
        run_with(method, j, &vec![1.0; j.len()])
    }

    /// Coefficients at step 0.
    pub fn run_with(method: &mut dyn GramSurgery, j: &[Vec<f64>], losses: &[f64]) -> Vec<f64> {
        let tasks: Vec<usize> = (0..j.len()).collect();
        let view = View { gram: &gram_of(j), losses, tasks: &tasks, step: 0 };
        method.coefficients(&view, &mut rng(1, Stream::Surgery, 0, 0))
    }

    /// Largest difference relative to the largest entry of `want`.
    pub fn relative(got: &[f64], want: &[f64]) -> f64 {
        let scale = want.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
        got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
    }

    /// Matrices of 1 to `most` tasks, with gradients that are linearly independent by a margin.
    pub fn independent(most: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
        let rows = (1..=most).prop_flat_map(|t| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, t + 2), t));
        rows.prop_filter("independent", |j| {
            let values = Eigen::of(&gram_of(j).cosines()).values;
            values[values.len() - 1] > 1e-6
        })
    }

    /// Steps on changing gradients and losses; a second instance that takes over the state from text midway goes on with
    /// the same bits.
    pub fn steps_with(make: &dyn Fn() -> Box<dyn GramSurgery>, n_tasks: usize) {
        let step = |method: &mut dyn GramSurgery, step: u64| {
            let mut draw = rng(7, Stream::Init, step, 0);
            let mut vector = |n: usize| -> Vec<f64> { (0..n).map(|_| draw.random_range(-1.0..1.0)).collect() };
            let j: Vec<Vec<f64>> = (0..n_tasks).map(|_| vector(4)).collect();
            let losses: Vec<f64> = vector(n_tasks).iter().map(|x| 1.5 + x).collect();
            let tasks: Vec<usize> = (0..n_tasks).collect();
            let view = View { gram: &gram_of(&j), losses: &losses, tasks: &tasks, step };
            method.coefficients(&view, &mut rng(1, Stream::Surgery, step, 0))
        };
        let mut first = make();
        (0..5).for_each(|k| drop(step(first.as_mut(), k)));
        let text = serde_json::to_string(&first.save()).unwrap();
        let (mut second, mut fresh) = (make(), make());
        second.load(&serde_json::from_str(&text).unwrap()).unwrap();
        let after = |method: &mut dyn GramSurgery| -> Vec<Vec<f64>> { (5..10).map(|k| step(method, k)).collect() };
        let expected = after(first.as_mut());
        assert_eq!(after(second.as_mut()), expected);
        assert_ne!(after(fresh.as_mut()), expected, "the state matters");
    }

    /// Matrices of 1 to 5 tasks and 1 to 6 parameters.
    pub fn jacobian() -> impl Strategy<Value = Vec<Vec<f64>>> {
        (1usize..6, 1usize..7).prop_flat_map(|(t, p)| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, p), t))
    }
}
