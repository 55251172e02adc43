//! The toy problem of `examples/toy`: its gradients are those of its losses, and methods whose end is known end there.

#[path = "../examples/toy/problem.rs"]
mod problem;

use polytask::balance::catalog::numbered;
use polytask::balance::explicit::Explicit;
use polytask::config::with_tasks;
use problem::{FLOOR, FRONT, STARTS, arrived, at, losses};

#[test]
fn gradients_are_those_of_the_losses() {
    // Away from the kinks.
    for x in [[-8.5, 7.5], [0.3, 0.7], [9.0, 9.0], [-7.5, -0.5], [3.1, -8.0], [-2.0, 1.5]] {
        let (_, gradients) = at(x);
        for k in 0..2 {
            let step = 1e-6;
            let moved = |sign: f64| {
                let mut y = x;
                y[k] += sign * step;
                losses(y)
            };
            let (up, down) = (moved(1.0), moved(-1.0));
            for t in 0..2 {
                let slope = (up[t] - down[t]) / (2.0 * step);
                assert!((slope - gradients[t][k]).abs() < 1e-5 * (1.0 + slope.abs()), "{x:?} {t} {k}: {slope}");
            }
        }
    }
}

#[test]
fn the_front_is_where_no_direction_improves_both() {
    assert!([[0.0, FRONT], [2.43, -8.37], [-5.7273, -8.4094]].iter().all(|x| arrived(*x)));
    assert!([[-9.0, FRONT], [0.0, 0.0], [5.0, 3.9]].iter().all(|x| !arrived(*x)));
    assert!(STARTS.iter().all(|x| (0..2).all(|t| losses(*x)[t] > FLOOR[t])));
}

/// Where Adam takes a method from here.
fn end(sets: &[&str], start: [f64; 2], steps: u64) -> [f64; 2] {
    let sets: Vec<String> = sets.iter().map(|set| format!("balance.{set}")).collect();
    let config = with_tasks("toy", &numbered(2), &sets).unwrap().balance;
    let mut balancing = Explicit::new(&config, 2, 2, 0, 500);
    let (mut x, mut first, mut second) = (start, [0.0; 2], [0.0; 2]);
    let mut decayed = [1.0; 2];
    for step in 0..steps {
        let (here, gradients) = at(x);
        let rows: Vec<Vec<f64>> = gradients.iter().map(|g| g.to_vec()).collect();
        let direction = balancing.direct(&rows, &here, step).unwrap().direction;
        decayed = [0.9 * decayed[0], 0.999 * decayed[1]];
        for k in 0..2 {
            first[k] = 0.9 * first[k] + 0.1 * direction[k];
            second[k] = 0.999 * second[k] + 0.001 * direction[k] * direction[k];
            x[k] -= 1e-3 * (first[k] / (1.0 - decayed[0])) / ((second[k] / (1.0 - decayed[1])).sqrt() + 1e-8);
        }
    }
    x
}

#[test]
fn the_sum_gets_stuck_in_the_valley() {
    let x = end(&["weighting=equal"], [9.0, 9.0], 35_000);
    assert!(!arrived(x) && x[1] > 3.0, "{x:?}");
}

#[test]
fn bargains_end_in_the_middle_of_the_front() {
    for method in ["nash_mtl", "imtl_g", "fairgrad"] {
        let x = end(&[&format!("surgery={method}")], [0.0, 0.0], 35_000);
        assert!(arrived(x) && x[0].abs() < 5e-3 && (x[1] - FRONT).abs() < 2e-2, "{method}: {x:?}");
        let [a, b] = losses(x);
        assert!((a + 1.51).abs() < 5e-3 && (b + 15.09).abs() < 5e-3, "{method}: {a} {b}");
    }
}
