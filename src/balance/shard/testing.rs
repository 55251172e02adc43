//! What the tests of the methods share: steps, and ranks that hold uneven parts of their columns.

use super::super::explicit::Explicit;
use super::{Part, ShardSurgery, ShardView, Sums, build};
use crate::balance::Gram;
use crate::balance::gram::dot;
use crate::comm::{Collective, Threads};
use crate::config;
use crate::kernel::{Fragment, Real};
use crate::rng::{Stream, rng};
use crate::world::World;
use rand::RngExt;
use serde_json::Value;
use std::ops::Range;

/// Seed of the runs.
pub const SEED: u64 = 11;
/// Columns of [`some_steps`].
pub const COLUMNS: usize = 600;
/// Private places before and between the shared ones of a shard.
const GAP: usize = 3;

/// A step of training as the methods see it, in whole.
#[derive(Debug, Clone)]
pub struct Step {
    pub j: Vec<Vec<f64>>,
    pub scale: Vec<f64>,
    pub losses: Vec<Option<f64>>,
    pub step: u64,
}

impl Step {
    pub fn present(&self) -> Vec<usize> {
        (0..self.scale.len()).filter(|&t| self.scale[t] != 0.0).collect()
    }

    /// The gradients of the weighted mean losses.
    pub fn weighted(&self) -> Vec<Vec<f64>> {
        self.j.iter().zip(&self.scale).map(|(row, s)| row.iter().map(|g| g * s).collect()).collect()
    }

    /// The same with all tasks, all with weight 1.
    pub fn plain(&self) -> Step {
        let losses = self.losses.iter().map(|loss| Some(loss.unwrap_or(0.7))).collect();
        Step { scale: vec![1.0; self.scale.len()], losses, ..self.clone() }
    }

    /// The first columns.
    pub fn narrow(&self, columns: usize) -> Step {
        let n_tasks = self.j.len();
        let entry = |t: usize, c: usize| if in_scope(n_tasks, columns, t, c) { self.j[t][c] } else { 0.0 };
        Step { j: (0..n_tasks).map(|t| (0..columns).map(|c| entry(t, c)).collect()).collect(), ..self.clone() }
    }

    fn gram(&self) -> Gram {
        let g = self.weighted();
        Gram::new(g.iter().flat_map(|a| g.iter().map(|b| dot(a, b))).collect()).unwrap()
    }
}

/// Whether a task shares a column: the first task has nothing in the last third of them.
pub fn in_scope(n_tasks: usize, columns: usize, task: usize, column: usize) -> bool {
    n_tasks == 1 || task > 0 || column < columns * 2 / 3
}

/// Place of a column in the flat parameters: between the two groups lies something else.
pub fn flat(columns: usize, column: usize) -> usize {
    column + if column < columns * 2 / 3 { 7 } else { 100 }
}

/// Steps with weights and counts; every other one lacks a task, in one the last task has a gradient of exactly zero.
pub fn some_steps(n_tasks: usize, n_steps: usize) -> Vec<Step> {
    let mut rng = rng(5, Stream::Init, n_tasks as u64, n_steps as u64);
    let step = |k: usize| {
        let away = |t: usize| n_tasks > 1 && k % 2 == 1 && t == k % n_tasks;
        let mut entry = |t: usize, c: usize| {
            let zero = away(t) || (k == 2 && t + 1 == n_tasks) || !in_scope(n_tasks, COLUMNS, t, c);
            let x = rng.random_range(-1.0..1.0) + 0.3 * ((t + c) % 3) as f64;
            if zero { 0.0 } else { (t + 2) as f64 * 0.1 * x }
        };
        Step {
            j: (0..n_tasks).map(|t| (0..COLUMNS).map(|c| entry(t, c)).collect()).collect(),
            scale: (0..n_tasks).map(|t| if away(t) { 0.0 } else { 0.9 / (t + 2) as f64 }).collect(),
            losses: (0..n_tasks).map(|t| (!away(t)).then_some(0.4 + 0.3 * (t + k) as f64)).collect(),
            step: k as u64,
        }
    };
    (0..n_steps).map(step).collect()
}

/// What came of some steps, put together from all ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub directions: Vec<Vec<f64>>,
    pub coefficients: Vec<Option<Vec<f64>>>,
    pub state: Vec<(String, Vec<f64>)>,
    pub small: Value,
}

/// Where a rank keeps which columns.
struct Place {
    scope: Vec<usize>,
    columns: Range<usize>,
    local: Range<usize>,
}

/// The columns of a rank: uneven parts, cut where the scope changes and once more.
fn places(n_tasks: usize, columns: usize, world: World) -> (Vec<Place>, usize) {
    let cut = |rank: usize| columns * rank * (rank + 1) / (world.size * (world.size + 1));
    let (start, end) = (cut(world.rank), cut(world.rank + 1));
    let mut edges = vec![start, columns * 2 / 3, start + (end - start) / 3, end];
    edges.retain(|edge| (start..=end).contains(edge));
    edges.sort_unstable();
    edges.dedup();
    let (mut places, mut local) = (Vec::new(), GAP);
    for columns_here in edges.windows(2).map(|edge| edge[0]..edge[1]) {
        let scope = (0..n_tasks).filter(|&t| in_scope(n_tasks, columns, t, columns_here.start)).collect();
        let range = local..local + columns_here.len();
        local = range.end + GAP;
        places.push(Place { scope, columns: columns_here, local: range });
    }
    (places, local)
}

/// A method on one rank.
pub struct Rank<F: Real> {
    pub method: Box<dyn ShardSurgery<F>>,
    places: Vec<Place>,
    columns: usize,
    n: usize,
}

