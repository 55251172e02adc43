//! Ranks as threads of one process: the reference that tests compare with, and a way to try any `W` on a laptop.
//!
//! Every operation is an exchange of bytes through one table, after which each rank sums what it needs **in rank
//! order**: results are the same bits on all ranks by construction.

use super::{Collective, CommError, Traffic};
use crate::world::World;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

type Result<T> = std::result::Result<T, CommError>;

/// One rank of a world of threads. Made by [`Threads::world`] and moved into its thread.
#[derive(Debug)]
pub struct Threads {
    world: World,
    table: Arc<Table>,
    traffic: Traffic,
}

#[derive(Debug, Default)]
struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What each rank has put down for the current exchange.
    slots: Vec<Option<Arc<Vec<u8>>>>,
    /// Ranks that have taken the result of the current exchange.
    taken: usize,
    /// A rank has gone: nobody may wait any longer.
    broken: bool,
}

impl Threads {
    /// The `size` ranks of one world.
    pub fn world(size: usize) -> Vec<Threads> {
        let state = State { slots: vec![None; size], ..State::default() };
        let table = Arc::new(Table { state: Mutex::new(state), changed: Condvar::new() });
        (0..size)
            .map(|rank| Threads {
                world: World { rank, size, local_rank: rank, local_size: size },
                table: table.clone(),
                traffic: Traffic::default(),
            })
            .collect()
    }

