//! What happens when an exchange fails, or never ends: an error or a `false`, no waiting, and nothing is called afterwards.

use crate::data::{numbers, values};
use crate::records::Records;
use crate::standin::{all_calls, alone, calls, log};
use crate::{quick, ranks};
use polytask::comm::nccl::{Nccl, NcclOptions};
use polytask::comm::tensors::TensorCollective;
use polytask::comm::{Collective, CommError, Threads};
use std::fs;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Its memory stays: what has failed may still be writing to it.
fn tensor(rank: usize) -> Tensor {
    let tensor = Tensor::from_slice(&numbers(rank, 6, Kind::Double));
    std::mem::forget(tensor.shallow_clone());
    tensor
}

fn words(result: Result<(), CommError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_milestone_that_is_never_reached_fails_and_so_does_everything_after() {
    let test = "failing::a_milestone_that_is_never_reached_fails_and_so_does_everything_after";
    alone(test, "async_error@1", || {
        ranks(2, &quick(), |nccl, rank| {
            let data = tensor(rank);
            nccl.all_gather(&data).unwrap();
            let there = nccl.milestone();
            assert_eq!(words(there.and_then(|there| there.join())), format!("join failed: {PULLED}"));
            all_refused(nccl, PULLED);
        });
    });
}

#[test]
fn the_good_end_finalises_and_destroys() {
    let (path, plan) = log("end", "inprogress=2 async=20");
    alone("failing::the_good_end_finalises_and_destroys", &plan, || {
        let _ = fs::remove_file(&path);
        Threads::run(2, |control| {
            let nccl = Nccl::connect(&control, Device::Cpu, &quick()).unwrap();
            let data = tensor(control.world().rank);
            nccl.all_reduce(&data).unwrap();
            if control.world().is_main() {
                nccl.close().unwrap()
            } else {
                drop(nccl)
            }
            assert_eq!(values(&data), crate::data::sum(2, 6, Kind::Double), "closing waits for what is in flight");
        });
        let whole = ["ncclCommInitRankConfig", "ncclAllReduce", "ncclCommFinalize", "ncclCommDestroy"];
        assert_eq!([calls(&path, 0), calls(&path, 1)], [whole, whole]);
    });
}

/// Every further use, with what it says.
fn uses(nccl: &Nccl) -> [String; 5] {
    let data = tensor(0);
    [
        words(nccl.all_gather(&data)),
        words(nccl.grouped(&mut || panic!("nothing of a group runs"))),
        words(nccl.fork()),
        words(nccl.join()),
        words(nccl.milestone().map(drop)),
    ]
}

fn all_refused(nccl: &Nccl, first: &str) {
    let ops = ["all_gather", "grouped", "fork", "join", "milestone"];
    assert_eq!(uses(nccl), ops.map(|op| format!("{op} failed: NCCL has failed before: {first}")));
}

#[test]
fn after_a_refused_launch_nothing_is_called() {
    let (path, plan) = log("refused", "error=all_reduce@2:1");
    alone("failing::after_a_refused_launch_nothing_is_called", &plan, || {
        let _ = fs::remove_file(&path);
        Threads::run(2, |control| {
            let rank = control.world().rank;
            let records = Records::new();
            let options = NcclOptions { recorder: Some(records.clone()), ..quick() };
            let nccl = Nccl::connect(&control, Device::Cpu, &options).unwrap();
            let [first, second] = [tensor(rank), tensor(rank)];
            nccl.all_reduce(&first).unwrap();
            nccl.join().unwrap();
            if rank == 1 {
                let reason = "ncclAllReduce: ncclInternalError: all_reduce number 2 was to fail\n  hint: NCCL_DEBUG=WARN \
                              says more";
                assert_eq!(words(nccl.all_reduce(&second)), format!("all_reduce failed: {reason}"));
                all_refused(&nccl, reason);
                assert_eq!(records.poll(0), Err(format!("NCCL has failed before: {reason}")));
                assert_eq!(words(nccl.close()), format!("close failed: NCCL has failed before: {reason}"));
            } else {
                // Nobody tells this rank: its exchange just never ends.
                nccl.all_reduce(&second).unwrap();
                records.wait(0).unwrap();
                assert_eq!(records.poll(1), Ok(false));
                let unfinished = "close failed: the last exchange was still in progress after 0.3 s";
                assert_eq!(words(nccl.close()), unfinished);
            }
            control.barrier().unwrap();
        });
        let launched = ["ncclCommInitRankConfig", "ncclAllReduce", "ncclAllReduce"];
        assert_eq!([calls(&path, 0), calls(&path, 1)], [launched, launched]);
        assert_eq!(all_calls(&path, 1).last().unwrap(), "ncclAllReduce", "not even questions");
    });
}

const PULLED: &str = "an earlier exchange: ncclRemoteError: a cable was pulled\n  hint: another rank has ended, or the network \
                      has failed: look at what the other ranks wrote";

#[test]
fn an_error_after_the_launch_surfaces_at_the_join() {
    alone("failing::an_error_after_the_launch_surfaces_at_the_join", "async=20 async_error@2", || {
        Threads::run(2, |control| {
            let nccl = Nccl::connect(&control, Device::Cpu, &quick()).unwrap();
            nccl.all_reduce(&tensor(0)).unwrap();
            nccl.join().unwrap();
            let data = tensor(0);
            nccl.all_reduce(&data).unwrap();
            assert_eq!(words(nccl.join()), format!("join failed: {PULLED}"));
            all_refused(&nccl, PULLED);
        });
    });
}

#[test]
fn an_error_after_the_launch_reaches_the_recorder_first() {
    let (path, plan) = log("async", "async=20 async_error@1");
    alone("failing::an_error_after_the_launch_reaches_the_recorder_first", &plan, || {
        let _ = fs::remove_file(&path);
        let records = Records::new();
        let options = NcclOptions { recorder: Some(records.clone()), ..quick() };
        ranks(1, &options, |nccl, _| {
            nccl.all_reduce(&tensor(0)).unwrap();
            assert_eq!(records.wait(0), Err(PULLED.to_owned()));
            all_refused(nccl, PULLED);
            assert_eq!(records.poll(0), Err(format!("NCCL has failed before: {PULLED}")));
        });
        assert_eq!(calls(&path, 0), ["ncclCommInitRankConfig", "ncclAllReduce"]);
    });
}

#[test]
fn an_exchange_that_never_ends_waits_nowhere_but_at_the_join() {
    let test = "failing::an_exchange_that_never_ends_waits_nowhere_but_at_the_join";
    alone(test, "inprogress=1 hang=reduce_scatter@2:1", || {
        let start = Instant::now();
        Threads::run(2, |control| {
            let records = Records::new();
            let deadline = Duration::from_millis(200);
            let options = NcclOptions { recorder: Some(records.clone()), deadline, ..quick() };
            let nccl = Nccl::connect(&control, Device::Cpu, &options).unwrap();
            let data: Vec<Tensor> = (0..3).map(|_| tensor(control.world().rank)).collect();
            data.iter().for_each(|data| nccl.reduce_scatter(data).unwrap());
            records.wait(0).unwrap();
            for _ in 0..50 {
                assert_eq!([records.poll(1), records.poll(2)], [Ok(false), Ok(false)]);
                std::thread::sleep(Duration::from_millis(1));
            }
            let unfinished = "an earlier exchange was still in progress after 0.2 s";
            assert_eq!(words(nccl.join()), format!("join failed: {unfinished}"));
            all_refused(&nccl, unfinished);
            control.barrier().unwrap();
        });
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_launch_that_stays_in_progress_fails_at_the_deadline() {
    alone("failing::a_launch_that_stays_in_progress_fails_at_the_deadline", "inprogress=1 stuck@2", || {
        let deadline = Duration::from_millis(20);
        ranks(1, &NcclOptions { deadline, ..quick() }, |nccl, _| {
            nccl.all_reduce(&tensor(0)).unwrap();
            let unfinished = "all_reduce was still in progress after 0.02 s";
            assert_eq!(words(nccl.all_reduce(&tensor(0))), format!("all_reduce failed: {unfinished}"));
            all_refused(nccl, unfinished);
        });
    });
}

/// Ending the group would launch its first half.
#[test]
fn a_group_that_fails_is_never_launched() {
    let (path, plan) = log("group", "");
    alone("failing::a_group_that_fails_is_never_launched", &plan, || {
        let _ = fs::remove_file(&path);
        Threads::run(2, |control| {
            let rank = control.world().rank;
            let nccl = Nccl::connect(&control, Device::Cpu, &quick()).unwrap();
            let [good, uneven] = [tensor(rank), Tensor::from_slice(&[1.0; 3])];
            let reason = "reduce_scatter failed: 3 numbers cannot be cut into 2 equal blocks";
            let result = nccl.grouped(&mut || {
                nccl.all_reduce(&good)?;
                nccl.reduce_scatter(&uneven)
            });
            assert_eq!(words(result), reason);
            all_refused(&nccl, reason);
            drop(nccl);
            assert_eq!(values(&good), numbers(rank, 6, Kind::Double));
        });
        let collected = ["ncclCommInitRankConfig", "ncclGroupStart", "ncclAllReduce"];
        assert_eq!([calls(&path, 0), calls(&path, 1)], [collected, collected]);
    });
}

#[test]
fn a_refused_launch_within_a_group_fails_the_group() {
    let (path, plan) = log("refused_in_group", "error=broadcast@1:0");
    alone("failing::a_refused_launch_within_a_group_fails_the_group", &plan, || {
        let _ = fs::remove_file(&path);
        ranks(1, &quick(), |nccl, _| {
            let data = tensor(0);
            let result = nccl.grouped(&mut || {
                nccl.all_reduce(&data)?;
                nccl.broadcast(&data)
            });
            let reason =
                "ncclBroadcast: ncclInternalError: broadcast number 1 was to fail\n  hint: NCCL_DEBUG=WARN says more";
            assert_eq!(words(result), format!("broadcast failed: {reason}"));
            all_refused(nccl, reason);
        });
        assert_eq!(calls(&path, 0), ["ncclCommInitRankConfig", "ncclGroupStart", "ncclAllReduce", "ncclBroadcast"]);
    });
}

#[test]
fn a_rank_that_panics_leaves_everything_as_it_is() {
    let (path, plan) = log("panic", "");
    alone("failing::a_rank_that_panics_leaves_everything_as_it_is", &plan, || {
        let _ = fs::remove_file(&path);
        let ended = std::panic::catch_unwind(|| {
            ranks(1, &quick(), |nccl, _| {
                nccl.all_reduce(&tensor(0)).unwrap();
                panic!("this rank dies");
            })
        });
        assert!(ended.is_err());
        assert_eq!(calls(&path, 0), ["ncclCommInitRankConfig", "ncclAllReduce"]);
    });
}
