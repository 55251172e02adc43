//! Dense inputs and embedded categories through hidden layers.

use super::Layer;
use crate::config::{self, Activation};
use crate::data::{InputDims, Inputs};
use crate::model::{Chain, Encoder, Init, ModelError, ParamBuilder, Start};
use std::ops::Range;
use tch::{Kind, Tensor};

/// A multi-layer perceptron: one stage per hidden layer.
///
/// Parameters: `encoder.embeddings.<column>.weight [values, dim]`, `encoder.layers.<k>.{weight [out, in],bias}`,
/// `encoder.norms.<k>.{weight,bias}`. Its input is `[dense, embedding 0, embedding 1, ...]`.
#[derive(Debug)]
pub struct Mlp {
    embeddings: Vec<Tensor>,
    layers: Vec<Layer>,
    norms: Vec<(Tensor, Tensor)>,
    widths: Vec<usize>,
    activation: Activation,
    dropout: f64,
}

impl Mlp {
    /// An MLP for inputs of these widths; images are flattened.
    ///
    /// # Errors
    /// If the inputs hold text, or nothing.
    pub fn new(config: &config::Mlp, dims: &InputDims, builder: &mut ParamBuilder) -> Result<Self, ModelError> {
        let pixels: usize = dims.image.map_or(0, |shape| shape.iter().product());
        if dims.vocab > 0 || dims.dense + dims.categories.len() + pixels == 0 {
            let problem = if dims.vocab > 0 { "cannot take text" } else { "has no input" };
            let hint =
                "use `embedding_bag` for text columns; list `numeric`, `categorical` or `bits` columns for `mlp`";
            return Err(ModelError::Inputs { encoder: "mlp", problem: problem.into(), hint });
        }
        builder.stage(0);
        let mut fan_in = dims.dense + pixels;
        let mut embeddings = Vec::with_capacity(dims.categories.len());
        for (k, &values) in dims.categories.iter().enumerate() {
            let dim = config.embedding_dim.unwrap_or_else(|| values.div_ceil(2).min(50));
            let init = Init::Normal(1.0 / (dim as f64).sqrt());
            embeddings.push(builder.param(format!("encoder.embeddings.{k}.weight"), &[values, dim], init));
            fan_in += dim;
        }
        let (mut layers, mut norms) = (Vec::new(), Vec::new());
        for (k, &width) in config.widths.iter().enumerate() {
            builder.stage(k);
            layers.push(Layer::new(&format!("encoder.layers.{k}"), fan_in, width, builder));
            if config.layer_norm {
                norms.push((
                    builder.param(format!("encoder.norms.{k}.weight"), &[width], Init::Constant(1.0)),
                    builder.param(format!("encoder.norms.{k}.bias"), &[width], Init::Constant(0.0)),
                ));
            }
            fan_in = width;
        }
        Ok(Mlp {
            embeddings,
            layers,
            norms,
            widths: config.widths.clone(),
            activation: config.activation,
            dropout: config.dropout,
        })
    }

    fn input(&self, inputs: &Inputs) -> Tensor {
        let kind = self.layers.first().map_or(Kind::Float, |l| l.bias.kind());
        let mut parts = Vec::with_capacity(2 + self.embeddings.len());
        if let Some(dense) = &inputs.dense {
            parts.push(dense.to_kind(kind));
        }
        if let Some(image) = &inputs.image {
            parts.push(image.flatten(1, -1).to_kind(kind));
        }
        if let Some(categorical) = &inputs.categorical {
            for (k, weight) in self.embeddings.iter().enumerate() {
                parts.push(Tensor::embedding(weight, &categorical.select(1, k as i64), -1, false, false));
            }
        }
        if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 1) }
    }

    fn stage(&self, k: usize, z: &Tensor, train: bool) -> Tensor {
        let mut z = self.layers[k].forward(z);
        if let Some((weight, bias)) = self.norms.get(k) {
            z = z.layer_norm([self.widths[k] as i64], Some(weight), Some(bias), 1e-5, false);
        }
        z = match self.activation {
            Activation::Relu => z.relu(),
            Activation::Gelu => z.gelu("none"),
            Activation::Tanh => z.tanh(),
        };
        if self.dropout > 0.0 { z.dropout(self.dropout, train) } else { z }
    }
}

impl Chain for Mlp {
    fn run(&self, stages: Range<usize>, start: Start<'_>, train: bool) -> Vec<Tensor> {
        let mut z = match start {
            Start::Inputs(inputs) => self.input(inputs),
            Start::Output(z) => z.shallow_clone(),
        };
        let stage = |k| {
            z = self.stage(k, &z, train);
            z.shallow_clone()
        };
        stages.map(stage).collect()
    }
}

impl Encoder for Mlp {
    fn widths(&self) -> &[usize] {
        &self.widths
    }

    fn forward(&self, inputs: &Inputs, train: bool) -> Vec<Tensor> {
        self.run(0..self.layers.len(), Start::Inputs(inputs), train)
    }

    fn chain(&self) -> Option<&dyn Chain> {
        Some(self)
    }
}
