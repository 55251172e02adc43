//! Every encoder: stages of the promised widths, finite, and gradients that flow exactly where the scopes say.

use super::build;
use crate::config::{self, EmbeddingBag, Encoder as Config};
use crate::data::{Batch, InputDims, Inputs, Part, Target, Tokens};
use crate::model::{Chain, Encoder, Model, Start, TaskSpec};
use crate::step::{Grads, Masks, SharedRows, forward, losses, pass, probe_scopes};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
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
fn stages_run_by_themselves_give_what_all_together_give() {
    for (config, dims, inputs) in cases() {
        let model =
            Model::assemble(&[spec("a", None)], Kind::Double, Device::Cpu, 1, 1, |b| build(&config, &dims, b)).unwrap();
        let all = model.represent(&inputs, false);
        for first in 0..all.len() {
            for end in first + 1..=all.len() {
                let start = first.checked_sub(1).map_or(Start::Inputs(&inputs), |k| Start::Output(&all[k]));
                let some = model.run_stages(first..end, start, false);
                assert_eq!(some, all[first..end], "{config:?} {first}..{end}");
            }
        }
    }
}

#[test]
fn recomputed_encoders_have_the_same_gradients() {
    for (config, dims, inputs) in cases() {
        let tasks = [spec("early", Some(0)), spec("late", None)];
        let build = || Model::assemble(&tasks, Kind::Double, Device::Cpu, 1, 2, |b| build(&config, &dims, b)).unwrap();
        let batch = Batch { parts: vec![part(inputs)] };
        let grads = |model: Model| {
            let mut grads = Grads::zero(SharedRows::Tasks { batches: 1 }, &model.params);
            let pass = pass(&model, &[mse(), mse()], &batch, &[true; 2], Masks::new(1, 0));
            pass.task_grads(&model, 0, &mut grads, &mut |_, _| Ok::<_, tch::TchError>(())).unwrap();
            grads
        };
        let (kept, recomputed) = (build(), build().recomputed().unwrap());
        assert!(recomputed.pieces().len() == 2, "{config:?}: {:?}", recomputed.pieces());
        for (kept, recomputed) in grads(kept).rows.iter().flatten().zip(grads(recomputed).rows.iter().flatten()) {
            let (kept, recomputed) = (kept.tensor().unwrap(), recomputed.tensor().unwrap());
            assert!(kept.allclose(recomputed, 1e-12, 1e-14, false), "{config:?}: {kept} {recomputed}");
        }
    }
}

fn mse() -> Box<dyn losses::TaskLoss> {
    losses::build(&config::Kind::Regression(config::Regression::default()))
}

/// All samples, with labels of two tasks.
fn part(inputs: Inputs) -> Part {
    let target = |task| Target {
        task,
        values: Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.0]).reshape([N, 1]),
        mask: None,
        n_labelled: N as usize,
    };
    Part { source: 0, len: N as usize, inputs, targets: vec![target(0), target(1)] }
}

#[test]
fn heads_at_different_stages_reach_what_the_scopes_say() {
    for (config, dims, inputs) in cases() {
        let tasks = [spec("early", Some(0)), spec("late", None)];
        let model = Model::assemble(&tasks, Kind::Double, Device::Cpu, 1, 2, |b| build(&config, &dims, b)).unwrap();
        let pass = forward(&model, &[mse(), mse()], &Batch { parts: vec![part(inputs)] }, &[true; 2], false);
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

type Log = Rc<RefCell<Vec<String>>>;

/// Writes down what is computed; a chain, or not.
struct Logged(Box<dyn Encoder>, Log, bool);

impl Encoder for Logged {
    fn widths(&self) -> &[usize] {
        self.0.widths()
    }
    fn forward(&self, inputs: &Inputs, train: bool) -> Vec<Tensor> {
        self.1.borrow_mut().push("all".into());
        self.0.forward(inputs, train)
    }
    fn chain(&self) -> Option<&dyn Chain> {
        if self.2 { Some(self) } else { None }
    }
}

impl Chain for Logged {
    fn run(&self, stages: Range<usize>, start: Start<'_>, train: bool) -> Vec<Tensor> {
        self.1.borrow_mut().push(format!("{stages:?}"));
        self.0.chain().unwrap().run(stages, start, train)
    }
}

/// Parameters are not numbers until they have arrived, so that a stage that does not wait for its own is found out.
#[test]
fn a_forward_pass_computes_each_stage_when_its_parameters_have_arrived() {
    let all = [true, false].into_iter().flat_map(|is_chain| cases().into_iter().map(move |case| (case, is_chain)));
    for ((config, dims, inputs), is_chain) in all {
        let log = Log::default();
        let build_model = || {
            Model::assemble(&[spec("a", None), spec("b", None)], Kind::Float, Device::Cpu, 1, 1, |b| {
                b.bucket(1);
                Ok(Box::new(Logged(build(&config, &dims, b)?, log.clone(), is_chain)))
            })
            .unwrap()
        };
        let (there, mut model) = (build_model(), build_model());
        let numbers = there.params.flat().copy();
        let _ = tch::no_grad(|| model.params.flat_mut().fill_(f64::NAN));
        let flat = model.params.flat().shallow_clone();
        for (s, segment) in model.params.segments.iter().enumerate() {
            let part = |t: &Tensor| t.narrow(0, segment.range.start as i64, segment.range.len() as i64);
            let (mut to, from, log) = (part(&flat), part(&numbers), log.clone());
            // A later part stands for those before it.
            let before =
                (flat.narrow(0, 0, segment.range.start as i64), numbers.narrow(0, 0, segment.range.start as i64));
            let join = move || {
                let (mut all, of) = before;
                tch::no_grad(|| (all.copy_(&of), to.copy_(&from)));
                log.borrow_mut().push(format!("segment {s}"));
            };
            model.params.arrivals().expect(segment.first_stage, Box::new(join));
        }
        let n = there.params.segments.len();
        let expected = there.represent(&inputs, false);
        log.borrow_mut().clear();
        let found = model.represent(&inputs, false);
        let mut order: Vec<String> =
            (0..n - 1).flat_map(|s| [format!("segment {s}"), format!("{s}..{}", s + 1)]).collect();
        if !is_chain {
            order = vec![format!("segment {}", n - 2), "all".into()];
        }
        assert_eq!(*log.borrow(), order, "{config:?}");
        assert!(expected.iter().zip(&found).all(|(a, b)| a == b), "{config:?}");
        assert!(model.output(1, &found, false) == there.output(1, &expected, false));
        order.push(format!("segment {}", n - 1));
        assert_eq!(*log.borrow(), order, "heads wait for theirs");
        log.borrow_mut().clear();
        let _ = model.represent(&inputs, false);
        let whole = if is_chain { format!("0..{}", n - 1) } else { "all".into() };
        assert_eq!(*log.borrow(), [whole], "nothing is on its way any more");
        assert!(model.params.flat() == &numbers);
    }
}

#[test]
fn a_stage_that_is_not_there_is_refused() {
    let (config, dims, _) = cases().remove(0);
    let refused = Model::assemble(&[spec("a", None)], Kind::Float, Device::Cpu, 1, 1, |b| {
        let encoder = build(&config, &dims, b)?;
        b.stage(2);
        let _ = b.param("encoder.more", &[1], crate::model::Init::Constant(0.0));
        Ok(encoder)
    });
    let words = refused.unwrap_err().to_string();
    assert!(
        words.starts_with("parameter `encoder.more` is made for stage 2, but the encoder has stages 0 to 1\n"),
        "{words}"
    );
}
