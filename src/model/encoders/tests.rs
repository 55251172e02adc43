//! Every encoder: stages of the promised widths, finite, and gradients that flow exactly where the scopes say.

use super::build;
use crate::config::{self, EmbeddingBag, Encoder as Config};
use crate::data::{Batch, InputDims, Inputs, Part, Target, Tokens};
use crate::model::{Model, TaskSpec};
use crate::step::{forward, losses, probe_scopes};
use tch::{Device, Kind, Tensor};

const N: i64 = 4;

fn dims(dense: usize, categories: &[usize], vocab: usize, image: Option<[usize; 3]>) -> InputDims {
    InputDims { dense, categories: categories.to_vec(), vocab, image }
}

/// Each encoder with inputs of `N` samples.
fn cases() -> Vec<(Config, InputDims, Inputs)> {
    let none = || Inputs { dense: None, categorical: None, tokens: None, image: None };
    let numbers = |shape: &[i64]| {
        (Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)) * 0.37).sin().reshape(shape)
    };
    let tokens = Tokens { ids: Tensor::from_slice(&[1i64, 2, 0, 3]), offsets: Tensor::from_slice(&[0i64, 2, 2, 3]) };
    vec![
        (
            Config::Mlp(config::Mlp { widths: vec![6, 5], layer_norm: true, ..config::Mlp::default() }),
            dims(3, &[4, 9], 0, None),
            Inputs {
                dense: Some(numbers(&[N, 3])),
                categorical: Some(Tensor::from_slice(&[0i64, 1, 3, 8, 2, 2, 1, 0]).reshape([N, 2])),
                ..none()
            },
        ),
        (
            Config::Cnn(config::Cnn { channels: vec![4, 6], kernel: 3, groups: 2, widths: vec![7], dropout: 0.0 }),
            dims(0, &[], 0, Some([1, 9, 8])),
            Inputs { image: Some(numbers(&[N, 1, 9, 8])), ..none() },
        ),
        (
            Config::EmbeddingBag(EmbeddingBag { dim: 5, widths: vec![4], dropout: 0.0 }),
            dims(0, &[], 4, None),
            Inputs { tokens: Some(tokens), ..none() },
        ),
    ]
}

fn spec(name: &str, stage: Option<usize>) -> TaskSpec {
    TaskSpec { name: name.into(), outputs: 1, head: config::Head { stage, ..config::Head::default() } }
}

#[test]
fn stages_have_the_promised_widths() {
    for (config, dims, inputs) in cases() {
        for kind in [Kind::Float, Kind::Double] {
            let mut widths = Vec::new();
            let model = Model::assemble(&[spec("a", None)], kind, Device::Cpu, 1, 1, |b| {
                let encoder = build(&config, &dims, b)?;
                widths = encoder.widths().to_vec();
                Ok(encoder)
            })
            .unwrap();
            let stages = model.represent(&inputs, false);
            assert_eq!(stages.len(), widths.len(), "{config:?}");
            for (stage, width) in stages.iter().zip(widths) {
                assert_eq!((stage.size(), stage.kind()), (vec![N, width as i64], kind), "{config:?}");
                assert!(bool::try_from(stage.isfinite().all()).unwrap(), "{config:?}");
            }
        }
    }
}

#[test]
fn heads_at_different_stages_reach_what_the_scopes_say() {
    for (config, dims, inputs) in cases() {
        let tasks = [spec("early", Some(0)), spec("late", None)];
        let model = Model::assemble(&tasks, Kind::Double, Device::Cpu, 1, 2, |b| build(&config, &dims, b)).unwrap();
        let target = |task| Target {
            task,
            values: Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.0]).reshape([N, 1]),
            mask: None,
            n_labelled: N as usize,
        };
        let part = Part { source: 0, len: N as usize, inputs, targets: vec![target(0), target(1)] };
        let mse = || losses::build(&config::Kind::Regression(config::Regression::default()));
        let pass = forward(&model, &[mse(), mse()], &Batch { parts: vec![part] }, &[true; 2], false);
        probe_scopes(&model.params, &pass.terms).unwrap_or_else(|e| panic!("{config:?}: {e}"));
        let late = model.params.entries.iter().filter(|e| e.name.starts_with("encoder") && e.scope == [1]).count();
        assert!(late >= 2, "{config:?}: the layers after stage 0 belong to the late task alone");
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let message = |config: Config, dims: InputDims| {
        let model = Model::assemble(&[spec("a", None)], Kind::Float, Device::Cpu, 1, 1, |b| build(&config, &dims, b));
        model.err().map(|e| e.to_string().lines().next().unwrap_or_default().to_string())
    };
    let (mlp, cnn, bag) = (config::Mlp::default(), config::Cnn::default(), EmbeddingBag::default());
    assert_eq!(message(Config::Mlp(mlp), dims(0, &[], 9, None)).unwrap(), "encoder `mlp` cannot take text");
    assert_eq!(message(Config::Cnn(cnn.clone()), dims(3, &[], 0, None)).unwrap(), "encoder `cnn` needs images");
    assert_eq!(
        message(Config::Cnn(cnn), dims(0, &[], 0, Some([1, 3, 3]))).unwrap(),
        "encoder `cnn` halves the image 2 times, which 3 x 3 pixels are too few for"
    );
    assert_eq!(
        message(Config::EmbeddingBag(bag), dims(2, &[], 0, None)).unwrap(),
        "encoder `embedding_bag` needs a `text` column"
    );
}
