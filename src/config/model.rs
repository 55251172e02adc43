//! Section `model`: encoder and sharing.

use serde::{Deserialize, Serialize};

/// Section `model`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What turns inputs into representations.
    pub encoder: Encoder,
    /// How tasks share it.
    #[serde(default)]
    pub sharing: Sharing,
    /// Whether the encoder's activations are computed again in the backward pass instead of being kept.
    #[serde(default)]
    pub recompute: bool,
}

/// What turns inputs into representations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoder {
    /// Dense inputs and embedded categories through hidden layers. One stage per layer.
    Mlp(Mlp),
    /// A small convolutional network for images. One stage per block, then the dense layers.
    Cnn(Cnn),
    /// Mean of word embeddings, then hidden layers.
    EmbeddingBag(EmbeddingBag),
}

impl Encoder {
    /// The same encoder without the layers after a stage (counted from 0).
    pub fn up_to_stage(mut self, stage: usize) -> Self {
        match &mut self {
            Encoder::Mlp(o) => o.widths.truncate(stage + 1),
            Encoder::Cnn(o) => {
                o.widths.truncate((stage + 1).saturating_sub(o.channels.len()));
                o.channels.truncate(stage + 1);
            }
            // Stage 0 is the mean of the embeddings.
            Encoder::EmbeddingBag(o) => o.widths.truncate(stage),
        }
        self
    }
}

/// Options of the MLP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mlp {
    /// Hidden layers.
    pub widths: Vec<usize>,
    /// Dropout after each layer.
    pub dropout: f64,
    /// Layer norm before each activation.
    pub layer_norm: bool,
    /// Width of category embeddings; default per column: `min(50, (categories + 1) / 2)`.
    pub embedding_dim: Option<usize>,
    /// Activation.
    pub activation: Activation,
}

impl Default for Mlp {
    fn default() -> Self {
        Mlp {
            widths: vec![256, 128],
            dropout: 0.0,
            layer_norm: false,
            embedding_dim: None,
            activation: Activation::Relu,
        }
    }
}

/// Activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// Gaussian error linear unit (erf form).
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
}

/// Options of the small CNN: per block 3x3 or 5x5 convolution, group norm (optional), ReLU, 2x2 max pooling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cnn {
    /// Output channels of each block.
    pub channels: Vec<usize>,
    /// Side of the kernels (odd).
    pub kernel: usize,
    /// Group norm with so many groups after each convolution; 0: none.
    pub groups: usize,
    /// Dense layers after the last block.
    pub widths: Vec<usize>,
    /// Dropout after each dense layer.
    pub dropout: f64,
}

impl Default for Cnn {
    fn default() -> Self {
        Cnn { channels: vec![16, 32], kernel: 5, groups: 0, widths: vec![128], dropout: 0.0 }
    }
}

/// Options of the embedding bag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingBag {
    /// Width of a word's embedding.
    pub dim: usize,
    /// Hidden layers after the mean.
    pub widths: Vec<usize>,
    /// Dropout on the mean and after each layer.
    pub dropout: f64,
}

impl Default for EmbeddingBag {
    fn default() -> Self {
        EmbeddingBag { dim: 128, widths: vec![128], dropout: 0.0 }
    }
}

/// How tasks share the encoder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// One encoder for all tasks, a head for each.
    #[default]
    Hard,
}
