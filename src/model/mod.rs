//! The network: a shared encoder in stages, a head per task, and their parameters in one flat buffer.
//!
//! A library user brings an encoder or a head by implementing [`Encoder`] or [`Head`] and giving it to
//! [`Model::assemble`]; `examples/custom_encoder.rs` shows how.

pub mod encoders;
pub mod heads;
pub mod params;

pub use params::{Entry, Init, ParamBuilder, Params, Rows, Segment};

use crate::config;
use crate::data::{InputDims, Inputs};
use tch::{Device, Kind, Tensor};

/// What turns inputs into representations, in stages to which heads attach.
pub trait Encoder {
    /// Width of each stage's output.
    fn widths(&self) -> &[usize];

    /// The output of every stage, `[n, widths[k]]` each.
    fn forward(&self, inputs: &Inputs, train: bool) -> Vec<Tensor>;
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
}

/// Encoder and heads with their parameters.
pub struct Model {
    /// All parameters.
    pub params: Params,
    encoder: Box<dyn Encoder>,
    heads: Vec<(usize, Box<dyn Head>)>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("params", &self.params).finish_non_exhaustive()
    }
}

impl Model {
    /// Builds the configured model. The initial parameters depend on the seed alone.
    ///
    /// # Errors
    /// If the encoder cannot take the inputs, or a head asks for a stage that is not there.
    pub fn build(
        config: &config::Model,
        dims: &InputDims,
        tasks: &[TaskSpec],
        precision: config::Precision,
        device: Device,
        seed: u64,
        world_size: usize,
    ) -> Result<Model, ModelError> {
        let kind = kind_of(precision);
        let config::Sharing::Hard = config.sharing;
        Model::assemble(tasks, kind, device, seed, world_size, |b| encoders::build(&config.encoder, dims, b))
    }

    /// Builds a model with hard sharing around any encoder. `encoder` makes its parameters with the builder and calls
    /// [`ParamBuilder::stage`] before those of each stage.
    ///
    /// # Errors
    /// Those of `encoder`, and heads that do not fit its stages.
    pub fn assemble(
        tasks: &[TaskSpec],
        kind: Kind,
        device: Device,
        seed: u64,
        world_size: usize,
        encoder: impl FnOnce(&mut ParamBuilder) -> Result<Box<dyn Encoder>, ModelError>,
    ) -> Result<Model, ModelError> {
        let mut builder = ParamBuilder::new(kind, device, seed, tasks.iter().map(|t| t.head.stage).collect());
        let encoder = encoder(&mut builder)?;
        let last = encoder.widths().len() - 1;
        let mut heads: Vec<(usize, Box<dyn Head>)> = Vec::with_capacity(tasks.len());
        for (t, task) in tasks.iter().enumerate() {
            let stage = task.head.stage.unwrap_or(last);
            if stage > last {
                return Err(ModelError::Stage { task: task.name.clone(), stage, last });
            }
            builder.tasks(&[t]);
            heads.push((stage, heads::build(task, encoder.widths()[stage], &mut builder)));
        }
        let used = heads.iter().map(|(stage, _)| *stage).max().unwrap_or(last);
        if used < last {
            return Err(ModelError::Unused { used, last });
        }
        Ok(Model { params: builder.finish(world_size), encoder, heads })
    }

    /// The encoder's stages for some inputs.
    pub fn represent(&self, inputs: &Inputs, train: bool) -> Vec<Tensor> {
        self.encoder.forward(inputs, train)
    }

    /// The output of one task, `[n, outputs]`, from the encoder's stages.
    pub fn output(&self, task: usize, stages: &[Tensor], train: bool) -> Tensor {
        let (stage, head) = &self.heads[task];
        head.forward(&stages[*stage], train)
    }

    /// Kind of the parameters.
    pub fn kind(&self) -> Kind {
        self.params.flat.kind()
    }
}

/// libtorch's kind for a configured precision.
pub fn kind_of(precision: config::Precision) -> Kind {
    match precision {
        config::Precision::F32 => Kind::Float,
        config::Precision::F64 => Kind::Double,
    }
}
