//! Every method of the catalogue keeps what the catalogue promises of it, on random Jacobians.
//!
//! A new method is covered by its row in `src/balance/catalog/methods.rs`. Cases that break a promise are collected over
//! all methods before the test fails, so that one message names them all.

use polytask::balance::catalog::{Descends, Kind, METHODS, Method, Order, Scale, Total, numbered};
use polytask::balance::explicit::{Balanced, Explicit};
use polytask::config::Balance;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

type Rows = Vec<Vec<f64>>;

const SEED: u64 = 7;
const STEPS_PER_EPOCH: u64 = 2;

/// Methods with the configuration of their default options for this many tasks; those that are not for so few are left
/// out, and no others (`every_method_of_the_catalogue_loads` proves that all load for eight).
fn methods(n_tasks: usize) -> Vec<(&'static Method, Balance)> {
    METHODS.iter().filter_map(|m| Some((m, m.config(&numbered(n_tasks)).ok()?))).collect()
}

/// The first step from a fresh state.
fn first(config: &Balance, j: &Rows, losses: &[f64]) -> Result<Balanced, String> {
    let mut balancing = Explicit::new(config, j.len(), j[0].len(), SEED, STEPS_PER_EPOCH);
    balancing.direct(j, losses, 0).map_err(|bad| format!("not finite: {:?}", bad.0))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn norm(a: &[f64]) -> f64 {
    let largest = a.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if largest == 0.0 { 0.0 } else { largest * a.iter().map(|x| (x / largest).powi(2)).sum::<f64>().sqrt() }
}

/// Difference of two directions, relative to the longer one, or to a small share of the longest gradient where both
/// nearly vanish.
fn difference(a: &[f64], b: &[f64], j: &Rows) -> f64 {
    let longest = j.iter().map(|g| norm(g)).fold(0.0, f64::max);
    let scale = norm(a).max(norm(b)).max(1e-3 * longest).max(f64::MIN_POSITIVE);
    norm(&a.iter().zip(b).map(|(x, y)| x - y).collect::<Vec<_>>()) / scale
}

/// Smallest squared sine between a gradient and the span of those before it: 0 for dependent gradients.
fn independence(j: &Rows) -> f64 {
    let mut basis: Rows = Vec::new();
    let mut least = 1.0f64;
    for g in j {
        let mut rest: Vec<f64> = g.iter().map(|x| x / norm(g)).collect();
        for b in &basis {
            let along = dot(&rest, b);
            rest.iter_mut().zip(b).for_each(|(r, b)| *r -= along * b);
        }
        let length = norm(&rest);
        least = least.min(length * length);
        basis.push(rest.iter().map(|x| x / length).collect());
    }
    least
}

/// Gradients that are clearly independent, with positive losses.
fn independent(n_tasks: std::ops::Range<usize>) -> impl Strategy<Value = (Rows, Vec<f64>)> {
    n_tasks
        .prop_flat_map(|t| {
            let rows = prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 8), t);
            (rows, prop::collection::vec(0.05f64..5.0, t))
        })
        .prop_filter("nearly dependent", |(j, _)| independence(j) > 0.05)
}

/// Anything: zero, doubled and opposite gradients, dependent ones, of any size, with losses of any size.
fn wild() -> impl Strategy<Value = (Rows, Vec<f64>)> {
    let row = (0usize..8, prop::collection::vec(-1.0f64..1.0, 7), -15i32..=15, any::<prop::sample::Index>());
    (prop::collection::vec((row, -6.0f64..6.0), 1..7), 1usize..7, -15i32..=15).prop_map(|(rows, n, common)| {
        let mut j: Rows = Vec::new();
        for ((kind, values, own, other), _) in &rows {
            let fresh: Vec<f64> = values[..n].to_vec();
            let earlier = || if j.is_empty() { fresh.clone() } else { j[other.index(j.len())].clone() };
            j.push(match kind {
                0 => vec![0.0; n],
                1 => earlier(),
                2 => earlier().iter().map(|x| -x).collect(),
                3 => fresh.iter().map(|x| x * 10f64.powi(*own)).collect(),
                _ => fresh,
            });
        }
        j.iter_mut().flatten().for_each(|x| *x *= 10f64.powi(common));
        (j, rows.iter().map(|(_, l)| 10f64.powf(*l)).collect())
    })
}

