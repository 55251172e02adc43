//! The network: a shared encoder in stages, a head per task, and their parameters in one flat buffer.
//!
//! A library user brings an encoder or a head by implementing [`Encoder`] or [`Head`] and giving it to
//! [`Model::assemble`] or [`Model::assemble_with`]; `examples/custom_encoder.rs` shows how.

mod arrivals;
mod chain;
pub mod encoders;
pub mod heads;
pub mod params;

pub use arrivals::Arrivals;
pub use chain::{Chain, Start};
pub use params::{Entry, Init, ParamBuilder, Params, Rows, Segment};

use crate::config;
use crate::data::{InputDims, Inputs};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// What turns inputs into representations, in stages to which heads attach.
pub trait Encoder {
    /// Width of each stage's output.
    fn widths(&self) -> &[usize];

    /// The output of every stage, `[n, widths[k]]` each. Not called for a [`Chain`], which runs all of its stages instead.
    fn forward(&self, inputs: &Inputs, train: bool) -> Vec<Tensor>;

    /// Whether what comes before a stage reaches what comes after it through that stage's output alone: the backward
    /// pass can then be cut there. Not so, for example, where a connection skips a stage, or two stages share a parameter.
    fn is_chain(&self) -> bool {
        self.chain().is_some()
    }

    /// The encoder as a chain whose stages can be computed by themselves, if it is one: [`Model::recomputed`] needs that, and
    /// between GPUs its first stages are computed while parameters of later ones are on their way.
    fn chain(&self) -> Option<&dyn Chain> {
        None
    }
}

/// What turns a representation into a task's output.
pub trait Head {
    /// `[n, width]` to `[n, outputs]`.
    fn forward(&self, representation: &Tensor, train: bool) -> Tensor;
}

/// A task as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Its name.
    pub name: String,
    /// Width of its output: logits or values.
    pub outputs: usize,
    /// Its head.
    pub head: config::Head,
}

/// A configuration of the model that cannot be built for this data.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The encoder cannot take these inputs.
    #[error("encoder `{encoder}` {problem}\n  hint: {hint}")]
    Inputs {
        /// The encoder.
        encoder: &'static str,
        /// What does not fit.
        problem: String,
        /// The way out.
        hint: &'static str,
    },
    /// A head is attached to a stage that is not there.
    #[error("`tasks.{task}.head.stage` is {stage}, but the encoder has stages 0 to {last}")]
    Stage {
        /// The task.
        task: String,
        /// What it asks for.
        stage: usize,
        /// The last stage there is.
        last: usize,
    },
    /// A stage of the encoder feeds nobody.
    #[error(
        "no head uses the encoder beyond stage {used}: its parameters would never learn\n  hint: attach a head to \
             stage {last}, or drop the layers after stage {used}"
    )]
    Unused {
        /// The deepest stage in use.
        used: usize,
        /// The last stage there is.
        last: usize,
    },
    /// A parameter of the encoder belongs to a stage that is not there.
    #[error(
        "parameter `{parameter}` is made for stage {stage}, but the encoder has stages 0 to {last}\n  hint: \
             `ParamBuilder::stage` counts the outputs of `Encoder::widths`, from 0"
    )]
    NoStage {
        /// The parameter.
        parameter: String,
        /// What the builder was told.
        stage: usize,
        /// The last stage there is.
        last: usize,
    },
    /// The encoder's stages cannot be computed by themselves.
    #[error(
        "the encoder cannot compute stages by themselves, so activations cannot be recomputed\n  hint: implement \
         `Encoder::chain`, or leave activations as they are"
    )]
    NoChain,
}

/// Encoder and heads with their parameters.
pub struct Model {
    /// All parameters.
    pub params: Params,
    device: Device,
    encoder: Box<dyn Encoder>,
    heads: Vec<(usize, Box<dyn Head>)>,
    /// Stages that are recomputed together; empty if nothing is.
    pieces: Vec<Range<usize>>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("params", &self.params).finish_non_exhaustive()
    }
}

impl Model {
    /// Builds the configured model. The initial parameters depend on the seed alone. Segments of parameters end with the
    /// stage of the encoder once they hold `bucket` parameters.
    ///
    /// # Errors
    /// If the encoder cannot take the inputs, or a head asks for a stage that is not there.
    #[expect(clippy::too_many_arguments, reason = "what a model is made of, each of another type")]
    pub fn build(
        config: &config::Model,
        dims: &InputDims,
        tasks: &[TaskSpec],
        precision: config::Precision,
        device: Device,
        seed: u64,
        world_size: usize,
        bucket: usize,
    ) -> Result<Model, ModelError> {
        let kind = kind_of(precision);
        let config::Sharing::Hard = config.sharing;
        let model = Model::assemble(tasks, kind, device, seed, world_size, |b| {
            b.bucket(bucket);
            encoders::build(&config.encoder, dims, b)
        })?;
        if config.recompute { model.recomputed() } else { Ok(model) }
    }

