//! The toy problem on which multi-task methods are compared: two tasks, two parameters, five starts, Adam.
//!
//! Prints how many of the five runs of each method reach the Pareto front after 35,000 and 50,000 steps, next to the
//! counts that an independent program found, and draws the paths:
//!
//! ```text
//! cargo run --release --example toy                  # about ten seconds on two cores; writes docs/img/toy.svg
//! cargo run --release --example toy -- --clip 1      # directions clipped to norm 1; draws nothing
//! cargo run --release --example toy -- --svg a.svg pcgrad "famo, gamma 0"
//! ```
//!
//! Where the counts differ: `graddrop` draws; runs through the valley of the logarithm are chaotic, so that a start moved by
//! 1e-9 arrives some thousand steps earlier or later; and `cagrad` and `aligned_mtl` are solved exactly here, which a
//! third program (line search; small eigenvalues from the determinant) confirms: 4 and 5 runs arrive.
//!
//! Losses of this problem are negative near its optima. Methods that need positive losses see `L + (2.1, 21)`, which
//! is positive everywhere; the gradients are the same.

mod problem;
mod svg;

use polytask::balance::catalog::numbered;
use polytask::balance::explicit::Explicit;
use polytask::config::with_tasks;
use problem::{FLOOR, STARTS, arrived, at, losses};
use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const STEPS: u64 = 50_000;
const EARLIER: u64 = 35_000;
const LR: f64 = 1e-3;
const STEPS_PER_EPOCH: u64 = 500;

/// A method as it is run here.
struct Entry {
    label: &'static str,
    /// Keys below `balance`.
    sets: &'static [&'static str],
    /// Whether it sees losses that are moved above 0.
    moved: bool,
    /// Runs that arrive after 35,000 and 50,000 steps, and after 50,000 with clipping, in an independent program.
    reference: [Option<usize>; 3],
    /// Whether the picture shows it.
    shown: bool,
}

