//! How well a sketched Gram matrix serves: errors of `G`, of the coefficients, and of the direction of the update.
//!
//! Prints the tables of `docs/sketch.md`:
//!
//! ```text
//! cargo run --release --example sketch_error          # a few minutes on two cores
//! ```
//!
//! For every structure of gradients and number of tasks, each method chooses its coefficients once from the exact Gram
//! matrix and once from the sketched one, with the same random draws. Both directions are combinations of the same rows,
//! so the angle between them follows from the exact Gram matrix.

mod cases;

use cases::{Case, P, STRUCTURES};
use polytask::balance::catalog::numbered;
use polytask::balance::{Balancer, Gram};
use polytask::config::with_tasks;
use polytask::kernel::{Fragment, Sketch, Span, add_gram};
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const METHODS: [&str; 7] = ["pcgrad", "mgda", "upgrad", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl"];
const TASKS: [usize; 3] = [3, 8, 40];
const DIMS: [usize; 4] = [1 << 12, 1 << 14, 1 << 16, 1 << 18];
/// Sketches per table cell.
const DRAWS: u64 = 9;

/// What one sketch does to one method.
#[derive(Clone, Copy)]
struct Shift {
    /// `|c - ĉ| / |c|`.
    coef: f64,
    /// Between the directions, in degrees.
    angle: f64,
}

fn gram_of(rows: &[Vec<f32>]) -> Result<Gram> {
    let mut gram = vec![0.0; rows.len() * rows.len()];
    add_gram(&[Fragment { len: rows[0].len(), rows: rows.iter().map(Vec::as_slice).collect() }], &mut gram);
    Gram::new(gram).map_err(|bad| format!("gradients of tasks {:?} are not finite", bad.0).into())
}

fn sketched(rows: &[Vec<f32>], sketch: Sketch, numbers: &mut Vec<f32>) -> Result<Gram> {
    numbers.clear();
    numbers.resize(rows.len() * sketch.dim(), 0.0);
    let spans: Vec<Span<'_, f32>> =
        rows.iter().enumerate().map(|(row, values)| Span { row, place: 0, values }).collect();
    sketch.add(&spans, numbers);
    Gram::new(sketch.products(numbers)).map_err(|bad| format!("sketches of tasks {:?} are not finite", bad.0).into())
}

/// Coefficients that a fresh instance of a method chooses at step 0.
fn coefficients(method: &str, gram: &Gram) -> Result<Vec<f64>> {
    let tasks = numbered(gram.n_tasks());
    let config = with_tasks(method, &tasks, &[format!("balance.surgery={method}")])?.balance;
    let mut balancer = Balancer::build(&config, &tasks, 1, 1, 1);
    let (losses, weights) = (vec![Some(1.0); tasks.len()], vec![1.0; tasks.len()]);
    let chosen = balancer.coefficients(std::slice::from_ref(gram), &losses, &weights, 0);
    let chosen = chosen.map_err(|bad| format!("{method}: tasks {:?} are not finite", bad.0))?;
    chosen.mean().ok_or_else(|| format!("{method} gives no coefficients").into())
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Relative error in the Frobenius norm, and the largest error of a product in units of the two lengths.
fn errors(exact: &Gram, found: &Gram) -> [f64; 2] {
    let differences: Vec<f64> = exact.values().iter().zip(found.values()).map(|(a, b)| a - b).collect();
    let (norms, n) = (exact.norms(), exact.n_tasks());
    let cosine = |k: usize| differences[k].abs() / (norms[k / n] * norms[k % n]);
    [norm(&differences) / norm(exact.values()), (0..n * n).map(cosine).fold(0.0, f64::max)]
}

fn shift(exact: &Gram, c: &[f64], found: &[f64]) -> Shift {
    let difference: Vec<f64> = c.iter().zip(found).map(|(a, b)| a - b).collect();
    let inner: f64 = exact.times(found).iter().zip(c).map(|(a, b)| a * b).sum();
    let lengths = (exact.quadratic(c) * exact.quadratic(found)).sqrt();
    // A direction of length zero (Pareto stationary) has no angle.
    let angle = if lengths > 0.0 { (inner / lengths).clamp(-1.0, 1.0).acos().to_degrees() } else { f64::NAN };
    Shift { coef: norm(&difference) / norm(c), angle }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A row of each of the two tables.
fn measure(case: &Case, exact: &Gram, dim: usize, numbers: &mut Vec<f32>) -> Result<[String; 2]> {
    let chosen: Vec<Vec<f64>> = METHODS.iter().map(|method| coefficients(method, exact)).collect::<Result<_>>()?;
    let (mut of_gram, mut shifts) = (Vec::new(), vec![Vec::new(); METHODS.len()]);
    for draw in 0..DRAWS {
        let found = sketched(&case.rows, Sketch::new(1, draw, dim), numbers)?;
        of_gram.push(errors(exact, &found));
        for ((method, c), shifts) in METHODS.iter().zip(&chosen).zip(&mut shifts) {
            shifts.push(shift(exact, c, &coefficients(method, &found)?));
        }
    }
    let head = format!("| {} | {} | 2^{} |", case.name, case.rows.len(), dim.ilog2());
    let of = |k: usize| median(of_gram.iter().map(|e| e[k]).collect());
    let angles = shifts.iter().map(|s| {
        let angles: Vec<f64> = s.iter().map(|s| s.angle).collect();
        let worst = angles.iter().fold(0.0, |most: f64, x| most.max(*x));
        match median(angles) {
            middle if middle.is_nan() => " - |".to_owned(),
            middle => format!(" {middle:.1} ({worst:.1}) |"),
        }
    });
    let coefs = shifts.iter().map(|s| format!(" {:.3} |", median(s.iter().map(|s| s.coef).collect())));
    Ok([
        format!("{head} {:.4} | {:.4} |{}", of(0), of(1), angles.collect::<String>()),
        format!("{head}{}", coefs.collect::<String>()),
    ])
}

fn head(columns: &[&str]) -> String {
    let names = columns.iter().map(|c| format!(" {c} |")).collect::<String>();
    format!("|{names}\n|{}", "---|".repeat(columns.len()))
}

/// Shortest of some times, in milliseconds.
fn quickest(mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..15).map(time).fold(f64::INFINITY, f64::min)
}

/// What sketching costs, next to the exact Gram matrix of the same rows.
fn times(numbers: &mut Vec<f32>) -> Result<()> {
    println!("{}", head(&["T", "n", "exact G, ms", "sketches and their G, ms", "ratio"]));
    for n_tasks in TASKS {
        let rows = (STRUCTURES[0].1)(n_tasks);
        let exact = quickest(|| drop(black_box(gram_of(&rows))));
        for dim in DIMS {
            let found = quickest(|| drop(black_box(sketched(&rows, Sketch::new(1, 0, dim), numbers))));
            println!("| {n_tasks} | 2^{} | {exact:.2} | {found:.2} | {:.2} |", dim.ilog2(), found / exact);
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut numbers = Vec::new();
    let mut coefs = Vec::new();
    println!("Angles in degrees: median (worst) of {DRAWS} sketches. P = {P}, tox21: as the model has.\n");
    println!("{}", head(&[&["gradients", "T", "n", "G", "cosine"][..], &METHODS].concat()));
    let made = STRUCTURES.iter().flat_map(|(name, make)| TASKS.map(|n_tasks| (*name, *make, n_tasks)));
    let cases = made.map(|(name, make, n_tasks)| Ok(Case { name, rows: make(n_tasks) }));
    for case in cases.chain([cases::tox21()]) {
        let case: Case = case?;
        let exact = gram_of(&case.rows)?;
        for dim in DIMS {
            let [angles, of_coefs] = measure(&case, &exact, dim, &mut numbers)?;
            println!("{angles}");
            coefs.push(of_coefs);
        }
    }
    println!("\nRelative error of the coefficients, median of {DRAWS} sketches.\n");
    println!("{}\n{}", head(&[&["gradients", "T", "n"][..], &METHODS].concat()), coefs.join("\n"));
    tch::set_num_threads(1);
    println!("\nTimes on one thread, P = {P}; the shortest of 15.\n");
    times(&mut numbers)
}
