//! A small convolutional network for images.

use super::Layer;
use crate::config;
use crate::data::{InputDims, Inputs};
use crate::model::{Chain, Encoder, Init, ModelError, ParamBuilder, Start};
use std::ops::Range;
use tch::{Kind, Tensor};

/// Per block: convolution with "same" padding, group norm if configured, ReLU, 2x2 max pooling; then dense layers
/// with ReLU.
///
/// Stages: the flattened output of each block, then each dense layer. Parameters:
/// `encoder.blocks.<k>.{weight [out, in, side, side],bias}`, `encoder.norms.<k>.{weight,bias}`,
/// `encoder.layers.<k>.{weight,bias}`.
#[derive(Debug)]
pub struct Cnn {
    blocks: Vec<Block>,
    layers: Vec<Layer>,
    widths: Vec<usize>,
    dropout: f64,
}

#[derive(Debug)]
struct Block {
    weight: Tensor,
    bias: Tensor,
    norm: Option<(Tensor, Tensor)>,
    groups: i64,
    /// Channels, height and width of what comes in.
    input: [i64; 3],
}

impl Cnn {
    /// A CNN for images of this size.
    ///
    /// # Errors
    /// If there is no image, or it is too small for the number of blocks, or the groups do not divide the channels.
    pub fn new(config: &config::Cnn, dims: &InputDims, builder: &mut ParamBuilder) -> Result<Self, ModelError> {
        let refuse = |problem: String, hint| Err(ModelError::Inputs { encoder: "cnn", problem, hint });
        let Some([mut channels, rows, columns]) = dims.image else {
            return refuse("needs images".into(), "use `mlp` for tables, `embedding_bag` for text");
        };
        let (mut height, mut width) = (rows, columns);
        let (mut blocks, mut layers, mut widths) = (Vec::new(), Vec::new(), Vec::new());
        for (k, &out) in config.channels.iter().enumerate() {
            if height < 2 || width < 2 {
                let problem =
                    format!("halves the image {} times, which {rows} x {columns} pixels are too few for", k + 1);
                return refuse(problem, "use fewer `channels`");
            }
            if config.groups > 0 && !out.is_multiple_of(config.groups) {
                let problem = format!("has {out} channels in block {k}, which {} groups do not divide", config.groups);
                return refuse(problem, "choose `groups` that divide every entry of `channels`");
            }
            builder.stage(k);
            let side = config.kernel;
            let (weight, bias) = builder.dense(&format!("encoder.blocks.{k}"), &[out, channels, side, side]);
            let norm = (config.groups > 0).then(|| {
                (
                    builder.param(format!("encoder.norms.{k}.weight"), &[out], Init::Constant(1.0)),
                    builder.param(format!("encoder.norms.{k}.bias"), &[out], Init::Constant(0.0)),
                )
            });
            let input = [channels, height, width].map(|d| d as i64);
            blocks.push(Block { weight, bias, norm, groups: config.groups as i64, input });
            (channels, height, width) = (out, height / 2, width / 2);
            widths.push(channels * height * width);
        }
        let mut fan_in = channels * height * width;
        for (k, &out) in config.widths.iter().enumerate() {
            builder.stage(config.channels.len() + k);
            layers.push(Layer::new(&format!("encoder.layers.{k}"), fan_in, out, builder));
            widths.push(out);
            fan_in = out;
        }
        Ok(Cnn { blocks, layers, widths, dropout: config.dropout })
    }
}

impl Block {
    /// From the flattened output of the stage before, or the image, to a flattened output. All that follows a stage goes
    /// through this form of it, so that the graph can be cut there.
    fn forward(&self, z: &Tensor) -> Tensor {
        let [channels, height, width] = self.input;
        let mut x = z.reshape([-1, channels, height, width]);
        x = x.conv2d_padding(&self.weight, Some(&self.bias), 1, "same", 1, 1);
        if let Some((weight, bias)) = &self.norm {
            x = x.group_norm(self.groups, Some(weight), Some(bias), 1e-5, false);
        }
        x.relu().max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false).flatten(1, -1)
    }
}

impl Cnn {
    fn stage(&self, k: usize, z: &Tensor, train: bool) -> Tensor {
        if let Some(block) = self.blocks.get(k) {
            return block.forward(z);
        }
        let z = self.layers[k - self.blocks.len()].forward(&z.flatten(1, -1)).relu();
        if self.dropout > 0.0 { z.dropout(self.dropout, train) } else { z }
    }
}

impl Chain for Cnn {
    fn run(&self, stages: Range<usize>, start: Start<'_>, train: bool) -> Vec<Tensor> {
        let mut z = match start {
            Start::Inputs(Inputs { image: Some(image), .. }) => {
                image.to_kind(self.blocks.first().map_or(Kind::Float, |b| b.bias.kind()))
            }
            Start::Inputs(_) => return Vec::new(),
            Start::Output(z) => z.shallow_clone(),
        };
        let stage = |k| {
            z = self.stage(k, &z, train);
            z.shallow_clone()
        };
        stages.map(stage).collect()
    }
}

impl Encoder for Cnn {
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