const fn known(label: &'static str, sets: &'static [&'static str], counts: [usize; 3]) -> Entry {
    let [a, b, c] = counts;
    Entry { label, sets, moved: false, reference: [Some(a), Some(b), Some(c)], shown: true }
}

const fn other(label: &'static str, sets: &'static [&'static str]) -> Entry {
    Entry { label, sets, moved: false, reference: [None; 3], shown: false }
}

const fn moved(label: &'static str, sets: &'static [&'static str]) -> Entry {
    Entry { label, sets, moved: true, reference: [None; 3], shown: false }
}

static ENTRIES: &[Entry] = &[
    known("equal", &["weighting=equal"], [3, 4, 3]),
    known("random", &["weighting=random"], [3, 4, 3]),
    known("graddrop", &["surgery=graddrop"], [3, 4, 3]),
    known("pcgrad", &["surgery=pcgrad"], [4, 4, 5]),
    known("upgrad", &["surgery=upgrad"], [4, 4, 5]),
    other("upgrad, reg 1e-4", &["surgery.upgrad.reg=1e-4"]),
    known("dualproj", &["surgery=dualproj"], [4, 4, 5]),
    other("dualproj, reg 1e-4", &["surgery.dualproj.reg=1e-4"]),
    known("mgda", &["surgery=mgda"], [5, 5, 5]),
    known("cagrad, c 0.4", &["surgery.cagrad.c=0.4"], [5, 5, 5]),
    known("cagrad, c 0.5", &["surgery.cagrad.c=0.5"], [5, 5, 5]),
    known("imtl_g", &["surgery=imtl_g"], [5, 5, 5]),
    known("nash_mtl", &["surgery=nash_mtl"], [5, 5, 5]),
    known("fairgrad, alpha 1", &["surgery.fairgrad.alpha=1"], [5, 5, 5]),
    known("fairgrad, alpha 2", &["surgery.fairgrad.alpha=2"], [5, 5, 5]),
    known("aligned_mtl", &["surgery=aligned_mtl"], [4, 4, 3]),
    Entry { reference: [Some(3), Some(4), None], ..known("config", &["surgery=config"], [0; 3]) },
    known("famo, gamma 0", &["weighting.famo.gamma=0", "weighting.famo.min_losses={'0': -2.1, '1': -21}"], [5, 5, 5]),
    known(
        "famo, gamma 0.001",
        &["weighting.famo.gamma=1e-3", "weighting.famo.min_losses={'0': -2.1, '1': -21}"],
        [3, 3, 3],
    ),
    Entry { shown: true, ..other("gradvac", &["surgery=gradvac"]) },
    other("sdmgrad", &["surgery=sdmgrad"]),
    other("modo", &["surgery=modo"]),
    other("excess_mtl", &["surgery=excess_mtl"]),
    other("cosmos", &["weighting=cosmos"]),
    other("pbi", &["weighting=pbi"]),
    moved("scale_invariant", &["weighting=scale_invariant"]),
    moved("uncertainty", &["weighting=uncertainty"]),
    moved("dwa", &["weighting=dwa"]),
    moved("gls", &["weighting=gls"]),
    moved("imtl_l", &["weighting=imtl_l"]),
    moved("stch", &["weighting=stch"]),
    moved("go4align", &["weighting=go4align"]),
    moved("ldc_mtl", &["weighting=ldc_mtl"]),
    moved("gradnorm", &["surgery=gradnorm"]),
    moved("moco", &["surgery=moco"]),
    moved("db_mtl", &["surgery=db_mtl"]),
];

/// Adam on two numbers, with its usual constants.
struct Adam {
    first: [f64; 2],
    second: [f64; 2],
    /// The decay rates to the power of the steps taken.
    decayed: [f64; 2],
}

impl Adam {
    fn new() -> Self {
        Adam { first: [0.0; 2], second: [0.0; 2], decayed: [1.0; 2] }
    }

    fn step(&mut self, x: &mut [f64; 2], gradient: [f64; 2]) {
        self.decayed = [0.9 * self.decayed[0], 0.999 * self.decayed[1]];
        let [corrected1, corrected2] = self.decayed.map(|decayed| 1.0 - decayed);
        for k in 0..2 {
            self.first[k] = 0.9 * self.first[k] + 0.1 * gradient[k];
            self.second[k] = 0.999 * self.second[k] + 0.001 * gradient[k] * gradient[k];
            x[k] -= LR * (self.first[k] / corrected1) / ((self.second[k] / corrected2).sqrt() + 1e-8);
        }
    }
}

/// What one run came to.
struct Run {
    path: Vec<[f64; 2]>,
    early: bool,
    late: bool,
    seconds: f64,
}

fn run(entry: &Entry, start: usize, clip: Option<f64>) -> Result<Run> {
    let begun = Instant::now();
    let sets: Vec<String> = entry.sets.iter().map(|set| format!("balance.{set}")).collect();
    let config = with_tasks(entry.label, &numbered(2), &sets)?.balance;
    let mut balancing = Explicit::new(&config, 2, 2, start as u64, STEPS_PER_EPOCH);
    let seen = |losses: [f64; 2]| if entry.moved { [losses[0] - FLOOR[0], losses[1] - FLOOR[1]] } else { losses };
    let (mut x, mut adam) = (STARTS[start], Adam::new());
    let mut path = vec![x];
    let mut early = false;
    let mut jacobian = vec![vec![0.0; 2]; 2];
    for step in 0..STEPS {
        if step == EARLIER {
            early = arrived(x);
        }
        let (losses_here, gradients) = at(x);
        jacobian.iter_mut().zip(gradients).for_each(|(row, g)| row.copy_from_slice(&g));
        let here = seen(losses_here);
        let balanced = balancing.direct(&jacobian, &here, step);
        let direction = balanced.map_err(|bad| format!("{}: step {step}: tasks {:?}", entry.label, bad.0))?.direction;
        let norm = direction[0].hypot(direction[1]);
        let factor = clip.filter(|clip| norm > *clip).map_or(1.0, |clip| clip / norm);
        adam.step(&mut x, [factor * direction[0], factor * direction[1]]);
        balancing.observe(&here, step);
        if balancing.needs_losses_after() {
            balancing.observe_after(&here, &seen(losses(x)), step);
        }
        let last = path[path.len() - 1];
        if (x[0] - last[0]).hypot(x[1] - last[1]) > 0.05 {
            path.push(x);
        }
    }
    path.push(x);
    Ok(Run { path, early, late: arrived(x), seconds: begun.elapsed().as_secs_f64() })
}

/// All runs, `[entries][starts]`, on all cores.
fn run_all(entries: &[&Entry], clip: Option<f64>) -> Vec<Vec<Result<Run>>> {
    let n_jobs = entries.len() * STARTS.len();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || loop {
        let job = next.fetch_add(1, Ordering::Relaxed);
        if job >= n_jobs {
            break;
        }
        let result = run(entries[job / STARTS.len()], job % STARTS.len(), clip);
        done.lock().unwrap_or_else(|broken| broken.into_inner()).push((job, result));
    };
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut done = done.into_inner().unwrap_or_else(|broken| broken.into_inner());
    done.sort_by_key(|(job, _)| *job);
    let mut results = done.into_iter().map(|(_, result)| result);
    entries.iter().map(|_| results.by_ref().take(STARTS.len()).collect()).collect()
}

/// Counts of one entry as a row of the table.
fn row(entry: &Entry, runs: &[Result<Run>], clipped: bool) -> String {
    let count = |of: fn(&Run) -> bool| runs.iter().flatten().filter(|run| of(run)).count();
    let found = [count(|run| run.early), count(|run| run.late)];
    let reference = if clipped { [None, entry.reference[2]] } else { [entry.reference[0], entry.reference[1]] };
    let cell = |k: usize| format!("{} / {}", found[k], reference[k].map_or("-".into(), |n| n.to_string()));
    let differs = (0..2).any(|k| reference[k].is_some_and(|n| n != found[k]));
    let micros = runs.iter().flatten().map(|run| run.seconds).sum::<f64>() * 1e6 / (STEPS as f64 * runs.len() as f64);
    let end = match &runs[2] {
        Ok(Run { path, .. }) => path.last().map_or(String::new(), |[a, b]| format!("({a:.2}, {b:.2})")),
        Err(error) => error.to_string(),
    };
    let notes = [(differs, "differs"), (entry.moved, "losses + (2.1, 21)")];
    let notes: Vec<&str> = notes.iter().filter(|(holds, _)| *holds).map(|(_, text)| *text).collect();
    let line =
        format!("{:<18} {:>7} {:>7} {micros:>9.2}  {end:<16} {}", entry.label, cell(0), cell(1), notes.join(", "));
    line.trim_end().to_owned()
}

fn main() -> Result<()> {
    let (mut clip, mut file, mut labels) = (None, None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--clip" => clip = Some(arguments.next().ok_or("--clip needs a norm")?.parse::<f64>()?),
            "--svg" => file = Some(arguments.next().ok_or("--svg needs a file")?),
            label => labels.push(label.to_owned()),
        }
    }
    if let Some(wrong) = labels.iter().find(|label| ENTRIES.iter().all(|entry| entry.label != **label)) {
        let known: Vec<&str> = ENTRIES.iter().map(|entry| entry.label).collect();
        return Err(format!("no entry `{wrong}`; there are {}", known.join("; ")).into());
    }
    let wanted = |entry: &&Entry| labels.is_empty() || labels.iter().any(|label| label == entry.label);
    let entries: Vec<&Entry> = ENTRIES.iter().filter(wanted).collect();
    let begun = Instant::now();
    let results = run_all(&entries, clip);
    println!("runs of 5 that reach the front: here / in an independent program\n");
    println!("{:<18} {:>7} {:>7} {:>9}  from (9, 9)", "method", "35,000", "50,000", "us/step");
    for (entry, runs) in entries.iter().zip(&results) {
        println!("{}", row(entry, runs, clip.is_some()));
    }
    println!("\n{:.1} s", begun.elapsed().as_secs_f64());
    if clip.is_none() && labels.is_empty() {
        file.get_or_insert_with(|| "docs/img/toy.svg".into());
    }
    if let Some(file) = file {
        let shown = entries.iter().zip(&results).filter(|(entry, _)| entry.shown || !labels.is_empty());
        let panels: Vec<svg::Panel> = shown
            .map(|(entry, runs)| svg::Panel {
                title: format!("{} ({}/5)", entry.label, runs.iter().flatten().filter(|run| run.late).count()),
                paths: runs.iter().flatten().map(|run| (run.path.clone(), run.late)).collect(),
            })
            .collect();
        std::fs::write(&file, svg::draw(&panels))?;
        println!("wrote {file}");
    }
    Ok(())
}
