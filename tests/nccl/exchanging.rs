//! What exchanges give.

use crate::data::{KINDS, embedded, numbers, part, sum, values};
use crate::records::Records;
use crate::standin::{all_calls, alone, log, with_function};
use crate::{quick, ranks};
use polytask::comm::nccl::{Nccl, NcclOptions};
use polytask::comm::tensors::TensorCollective;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Blocks of this many numbers: one, odd, and more than a page.
const BLOCKS: [usize; 4] = [0, 1, 5, 1001];

fn every_operation(nccl: &Nccl, size: usize, rank: usize, kind: Kind, block: usize) {
    let len = size * block;
    let own = numbers(rank, len, kind);
    let total = sum(size, len, kind);
    let mine = rank * block..(rank + 1) * block;
    let exchange = |operation: &dyn Fn(&Tensor)| {
        let (all, tensor) = embedded(&own, kind);
        nccl.fork().unwrap();
        operation(&tensor);
        nccl.join().unwrap();
        part(&all)
    };

    assert_eq!(exchange(&|tensor| nccl.all_reduce(tensor).unwrap()), total);
    let scattered = exchange(&|tensor| nccl.reduce_scatter(tensor).unwrap());
    assert_eq!(scattered[mine.clone()], total[mine]);
    let gathered: Vec<f64> =
        (0..size).flat_map(|from| numbers(from, len, kind)[from * block..(from + 1) * block].to_vec()).collect();
    assert_eq!(exchange(&|tensor| nccl.all_gather(tensor).unwrap()), gathered);
    assert_eq!(exchange(&|tensor| nccl.broadcast(tensor).unwrap()), numbers(0, len, kind));
}

fn all_worlds() {
    for size in 1..=4 {
        ranks(size, &quick(), |nccl, rank| {
            for kind in KINDS {
                BLOCKS.iter().for_each(|&block| every_operation(nccl, size, rank, kind, block));
            }
        });
    }
}

#[test]
fn every_operation_of_every_kind_in_place() {
    alone("exchanging::every_operation_of_every_kind_in_place", "", all_worlds);
}

#[test]
fn calls_in_progress_are_polled_before_the_next() {
    alone("exchanging::calls_in_progress_are_polled_before_the_next", "inprogress=3 async=1", all_worlds);
}

#[test]
fn a_reduction_to_shards_and_back_is_that_of_the_host() {
    alone("exchanging::a_reduction_to_shards_and_back_is_that_of_the_host", "async=5", || {
        let sent = ranks(3, &quick(), |nccl, rank| {
            let tensor = Tensor::from_slice(&numbers(rank, 12, Kind::Double));
            nccl.fork().unwrap();
            nccl.reduce_scatter(&tensor).unwrap();
            nccl.all_gather(&tensor).unwrap();
            nccl.join().unwrap();
            assert_eq!(values(&tensor), sum(3, 12, Kind::Double));
            nccl.bytes_sent()
        });
        assert_eq!(sent, [2 * 12 * 8 * 2 / 3; 3]);
    });
}

#[test]
fn a_group_is_launched_at_its_end() {
    alone("exchanging::a_group_is_launched_at_its_end", "inprogress=2 async=10", || {
        let records = Records::new();
        // One rank: its data would change at once.
        let options = NcclOptions { recorder: Some(records.clone()), ..quick() };
        ranks(1, &options, |nccl, _| {
            let [a, b] = [2, 3].map(|len| Tensor::from_slice(&numbers(0, len, Kind::Double)));
            nccl.grouped(&mut || {
                nccl.all_reduce(&a)?;
                nccl.grouped(&mut || nccl.broadcast(&b))?;
                let refused = nccl.join().unwrap_err().to_string();
                assert_eq!(refused, "join failed: not within a group: nothing of it is launched yet");
                assert!(records.launched().is_empty());
                Ok(())
            })
            .unwrap();
            assert_eq!(records.launched(), [("all_reduce", 16), ("broadcast", 24)]);
            nccl.grouped(&mut || Ok(())).unwrap();
            nccl.join().unwrap();
        });
    });
}