    /// Runs `body` once per rank, each in a thread of its own, and returns the results in rank order.
    ///
    /// # Panics
    /// If a rank panics; the other ranks' operations then fail rather than wait.
    pub fn run<R: Send>(size: usize, body: impl Fn(Threads) -> R + Sync) -> Vec<R> {
        std::thread::scope(|scope| {
            let body = &body;
            let handles: Vec<_> =
                Threads::world(size).into_iter().map(|rank| scope.spawn(move || body(rank))).collect();
            handles.into_iter().map(|h| h.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
        })
    }

    /// Puts down `mine` and returns what all ranks put down, in rank order.
    fn exchange(&self, op: &'static str, mine: &[u8]) -> Result<Vec<Arc<Vec<u8>>>> {
        let gone = || CommError::Failed { op, reason: "another rank has ended".into() };
        let mut state = self.table.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The slot is still full while slower ranks take the previous exchange.
        while state.slots[self.world.rank].is_some() && !state.broken {
            state = self.table.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.slots[self.world.rank] = Some(Arc::new(mine.to_vec()));
        self.table.changed.notify_all();
        let all = loop {
            if let Some(all) = state.slots.iter().cloned().collect::<Option<Vec<_>>>() {
                break all;
            }
            if state.broken {
                return Err(gone());
            }
            state = self.table.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.taken += 1;
        if state.taken == self.world.size {
            state.taken = 0;
            state.slots.fill(None);
            self.table.changed.notify_all();
        } else {
            // Nobody starts the next exchange before all have taken this one.
            let _guard = self
                .table
                .changed
                .wait_while(state, |s| s.slots[self.world.rank].is_some() && s.taken != 0 && !s.broken)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(all)
    }

    fn sum_block<F: crate::kernel::Real>(
        &self,
        op: &'static str,
        send: &[F],
        block: usize,
        out: &mut [F],
    ) -> Result<()> {
        let all = self.exchange(op, bytemuck::cast_slice(send))?;
        let range = block * out.len()..(block + 1) * out.len();
        out.fill(F::default());
        for (rank, bytes) in all.iter().enumerate() {
            // The bytes of a Vec<u8> need not be aligned for F: read unaligned.
            let size = size_of::<F>();
            if bytes.len() != size_of_val(send) {
                return Err(CommError::Failed {
                    op,
                    reason: format!(
                        "rank {rank} called with {} bytes, rank {} with {}",
                        bytes.len(),
                        self.world.rank,
                        size_of_val(send)
                    ),
                });
            }
            let part = &bytes[range.start * size..range.end * size];
            for (sum, x) in out.iter_mut().zip(part.chunks_exact(size)) {
                *sum += bytemuck::pod_read_unaligned::<F>(x);
            }
        }
        Ok(())
    }

    fn gather<F: bytemuck::Pod>(&self, data: &mut [F]) -> Result<()> {
        let len = data.len() / self.world.size;
        let mine = &data[self.world.rank * len..(self.world.rank + 1) * len];
        let all = self.exchange("all_gather", bytemuck::cast_slice(mine))?;
        for (block, bytes) in data.chunks_exact_mut(len.max(1)).zip(&all) {
            bytemuck::cast_slice_mut(block).copy_from_slice(bytes);
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.table.state.lock().unwrap_or_else(PoisonError::into_inner).broken = true;
        self.table.changed.notify_all();
    }
}

impl Collective for Threads {
    fn world(&self) -> World {
        self.world
    }
    fn barrier(&self) -> Result<()> {
        self.exchange("barrier", &[]).map(drop)
    }
    fn all_reduce_f64(&self, data: &mut [f64]) -> Result<()> {
        self.traffic.all_reduce(self.world, size_of_val(data));
        let send = data.to_vec();
        self.sum_block("all_reduce", &send, 0, data)
    }
    fn all_reduce_f32(&self, data: &mut [f32]) -> Result<()> {
        self.traffic.all_reduce(self.world, size_of_val(data));
        let send = data.to_vec();
        self.sum_block("all_reduce", &send, 0, data)
    }
    fn reduce_scatter_f32(&self, send: &[f32], recv: &mut [f32]) -> Result<()> {
        self.traffic.one_way(self.world, size_of_val(send));
        self.sum_block("reduce_scatter", send, self.world.rank, recv)
    }
    fn reduce_scatter_f64(&self, send: &[f64], recv: &mut [f64]) -> Result<()> {
        self.traffic.one_way(self.world, size_of_val(send));
        self.sum_block("reduce_scatter", send, self.world.rank, recv)
    }
    fn all_gather_f32(&self, data: &mut [f32]) -> Result<()> {
        self.traffic.one_way(self.world, size_of_val(data));
        self.gather(data)
    }
    fn all_gather_f64(&self, data: &mut [f64]) -> Result<()> {
        self.traffic.one_way(self.world, size_of_val(data));
        self.gather(data)
    }
    fn broadcast(&self, data: &mut Vec<u8>) -> Result<()> {
        let mine: &[u8] = if self.world.is_main() { data } else { &[] };
        *data = self.exchange("broadcast", mine)?[0].to_vec();
        Ok(())
    }
    fn broadcast_f64(&self, data: &mut [f64]) -> Result<()> {
        let mine: &[u8] = if self.world.is_main() { bytemuck::cast_slice(data) } else { &[] };
        let all = self.exchange("broadcast", mine)?;
        if all[0].len() != size_of_val(data) {
            let reason = format!("rank 0 sent {} bytes, {} were expected", all[0].len(), size_of_val(data));
            return Err(CommError::Failed { op: "broadcast", reason });
        }
        bytemuck::cast_slice_mut(data).copy_from_slice(&all[0]);
        Ok(())
    }
    fn all_gather_bytes(&self, data: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(self.exchange("all_gather_bytes", data)?.iter().map(|b| b.to_vec()).collect())
    }
    fn abort(&self, code: u8) -> ! {
        self.table.state.lock().unwrap_or_else(PoisonError::into_inner).broken = true;
        self.table.changed.notify_all();
        panic!("rank {} aborts with code {code}", self.world.rank)
    }
    fn bytes_sent(&self) -> u64 {
        self.traffic.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_gives_the_same_on_all_ranks() {
        for size in 1..=4 {
            let results = Threads::run(size, |comm| {
                let r = comm.world().rank as f64;
                for _ in 0..50 {
                    comm.barrier().unwrap();
                }
                let mut sum = vec![r, 1.0, 0.1];
                comm.all_reduce_f64(&mut sum).unwrap();
                let send: Vec<f32> = (0..2 * size).map(|i| i as f32 * (r as f32 + 1.0)).collect();
                let mut block = [0.0f32; 2];
                comm.reduce_scatter_f32(&send, &mut block).unwrap();
                let mut all = vec![0.0f32; 2 * size];
                all[2 * comm.world().rank..][..2].copy_from_slice(&block);
                comm.all_gather_f32(&mut all).unwrap();
                let mut text = if comm.world().is_main() { b"hello".to_vec() } else { Vec::new() };
                comm.broadcast(&mut text).unwrap();
                let names = comm.all_gather_bytes(format!("{r}").as_bytes()).unwrap();
                (sum, all, text, names.len())
            });
            let ranks: f64 = (1..=size).map(|r| r as f64).sum();
            for (sum, all, text, names) in &results {
                assert_eq!(sum[0], ranks - size as f64);
                assert_eq!(sum[1], size as f64);
                assert_eq!(sum[2].to_bits(), results[0].0[2].to_bits());
                assert_eq!(*all, (0..2 * size).map(|i| i as f32 * ranks as f32).collect::<Vec<_>>());
                assert_eq!((text.as_slice(), *names), (b"hello".as_slice(), size));
            }
        }
    }

    #[test]
    fn a_rank_that_panics_fails_the_others_instead_of_hanging() {
        let ended = std::panic::catch_unwind(|| {
            Threads::run(3, |comm| {
                assert!(comm.world().rank != 1, "this rank dies");
                comm.barrier().unwrap_err();
            })
        });
        assert!(ended.is_err());
    }
}
