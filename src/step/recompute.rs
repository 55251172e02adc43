//! Activations that are computed twice instead of being kept: the encoder in pieces, and only the outputs at the cuts stay.
//!
//! ```text
//! forward    inputs -> piece 0 | piece 1 | .. | last piece -> heads -> losses
//!            no graph: only the outputs at the cuts are kept  | the last piece and the heads keep their graphs
//! backward   heads: a backward per row ends at the stages to which they are attached, as a gradient z per row
//!            then, from the last piece to the first: run it again with a graph, and one backward per row, of sum(x * z),
//!            whose gradient with respect to the stages x is z, down to the cut before
//! ```
//!
//! A piece is run again **once**, however many rows go back through it: `T` rows cost one forward pass of the encoder more,
//! like one. In exchange `T` gradients wait at a cut. The numbers are those of a graph that was kept.
//!
//! Dropout draws the same masks in both passes: libtorch's generators are seeded before every piece ([`Masks`]).

use super::forward::{is_wanted, terms_of};
use super::task_grads::{rows_of_task, weighted_sum};
use super::{Factors, Grads, Term};
use crate::data::{Batch, Inputs};
use crate::ffi;
use crate::model::{Model, Params, Start};
use crate::rng::{Stream, seed};
use crate::step::losses::TaskLoss;
use std::ops::Range;
use tch::{TchError, Tensor};

/// Seeds of the encoder's pieces in one micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Masks {
    seed: u64,
    micro: u64,
}

impl Masks {
    /// `seed` is that of a step on this rank, `micro` the number of its micro-batch.
    pub fn new(seed: i64, micro: usize) -> Self {
        Masks { seed: seed as u64, micro: micro as u64 }
    }

    fn draw(self, part: usize, piece: usize) {
        ffi::seed_torch(seed(self.seed, Stream::Recompute, (self.micro << 32) | part as u64, piece as u64));
    }
}

/// Losses of one micro-batch whose encoder is to be run again in the backward pass.
#[derive(Debug)]
pub struct Pieces<'a> {
    /// Terms with at least one label, by part, then task; their graphs end at the stages of their heads.
    pub terms: Vec<Term>,
    parts: Vec<Part<'a>>,
    masks: Masks,
}

/// What is kept of one part of a batch.
#[derive(Debug)]
struct Part<'a> {
    inputs: &'a Inputs,
    /// By piece but the last that a head of this part needs: the output of its last stage.
    ends: Vec<Tensor>,
    /// By stage: where the graphs of its heads end; undefined without a head.
    leaves: Vec<Tensor>,
    /// That last piece, with its graph.
    last: Option<Piece>,
}

/// A piece of the encoder, run.
#[derive(Debug)]
struct Piece {
    /// The output of the piece before, as a leaf; `None` for the first piece.
    leaf: Option<Tensor>,
    /// Outputs of the piece's stages.
    stages: Vec<Tensor>,
}

/// A backward pass: of what, and (parameter, row) to which its gradients are added.
struct Goal {
    of: Tensor,
    to: Vec<(usize, usize)>,
}

/// By goal and stage: the gradient that has arrived there.
type AtStages = Vec<Vec<Option<Tensor>>>;

/// As [`super::forward()`] in training, for a model that is to be recomputed.
pub(super) fn forward_pieces<'a>(
    model: &Model,
    losses: &[Box<dyn TaskLoss>],
    batch: &'a Batch,
    active: &[bool],
    masks: Masks,
) -> Pieces<'a> {
    let mut pass = Pieces { terms: Vec::new(), parts: Vec::new(), masks };
    let n_stages = model.pieces().last().map_or(0, |piece| piece.end);
    for source in batch.parts.iter().filter(|part| part.targets.iter().any(|t| is_wanted(t, active))) {
        let index = pass.parts.len();
        let leaves = (0..n_stages).map(|_| Tensor::new()).collect();
        let mut part = Part { inputs: &source.inputs, ends: Vec::new(), leaves, last: None };
        let wanted = source.targets.iter().filter(|t| is_wanted(t, active));
        let attached: Vec<usize> = wanted.map(|target| model.stage_of(target.task)).collect();
        let is_used = |stages: &&Range<usize>| attached.iter().any(|stage| *stage >= stages.start);
        let n_pieces = model.pieces().iter().filter(is_used).count();
        for (k, stages) in model.pieces()[..n_pieces].iter().enumerate() {
            let is_last = k + 1 == n_pieces;
            let run = || part.run(model, k, masks, index);
            let mut piece = if is_last { run() } else { tch::no_grad(run) };
            for (stage, output) in stages.clone().zip(&piece.stages).filter(|(stage, _)| attached.contains(stage)) {
                part.leaves[stage] = output.detach().set_requires_grad(true);
            }
            if is_last {
                part.last = Some(piece);
            } else {
                part.ends.extend(piece.stages.pop());
            }
        }
        pass.terms.extend(terms_of(model, losses, index, source, &part.leaves, active, true));
        pass.parts.push(part);
    }
    pass
}

