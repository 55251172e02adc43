//! Parameters as ranges of one flat buffer.
//!
//! Every parameter belongs to a **scope**: the set of tasks whose loss reaches it. The flat buffer is cut into
//! [`Segment`]s: one per scope of two tasks or more (all tasks first), then one segment with all parameters that
//! belong to a single task. A long one is cut between stages of the encoder, so that the gradients of late stages can be
//! on their way while early ones are still computed. Segments are padded so that `W` ranks own equal blocks. Reduction, balancing, the
//! optimizer, checkpoints and checksums work on these ranges; the model sees ordinary tensors that are views.

use super::arrivals::Arrivals;
use crate::rng::{Stream, rng};
use rand::RngExt;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Values of a parameter that are drawn at a time.
const PIECE: usize = 1 << 20;

/// Parameters start at multiples of this many elements (64 bytes of `f32`), as libtorch's own allocations do.
const ALIGN: usize = 16;

/// Parameters of a segment from which on it ends with the stage: 25 MiB of `f32`, PyTorch's size of a bucket. Where
/// segments end does not depend on the number of ranks.
pub const BUCKET: usize = 25 << 18;

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform in `[-bound, bound)`.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// One value everywhere.
    Constant(f64),
}

/// Collects the parameters of a model under construction, in creation order.
#[derive(Debug)]
pub struct ParamBuilder {
    kind: Kind,
    device: Device,
    seed: u64,
    /// Stage to which each task's head is attached; `None`: the last.
    stages: Vec<Option<usize>>,
    scope: Vec<usize>,
    stage: Option<usize>,
    of_head: bool,
    bucket: usize,
    drafts: Vec<Draft>,
}

#[derive(Debug)]
struct Draft {
    name: String,
    scope: Vec<usize>,
    stage: Option<usize>,
    of_head: bool,
    tensor: Tensor,
}

impl ParamBuilder {
    /// A builder for a model whose task `t` has its head at stage `stages[t]` (`None`: the last).
    pub fn new(kind: Kind, device: Device, seed: u64, stages: Vec<Option<usize>>) -> Self {
        let scope = (0..stages.len()).collect();
        ParamBuilder {
            kind,
            device,
            seed,
            stages,
            scope,
            stage: None,
            of_head: false,
            bucket: BUCKET,
            drafts: Vec::new(),
        }
    }

    /// The parameters that follow belong to stage `stage` of the encoder, one of those of [`super::Encoder::widths`]: it is
    /// the first that uses them, and they are reached by the tasks whose heads sit at this stage or a later one.
    pub fn stage(&mut self, stage: usize) {
        let reaches = |at: &Option<usize>| at.is_none_or(|at| at >= stage);
        self.scope = (0..self.stages.len()).filter(|&t| reaches(&self.stages[t])).collect();
        self.stage = Some(stage);
    }

    /// Shared segments end with the stage once they hold `n` parameters; the default is 25 MiB of `f32`. Gradients and
    /// parameters travel between devices by segment.
    pub fn bucket(&mut self, n: usize) {
        self.bucket = n.max(1);
    }

    /// The parameters that follow are those of heads: no stage of the encoder needs them.
    pub(super) fn heads(&mut self) {
        self.of_head = true;
    }

    /// The parameters that follow belong to these tasks.
    ///
    /// # Panics
    /// If a task does not exist.
    pub fn tasks(&mut self, tasks: &[usize]) {
        assert!(tasks.iter().all(|&t| t < self.stages.len()), "scope {tasks:?} of {} tasks", self.stages.len());
        self.scope = tasks.to_vec();
        self.scope.sort_unstable();
        self.scope.dedup();
        self.stage = None;
    }