impl<F: Real> Rank<F> {
    pub fn new(surgery: &config::Surgery, like: &Step, world: World) -> Self {
        let (places, n) = places(like.j.len(), like.j[0].len(), world);
        let method = build(surgery, like.j.len(), n).expect("a method on the shard");
        Rank { method, places, columns: like.j[0].len(), n }
    }

    /// The direction of this rank's columns, at their places among all; zero elsewhere. `dense`: rows that are zero are
    /// written out.
    pub fn direction(&mut self, step: &Step, sums: &Sums<'_>, dense: bool) -> (Vec<f64>, Option<Vec<f64>>) {
        let rows: Vec<Vec<F>> = step.j.iter().map(|row| row.iter().map(|&x| F::from_f64(x)).collect()).collect();
        let part = |place: &Place| -> Vec<&[F]> {
            let row = |&t: &usize| -> &[F] {
                let row = &rows[t][place.columns.clone()];
                if !dense && row.iter().all(|x| *x == F::default()) { &[] } else { row }
            };
            place.scope.iter().map(row).collect()
        };
        let parts: Vec<Part<'_, F>> = self
            .places
            .iter()
            .map(|place| Part {
                scope: &place.scope,
                at: flat(self.columns, place.columns.start)..flat(self.columns, place.columns.end - 1) + 1,
                local: place.local.clone(),
                rows: Fragment { len: place.columns.len(), rows: part(place) },
            })
            .collect();
        let view = ShardView {
            parts: &parts,
            scale: &step.scale,
            losses: &step.losses,
            gram: &step.gram(),
            step: step.step,
            seed: SEED,
        };
        let mut out = vec![F::default(); self.n];
        let coefficients = self.method.direction(&view, sums, &mut out).expect("all ranks are there");
        (self.whole(&out), coefficients)
    }

    /// A vector of the shard, at the places of its columns among all.
    pub fn whole(&self, local: &[F]) -> Vec<f64> {
        let mut whole = vec![0.0; self.columns];
        let mut private = local.to_vec();
        for place in &self.places {
            let values = &local[place.local.clone()];
            whole[place.columns.clone()].iter_mut().zip(values).for_each(|(w, x)| *w = x.to_f64());
            private[place.local.clone()].fill(F::default());
        }
        assert!(private.iter().all(|x| *x == F::default()), "private places stay zero");
        whole
    }

    pub fn state(&self) -> Vec<(String, Vec<f64>)> {
        self.method.state().into_iter().map(|(name, row)| (name, self.whole(row))).collect()
    }
}

/// Runs a fresh method on `size` ranks; zero rows are empty.
pub fn run<F: Real>(surgery: &config::Surgery, steps: &[Step], size: usize) -> Outcome {
    run_with::<F>(surgery, steps, size, false)
}

/// As [`run`]. `dense`: rows that are zero are written out.
pub fn run_with<F: Real>(surgery: &config::Surgery, steps: &[Step], size: usize, dense: bool) -> Outcome {
    let ranks = Threads::run(size, |comm| {
        let mut rank = Rank::<F>::new(surgery, &steps[0], comm.world());
        let found: Vec<_> = steps.iter().map(|step| rank.direction(step, &Sums::new(&comm, true), dense)).collect();
        let (directions, coefficients) = found.into_iter().unzip();
        Outcome { directions, coefficients, state: rank.state(), small: rank.method.save() }
    });
    let mut ranks = ranks.into_iter();
    let mut whole = ranks.next().expect("a rank");
    for rank in ranks {
        assert_eq!((&rank.coefficients, &rank.small), (&whole.coefficients, &whole.small), "ranks differ");
        for (whole, part) in whole.directions.iter_mut().zip(&rank.directions) {
            whole.iter_mut().zip(part).for_each(|(w, x)| *w += x);
        }
        for ((name, whole), (same, part)) in whole.state.iter_mut().zip(&rank.state) {
            assert_eq!(name, same);
            whole.iter_mut().zip(part).for_each(|(w, x)| *w += x);
        }
    }
    whole
}

/// The directions of a balancing with this surgery and no weighting.
pub fn by_explicit(surgery: &config::Surgery, steps: &[Step]) -> Vec<Vec<f64>> {
    let config = config::Balance { surgery: surgery.clone(), ..config::Balance::default() };
    let mut explicit = Explicit::new(&config, steps[0].j.len(), steps[0].j[0].len(), SEED, 1);
    let direct = |step: &Step| {
        let losses: Vec<f64> = step.losses.iter().map(|loss| loss.expect("all tasks")).collect();
        let found = explicit.direct(&step.j, &losses, step.step).expect("finite");
        if let Some(c) = &found.coefficients {
            let combined: Vec<f64> =
                (0..found.direction.len()).map(|k| c.iter().zip(&step.j).map(|(c, row)| c * row[k]).sum()).collect();
            close(&combined, &found.direction, 1e-12);
        }
        found.direction
    };
    steps.iter().map(direct).collect()
}

/// The plain sum of rows.
pub fn sum(rows: &[Vec<f64>]) -> Vec<f64> {
    (0..rows[0].len()).map(|c| rows.iter().map(|row| row[c]).sum()).collect()
}

/// Fails unless the largest difference is at most `tolerance` times the largest entry of `want`.
#[track_caller]
pub fn close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f64::max);
    let finite = got.iter().chain(want).all(|x| x.is_finite());
    assert!(
        finite && worst <= tolerance,
        "{worst:e} off; {:?}.. for {:?}..",
        &got[..got.len().min(4)],
        &want[..want.len().min(4)]
    );
}