impl Part<'_> {
    /// Runs a piece, the first time or again. `index` is the part's place in the batch.
    fn run(&self, model: &Model, piece: usize, masks: Masks, index: usize) -> Piece {
        masks.draw(index, piece);
        let leaf = piece.checked_sub(1).map(|before| self.ends[before].detach().set_requires_grad(true));
        let start = leaf.as_ref().map_or(Start::Inputs(self.inputs), Start::Output);
        Piece { stages: model.run_stages(model.pieces()[piece].clone(), start, true), leaf }
    }
}

impl Pieces<'_> {
    /// As [`super::task_grads()`]; all rows are complete at the end only.
    pub(super) fn task_grads<E: From<TchError>>(
        self,
        model: &Model,
        batch: usize,
        grads: &mut Grads,
        done: &mut dyn FnMut(&mut Grads, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let params = &model.params;
        let mut goals: Vec<Vec<Goal>> = self.parts.iter().map(|_| Vec::new()).collect();
        for term in &self.terms {
            let to = rows_of_task(params, term.task, batch);
            goals[term.part].push(Goal { of: term.sum.shallow_clone(), to });
        }
        let tasks: Vec<usize> = self.terms.iter().map(|term| term.task).collect();
        self.backward(model, goals, grads, &mut |_, _| Ok::<_, E>(()))?;
        tasks.into_iter().try_for_each(|task| done(grads, task))
    }

    /// As [`super::weighted_grads()`]; `done` is told the first stage whose gradients are complete after each piece.
    pub(super) fn weighted_grads<E: From<TchError>>(
        self,
        model: &Model,
        factors: &Factors,
        grads: &mut Grads,
        done: &mut dyn FnMut(&mut Grads, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let params = &model.params;
        let (shared, private): (Vec<usize>, Vec<usize>) =
            (0..params.entries.len()).partition(|&e| params.is_shared(&params.entries[e]));
        let rows = |entries: &[usize]| entries.iter().map(|&e| (e, 0)).collect::<Vec<_>>();
        let mut goals: Vec<Vec<Goal>> = self.parts.iter().map(|_| Vec::new()).collect();
        for terms in self.terms.chunk_by(|a, b| a.part == b.part) {
            let Some((sums, weighted)) = weighted_sum(terms, &factors.shared) else { continue };
            let goals = &mut goals[terms[0].part];
            let mut to = rows(&shared);
            if factors.serve_private {
                to.extend(rows(&private));
            } else {
                goals.push(Goal { of: sums.sum(sums.kind()), to: rows(&private) });
            }
            goals.push(Goal { of: weighted, to });
        }
        self.backward(model, goals, grads, done)
    }

    /// Runs all goals, by part, back through heads and pieces.
    fn backward<E: From<TchError>>(
        mut self,
        model: &Model,
        goals: Vec<Vec<Goal>>,
        grads: &mut Grads,
        done: &mut dyn FnMut(&mut Grads, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        self.terms.clear(); // the goals have them: heads' graphs go with the last backward through them
        let (mut at_stages, mut to) = (Vec::with_capacity(goals.len()), Vec::with_capacity(goals.len()));
        for (part, goals) in self.parts.iter_mut().zip(goals) {
            at_stages.push(part.heads(&model.params, &goals, grads)?);
            to.push(goals.into_iter().map(|goal| goal.to).collect::<Vec<_>>());
        }
        for (k, stages) in model.pieces().iter().enumerate().rev() {
            for (index, part) in self.parts.iter_mut().enumerate() {
                // Nothing has arrived here if the heads of this part are attached to earlier stages.
                if !at_stages[index].iter().any(|at| at[stages.clone()].iter().any(Option::is_some)) {
                    continue;
                }
                let kept = if k == part.ends.len() { part.last.take() } else { None };
                let piece = kept.unwrap_or_else(|| part.run(model, k, self.masks, index));
                piece.backward(&model.params, stages.start, &to[index], &mut at_stages[index], grads)?;
            }
            done(grads, stages.start)?;
        }
        Ok(())
    }
}

impl Part<'_> {
    /// One backward per goal through the heads: adds to the rows of parameters that belong to no stage, and returns what
    /// arrives at the stages.
    fn heads(&mut self, params: &Params, goals: &[Goal], grads: &mut Grads) -> Result<AtStages, TchError> {
        let leaves = std::mem::take(&mut self.leaves);
        let attached: Vec<usize> = (0..leaves.len()).filter(|&stage| leaves[stage].defined()).collect();
        let mut at_stages = Vec::with_capacity(goals.len());
        for (g, goal) in goals.iter().enumerate() {
            let own: Vec<_> = goal.to.iter().filter(|(e, _)| params.entries[*e].stage.is_none()).collect();
            let of_params = own.iter().map(|(e, _)| &params.entries[*e].tensor);
            let inputs: Vec<&Tensor> = attached.iter().map(|&stage| &leaves[stage]).chain(of_params).collect();
            let mut found = Tensor::f_run_backward(&[&goal.of], &inputs, g + 1 < goals.len(), false)?;
            own.iter().zip(found.split_off(attached.len())).for_each(|(&&(e, row), grad)| grads.add(e, row, grad));
            let mut at: Vec<Option<Tensor>> = leaves.iter().map(|_| None).collect();
            attached.iter().zip(found).filter(|(_, z)| z.defined()).for_each(|(&stage, z)| at[stage] = Some(z));
            at_stages.push(at);
        }
        Ok(at_stages)
    }
}

impl Piece {
    /// One backward per goal through the piece, which begins with stage `first`: adds to the rows of its parameters, and to
    /// what arrives at the stage before.
    fn backward(
        self,
        params: &Params,
        first: usize,
        to: &[Vec<(usize, usize)>],
        at_stages: &mut AtStages,
        grads: &mut Grads,
    ) -> Result<(), TchError> {
        let end = first + self.stages.len();
        let surrogates: Vec<Option<Tensor>> = at_stages.iter_mut().map(|at| self.surrogate(&mut at[first..])).collect();
        let n_left = |g: usize| surrogates[g + 1..].iter().flatten().count();
        let keep: Vec<bool> = (0..surrogates.len()).map(|g| n_left(g) > 0).collect();
        for (g, surrogate) in surrogates.into_iter().enumerate() {
            let Some(surrogate) = surrogate else { continue };
            // Parameters of earlier stages may be used here once more.
            let reaches = |e: usize| params.entries[e].stage.is_none_or(|stage| stage < end);
            let reached: Vec<_> = to[g].iter().filter(|(e, _)| reaches(*e)).collect();
            let of_params = reached.iter().map(|(e, _)| &params.entries[*e].tensor);
            let inputs: Vec<&Tensor> = of_params.chain(&self.leaf).collect();
            let mut found = Tensor::f_run_backward(&[&surrogate], &inputs, keep[g], false)?;
            if let Some(z) = found.split_off(reached.len()).pop().filter(Tensor::defined) {
                let before = &mut at_stages[g][first - 1];
                *before = Some(before.take().map_or_else(|| z.shallow_clone(), |sum| sum + &z));
            }
            reached.iter().zip(found).for_each(|(&&(e, row), grad)| grads.add(e, row, grad));
        }
        Ok(())
    }

    /// A scalar whose gradient with respect to the piece's stages is what has arrived there, which is taken away.
    fn surrogate(&self, at: &mut [Option<Tensor>]) -> Option<Tensor> {
        let arrived = self.stages.iter().zip(at).filter_map(|(stage, z)| Some((stage, z.take()?)));
        arrived.map(|(stage, z)| (stage * z).sum(stage.kind())).reduce(|a, b| a + b)
    }
}
