//! Hidden layers with ReLU, then one linear layer.

use crate::config;
use crate::model::encoders::Layer;
use crate::model::{Head, ParamBuilder};
use tch::Tensor;

/// A stack of dense layers. Parameters `<name>.layers.<k>.{weight,bias}`; the last layer is linear.
#[derive(Debug)]
pub struct Dense {
    hidden: Vec<Layer>,
    out: (Tensor, Tensor),
    dropout: f64,
}

impl Dense {
    /// A head from `width` inputs to `outputs` outputs.
    pub fn new(name: &str, config: &config::Head, width: usize, outputs: usize, builder: &mut ParamBuilder) -> Self {
        let mut fan_in = width;
        let mut hidden = Vec::with_capacity(config.widths.len());
        for (k, &width) in config.widths.iter().enumerate() {
            hidden.push(Layer::new(&format!("{name}.layers.{k}"), fan_in, width, builder));
            fan_in = width;
        }
        let out = builder.dense(&format!("{name}.layers.{}", config.widths.len()), &[outputs, fan_in]);
        Dense { hidden, out, dropout: config.dropout }
    }
}

impl Head for Dense {
    fn forward(&self, representation: &Tensor, train: bool) -> Tensor {
        let mut z = representation.shallow_clone();
        for layer in &self.hidden {
            z = layer.forward(&z).relu();
            if self.dropout > 0.0 {
                z = z.dropout(self.dropout, train);
            }
        }
        z.linear(&self.out.0, Some(&self.out.1))
    }
}
