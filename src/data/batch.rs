//! What a step sees of the data: inputs and targets of one rank's slice, as tensors on the host.

use crate::ffi::{pinned, send};
use tch::{Device, Tensor};

/// Inputs of some samples of one source, already transformed. At least one field is there; all have `n` samples.
#[derive(Debug)]
pub struct Inputs {
    /// Standardised numbers, bits and dense arrays side by side: `f32 [n, D]`.
    pub dense: Option<Tensor>,
    /// Category indices, 0 = unknown: `i64 [n, C]`.
    pub categorical: Option<Tensor>,
    /// Bags of word indices.
    pub tokens: Option<Tokens>,
    /// Images: `f32 [n, channels, height, width]` in `[0, 1]`.
    pub image: Option<Tensor>,
}

impl Inputs {
    /// Where they are.
    pub fn device(&self) -> Device {
        let tokens = self.tokens.as_ref().map(|t| &t.ids);
        let any = [&self.dense, &self.categorical, &self.image].into_iter().find_map(Option::as_ref).or(tokens);
        any.map_or(Device::Cpu, Tensor::device)
    }

    /// The same on another device; see [`Batch::to`].
    pub fn to(&self, device: Device) -> Inputs {
        self.map(&|t| send(t, device))
    }

    fn map(&self, f: &dyn Fn(&Tensor) -> Tensor) -> Inputs {
        let tokens = |t: &Tokens| Tokens { ids: f(&t.ids), offsets: f(&t.offsets) };
        Inputs {
            dense: self.dense.as_ref().map(f),
            categorical: self.categorical.as_ref().map(f),
            tokens: self.tokens.as_ref().map(tokens),
            image: self.image.as_ref().map(f),
        }
    }
}

/// Bags of word indices in the form of libtorch's `embedding_bag`. An empty text is an empty bag.
#[derive(Debug)]
pub struct Tokens {
    /// All words one text after the other: `i64 [sum of lengths]`, 0 = unknown word.
    pub ids: Tensor,
    /// Where each text starts in `ids`: `i64 [n]`.
    pub offsets: Tensor,
}

/// Widths of the inputs: all that an encoder needs to know of the data. The same for every source.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InputDims {
    /// Dense inputs `D` (0: none).
    pub dense: usize,
    /// Number of values (with "unknown") of each categorical column.
    pub categories: Vec<usize>,
    /// Vocabulary size with the unknown word (0: no text).
    pub vocab: usize,
    /// Image as (channels, height, width).
    pub image: Option<[usize; 3]>,
}

/// Labels of one task for some samples.
#[derive(Debug)]
pub struct Target {
    /// Index of the task in config order.
    pub task: usize,
    /// Binary, multi-label, regression: `f32 [n, L]` with 0 where missing. Multi-class: `i64 [n]`, -100 where missing.
    pub values: Tensor,
    /// `f32 [n, L]`: 1 where the label is there, 0 where it is missing. `None`: all are there (or multi-class).
    pub mask: Option<Tensor>,
    /// Number of samples with at least one label.
    pub n_labelled: usize,
}

/// Some samples of one source.
#[derive(Debug)]
pub struct Part {
    /// Index of the source in config order.
    pub source: usize,
    /// Number of samples `n`, at least 1.
    pub len: usize,
    /// Inputs.
    pub inputs: Inputs,
    /// Targets of all tasks on this source, in config order.
    pub targets: Vec<Target>,
}

/// One micro-batch: this rank's part of (a part of) the global batch. Sources without a sample here are left out.
#[derive(Debug)]
pub struct Batch {
    /// Parts in the order of the sources.
    pub parts: Vec<Part>,
}

impl Batch {
    /// The same on another device. The copies are enqueued there; the host does not wait for them.
    pub fn to(&self, device: Device) -> Batch {
        self.map(&|t| send(t, device))
    }

    /// The same in page-locked memory of the host, from which a GPU copies by itself: for a loader's thread. As it is, where no
    /// memory can be locked.
    pub fn pinned(&self) -> Batch {
        self.map(&|t| pinned(t).unwrap_or_else(|_| t.shallow_clone()))
    }

    fn map(&self, f: &dyn Fn(&Tensor) -> Tensor) -> Batch {
        let target = |t: &Target| Target {
            task: t.task,
            values: f(&t.values),
            mask: t.mask.as_ref().map(f),
            n_labelled: t.n_labelled,
        };
        let part = |p: &Part| Part {
            source: p.source,
            len: p.len,
            inputs: p.inputs.map(f),
            targets: p.targets.iter().map(target).collect(),
        };
        Batch { parts: self.parts.iter().map(part).collect() }
    }
}