#[test]
fn groups_give_what_single_exchanges_give() {
    alone("exchanging::groups_give_what_single_exchanges_give", "inprogress=1", || {
        for size in 2..=3 {
            ranks(size, &quick(), |nccl, rank| {
                let (whole_row, row) = embedded(&numbers(rank, 6, Kind::Float), Kind::Float);
                let (whole_other, other) = embedded(&numbers(rank, 4, Kind::BFloat16), Kind::BFloat16);
                nccl.fork().unwrap();
                nccl.grouped(&mut || {
                    nccl.reduce_scatter(&row)?;
                    nccl.all_reduce(&other)
                })
                .unwrap();
                nccl.all_gather(&row).unwrap();
                nccl.join().unwrap();
                assert_eq!(part(&whole_row), sum(size, 6, Kind::Float));
                assert_eq!(part(&whole_other), sum(size, 4, Kind::BFloat16));
            });
        }
    });
}

#[test]
fn exchanges_are_recorded_and_end_in_their_order() {
    alone("exchanging::exchanges_are_recorded_and_end_in_their_order", "async=300", || {
        let records = Records::new();
        let options = NcclOptions { recorder: Some(records.clone()), ..quick() };
        ranks(1, &options, |nccl, _| {
            let data = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
            nccl.all_reduce(&data).unwrap();
            nccl.reduce_scatter(&data).unwrap();
            assert_eq!(records.launched(), [("all_reduce", 12), ("reduce_scatter", 12)]);
            assert_eq!([records.poll(0), records.poll(1)], [Ok(false), Ok(false)]);
            records.wait(0).unwrap();
            assert_eq!(records.poll(1), Ok(false), "it takes as long again");
            // SAFETY: its signature.
            let last_error =
                unsafe { with_function("cudaGetLastError", |last: unsafe extern "C" fn() -> c_int| last()) };
            assert_eq!(last_error, 0, "libtorch would take `not ready` for its own error");
            records.wait(1).unwrap();
        });
        assert_eq!([records.poll(0), records.poll(1)], [Ok(true), Ok(true)], "closed, and still an answer");
    });
}

/// Runs `work` on the stream of this thread's computation, as libtorch runs kernels.
fn compute(work: impl FnOnce() + Send + 'static) {
    extern "C" fn run(work: *mut c_void) {
        // SAFETY: made below, run once.
        let work = unsafe { Box::from_raw(work.cast::<Box<dyn FnOnce() + Send>>()) };
        work();
    }
    type Launch = unsafe extern "C" fn(*mut c_void, extern "C" fn(*mut c_void), *mut c_void) -> c_int;
    let work: Box<Box<dyn FnOnce() + Send>> = Box::new(Box::new(work));
    // SAFETY: its signature.
    let result = unsafe {
        with_function("cudaLaunchHostFunc", |launch: Launch| launch(null_mut(), run, Box::into_raw(work).cast()))
    };
    assert_eq!(result, 0);
}

/// The gradient is still being computed when its exchange is launched, and the exchange is slow.
#[test]
fn fork_and_join_order_exchanges_and_computation() {
    alone("exchanging::fork_and_join_order_exchanges_and_computation", "async=30", || {
        ranks(2, &quick(), |nccl, rank| {
            for round in 0..3 {
                let data = Tensor::zeros([8], (Kind::Double, Device::Cpu));
                let start = data.data_ptr() as usize;
                compute(move || {
                    std::thread::sleep(Duration::from_millis(30));
                    let own = numbers(rank + round, 8, Kind::Double);
                    // SAFETY: `data` lives until the join, and nobody else writes.
                    unsafe { std::ptr::copy_nonoverlapping(own.as_ptr(), start as *mut f64, 8) };
                });
                nccl.fork().unwrap();
                nccl.all_reduce(&data).unwrap();
                nccl.join().unwrap();
                let parts = [round, round + 1].map(|seed| numbers(seed, 8, Kind::Double));
                assert_eq!(values(&data), (0..8).map(|i| parts[0][i] + parts[1][i]).collect::<Vec<_>>());
            }
        });
    });
}

#[test]
fn a_milestone_waits_for_what_came_before_and_nothing_else() {
    alone("exchanging::a_milestone_waits_for_what_came_before_and_nothing_else", "async=300", || {
        let records = Records::new();
        let options = NcclOptions { recorder: Some(records.clone()), ..quick() };
        ranks(1, &options, |nccl, _| {
            let [a, b, c] = [1.0f32, 2.0, 3.0].map(|x| Tensor::from_slice(&[x; 4]));
            nccl.fork().unwrap();
            nccl.all_gather(&a).unwrap();
            let first = nccl.milestone().unwrap();
            nccl.all_gather(&b).unwrap();
            let second = nccl.milestone().unwrap();
            nccl.all_gather(&c).unwrap();
            assert_eq!([0, 1, 2].map(|i| records.poll(i)), [Ok(false), Ok(false), Ok(false)]);
            first.join().unwrap();
            assert_eq!([0, 1, 2].map(|i| records.poll(i)), [Ok(true), Ok(false), Ok(false)]);
            // Late, or twice, is no harm; and the second stands for both.
            second.join().unwrap();
            first.join().unwrap();
            assert_eq!([0, 1, 2].map(|i| records.poll(i)), [Ok(true), Ok(true), Ok(false)]);
            nccl.join().unwrap();
            assert_eq!(records.poll(2), Ok(true));
        });
    });
}

