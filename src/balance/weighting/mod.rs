//! Task weights from the global losses, a file per method.
//!
//! A scalarisation `phi(L)` weighs task `t` by `d phi / d L_t` at the **global** mean losses, so that the gradient of
//! the weighted sum is that of `phi`; the mean of the ranks' own derivatives would be the gradient of nothing. Tasks
//! without a label in a step are left out of its sums, products and softmaxes.

mod auto_lambda;
mod cosmos;
mod dwa;
mod epochs;
mod famo;
mod fixed;
mod gls;
mod go4align;
mod imtl_l;
mod ldc_mtl;
mod learned;
mod pbi;
mod random;
mod scale_invariant;
mod stch;
mod uncertainty;

pub use auto_lambda::AutoLambda;
pub use cosmos::Cosmos;
pub use dwa::Dwa;
pub use famo::Famo;
pub use fixed::Fixed;
pub use gls::Gls;
pub use go4align::Go4Align;
pub use imtl_l::ImtlL;
pub use ldc_mtl::LdcMtl;
pub use pbi::Pbi;
pub use random::Random;
pub use scale_invariant::ScaleInvariant;
pub use stch::Stch;
pub use uncertainty::Uncertainty;

use super::solver::simplex::softmax;
use super::spread;
use crate::config::{self, Named};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A step as a weighting sees it: the same on every rank.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Global mean losses `[T]`; `None` where the step holds no label of the task on any rank.
    pub losses: &'a [Option<f64>],
    /// The step; counts from 0.
    pub step: u64,
    /// Steps per epoch, for methods that are defined by epochs.
    pub steps_per_epoch: u64,
    /// Seed of the run: draws are a pure function of (seed, step).
    pub seed: u64,
}

impl Moment<'_> {
    /// The epoch of the step; counts from 0.
    pub fn epoch(&self) -> u64 {
        self.step / self.steps_per_epoch.max(1)
    }
}

