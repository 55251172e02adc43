//! Why balancing must see the global gradients: two ranks, two tasks, and a conflict that no rank sees by itself.
//!
//! Rank 0 has g1 = (1, 0), g2 = (0, 1); rank 1 has g1 = (0, 1), g2 = (-5, 0). Locally the gradients are orthogonal, so
//! surgery on either rank changes nothing, and the average of the ranks' results is the plain mean, along which task 1
//! **ascends**. Globally the inner product is -1, and PCGrad descends on both tasks.

use polytask::balance::global::{GramSum, Sums};
use polytask::balance::{Balancer, Gram};
use polytask::comm::reduce::{Reducer, SegmentRows};
use polytask::comm::{Collective, Solo, Threads, agree_on_sum};
use polytask::config::{Balance, Reduction, Surgery, Weighting, with_tasks};

/// Task gradients of one sample on each rank.
const LOCAL: [[[f64; 2]; 2]; 2] = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [-5.0, 0.0]]];

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The direction of mean PCGrad from these local sums (one sample per rank), through the stages of a real step.
fn direction(rows: &[[f64; 2]; 2], mode: Reduction, comm: &dyn Collective) -> Vec<f64> {
    let counts = [comm.world().size as f64; 2];
    let mut reducer = Reducer::<f64>::new(mode);
    let segment = SegmentRows { range: 0..2, fragments: vec![(0..2, vec![&rows[0][..], &rows[1][..]])], n_rows: 2 };
    let reduced = reducer.reduce(vec![segment], comm).unwrap();
    let (at, fragment) = &reduced[0][0];
    let mut sum = GramSum::new(1, 2, 2);
    sum.add_shared(0, &[0, 1], std::slice::from_ref(fragment));
    let sharded = mode == Reduction::Sharded && comm.world().size > 1;
    let gram = sum.finish(&counts, &counts, &Sums::new(comm, sharded)).unwrap().shared.remove(0);
    let config = Balance { weighting: Weighting::Equal, surgery: Surgery::Pcgrad, ..Balance::default() };
    let mut balancer = Balancer::build(&config, &["1".into(), "2".into()], 1, 0, 1);
    let c =
        balancer.coefficients(&[Gram::new(gram).unwrap()], &[Some(1.0); 2], &[1.0, 1.0], 0).unwrap().mean().unwrap();
    let mut update = [0.0; 2];
    for (row, (c, n)) in fragment.rows.iter().zip(c.iter().zip(counts)) {
        for (u, g) in update[at.clone()].iter_mut().zip(*row) {
            *u += c * g / n / 2.0;
        }
    }
    if sharded {
        comm.all_gather_f64(&mut update).unwrap();
    }
    update.to_vec()
}

#[test]
fn global_surgery_sees_the_conflict_that_no_rank_sees() {
    let mean: Vec<[f64; 2]> = (0..2).map(|t| [0, 1].map(|k| (LOCAL[0][t][k] + LOCAL[1][t][k]) / 2.0)).collect();
    assert_eq!(dot(&mean[0], &mean[1]), -1.0);
    for mode in [Reduction::Sharded, Reduction::AllReduce] {
        let directions = Threads::run(2, |comm| direction(&LOCAL[comm.world().rank], mode, &comm));
        assert_eq!(directions[0], directions[1]);
        let d = &directions[0];
        assert!(d.iter().zip([-0.692, 1.038]).all(|(d, e)| (d - e).abs() < 5e-4), "{d:?}");
        assert!((dot(d, &mean[0]) - 0.17).abs() < 5e-3 && (dot(d, &mean[1]) - 2.25).abs() < 5e-3);
    }
    // What surgery on each rank, then averaging, would do instead.
    let local: Vec<Vec<f64>> = LOCAL.iter().map(|rows| direction(rows, Reduction::AllReduce, &Solo)).collect();
    let averaged: Vec<f64> = (0..2).map(|k| (local[0][k] + local[1][k]) / 2.0).collect();
    assert_eq!(averaged, [-1.0, 0.5]);
    assert_eq!(dot(&averaged, &mean[0]), -0.25, "task 1 ascends");
}

#[test]
fn global_surgery_leaves_alone_what_only_noise_of_a_rank_makes_a_conflict() {
    // Rank 0: g1 = (1, 0), g2 = (-1, .1); rank 1: g1 = (1, 0), g2 = (3, .1). The global inner product is +1.
    let local = [[[1.0, 0.0], [-1.0, 0.1]], [[1.0, 0.0], [3.0, 0.1]]];
    let global = Threads::run(2, |comm| direction(&local[comm.world().rank], Reduction::Sharded, &comm));
    assert!(global[0].iter().zip([1.0, 0.05]).all(|(d, e)| (d - e).abs() < 1e-12), "{:?}", global[0]);
    let alone: Vec<Vec<f64>> = local.iter().map(|rows| direction(rows, Reduction::AllReduce, &Solo)).collect();
    let averaged: Vec<f64> = (0..2).map(|k| (alone[0][k] + alone[1][k]) / 2.0).collect();
    assert!(
        averaged.iter().zip([1.0025, 0.0748]).all(|(d, e)| (d - e).abs() < 1e-4),
        "projected for noise: {averaged:?}"
    );
}

/// The global mean loss of one task from this rank's sum and count, the way of a real step.
fn global_loss(sum: f64, count: f64, comm: &dyn Collective) -> f64 {
    let mut sums = [sum, count];
    agree_on_sum(comm, &mut sums).unwrap();
    sums[0] / sums[1]
}

#[test]
fn a_masked_mean_divides_by_the_global_count() {
    // Mean losses 2 and 1, over 10 and 90 valid pixels.
    let (means, counts) = ([2.0, 1.0], [10.0, 90.0]);
    let global = Threads::run(2, |comm| {
        let rank = comm.world().rank;
        global_loss(means[rank] * counts[rank], counts[rank], &comm)
    });
    assert_eq!(global, [1.1, 1.1]);
    assert_eq!((means[0] + means[1]) / 2.0, 1.5, "what an average over ranks makes of it");
}

#[test]
fn a_rank_without_a_label_takes_nothing_from_the_mean() {
    let (sums, counts) = ([0.0, 6.0], [0.0, 3.0]);
    let global = Threads::run(2, |comm| global_loss(sums[comm.world().rank], counts[comm.world().rank], &comm));
    assert_eq!(global, [2.0, 2.0]);
}

#[test]
fn weights_of_log_losses_are_those_of_the_global_loss() {
    // One sample on each rank, with losses 0.2 and 2 of task 1 and equal gradients.
    let tasks = ["1".to_string(), "2".to_string()];
    let config = with_tasks("test", &tasks, &["balance.weighting=scale_invariant".into()]).unwrap().balance;
    let losses = [0.2, 2.0];
    let weight = |comm: &dyn Collective, loss: f64| {
        let loss = global_loss(loss, 1.0, comm);
        Balancer::build(&config, &tasks, 1, 0, 1).weights(&[Some(loss), Some(1.0)], 0)[0]
    };
    let global = Threads::run(2, |comm| weight(&comm, losses[comm.world().rank]));
    assert!(global.iter().all(|w| (w - 1.0 / 1.1).abs() < 1e-12), "{global:?}");
    let averaged = (weight(&Solo, losses[0]) + weight(&Solo, losses[1])) / 2.0;
    assert!((averaged - 2.75).abs() < 1e-12, "three times as much: {averaged}");
}
