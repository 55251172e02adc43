//! What holds for all methods on the shard.

use super::testing::{Rank, Step, close, run, run_with, some_steps};
use super::{Sums, build};
use crate::config::{DbMtl, ExcessMtl, GradDrop, MoCo, Simplex, Surgery, TrimmedMean};
use crate::kernel::Real;
use crate::world::World;

fn all() -> Vec<Surgery> {
    vec![
        Surgery::Graddrop(GradDrop { leak: 0.1 }),
        Surgery::TrimmedMean(TrimmedMean::default()),
        Surgery::ExcessMtl(ExcessMtl { eta: 1.0 }),
        Surgery::Moco(MoCo::default()),
        Surgery::Moco(MoCo { normalize: true, simplex: Simplex::Softmax, ..MoCo::default() }),
        Surgery::DbMtl(DbMtl::default()),
    ]
}

const ALONE: World = World { rank: 0, size: 1, local_rank: 0, local_size: 1 };

#[test]
fn shards_are_the_whole() {
    for surgery in all() {
        let steps = some_steps(4, 5);
        let whole = run::<f64>(&surgery, &steps, 1);
        for size in 2..=4 {
            let parts = run::<f64>(&surgery, &steps, size);
            for (part, whole) in parts.directions.iter().zip(&whole.directions) {
                close(part, whole, 1e-12);
            }
            assert_eq!(parts.state.len(), whole.state.len());
            for ((name, part), (same, whole)) in parts.state.iter().zip(&whole.state) {
                assert_eq!(name, same);
                close(part, whole, 1e-12);
            }
        }
        // Where every rank has everything, the sums are rank 0's.
        let replicas = crate::comm::Threads::run(2, |comm| {
            let mut rank = Rank::<f64>::new(&surgery, &steps[0], ALONE);
            let sums = Sums::new(&comm, false);
            steps.iter().map(|step| rank.direction(step, &sums, false).0).collect::<Vec<_>>()
        });
        assert!(replicas.iter().all(|directions| *directions == whole.directions));
    }
}

#[test]
fn an_empty_row_is_a_row_of_zeros() {
    for surgery in all() {
        let steps = some_steps(3, 5);
        assert_eq!(run::<f64>(&surgery, &steps, 2), run_with::<f64>(&surgery, &steps, 2, true), "{surgery:?}");
        let nothing = Step { j: vec![vec![0.0; 60]; 3], ..steps[0].clone() };
        let found = run::<f64>(&surgery, &[nothing.clone(), nothing], 1);
        assert!(found.directions.iter().flatten().all(|&x| x == 0.0), "{surgery:?}");
    }
}

#[test]
fn single_precision_is_close_to_double() {
    for surgery in all() {
        let steps = some_steps(4, 5);
        let (single, double) = (run::<f32>(&surgery, &steps, 1), run::<f64>(&surgery, &steps, 1));
        for (single, double) in single.directions.iter().zip(&double.directions) {
            close(single, double, 1e-5);
        }
    }
}

#[test]
fn numbers_of_any_size_stay_finite() {
    for surgery in all() {
        for factors in [[1e15; 3], [1e-15; 3], [1e15, 1.0, 1e-15], [0.0, 1e15, 1.0]] {
            let mut steps = some_steps(3, 4);
            for step in &mut steps {
                for (row, factor) in step.j.iter_mut().zip(factors) {
                    row.iter_mut().for_each(|x| *x *= factor);
                }
            }
            for found in [run::<f64>(&surgery, &steps, 1), run::<f32>(&surgery, &steps, 1)] {
                assert!(found.directions.iter().flatten().all(|x| x.is_finite()), "{surgery:?} {factors:?}");
                // The shortest combination with a gradient of zero is zero.
                let zero = factors[0] == 0.0 && matches!(surgery, Surgery::Moco(_));
                assert!(zero || found.directions[0].iter().any(|&x| x != 0.0), "{surgery:?} {factors:?}");
                assert!(
                    found.state.iter().all(|(_, row)| row.iter().all(|x| x.is_finite())),
                    "{surgery:?} {factors:?}"
                );
                assert!(
                    found.coefficients.iter().flatten().flatten().all(|x| x.is_finite()),
                    "{surgery:?} {factors:?}"
                );
            }
        }
    }
}