/// A method that weighs tasks by their losses.
pub trait Weighting {
    /// Weights `[T]` for this step, finite. What is returned for a task without a loss is not looked at.
    ///
    /// Unless [`Self::needs_losses`] says so, only whether a loss is there is looked at, not its value.
    fn weights(&self, at: &Moment<'_>) -> Vec<f64>;

    /// Whether [`Self::weights`] depends on the losses of the same step. With gradient accumulation this costs one
    /// more forward pass.
    fn needs_losses(&self) -> bool {
        false
    }

    /// Learns from the losses of a step that was taken. Called once per step, after [`Self::weights`].
    fn observe(&mut self, _at: &Moment<'_>) {}

    /// Whether [`Self::observe_after`] is to be called: the losses of the same batch under the updated parameters, which
    /// cost one more forward pass.
    fn needs_losses_after(&self) -> bool {
        false
    }

    /// Learns from the losses of the same batch before (`at`) and after the update. Called after [`Self::observe`].
    fn observe_after(&mut self, _at: &Moment<'_>, _after: &[Option<f64>]) {}

    /// The tasks (`[T]`) whose losses on a second batch, one step ahead, the weights are to lower; `None` for methods that
    /// do not look ahead. Such a method needs two independent batches per step.
    fn looks_ahead_for(&self) -> Option<&[bool]> {
        None
    }

    /// Learns from the gradient `[T]` of those losses with respect to the weights; `None` for tasks that the step lacks.
    /// Called before [`Self::weights`] of the step.
    fn learn_ahead(&mut self, _gradient: &[Option<f64>]) {}

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

/// The configured weighting for these tasks.
pub fn build(config: &config::Weighting, tasks: &[String]) -> Box<dyn Weighting> {
    match config {
        config::Weighting::Equal => Box::new(Fixed::equal(tasks.len())),
        config::Weighting::Fixed(by_name) => Box::new(Fixed::named(tasks, by_name)),
        config::Weighting::AutoLambda(c) => Box::new(AutoLambda::new(c, tasks)),
        config::Weighting::Random => Box::new(Random),
        config::Weighting::ScaleInvariant => Box::new(ScaleInvariant),
        config::Weighting::Uncertainty(c) => Box::new(Uncertainty::new(c, tasks.len())),
        config::Weighting::Dwa(c) => Box::new(Dwa::new(c, tasks.len())),
        config::Weighting::Gls => Box::new(Gls),
        config::Weighting::ImtlL(c) => Box::new(ImtlL::new(c, tasks.len())),
        config::Weighting::Stch(c) => Box::new(Stch::new(c, tasks)),
        config::Weighting::Famo(c) => Box::new(Famo::new(c, tasks)),
        config::Weighting::Cosmos(c) => Box::new(Cosmos::new(c, tasks)),
        config::Weighting::Pbi(c) => Box::new(Pbi::new(c, tasks)),
        config::Weighting::Go4align(c) => Box::new(Go4Align::new(c, tasks.len())),
        config::Weighting::LdcMtl(c) => Box::new(LdcMtl::new(c, tasks.len())),
    }
}

/// Numbers by task `[T]`; `default` for tasks that are not named.
fn by_task(tasks: &[String], by_name: &Named, default: f64) -> Vec<f64> {
    tasks.iter().map(|task| by_name.get(task).copied().unwrap_or(default)).collect()
}

/// The preference for each task `[T]`: 1 unless named, then scaled to the sum 1.
fn preferences(tasks: &[String], by_name: &Named) -> Vec<f64> {
    let given = by_task(tasks, by_name, 1.0);
    let sum: f64 = given.iter().sum();
    given.iter().map(|p| p / sum).collect()
}

/// Which tasks have a loss `[n]`, ascending, and their losses `[n]`.
fn present(losses: &[Option<f64>]) -> (Vec<usize>, Vec<f64>) {
    losses.iter().enumerate().filter_map(|(t, loss)| loss.map(|loss| (t, loss))).unzip()
}

/// Weights `[T]` that `weigh` makes `[n]` from the losses that are there (task, loss: `[n]`); 0 for the other tasks.
fn of_present(at: &Moment<'_>, weigh: impl FnOnce(&[usize], &[f64]) -> Vec<f64>) -> Vec<f64> {
    let (tasks, losses) = present(at.losses);
    spread(&weigh(&tasks, &losses), &tasks, at.losses.len())
}

/// A loss that is not positive, as a share of the least positive loss of the step.
const NOT_POSITIVE: f64 = 1e-8;
/// Far below any loss, and far enough from 0 for quotients and products of losses to stay finite.
const LEAST: f64 = 1e-150;

/// Losses for methods that take their logarithm.
///
/// Positive losses stay what they are. One that is 0 or negative has no logarithm: it counts as a 10^-8th of the least
/// positive loss of the step, about where `f32` stops to tell a loss from 0. If no loss is positive, there is no scale
/// to go by, and all count as 1.
fn positive(losses: &[f64]) -> Vec<f64> {
    let least = losses.iter().copied().filter(|&loss| loss > 0.0).fold(f64::INFINITY, f64::min);
    let floor = if least.is_finite() { (least * NOT_POSITIVE).max(LEAST) } else { 1.0 };
    losses.iter().map(|&loss| if loss <= 0.0 { floor } else { loss.max(LEAST) }).collect()
}

/// Euclidean norm, whatever the scale.
fn norm(x: &[f64]) -> f64 {
    let largest = x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if largest == 0.0 { 0.0 } else { largest * x.iter().map(|x| (x / largest).powi(2)).sum::<f64>().sqrt() }
}

/// State by task `[T]` from a checkpoint.
fn load_tasks<S: DeserializeOwned>(method: &str, state: &Value, n_tasks: usize) -> Result<Vec<S>, String> {
    let loaded: Vec<S> = serde::Deserialize::deserialize(state).map_err(|e| format!("{method}: {e}"))?;
    if loaded.len() != n_tasks {
        return Err(format!("{method}: {} tasks in the checkpoint, {n_tasks} here", loaded.len()));
    }
    Ok(loaded)
}

/// A moment of a test: these losses at step 0.
#[cfg(test)]
pub(crate) fn at(losses: &[Option<f64>]) -> Moment<'_> {
    at_step(losses, 0)
}

/// A moment of a test; an epoch has 10 steps.
#[cfg(test)]
pub(crate) fn at_step(losses: &[Option<f64>], step: u64) -> Moment<'_> {
    Moment { losses, step, steps_per_epoch: 10, seed: 1 }
}

/// What the tests of the methods share.
#[cfg(test)]
mod testing {
    /// Names of tasks: `a`, `b`, ...
    pub fn names(n: usize) -> Vec<String> {
        (b'a'..).take(n).map(|c| char::from(c).to_string()).collect()
    }

    pub fn some(losses: &[f64]) -> Vec<Option<f64>> {
        losses.iter().copied().map(Some).collect()
    }

    /// `d phi / d x` by central differences.
    pub fn slope(phi: impl Fn(&[f64]) -> f64, x: &[f64]) -> Vec<f64> {
        let moved = |k: usize, by: f64| {
            let mut x = x.to_vec();
            x[k] += by;
            phi(&x)
        };
        let step = |k: usize| 1e-5 * x[k].abs().max(1e-2);
        (0..x.len()).map(|k| (moved(k, step(k)) - moved(k, -step(k))) / (2.0 * step(k))).collect()
    }

    pub fn close(got: &[f64], want: &[f64], tolerance: f64) {
        let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let fits = got.len() == want.len() && got.iter().zip(want).all(|(g, w)| (g - w).abs() <= tolerance * largest);
        assert!(fits, "{got:?}, expected {want:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::testing::names;
    use super::*;
    use crate::config::Weighting as Choice;
    use proptest::prelude::*;

    /// Every method, with options that make something happen within a few steps, and whether its weights are never
    /// negative: `d phi / d L_t` may be where a scalarisation pulls the losses towards each other.
    fn all() -> Vec<(Choice, bool)> {
        let towards = Named::from([("a".into(), 2.0), ("c".into(), 0.5)]);
        let ideal = Named::from([("b".into(), -0.5)]);
        let stch = config::Stch { warmup_epochs: 0, ..config::Stch::default() };
        let linear = config::Stch { form: config::StchForm::Linear, ideal: ideal.clone(), ..stch.clone() };
        let revised = config::Uncertainty { form: config::UncertaintyForm::Revised, ..config::Uncertainty::default() };
        let ldc = config::LdcMtl { lr: 0.1, ..config::LdcMtl::default() };
        let log = config::LdcMtl { normalize: config::Normalize::Log, tau: config::Tau::Ones, ..ldc.clone() };
        let plain = config::LdcMtl { normalize: config::Normalize::None, ..ldc.clone() };
        let go4align = config::Go4Align { step_size: 0.1, ..config::Go4Align::default() };
        vec![
            (Choice::Equal, true),
            (Choice::Fixed(towards.clone()), true),
            (Choice::Random, true),
            (Choice::ScaleInvariant, true),
            (Choice::Uncertainty(config::Uncertainty::default()), true),
            (Choice::Uncertainty(revised), true),
            (Choice::Dwa(config::Dwa::default()), true),
            (Choice::Gls, true),
            (Choice::ImtlL(config::ImtlL::default()), true),
            (Choice::Stch(config::Stch::default()), true),
            (Choice::Stch(stch), true),
            (Choice::Stch(linear), true),
            (Choice::Famo(config::Famo::default()), true),
            (Choice::Famo(config::Famo { min_losses: ideal.clone(), ..config::Famo::default() }), true),
            (Choice::Cosmos(config::Cosmos { preferences: towards.clone(), ..config::Cosmos::default() }), false),
            (Choice::Pbi(config::Pbi { preferences: towards, ideal, ..config::Pbi::default() }), false),
            (Choice::Go4align(go4align), true),
            (Choice::LdcMtl(ldc), false),
            (Choice::LdcMtl(log), false),
            (Choice::LdcMtl(plain), false),
        ]
    }

    /// What the balancer does with a weighting in one step; an epoch has 3 steps.
    fn run(method: &mut dyn Weighting, step: u64, losses: &[Option<f64>], after: &[Option<f64>]) -> Vec<f64> {
        let moment = Moment { losses, step, steps_per_epoch: 3, seed: 7 };
        let weights = method.weights(&moment);
        method.observe(&moment);
        if method.needs_losses_after() {
            method.observe_after(&moment, after);
        }
        weights
    }

    /// Losses that fall, jump and are missing now and then.
    fn losses_of(step: u64) -> Vec<Option<f64>> {
        let loss = |t: u64| (2.0 + t as f64) * (1.0 / (1.0 + step as f64) + 0.1 * ((step * 7 + t * 3) % 5) as f64);
        (0..3).map(|t| ((step + t) % 4 != 3).then(|| loss(t))).collect()
    }

    #[test]
    fn a_restored_state_continues_bit_for_bit() {
        for (choice, _) in all() {
            let mut whole = build(&choice, &names(3));
            for step in 0..13 {
                run(whole.as_mut(), step, &losses_of(step), &losses_of(step + 1));
            }
            let text = serde_json::to_string(&whole.save()).unwrap();
            let mut restored = build(&choice, &names(3));
            restored.load(&serde_json::from_str(&text).unwrap()).unwrap();
            for step in 13..30 {
                let (losses, after) = (losses_of(step), losses_of(step + 1));
                let (a, b) =
                    (run(whole.as_mut(), step, &losses, &after), run(restored.as_mut(), step, &losses, &after));
                let bits = |w: &[f64]| -> Vec<u64> { w.iter().map(|w| w.to_bits()).collect() };
                assert_eq!(bits(&a), bits(&b), "{choice:?} at step {step}: {a:?} {b:?}");
            }
            assert_eq!(whole.save(), restored.save(), "{choice:?}");
        }
    }

    #[test]
    fn a_state_of_other_tasks_is_refused() {
        let with_state: Vec<_> = all().into_iter().filter(|(c, _)| !build(c, &names(3)).save().is_null()).collect();
        assert!(with_state.len() >= 10, "only {}", with_state.len());
        for (choice, _) in with_state {
            let state = build(&choice, &names(3)).save();
            let refused = build(&choice, &names(2)).load(&state).unwrap_err();
            assert!(refused.contains("3 tasks in the checkpoint, 2 here"), "{choice:?}: {refused}");
            assert!(build(&choice, &names(3)).load(&Value::Null).is_err(), "{choice:?}");
        }
    }

    #[test]
    fn losses_that_are_not_positive_give_finite_weights() {
        let rows =
            [[0.0, 0.0, 0.0], [-1.0, 2.0, 0.0], [1e-310, 1.0, 5e-324], [-1e15, -1e-15, -1.0], [1e-15, 1e15, 1.0]];
        for (choice, never_negative) in all() {
            let mut method = build(&choice, &names(3));
            for step in 0..20 {
                let losses = rows[step as usize % rows.len()].map(Some);
                let weights = run(method.as_mut(), step, &losses, &rows[(step as usize + 1) % rows.len()].map(Some));
                let fits = weights.iter().all(|w| w.is_finite() && (!never_negative || *w >= 0.0));
                assert!(fits, "{choice:?} at {losses:?}: {weights:?}");
            }
        }
    }

    #[test]
    fn a_step_without_losses_changes_nothing_but_the_epoch() {
        for (choice, _) in all() {
            let mut method = build(&choice, &names(2));
            let weights = run(method.as_mut(), 0, &[None, None], &[None, None]);
            assert!(weights.len() == 2 && weights.iter().all(|w| w.is_finite()), "{choice:?}: {weights:?}");
            assert_eq!(method.save(), build(&choice, &names(2)).save(), "{choice:?}");
        }
    }

    #[test]
    fn only_positive_losses_have_a_logarithm() {
        assert_eq!(positive(&[2.0, 0.0, -3.0, 0.5]), [2.0, 0.5e-8, 0.5e-8, 0.5]);
        assert_eq!(positive(&[0.0, -1.0]), [1.0, 1.0]);
        assert_eq!(positive(&[5e-324, -1.0]), [LEAST, LEAST]);
    }

    fn some_losses() -> impl Strategy<Value = Vec<Option<f64>>> {
        prop::collection::vec(prop::option::weighted(0.8, (-15.0..15.0f64).prop_map(|e| 10f64.powf(e))), 3)
    }

    proptest! {
        #[test]
        fn weights_are_finite_whatever_the_losses(rows in prop::collection::vec(some_losses(), 2..14)) {
            for (choice, never_negative) in all() {
                let mut method = build(&choice, &names(3));
                for (step, pair) in rows.windows(2).enumerate() {
                    let weights = run(method.as_mut(), step as u64, &pair[0], &pair[1]);
                    for (w, _) in weights.iter().zip(&pair[0]).filter(|(_, loss)| loss.is_some()) {
                        prop_assert!(w.is_finite(), "{:?}: {:?}", choice, weights);
                        prop_assert!(!never_negative || *w >= 0.0, "{:?}: {:?}", choice, weights);
                    }
                }
            }
        }
    }
}