/// Runs a property on every method on random cases; says for each method that broke it the smallest case found.
fn hold<S>(cases: u32, strategy: impl Fn() -> S, property: impl Fn(&Method, &S::Value) -> Result<(), String>)
where
    S: Strategy,
{
    let mut broken = Vec::new();
    for method in METHODS {
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        // The same cases in every run and for every method.
        let mut runner =
            TestRunner::new_with_rng(config, proptest::test_runner::TestRng::deterministic_rng(Default::default()));
        let result = runner.run(&strategy(), |case| property(method, &case).map_err(TestCaseError::fail));
        if let Err(error) = result {
            broken.push(format!("{}: {error}", method.name));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn configured(method: &Method, n_tasks: usize) -> Option<Balance> {
    method.config(&numbered(n_tasks)).ok()
}

fn need(ok: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if ok { Ok(()) } else { Err(message()) }
}

#[test]
fn methods_are_there_for_few_tasks() {
    assert!(methods(2).len() >= 4);
    assert!(methods(5).len() >= methods(2).len());
}

#[test]
fn everything_is_finite() {
    hold(128, wild, |method, (j, losses)| {
        let Some(config) = configured(method, j.len()) else { return Ok(()) };
        let mut balancing = Explicit::new(&config, j.len(), j[0].len(), SEED, STEPS_PER_EPOCH);
        // Past every warm-up, with losses that rise and fall.
        for step in 0..12u64 {
            let shift = |k: usize| 1.0 + 0.5 * ((step as f64) * 1.7 + k as f64).sin();
            let now: Vec<f64> = losses.iter().enumerate().map(|(k, l)| l * shift(k)).collect();
            let found = balancing.direct(j, &now, step).map_err(|bad| format!("step {step}: tasks {:?}", bad.0))?;
            let numbers = found.direction.iter().chain(&found.weights).chain(found.coefficients.iter().flatten());
            need(numbers.clone().all(|x| x.is_finite()), || format!("step {step}: {found:?}"))?;
            balancing.observe(&now, step);
            if balancing.needs_losses_after() {
                let after: Vec<f64> = now.iter().map(|l| l * 0.9).collect();
                balancing.observe_after(&now, &after, step);
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_seed_and_step_give_the_same_bits() {
    hold(16, wild, |method, (j, losses)| {
        let Some(config) = configured(method, j.len()) else { return Ok(()) };
        let run = || -> Result<Vec<Balanced>, String> {
            let mut balancing = Explicit::new(&config, j.len(), j[0].len(), SEED, STEPS_PER_EPOCH);
            let step = |step: u64| {
                let found = balancing.direct(j, losses, step).map_err(|bad| format!("{:?}", bad.0))?;
                balancing.observe(losses, step);
                Ok(found)
            };
            (0..3).map(step).collect()
        };
        need(run()? == run()?, || "two runs differ".into())
    });
}

#[test]
fn draws_depend_on_seed_and_step() {
    // Three tasks in full conflict: nearly every order of projections gives another result.
    let j: Rows = vec![vec![1.0, 0.0, 0.3], vec![-0.8, 0.9, 0.1], vec![-0.4, -1.1, 0.2]];
    for (method, config) in methods(3).iter().filter(|(m, _)| m.promises.order == Order::Random) {
        let draws: Vec<Vec<f64>> = (0..10)
            .map(|step| {
                let mut balancing = Explicit::new(config, 3, 3, SEED, STEPS_PER_EPOCH);
                balancing.direct(&j, &[1.0; 3], step).unwrap().direction
            })
            .collect();
        assert!(draws.iter().any(|d| *d != draws[0]), "{}: every step draws alike", method.name);
    }
}

#[test]
fn a_common_factor_does_what_is_promised() {
    let cases = || (independent(1..6), -40i32..40);
    hold(64, cases, |method, ((j, losses), exponent)| {
        let Some(config) = configured(method, j.len()) else { return Ok(()) };
        let factor = match method.promises.scale {
            Scale::Linear => 2f64.powi(*exponent),
            Scale::Invariant => 1.0,
            Scale::Unpromised => return Ok(()),
        };
        let scaled: Rows = j.iter().map(|g| g.iter().map(|x| x * 2f64.powi(*exponent)).collect()).collect();
        let want: Vec<f64> = first(&config, j, losses)?.direction.iter().map(|x| x * factor).collect();
        let got = first(&config, &scaled, losses)?.direction;
        let off = difference(&got, &want, if factor == 1.0 { j } else { &scaled });
        need(off < 1e-6, || format!("off by {off}: {got:?}, expected {want:?}"))
    });
}

#[test]
fn the_scale_of_one_task_does_what_is_promised() {
    let cases = || (independent(2..6), any::<prop::sample::Index>(), -3.0f64..3.0);
    hold(64, cases, |method, ((j, losses), task, exponent)| {
        let Some(config) = configured(method, j.len()).filter(|_| method.promises.task_scale) else { return Ok(()) };
        let mut scaled = j.clone();
        scaled[task.index(j.len())].iter_mut().for_each(|x| *x *= 10f64.powf(*exponent));
        let (before, after) = (first(&config, j, losses)?.direction, first(&config, &scaled, losses)?.direction);
        let unit = |d: &[f64]| -> Vec<f64> { d.iter().map(|x| x / norm(d)).collect() };
        let turned = norm(&unit(&before).iter().zip(unit(&after)).map(|(a, b)| a - b).collect::<Vec<_>>());
        need(turned < 1e-4, || format!("turned by {turned}: {before:?}, {after:?}"))
    });
}

#[test]
fn the_order_of_tasks_does_what_is_promised() {
    let cases = || {
        independent(2..6).prop_flat_map(|(j, l)| {
            let order = Just((0..j.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(j), Just(l), order)
        })
    };
    hold(64, cases, |method, (j, losses, order)| {
        let equivariant = method.promises.order == Order::Equivariant;
        let Some(config) = configured(method, j.len()).filter(|_| equivariant) else { return Ok(()) };
        let run = |j: &Rows, losses: &[f64]| -> Result<Vec<f64>, String> {
            let mut balancing = Explicit::new(&config, j.len(), j[0].len(), SEED, STEPS_PER_EPOCH);
            let mut direction = Vec::new();
            for step in 0..6u64 {
                let now: Vec<f64> = losses.iter().map(|l| l * 0.9f64.powf(step as f64 * l)).collect();
                direction = balancing.direct(j, &now, step).map_err(|bad| format!("{:?}", bad.0))?.direction;
                balancing.observe(&now, step);
                if balancing.needs_losses_after() {
                    // Other rates for other losses: Adam would blow up the rounding of equal ones.
                    let after: Vec<f64> = now.iter().map(|l| l * 0.95f64.powf(1.0 + l)).collect();
                    balancing.observe_after(&now, &after, step);
                }
            }
            Ok(direction)
        };
        let shuffled: Rows = order.iter().map(|&t| j[t].clone()).collect();
        let losses_shuffled: Vec<f64> = order.iter().map(|&t| losses[t]).collect();
        let (want, got) = (run(j, losses)?, run(&shuffled, &losses_shuffled)?);
        let off = difference(&got, &want, j);
        need(off < 1e-6, || format!("off by {off}: {got:?}, expected {want:?}"))
    });
}

#[test]
fn no_task_ascends_where_that_is_promised() {
    hold(
        128,
        || independent(1..6),
        |method, (j, losses)| {
            let promised = match method.promises.descends {
                Descends::Always => true,
                Descends::TwoTasks => j.len() <= 2,
                Descends::Unpromised => false,
            };
            let Some(config) = configured(method, j.len()).filter(|_| promised) else { return Ok(()) };
            let d = first(&config, j, losses)?.direction;
            // Methods that are regularised by default leave a conflict of about that size.
            let worst = j.iter().map(|g| dot(g, &d) / norm(g) / norm(&d).max(1e-300)).fold(f64::INFINITY, f64::min);
            need(worst >= -1e-6, || format!("a cosine of {worst} with {d:?}"))
        },
    );
}

#[test]
fn without_conflict_nothing_changes_where_that_is_promised() {
    let cases = || {
        (1usize..6).prop_flat_map(|t| {
            let rows = prop::collection::vec(prop::collection::vec(0.0f64..1.0, 4), t);
            (rows, prop::collection::vec(0.05f64..5.0, t))
        })
    };
    hold(64, cases, |method, (j, losses)| {
        let Some(total) = method.promises.without_conflict else { return Ok(()) };
        let Some(config) = configured(method, j.len()) else { return Ok(()) };
        let share = if total == Total::Mean { 1.0 / j.len() as f64 } else { 1.0 };
        let want: Vec<f64> = (0..4).map(|p| share * j.iter().map(|g| g[p]).sum::<f64>()).collect();
        let got = first(&config, j, losses)?.direction;
        let off = difference(&got, &want, j);
        need(off < 1e-6, || format!("off by {off}: {got:?}, expected {want:?}"))
    });
}

#[test]
fn a_weighting_scales_the_gradients_that_surgery_sees() {
    // c = w * surgery(diag(w) G diag(w)): the same as surgery on gradients that are scaled beforehand.
    let tasks = numbered(2);
    let weighted = ["balance.weighting.fixed={'0': 2, '1': 0.5}".to_string()];
    for method in METHODS.iter().filter(|m| matches!(m.kind, Kind::Gram | Kind::Batches | Kind::Shard)) {
        let overrides = [method.overrides(), weighted.to_vec()].concat();
        let Ok(config) = polytask::config::with_tasks("test", &tasks, &overrides) else { continue };
        let j: Rows = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.5]];
        let scaled: Rows = j.iter().zip([2.0, 0.5]).map(|(g, w)| g.iter().map(|x| x * w).collect()).collect();
        let got = first(&config.balance, &j, &[0.5, 3.0]).unwrap().direction;
        let plain = method.config(&tasks).unwrap();
        let want = first(&plain, &scaled, &[1.0, 1.5]).unwrap().direction;
        assert!(difference(&got, &want, &j) < 1e-9, "{}: {got:?}, expected {want:?}", method.name);
    }
}
