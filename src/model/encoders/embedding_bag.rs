//! The mean of a text's word embeddings, then hidden layers.

use super::Layer;
use crate::config;
use crate::data::{InputDims, Inputs};
use crate::model::{Chain, Encoder, Init, ModelError, ParamBuilder, Start};
use std::ops::Range;
use tch::Tensor;

/// Mode "mean" of libtorch's `embedding_bag`.
const MEAN: i64 = 1;

/// A bag of words: stage 0 is the mean embedding, then one stage per hidden layer with ReLU.
///
/// Parameters: `encoder.embedding.weight [vocabulary, dim]`, `encoder.layers.<k>.{weight,bias}`.
#[derive(Debug)]
pub struct EmbeddingBag {
    embedding: Tensor,
    layers: Vec<Layer>,
    widths: Vec<usize>,
    dropout: f64,
}

impl EmbeddingBag {
    /// An embedding bag for this vocabulary.
    ///
    /// # Errors
    /// If there is no text, or anything besides.
    pub fn new(
        config: &config::EmbeddingBag,
        dims: &InputDims,
        builder: &mut ParamBuilder,
    ) -> Result<Self, ModelError> {
        if dims.vocab == 0 || dims.dense + dims.categories.len() > 0 || dims.image.is_some() {
            let problem = if dims.vocab == 0 { "needs a `text` column" } else { "takes text alone" };
            let hint = "list `text` columns and no others, or use `mlp` for tables";
            return Err(ModelError::Inputs { encoder: "embedding_bag", problem: problem.into(), hint });
        }
        builder.stage(0);
        let init = Init::Normal(1.0 / (config.dim as f64).sqrt());
        let embedding = builder.param("encoder.embedding.weight", &[dims.vocab, config.dim], init);
        let mut widths = vec![config.dim];
        let mut layers = Vec::with_capacity(config.widths.len());
        for (k, &width) in config.widths.iter().enumerate() {
            builder.stage(k + 1);
            layers.push(Layer::new(&format!("encoder.layers.{k}"), widths[k], width, builder));
            widths.push(width);
        }
        Ok(EmbeddingBag { embedding, layers, widths, dropout: config.dropout })
    }

    /// Stage 0; `None` without text.
    fn mean(&self, inputs: &Inputs, train: bool) -> Option<Tensor> {
        let tokens = inputs.tokens.as_ref()?;
        let no_weights = None::<Tensor>;
        let (mean, ..) =
            Tensor::embedding_bag(&self.embedding, &tokens.ids, &tokens.offsets, false, MEAN, false, no_weights, false);
        Some(self.drop(mean, train))
    }

    fn drop(&self, z: Tensor, train: bool) -> Tensor {
        if self.dropout > 0.0 { z.dropout(self.dropout, train) } else { z }
    }
}

impl Chain for EmbeddingBag {
    fn run(&self, stages: Range<usize>, start: Start<'_>, train: bool) -> Vec<Tensor> {
        let mut outputs = Vec::with_capacity(stages.len());
        let mut z = match start {
            Start::Inputs(inputs) => {
                let Some(mean) = self.mean(inputs, train) else { return outputs };
                outputs.push(mean.shallow_clone());
                mean
            }
            Start::Output(z) => z.shallow_clone(),
        };
        for k in stages.start.max(1)..stages.end {
            z = self.drop(self.layers[k - 1].forward(&z).relu(), train);
            outputs.push(z.shallow_clone());
        }
        outputs
    }
}

impl Encoder for EmbeddingBag {
    fn widths(&self) -> &[usize] {
        &self.widths
    }

    fn forward(&self, inputs: &Inputs, train: bool) -> Vec<Tensor> {
        self.run(0..self.widths.len(), Start::Inputs(inputs), train)
    }

    fn chain(&self) -> Option<&dyn Chain> {
        Some(self)
    }
}