#[test]
fn one_task_alone_keeps_its_direction() {
    for surgery in all() {
        let steps = some_steps(1, 1);
        let found = run::<f64>(&surgery, &steps, 2).directions.remove(0);
        let ratio = found[0] / steps[0].j[0][0];
        assert!(ratio > 0.0, "{surgery:?}");
        close(&found, &steps[0].j[0].iter().map(|g| ratio * g).collect::<Vec<_>>(), 1e-12);
    }
}

#[test]
fn a_task_that_is_away_neither_moves_nor_is_moved() {
    for surgery in all() {
        let [mut rank, mut plain] = [0; 2].map(|_| Rank::<f64>::new(&surgery, &some_steps(3, 1)[0], ALONE));
        for step in some_steps(3, 6) {
            let before = rank.state();
            let away: Vec<usize> = (0..3).filter(|&t| step.scale[t] == 0.0).collect();
            let mut other = step.clone();
            away.iter().for_each(|&t| other.j[t].fill(123.0));
            // What lies in the row of a task that is away does not matter.
            let found = rank.direction(&other, &Sums::alone(), true);
            assert_eq!(found, plain.direction(&step, &Sums::alone(), true), "{surgery:?}");
            for ((name, before), (_, after)) in before.iter().zip(rank.state()) {
                let is_away = away.iter().any(|t| name.ends_with(&format!(".{t}")));
                assert!(!is_away || *before == after, "{name}");
            }
        }
        let nobody = Step { scale: vec![0.0; 3], losses: vec![None; 3], ..some_steps(3, 1)[0].clone() };
        let (before, small) = (rank.state(), rank.method.save());
        let (direction, _) = rank.direction(&nobody, &Sums::alone(), true);
        assert!(direction.iter().all(|&x| x == 0.0));
        assert_eq!((rank.state(), rank.method.save()), (before, small));
    }
}

fn goes_on_exactly<F: Real>(surgery: &Surgery) {
    let steps = some_steps(3, 6);
    let mut straight = Rank::<F>::new(surgery, &steps[0], ALONE);
    steps[..3].iter().for_each(|step| drop(straight.direction(step, &Sums::alone(), false)));
    let text = serde_json::to_string(&straight.method.save()).unwrap();
    let mut resumed = Rank::<F>::new(surgery, &steps[0], ALONE);
    resumed.method.load(&serde_json::from_str(&text).unwrap()).unwrap();
    let saved = straight.method.state();
    for ((name, row), (same, old)) in resumed.method.state_mut().into_iter().zip(saved) {
        assert_eq!(name, same);
        assert_eq!(row.len(), old.len());
        row.copy_from_slice(old);
    }
    for step in &steps[3..] {
        let both = [&mut straight, &mut resumed].map(|rank| rank.direction(step, &Sums::alone(), false));
        assert_eq!(both[0], both[1], "{surgery:?}");
    }
    assert_eq!(straight.state(), resumed.state());
    assert_eq!(straight.method.save(), resumed.method.save());
}

#[test]
fn a_resumed_run_goes_on_bit_for_bit() {
    for surgery in all() {
        goes_on_exactly::<f32>(&surgery);
        goes_on_exactly::<f64>(&surgery);
    }
}

#[test]
fn state_of_another_number_of_tasks_is_refused() {
    for surgery in all() {
        let mut method = build::<f64>(&surgery, 3, 2).unwrap();
        let other = build::<f64>(&surgery, 2, 2).unwrap().save();
        if method.state().is_empty() {
            assert!(other.is_null() && method.load(&other).is_ok());
        } else {
            let message = method.load(&other).unwrap_err();
            assert!(message.contains("2 tasks in the checkpoint, 3 here"), "{message}");
            assert!(method.load(&serde_json::json!("x")).is_err());
        }
        let mut names: Vec<String> = method.state().iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        assert!(names.len() == method.state().len() && method.state().iter().all(|(_, row)| row.len() == 2));
    }
}
