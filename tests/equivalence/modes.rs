//! What the modes of balancing compute, against updates put together from single-task gradients.

use super::fixture::{config, config_on, learner, learner_of, one_source, slice};
use polytask::balance::Gram;
use polytask::balance::surgery::pcgrad;
use polytask::comm::Solo;
use polytask::config::{Config, Spike, SpikeAction};
use polytask::data::Target;
use polytask::ffi::numbers;
use polytask::rng::{Stream, rng};
use polytask::step::losses::{self, TaskLoss};
use polytask::train::Learner;
use polytask::world::World;
use tch::Tensor;

const PLAIN: &str = "{sgd: {}}";
const TASKS: [&str; 4] = ["a", "b", "c", "d"];

fn flat(learner: &Learner<f64>) -> Vec<f64> {
    numbers::<f64>(learner.model.params.flat()).to_vec()
}

/// One step of plain gradient descent with learning rate 1: the update, and the report's mean coefficients.
fn update(learner: &mut Learner<f64>, config: &Config, step: u64) -> (Vec<f64>, Vec<f64>) {
    let before = flat(learner);
    let batches = slice(step, World::SOLO, 1, config);
    let report = learner.step(step, 1.0, &batches, &Solo).unwrap();
    assert_eq!(report.refused, None);
    let moved = before.iter().zip(flat(learner)).map(|(a, b)| a - b).collect();
    (moved, report.coefficients.mean().unwrap_or_default())
}

/// The update of a fresh learner's first step under some weights, heads unweighted.
fn weighted(weights: &[f64], like: &Config) -> Vec<f64> {
    let named: Vec<String> = TASKS.iter().zip(weights).map(|(t, w)| format!("{t}: {w}")).collect();
    let balance = format!("{{weighting: {{fixed: {{{}}}}}, scale_heads: false}}", named.join(", "));
    let config = config_on(one_source(like), &balance, PLAIN, "sharded");
    update(&mut learner::<f64>(&config, &Solo), &config, 0).0
}

fn assert_close(a: &[f64], b: &[f64], what: &str) {
    let scale = a.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    assert!(worst <= 1e-12 * scale, "{what}: {worst:e} of {scale:e}");
}

#[test]
fn an_update_on_the_representation_is_that_of_its_coefficients() {
    let config = config("{surgery: pcgrad, gradients: representation}", PLAIN, "sharded");
    let (moved, c) = update(&mut learner::<f64>(&config, &Solo), &config, 0);
    assert!(c.iter().any(|c| (c - 1.0).abs() > 1e-3), "surgery did something: {c:?}");
    assert_close(&moved, &weighted(&c, &config), "representation");
}

#[test]
fn steps_between_surgery_keep_its_coefficients() {
    let config = config("{surgery: pcgrad, every: 2}", PLAIN, "sharded");
    let mut learner = learner::<f64>(&config, &Solo);
    let kept = update(&mut learner, &config, 0).1;
    let start = flat(&learner);
    let (moved, c) = update(&mut learner, &config, 1);
    assert_eq!(c, kept);
    // The same step by weights, from the same parameters.
    let named: Vec<String> = TASKS.iter().zip(&c).map(|(t, w)| format!("{t}: {w}")).collect();
    let text = format!("{{weighting: {{fixed: {{{}}}}}, scale_heads: false}}", named.join(", "));
    let by_weights = super::fixture::config(&text, PLAIN, "sharded");
    let mut other = super::fixture::learner::<f64>(&by_weights, &Solo);
    polytask::ffi::numbers_mut::<f64>(other.model.params.flat_mut()).copy_from_slice(&start);
    assert_close(&moved, &update(&mut other, &by_weights, 1).0, "between");
    // Step 2 runs surgery again.
    assert_ne!(update(&mut learner, &config, 2).1, kept);
}

