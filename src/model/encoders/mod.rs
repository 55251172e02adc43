//! Encoders, a file each.

mod cnn;
mod embedding_bag;
mod mlp;

pub use cnn::Cnn;
pub use embedding_bag::EmbeddingBag;
pub use mlp::Mlp;

use super::{Encoder, ModelError, ParamBuilder};
use crate::config;
use crate::data::InputDims;
use tch::Tensor;

/// The configured encoder for inputs of these widths.
///
/// # Errors
/// If it cannot take them.
pub fn build(
    config: &config::Encoder,
    dims: &InputDims,
    builder: &mut ParamBuilder,
) -> Result<Box<dyn Encoder>, ModelError> {
    Ok(match config {
        config::Encoder::Mlp(c) => Box::new(Mlp::new(c, dims, builder)?),
        config::Encoder::Cnn(c) => Box::new(Cnn::new(c, dims, builder)?),
        config::Encoder::EmbeddingBag(c) => Box::new(EmbeddingBag::new(c, dims, builder)?),
    })
}

/// One affine layer.
#[derive(Debug)]
pub struct Layer {
    weight: Tensor,
    bias: Tensor,
}

impl Layer {
    /// A layer from `fan_in` to `width`, initialised as in PyTorch.
    pub fn new(name: &str, fan_in: usize, width: usize, builder: &mut ParamBuilder) -> Self {
        let (weight, bias) = builder.dense(name, &[width, fan_in]);
        Layer { weight, bias }
    }

    /// `[n, fan_in]` to `[n, width]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

#[cfg(test)]
mod tests;
