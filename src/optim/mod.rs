//! Optimizers on a rank's shard of the flat parameters, and the learning-rate schedule.

mod schedule;

pub use schedule::lr;

use crate::config::Optim;
use crate::kernel::{Piece, Real, Rule, update};

/// An optimizer with its state for a shard of `n` parameters.
#[derive(Debug, Clone)]
pub struct Optimizer<F> {
    config: Optim,
    /// Updates made so far.
    pub updates: u64,
    /// Momentum or first moment, `[n]`.
    pub first: Vec<F>,
    /// Second moment, `[n]`; empty for SGD.
    pub second: Vec<F>,
}

impl<F> Optimizer<F> {
    /// What was configured.
    pub fn config(&self) -> &Optim {
        &self.config
    }
}

impl<F: Real> Optimizer<F> {
    /// A fresh optimizer for a shard of `n` parameters.
    pub fn new(config: &Optim, n: usize) -> Self {
        let (first, second) = match config {
            Optim::Sgd(c) => (if c.momentum > 0.0 { n } else { 0 }, 0),
            Optim::Adam(_) | Optim::Adamw(_) => (n, n),
        };
        Optimizer {
            config: config.clone(),
            updates: 0,
            first: vec![F::default(); first],
            second: vec![F::default(); second],
        }
    }

    /// Names of the states that this optimizer keeps.
    pub fn states(&self) -> Vec<&'static str> {
        match &self.config {
            Optim::Sgd(c) if c.momentum > 0.0 => vec!["momentum"],
            Optim::Sgd(_) => Vec::new(),
            Optim::Adam(_) | Optim::Adamw(_) => vec!["exp_avg", "exp_avg_sq"],
        }
    }

    /// The rule of the next update with this learning rate.
    pub fn rule(&self, lr: f64) -> Rule<F> {
        match &self.config {
            Optim::Sgd(c) => Rule::Sgd {
                lr: F::from_f64(lr),
                momentum: F::from_f64(c.momentum),
                nesterov: c.nesterov,
                weight_decay: F::from_f64(c.weight_decay),
                first: self.updates == 0,
            },
            Optim::Adam(c) | Optim::Adamw(c) => {
                let decoupled = matches!(self.config, Optim::Adamw(_));
                let t = (self.updates + 1) as f64;
                let [beta1, beta2] = c.betas;
                Rule::Adam {
                    step_size: F::from_f64(lr / (1.0 - beta1.powf(t))),
                    inv_sqrt_bias2: F::from_f64(1.0 / (1.0 - beta2.powf(t)).sqrt()),
                    beta1: F::from_f64(beta1),
                    beta2: F::from_f64(beta2),
                    one_minus_beta1: F::from_f64(1.0 - beta1),
                    one_minus_beta2: F::from_f64(1.0 - beta2),
                    eps: F::from_f64(c.eps),
                    l2: F::from_f64(if decoupled { 0.0 } else { c.weight_decay }),
                    keep: F::from_f64(if decoupled { 1.0 - lr * c.weight_decay } else { 1.0 }),
                }
            }
        }
    }

    /// Moves the parameters of all pieces, whose states were borrowed from `first` and `second`; returns the squared
    /// norm of the combined gradient. `rule` is that of [`Self::rule`].
    pub fn apply(rule: Rule<F>, pieces: Vec<Piece<'_, F>>) -> f64 {
        update(rule, pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Adam, Sgd};
    use crate::kernel::Fragment;

    /// Three updates of p = [1, -2, 0.5] with gradients g, 2 g, -g, where g = [0.1, -0.3, 2].
    fn run(config: Optim) -> Vec<f64> {
        let mut p = vec![1.0, -2.0, 0.5];
        let mut o = Optimizer::<f64>::new(&config, 3);
        for scale in [1.0, 2.0, -1.0] {
            let rule = o.rule(config.lr());
            let piece = Piece {
                grads: Fragment { len: 3, rows: vec![&[0.1, -0.3, 2.0]] },
                coef: &[scale],
                param: &mut p,
                first: &mut o.first,
                second: &mut o.second,
            };
            Optimizer::apply(rule, vec![piece]);
            o.updates += 1;
        }
        p
    }

    #[test]
    fn equals_pytorch() {
        // tests/oracles/optimizers.py prints this table with torch 2.11 in f64.
        let adam = Adam { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1, clip_norm: None };
        let sgd = Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.1, clip_norm: None };
        let cases = [
            (Optim::Adam(adam.clone()), ADAM),
            (Optim::Adamw(adam), ADAMW),
            (Optim::Sgd(sgd.clone()), SGD),
            (Optim::Sgd(Sgd { nesterov: true, ..sgd.clone() }), NESTEROV),
            (Optim::Sgd(Sgd { momentum: 0.0, ..sgd }), PLAIN),
        ];
        for (config, expected) in cases {
            let got = run(config.clone());
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{config:?}: {got:?}");
        }
    }

    const ADAM: [f64; 3] = [0.727652193586475, -1.73375117046193, 0.26040876790034];
    const ADAMW: [f64; 3] = [0.734856125161331, -1.705155112629618, 0.24970660730364];
    const SGD: [f64; 3] = [0.889858, -1.725195, -0.6182305];
    const NESTEROV: [f64; 3] = [0.853048882, -1.638252705, -0.8964542095];
    const PLAIN: [f64; 3] = [0.950698, -1.881795, 0.0931295];
}