    /// Builds a model with hard sharing around any encoder. `encoder` makes its parameters with the builder and calls
    /// [`ParamBuilder::stage`] before those of each stage. The heads are those of the tasks' configurations.
    ///
    /// # Errors
    /// Those of `encoder`, heads and parameters of stages that are not there, and stages that no head uses.
    pub fn assemble(
        tasks: &[TaskSpec],
        kind: Kind,
        device: Device,
        seed: u64,
        world_size: usize,
        encoder: impl FnOnce(&mut ParamBuilder) -> Result<Box<dyn Encoder>, ModelError>,
    ) -> Result<Model, ModelError> {
        Model::assemble_with(tasks, kind, device, seed, world_size, encoder, heads::build)
    }

    /// As [`Model::assemble`], with heads of the caller's too. `head` is called once per task, with the width of the stage
    /// to which the task is attached; the parameters that it makes belong to that task.
    ///
    /// # Errors
    /// As [`Model::assemble`].
    pub fn assemble_with(
        tasks: &[TaskSpec],
        kind: Kind,
        device: Device,
        seed: u64,
        world_size: usize,
        encoder: impl FnOnce(&mut ParamBuilder) -> Result<Box<dyn Encoder>, ModelError>,
        mut head: impl FnMut(&TaskSpec, usize, &mut ParamBuilder) -> Box<dyn Head>,
    ) -> Result<Model, ModelError> {
        let mut builder = ParamBuilder::new(kind, device, seed, tasks.iter().map(|t| t.head.stage).collect());
        let encoder = encoder(&mut builder)?;
        let last = encoder.widths().len() - 1;
        builder.heads();
        let mut heads: Vec<(usize, Box<dyn Head>)> = Vec::with_capacity(tasks.len());
        for (t, task) in tasks.iter().enumerate() {
            let stage = task.head.stage.unwrap_or(last);
            if stage > last {
                return Err(ModelError::Stage { task: task.name.clone(), stage, last });
            }
            builder.tasks(&[t]);
            heads.push((stage, head(task, encoder.widths()[stage], &mut builder)));
        }
        let used = heads.iter().map(|(stage, _)| *stage).max().unwrap_or(last);
        if used < last {
            return Err(ModelError::Unused { used, last });
        }
        let params = builder.finish(world_size);
        for entry in &params.entries {
            // It would be needed before anybody waits for it.
            if let Some(stage) = entry.stage.filter(|&stage| stage > last) {
                return Err(ModelError::NoStage { parameter: entry.name.clone(), stage, last });
            }
        }
        Ok(Model { params, device, encoder, heads, pieces: Vec::new() })
    }

    /// The same model, whose training keeps the encoder's activations at a few cuts only and computes the rest again in the
    /// backward pass: less memory for one forward pass of the encoder more. An encoder of one stage has nothing to cut.
    ///
    /// # Errors
    /// If the encoder is no [`Chain`].
    pub fn recomputed(mut self) -> Result<Model, ModelError> {
        if self.encoder.chain().is_none() {
            return Err(ModelError::NoChain);
        }
        self.pieces = chain::pieces(self.encoder.widths());
        if self.pieces.len() < 2 {
            self.pieces.clear();
        }
        Ok(self)
    }

    /// The stages that are recomputed together, from the first stage to the last; empty if nothing is recomputed.
    pub fn pieces(&self) -> &[Range<usize>] {
        &self.pieces
    }

    /// The outputs of some of the encoder's stages; see [`Chain::run`].
    ///
    /// # Panics
    /// If the encoder is no chain; those of [`Self::pieces`] are.
    pub fn run_stages(&self, stages: Range<usize>, start: Start<'_>, train: bool) -> Vec<Tensor> {
        let Some(chain) = self.encoder.chain() else { panic!("the encoder is no chain") };
        if let Some(last) = stages.clone().last() {
            self.params.arrivals().until(last);
        }
        match start {
            Start::Inputs(inputs) if inputs.device() != self.device => {
                chain.run(stages, Start::Inputs(&inputs.to(self.device)), train)
            }
            _ => chain.run(stages, start, train),
        }
    }

    /// The stage to which a task's head is attached.
    pub fn stage_of(&self, task: usize) -> usize {
        self.heads[task].0
    }