    /// A new parameter. Its values depend on the seed and on how many parameters came before, not on the kind of
    /// float or the device.
    ///
    /// # Panics
    /// If the name is taken.
    pub fn param(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> Tensor {
        let name = name.into();
        assert!(self.drafts.iter().all(|d| d.name != name), "two parameters are called `{name}`");
        let mut rng = rng(self.seed, Stream::Init, self.drafts.len() as u64, 0);
        let mut draw = || match init {
            Init::Uniform(bound) => bound * (2.0 * rng.random::<f64>() - 1.0),
            Init::Normal(sd) => sd * normal(&mut rng),
            Init::Constant(x) => x,
        };
        let n: usize = shape.iter().product();
        let flat = Tensor::empty([n as i64], (self.kind, self.device));
        // In pieces: a copy of a large parameter in 64 bits may not fit beside it.
        for at in (0..n).step_by(PIECE) {
            let values: Vec<f64> = (at..n.min(at + PIECE)).map(|_| draw()).collect();
            flat.narrow(0, at as i64, values.len() as i64).copy_(&Tensor::from_slice(&values));
        }
        let tensor = flat.reshape(shape.iter().map(|&d| d as i64).collect::<Vec<_>>());
        let tensor = tensor.set_requires_grad(true);
        let (scope, stage, of_head) = (self.scope.clone(), self.stage, self.of_head);
        self.drafts.push(Draft { name, scope, stage, of_head, tensor: tensor.shallow_clone() });
        tensor
    }

    /// A weight `[out, in, ..]` and a bias `[out]`, called `name.weight` and `name.bias`, initialised as PyTorch
    /// initialises `nn.Linear` and `nn.Conv2d`: uniform within `1 / sqrt(fan_in)`.
    pub fn dense(&mut self, name: &str, shape: &[usize]) -> (Tensor, Tensor) {
        let fan_in: usize = shape[1..].iter().product();
        let init = Init::Uniform(1.0 / (fan_in.max(1) as f64).sqrt());
        (self.param(format!("{name}.weight"), shape, init), self.param(format!("{name}.bias"), &shape[..1], init))
    }

    /// Moves all parameters into one buffer with room for `world_size` equal blocks in every segment.
    pub fn finish(self, world_size: usize) -> Params {
        let n_tasks = self.stages.len();
        let mut scopes: Vec<Vec<usize>> = Vec::new();
        for draft in self.drafts.iter().filter(|d| is_shared(&d.scope, n_tasks)) {
            if !scopes.contains(&draft.scope) {
                scopes.push(draft.scope.clone());
            }
        }
        scopes.sort_by_key(|scope| (std::cmp::Reverse(scope.len()), scope.clone()));

        let (bucket, block) = (self.bucket, ALIGN * world_size);
        let (mut entries, mut segments, mut at) = (Vec::new(), Vec::new(), 0);
        let (shared, private): (Vec<Draft>, Vec<Draft>) =
            self.drafts.into_iter().partition(|d| is_shared(&d.scope, n_tasks));
        let mut groups: Vec<Vec<Draft>> = Vec::new();
        let mut shared: Vec<Option<Draft>> = shared.into_iter().map(Some).collect();
        for scope in &scopes {
            let mine = shared.iter_mut().filter(|d| d.as_ref().is_some_and(|d| d.scope == *scope));
            groups.extend(buckets(mine.filter_map(Option::take).collect(), bucket));
        }
        groups.push(private);
        for group in groups.into_iter().filter(|group| !group.is_empty()) {
            let (start, is_private) = (at, !is_shared(&group[0].scope, n_tasks));
            let scope = group[0].scope.clone();
            let mut owned: Vec<(usize, Range<usize>)> = Vec::new();
            let mut first_stage = usize::MAX;
            for Draft { name, scope, stage, of_head, tensor } in group {
                if !of_head {
                    // Where nobody said a stage, any may need it.
                    first_stage = first_stage.min(stage.unwrap_or(0));
                }
                let range = at..at + tensor.numel();
                at = range.end.next_multiple_of(ALIGN);
                if is_private {
                    owned.extend(scope.iter().map(|&t| (t, range.clone())));
                }
                let shape = tensor.size().iter().map(|&d| d as usize).collect();
                entries.push(Entry { name, shape, scope, stage, range, tensor });
            }
            at = start + (at - start).next_multiple_of(block);
            let rows = if is_private { Rows::Private(owned) } else { Rows::Shared(scope) };
            segments.push(Segment { range: start..at, rows, first_stage });
        }

        let flat = Tensor::zeros([at as i64], (self.kind, self.device));
        for entry in &entries {
            let mut view = flat.narrow(0, entry.range.start as i64, entry.range.len() as i64);
            tch::no_grad(|| view.copy_(&entry.tensor.reshape([-1])));
        }
        let arrivals = Arrivals::default();
        let mut params = Params { flat, arrivals, entries, segments, bucket, n_tasks, world_size };
        params.point_at_buffer();
        params
    }
}

/// Cuts the parameters of a segment, in creation order, between stages wherever a part is long enough.
fn buckets(drafts: Vec<Draft>, long_enough: usize) -> Vec<Vec<Draft>> {
    let mut parts: Vec<Vec<Draft>> = Vec::new();
    let mut len = 0;
    for draft in drafts {
        let goes_on = parts.last().and_then(|part| part.last()).is_some_and(|last| last.stage == draft.stage);
        if parts.is_empty() || (!goes_on && len >= long_enough) {
            parts.push(Vec::new());
            len = 0;
        }
        len += draft.tensor.numel();
        if let Some(part) = parts.last_mut() {
            part.push(draft);
        }
    }
    parts
}

/// Parameters of all tasks make the matrix `J`; so do those of two tasks or more.
fn is_shared(scope: &[usize], n_tasks: usize) -> bool {
    scope.len() == n_tasks || scope.len() > 1
}

/// Standard normal number by Box and Muller.
fn normal(rng: &mut impl rand::Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// All parameters of a model.
#[derive(Debug)]
pub struct Params {
    /// The buffer, padding included (always zero).
    flat: Tensor,
    arrivals: Arrivals,
    /// Parameters by place in the buffer.
    pub entries: Vec<Entry>,
    /// Segments by place in the buffer.
    pub segments: Vec<Segment>,
    /// Parameters from which on a shared segment ended with its stage.
    pub bucket: usize,
    /// Number of tasks `T`.
    pub n_tasks: usize,
    /// Number of ranks for which segments are padded.
    pub world_size: usize,
}

/// One parameter.
#[derive(Debug)]
pub struct Entry {
    /// Name as in PyTorch: `encoder.layers.0.weight`.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Tasks whose loss reaches it, ascending.
    pub scope: Vec<usize>,
    /// Stage of the encoder to which it belongs; `None`: a head, or nobody said.
    pub stage: Option<usize>,
    /// Place in the flat buffer.
    pub range: Range<usize>,
    /// The leaf tensor that the model uses: a view of the flat buffer. Its values may still be on their way after a step;
    /// [`Params::flat`] waits for them.
    pub tensor: Tensor,
}

/// A range of the flat buffer whose gradients have the same rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Place in the flat buffer, padding included; its length is a multiple of `W`.
    pub range: Range<usize>,
    /// What its gradient looks like.
    pub rows: Rows,
    /// The first stage of the encoder that needs its values; `usize::MAX`: heads alone.
    pub first_stage: usize,
}

/// What the gradient of a segment looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// One row per task of the scope, ascending: a part of `J`.
    Shared(Vec<usize>),
    /// One row; each range (in the flat buffer) belongs to one task.
    Private(Vec<(usize, Range<usize>)>),
}