#[test]
fn every_layer_has_its_own_surgery() {
    let config = config("{surgery: pcgrad, scope: per_layer_group}", PLAIN, "sharded");
    let mut learner = learner::<f64>(&config, &Solo);
    let layout: Vec<(String, Vec<usize>, std::ops::Range<usize>)> =
        learner.model.params.entries.iter().map(|e| (e.name.clone(), e.scope.clone(), e.range.clone())).collect();
    let (moved, _) = update(&mut learner, &config, 0);
    let one_hot = |t: usize| -> Vec<f64> { (0..TASKS.len()).map(|u| f64::from(u8::from(u == t))).collect() };
    let grads: Vec<Vec<f64>> = (0..TASKS.len()).map(|t| weighted(&one_hot(t), &config)).collect();
    let mut n_layers = 0;
    for layer in ["encoder.layers.0.", "encoder.layers.1."] {
        let places: Vec<usize> = layout
            .iter()
            .filter(|(name, ..)| name.starts_with(layer))
            .flat_map(|(_, _, range)| range.clone())
            .collect();
        assert!(!places.is_empty());
        let j: Vec<Vec<f64>> = grads.iter().map(|g| places.iter().map(|&p| g[p]).collect()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let gram = Gram::new(j.iter().flat_map(|a| j.iter().map(|b| dot(a, b)).collect::<Vec<_>>()).collect()).unwrap();
        let c = pcgrad(&gram, &mut rng(config.run.seed, Stream::Surgery, 0, 0));
        let expected: Vec<f64> = (0..places.len()).map(|k| j.iter().zip(&c).map(|(g, c)| c * g[k]).sum()).collect();
        let got: Vec<f64> = places.iter().map(|&p| moved[p]).collect();
        assert_close(&got, &expected, layer);
        n_layers += 1;
    }
    assert_eq!(n_layers, 2);
}

/// The gradient of `sum_t weights[t] * L_t` on some batches, from a plain step of length 1.
fn gradient(weights: &[f64], batches: &[polytask::data::Batch], at: &[f64]) -> Vec<f64> {
    let named: Vec<String> = TASKS.iter().zip(weights).map(|(t, w)| format!("{t}: {w}")).collect();
    let config = config(&format!("{{weighting: {{fixed: {{{}}}}}}}", named.join(", ")), PLAIN, "sharded");
    let mut learner = learner::<f64>(&config, &Solo);
    polytask::ffi::numbers_mut::<f64>(learner.model.params.flat_mut()).copy_from_slice(at);
    learner.step(0, 1.0, batches, &Solo).unwrap();
    at.iter().zip(flat(&learner)).map(|(a, b)| a - b).collect()
}

#[test]
fn auto_lambda_follows_the_gradient_of_the_step_ahead() {
    // The finite difference of the method against inner products of gradients: d/d lambda_t = -lr g_t(theta) . v(theta').
    const LR: f64 = 0.3;
    let config = config("{weighting: {auto_lambda: {lr: 1e-3, init: 0.5, primary: [b, c]}}}", PLAIN, "sharded");
    let mut learner = learner::<f64>(&config, &Solo);
    let start = flat(&learner);
    let batches = slice(0, World::SOLO, 1, &config);
    let (first, second) = batches.split_at(1);
    let step = gradient(&[0.5; 4], first, &start);
    let ahead: Vec<f64> = start.iter().zip(&step).map(|(p, g)| p - LR * g).collect();
    let v = gradient(&[0.0, 1.0, 1.0, 0.0], second, &ahead);
    let slope = |t: usize| {
        let one_hot: Vec<f64> = (0..4).map(|u| f64::from(u8::from(u == t))).collect();
        -LR * gradient(&one_hot, first, &start).iter().zip(&v).map(|(a, b)| a * b).sum::<f64>()
    };
    let slopes: Vec<f64> = (0..4).map(slope).collect();
    learner.step(0, LR, &batches, &Solo).unwrap();
    let state = learner.balancer.save();
    for (t, expected) in slopes.iter().enumerate() {
        // After one step Adam's first moment is a tenth of the gradient.
        let got = 10.0 * state["weighting"][t]["first"].as_f64().unwrap();
        assert!((got - expected).abs() <= 1e-3 * expected.abs(), "task {t}: {got} {expected}");
        let weight = state["weighting"][t]["weight"].as_f64().unwrap();
        assert!((weight - (0.5 - 1e-3 * expected.signum())).abs() < 1e-9, "task {t}: {weight}");
    }
    // The parameters took the step from where they were, not from where the look ahead had been.
    let all = gradient(
        &(0..4).map(|t| state["weighting"][t]["weight"].as_f64().unwrap()).collect::<Vec<_>>(),
        &batches,
        &start,
    );
    let expected: Vec<f64> = start.iter().zip(&all).map(|(p, g)| p - LR * g).collect();
    assert_close(&expected, &flat(&learner), "the step itself");
}

/// A loss far below zero, as a log-likelihood of a density can be.
struct Below(Box<dyn TaskLoss>);

impl TaskLoss for Below {
    fn sum(&self, output: &Tensor, target: &Target) -> Tensor {
        self.0.sum(output, target) - 100.0 * self.count(target)
    }
    fn count(&self, target: &Target) -> f64 {
        self.0.count(target)
    }
    fn predict(&self, output: &Tensor) -> Tensor {
        self.0.predict(output)
    }
}

#[test]
fn a_loss_below_zero_is_no_spike_whatever_is_known_of_it_before_the_backward() {
    for balance in ["{weighting: equal}", "{weighting: uncertainty}", "{surgery: pcgrad}"] {
        for accumulate in [1, 3] {
            let mut config = config(balance, PLAIN, "sharded");
            config.train.spike = Some(Spike { window: 4, action: SpikeAction::Stop, ..Spike::default() });
            let below = |(_, task): &(String, polytask::config::Task)| -> Box<dyn TaskLoss> {
                Box::new(Below(losses::build(&task.kind)))
            };
            let mut learner: Learner<f64> = learner_of(&config, config.tasks.iter().map(below).collect(), &Solo);
            for step in 3..13 {
                let report = learner.step(step, 1e-3, &slice(step, World::SOLO, accumulate, &config), &Solo).unwrap();
                assert!(report.losses.iter().flatten().all(|&loss| loss < -90.0), "{:?}", report.losses);
                assert_eq!(report.refused, None, "{balance}, {accumulate} micro-batches, step {step}");
            }
        }
    }
}