/// Exchanges of 100 ms each, while the computation does something else for longer: only they count.
#[test]
fn the_queue_is_busy_until_its_last_exchange_ends() {
    alone("exchanging::the_queue_is_busy_until_its_last_exchange_ends", "async=100", || {
        ranks(1, &quick(), |nccl, _| {
            let data = Tensor::from_slice(&[1.0f32; 4]);
            nccl.fork().unwrap();
            nccl.all_gather(&data).unwrap();
            nccl.all_gather(&data).unwrap();
            nccl.milestone().unwrap().join().unwrap();
            std::thread::sleep(Duration::from_millis(400));
            nccl.fork().unwrap();
            nccl.join().unwrap();
            let busy = nccl.busy_ms().unwrap();
            assert!((200.0..600.0).contains(&busy), "{busy} ms");
        });
    });
}

#[test]
fn events_are_used_again() {
    let (path, plan) = log("events", "");
    alone("exchanging::events_are_used_again", &plan, || {
        let _ = std::fs::remove_file(&path);
        let records = Records::new();
        let options = NcclOptions { recorder: Some(records.clone()), ..quick() };
        ranks(1, &options, |nccl, _| {
            let data = Tensor::from_slice(&[1.0f32; 4]);
            for _ in 0..5 {
                nccl.all_reduce(&data).unwrap();
                nccl.broadcast(&data).unwrap();
                nccl.join().unwrap();
                records.forget();
            }
        });
        let made = all_calls(&path, 0).iter().filter(|call| *call == "cudaEventCreateWithFlags").count();
        assert_eq!(made, 2, "two exchanges at a time");
    });
}

#[test]
fn tensors_that_cannot_be_exchanged_are_refused_without_harm() {
    alone("exchanging::tensors_that_cannot_be_exchanged_are_refused_without_harm", "", || {
        ranks(2, &quick(), |nccl, rank| {
            let words = |result: Result<(), polytask::comm::CommError>| result.unwrap_err().to_string();
            let five = Tensor::from_slice(&[1.0f32; 5]);
            let uneven = "5 numbers cannot be cut into 2 equal blocks";
            assert_eq!(words(nccl.reduce_scatter(&five)), format!("reduce_scatter failed: {uneven}"));
            assert_eq!(words(nccl.all_gather(&five)), format!("all_gather failed: {uneven}"));
            let integers = Tensor::from_slice(&[1i64]);
            assert_eq!(words(nccl.broadcast(&integers)), "broadcast failed: tensors of Int64 cannot be exchanged");
            let column = Tensor::zeros([3, 2], (Kind::Float, Device::Cpu)).select(1, 0);
            let strided = "all_reduce failed: expected a contiguous tensor, found strides [2]";
            assert_eq!(words(nccl.all_reduce(&column)), strided);

            let tensor = Tensor::from_slice(&numbers(rank, 5, Kind::Float)).to_kind(Kind::Float);
            nccl.all_reduce(&tensor).unwrap();
            nccl.join().unwrap();
            assert_eq!(values(&tensor), sum(2, 5, Kind::Float));
        });
    });
}

#[cfg(feature = "mpi")]
#[test]
fn ranks_may_be_processes() {
    use crate::standin::under_mpirun;
    use polytask::comm;
    use polytask::config::Backend;

    // One GPU for all, on purpose: the ranks pass for different machines.
    let test = "exchanging::ranks_may_be_processes";
    let variables = "NCCL_HOSTID=machine$OMPI_COMM_WORLD_RANK";
    under_mpirun(test, 3, "inprogress=1 async=1 bus=0000:01:00.0", variables, || {
        let control = comm::connect(Backend::Mpi).unwrap();
        let nccl = Nccl::connect(&*control, Device::Cpu, &quick()).unwrap();
        let world = control.world();
        assert_eq!(world.size, 3);
        for kind in KINDS {
            every_operation(&nccl, 3, world.rank, kind, 7);
        }
        nccl.close().unwrap();
    });
}