impl Params {
    /// The buffer. Computation that the calling thread enqueues from now on sees all of it, whatever was on its way.
    pub fn flat(&self) -> &Tensor {
        self.arrivals.all();
        &self.flat
    }

    /// As [`Self::flat`], to write to.
    pub fn flat_mut(&mut self) -> &mut Tensor {
        self.arrivals.all();
        &mut self.flat
    }

    /// What is on its way into the buffer: who reads an [`Entry::tensor`] waits there before.
    pub fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Numbers in the buffer, padding included.
    pub fn len(&self) -> usize {
        self.flat.numel()
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Kind of the parameters.
    pub fn kind(&self) -> Kind {
        self.flat.kind()
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.flat.device()
    }

    /// Moves the buffer to a device and turns it into another kind; the model's tensors follow.
    pub fn place(&mut self, kind: Kind, device: Device) {
        self.flat = self.flat().to_kind(kind).to_device(device);
        self.point_at_buffer();
    }

    /// Makes the model's tensors views of the buffer.
    fn point_at_buffer(&mut self) {
        for entry in &mut self.entries {
            let view = self.flat.narrow(0, entry.range.start as i64, entry.range.len() as i64);
            entry.tensor.set_data(&view.reshape(entry.shape.iter().map(|&d| d as i64).collect::<Vec<_>>()));
        }
    }

    /// The part of each segment that belongs to `rank` of `size` blocks.
    pub fn blocks(&self, rank: usize, size: usize) -> Vec<Range<usize>> {
        self.segments
            .iter()
            .map(|s| {
                let len = s.range.len() / size;
                s.range.start + rank * len..s.range.start + (rank + 1) * len
            })
            .collect()
    }

    /// Indices of the entries that lie in a segment.
    pub fn entries_in(&self, segment: &Segment) -> Range<usize> {
        let first = self.entries.partition_point(|e| e.range.start < segment.range.start);
        let end = self.entries.partition_point(|e| e.range.start < segment.range.end);
        first..end
    }

    /// Whether a parameter is part of `J`: more than one task reaches it, or there is but one task.
    pub fn is_shared(&self, entry: &Entry) -> bool {
        is_shared(&entry.scope, self.n_tasks)
    }

    /// Number of parameters that more than one task reaches (all of them for a single task).
    pub fn n_shared(&self) -> usize {
        self.entries.iter().filter(|e| self.is_shared(e)).map(|e| e.range.len()).sum()
    }

    /// Number of parameters of single tasks.
    pub fn n_private(&self) -> usize {
        self.entries.iter().map(|e| e.range.len()).sum::<usize>() - self.n_shared()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(world_size: usize) -> Params {
        let mut b = ParamBuilder::new(Kind::Float, Device::Cpu, 1, vec![None, None, Some(0)]);
        b.stage(0);
        let _ = b.dense("encoder.layers.0", &[3, 2]);
        b.stage(1);
        let _ = b.dense("encoder.layers.1", &[4, 3]);
        b.heads();
        b.tasks(&[1]);
        let _ = b.param("heads.b", &[5], Init::Constant(2.0));
        b.tasks(&[0]);
        let _ = b.param("heads.a", &[17], Init::Normal(1.0));
        b.finish(world_size)
    }

    #[test]
    fn segments_are_ordered_by_scope_and_divide_by_the_world() {
        for size in 1..=4 {
            let p = example(size);
            let rows: Vec<_> = p.segments.iter().map(|s| s.rows.clone()).collect();
            assert_eq!(rows[0], Rows::Shared(vec![0, 1, 2]));
            assert_eq!(rows[1], Rows::Shared(vec![0, 1]));
            let Rows::Private(owned) = &rows[2] else { panic!("{rows:?}") };
            assert_eq!(owned.iter().map(|(t, r)| (*t, r.len())).collect::<Vec<_>>(), [(1, 5), (0, 17)]);
            assert!(p.segments.iter().all(|s| s.range.len().is_multiple_of(size)));
            assert!(p.entries.iter().all(|e| e.range.start.is_multiple_of(ALIGN)));
            assert_eq!((p.n_shared(), p.n_private()), (3 * 2 + 3 + 4 * 3 + 4, 22));
            assert_eq!(p.segments.iter().map(|s| s.first_stage).collect::<Vec<_>>(), [0, 1, usize::MAX]);
            let names: Vec<_> = p.entries[p.entries_in(&p.segments[1])].iter().map(|e| e.name.as_str()).collect();
            assert_eq!(names, ["encoder.layers.1.weight", "encoder.layers.1.bias"]);
        }
    }

    #[test]
    fn the_model_sees_views_of_the_buffer() {
        let p = example(2);
        let head = p.entries.iter().find(|e| e.name == "heads.b").unwrap();
        assert_eq!(Vec::<f32>::try_from(&head.tensor).unwrap(), [2.0; 5]);
        let _ = tch::no_grad(|| p.flat().shallow_clone().fill_(7.0));
        assert_eq!(Vec::<f32>::try_from(&head.tensor).unwrap(), [7.0; 5]);
        assert!(head.tensor.requires_grad());
    }

    #[test]
    fn values_depend_on_the_seed_only() {
        let values = |p: &Params| Vec::<f32>::try_from(p.entries[0].tensor.reshape([-1])).unwrap();
        assert_eq!(values(&example(1)), values(&example(3)));
        let bound = 1.0 / 2f32.sqrt();
        assert!(values(&example(1)).iter().all(|x| x.abs() <= bound));
    }
}