    /// The encoder's stages for some inputs, which are brought to the model's device if they are elsewhere. While
    /// parameters are on their way, a chain computes its first stages with those that have arrived.
    pub fn represent(&self, inputs: &Inputs, train: bool) -> Vec<Tensor> {
        if inputs.device() != self.device {
            return self.represent(&inputs.to(self.device), train);
        }
        let n = self.encoder.widths().len();
        if self.encoder.chain().is_none() {
            // Heads may still wait for theirs.
            self.params.arrivals().until(n - 1);
            return self.encoder.forward(inputs, train);
        }
        let stops = self.params.arrivals().stops(n);
        let mut stages: Vec<Tensor> = Vec::with_capacity(n);
        for end in stops.into_iter().chain([n]) {
            let before = stages.last().map(Tensor::shallow_clone);
            let start = before.as_ref().map_or(Start::Inputs(inputs), Start::Output);
            let more = self.run_stages(stages.len()..end, start, train);
            stages.extend(more);
        }
        stages
    }

    /// Moves the parameters to a device and turns them into another kind.
    pub fn place(&mut self, kind: Kind, device: Device) {
        self.params.place(kind, device);
        self.device = device;
    }

    /// Where the model computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Stages at whose outputs a backward pass may be cut so that each piece completes segments of parameters: the last
    /// stages of shared segments, ascending. None if the encoder is no chain, or not all heads sit on its last stage.
    pub fn cuts(&self) -> Vec<usize> {
        let last = self.encoder.widths().len() - 1;
        if !self.encoder.is_chain() || self.heads.iter().any(|(stage, _)| *stage != last) {
            return Vec::new();
        }
        let shared = self.params.segments.iter().filter(|s| matches!(s.rows, Rows::Shared(_)));
        let ends = shared.filter_map(|s| self.params.entries[self.params.entries_in(s)].last()?.stage);
        let mut cuts: Vec<usize> = ends.collect();
        // Ranks send segments in one order, those of late stages first: it must be that of the buffer, backwards.
        if !cuts.is_sorted() {
            return Vec::new();
        }
        cuts.retain(|&stage| stage < last);
        cuts.dedup();
        cuts
    }

    /// The output of one task, `[n, outputs]`, from the encoder's stages. That of a model in 16 bits is in 32: losses and
    /// metrics are computed, and added up, there.
    pub fn output(&self, task: usize, stages: &[Tensor], train: bool) -> Tensor {
        self.params.arrivals().all();
        let (stage, head) = &self.heads[task];
        let output = head.forward(&stages[*stage], train);
        if output.kind() == Kind::BFloat16 { output.to_kind(Kind::Float) } else { output }
    }

    /// Kind of the parameters.
    pub fn kind(&self) -> Kind {
        self.params.kind()
    }
}

/// libtorch's kind of the parameters for a configured precision; for 16 bits, of their masters.
pub fn kind_of(precision: config::Precision) -> Kind {
    match precision {
        config::Precision::F32 | config::Precision::Bf16 => Kind::Float,
        config::Precision::F64 => Kind::Double,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Identity;

    impl Encoder for Identity {
        fn widths(&self) -> &[usize] {
            &[3]
        }
        fn forward(&self, inputs: &Inputs, _train: bool) -> Vec<Tensor> {
            inputs.dense.iter().map(Tensor::shallow_clone).collect()
        }
    }

    /// One factor per input.
    struct Weigh(Tensor);

    impl Head for Weigh {
        fn forward(&self, representation: &Tensor, _train: bool) -> Tensor {
            representation.matmul(&self.0).unsqueeze(1)
        }
    }

    #[test]
    fn heads_of_the_caller_own_their_parameters() {
        let task = |name: &str| TaskSpec { name: name.into(), outputs: 1, head: config::Head::default() };
        let (tasks, mut seen) = ([task("a"), task("b")], Vec::new());
        let encoder = |_: &mut ParamBuilder| -> Result<Box<dyn Encoder>, ModelError> { Ok(Box::new(Identity)) };
        let head = |task: &TaskSpec, width: usize, builder: &mut ParamBuilder| -> Box<dyn Head> {
            seen.push((task.name.clone(), width));
            let start = Init::Constant(seen.len() as f64);
            Box::new(Weigh(builder.param(format!("heads.{}.factor", task.name), &[width], start)))
        };
        let model = Model::assemble_with(&tasks, Kind::Float, Device::Cpu, 1, 1, encoder, head).unwrap();

        assert_eq!(seen, [("a".to_string(), 3), ("b".to_string(), 3)]);
        let owners: Vec<(&str, &[usize])> =
            model.params.entries.iter().map(|e| (e.name.as_str(), e.scope.as_slice())).collect();
        assert_eq!(owners, [("heads.a.factor", &[0][..]), ("heads.b.factor", &[1])]);
        assert!(model.pieces().is_empty());
        let dense = Some(Tensor::from_slice(&[1.0f32, 2.0, 3.0]).reshape([1, 3]));
        let stages = model.represent(&Inputs { dense, categorical: None, tokens: None, image: None }, true);
        assert_eq!(model.output(1, &stages, true).double_value(&[0, 0]), 12.0);
        let refused = model.recomputed().unwrap_err().to_string();
        assert!(refused.contains("hint: implement `Encoder::chain`"), "{refused}");
    }
}
