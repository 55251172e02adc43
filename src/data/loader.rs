//! This rank's batches, step after step, prepared ahead by a thread.
//!
//! What a batch holds depends on the step alone: the thread changes when it is ready, never what is in it.

use super::{Batch, DataError, Dataset, Sampler, Split};
use crate::world::World;
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use tch::Device;

/// Yields the micro-batches of one step after the other. Dropping it ends its thread.
#[derive(Debug)]
pub struct Loader(Source);

#[derive(Debug)]
enum Source {
    Inline(Box<Steps>),
    Thread {
        /// `None` only while the loader is dropped.
        batches: Option<Receiver<Vec<Batch>>>,
        thread: Option<JoinHandle<()>>,
    },
}

impl Loader {
    /// A loader whose first step is `first_step`. `prefetch` steps are prepared ahead (0: none, and no thread). A step's
    /// rows are divided into `independent` batches before they are divided over ranks; `accumulate` is a multiple of it. For a
    /// GPU, batches are put into page-locked memory, from which it copies by itself.
    ///
    /// # Errors
    /// The thread cannot be started.
    #[expect(clippy::too_many_arguments, reason = "a loader is made in two places, each argument once")]
    pub fn new(
        dataset: Arc<Dataset>,
        sampler: Sampler,
        world: World,
        accumulate: usize,
        independent: usize,
        prefetch: usize,
        first_step: u64,
        device: Device,
    ) -> Result<Loader, DataError> {
        let (accumulate, independent) = (accumulate.max(1), independent.max(1));
        let mut steps = Steps { dataset, sampler, world, accumulate, independent, step: first_step, device };
        if prefetch == 0 {
            return Ok(Loader(Source::Inline(Box::new(steps))));
        }
        spawn(prefetch, move || steps.next())
    }

    /// The next step's micro-batches, `accumulate` of them (with no part where this rank has no sample), and for how many
    /// milliseconds they had to be waited for.
    ///
    /// # Errors
    /// The loader's thread has panicked.
    #[expect(clippy::should_implement_trait, reason = "the steps have no end, so `None` would mean nothing")]
    pub fn next(&mut self) -> Result<(Vec<Batch>, f64), DataError> {
        let start = Instant::now();
        let batches = match &mut self.0 {
            Source::Inline(steps) => steps.next(),
            Source::Thread { batches, thread } => match batches.as_ref().and_then(|b| b.recv().ok()) {
                Some(batches) => batches,
                None => return Err(DataError::Loader(cause(thread.take()))),
            },
        };
        Ok((batches, start.elapsed().as_secs_f64() * 1e3))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Source::Thread { batches, thread } = &mut self.0 {
            // Without a receiver the thread's next send fails, and it ends.
            drop(batches.take());
            if let Some(thread) = thread.take() {
                // A panic in there has been printed by the hook; there is nobody left to tell.
                let _ = thread.join();
            }
        }
    }
}

fn spawn(prefetch: usize, mut next: impl FnMut() -> Vec<Batch> + Send + 'static) -> Result<Loader, DataError> {
    // The step that waits in `send` is one of those prepared ahead.
    let (sender, receiver) = sync_channel(prefetch - 1);
    let work = move || while sender.send(next()).is_ok() {};
    let thread = thread::Builder::new().name("loader".into()).spawn(work);
    let thread = thread.map_err(|e| DataError::Loader(format!("its thread cannot be started: {e}")))?;
    Ok(Loader(Source::Thread { batches: Some(receiver), thread: Some(thread) }))
}

fn cause(thread: Option<JoinHandle<()>>) -> String {
    let payload: Option<Box<dyn Any + Send>> = thread.and_then(|thread| thread.join().err());
    let text = payload.as_ref().and_then(|p| {
        let owned = p.downcast_ref::<String>().map(String::as_str);
        owned.or_else(|| p.downcast_ref::<&str>().copied())
    });
    text.unwrap_or("its thread has ended").to_string()
}

/// The work itself: step after step of one rank.
#[derive(Debug)]
struct Steps {
    dataset: Arc<Dataset>,
    sampler: Sampler,
    world: World,
    accumulate: usize,
    independent: usize,
    step: u64,
    device: Device,
}

impl Steps {
    fn next(&mut self) -> Vec<Batch> {
        let rows = self.sampler.rows(self.step);
        self.step += 1;
        let placed = |batch: Batch| if self.device.is_cuda() { batch.pinned() } else { batch };
        (0..self.accumulate).map(|micro| placed(self.batch(&rows, micro))).collect()
    }

    fn batch(&self, rows: &[(usize, Vec<u32>)], micro: usize) -> Batch {
        let part = |(source, rows): &(usize, Vec<u32>)| {
            let mine = &rows[micro_slice(self.world, self.accumulate, self.independent, micro, rows.len())];
            (!mine.is_empty()).then(|| self.dataset.gather(*source, Split::Train, mine))
        };
        Batch { parts: rows.iter().filter_map(part).collect() }
    }
}

/// The part of `n` rows of a global step that one micro-batch of one rank takes: of its independent batch, which is a
/// contiguous part of the step, the rank's contiguous part, and of that a contiguous part.
fn micro_slice(world: World, accumulate: usize, independent: usize, micro: usize, n: usize) -> Range<usize> {
    let batch = micro * independent / accumulate;
    let edge = |b: usize| n * b / independent;
    let mine = world.slice(edge(batch + 1) - edge(batch));
    let (per_batch, start) = (accumulate / independent, edge(batch) + mine.start);
    let part = |i: usize| start + mine.len() * i / per_batch;
    let inner = micro % per_batch;
    part(inner)..part(inner + 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{column, config, numbers, strings, table};
    use super::super::{Part, SourceTables};
    use super::*;
    use crate::config::{Config, Mix};
    use proptest::prelude::*;

    /// Two sources of 23 and 10 rows whose one input is the row's number.
    fn dataset(mix: Mix) -> (Config, Arc<Dataset>) {
        let mut config = config(
            r#"{"data": {"sources": {"a": {"csv": {"train": "a.csv", "numeric": ["x"]}},
                                     "b": {"csv": {"train": "b.csv", "numeric": ["x"]}}}},
                "tasks": {"y": {"source": "a", "target": "y", "kind": {"regression": {"standardize": false}}},
                          "z": {"source": "b", "target": "z", "kind": {"multiclass": {}}}},
                "batch": {"per_task": 7}}"#,
        );
        config.batch.mix = mix;
        let x = |n: u32| numbers(&(0..n).map(f64::from).collect::<Vec<_>>());
        let y = numbers(&(0..23).map(|i| if i % 3 == 0 { f64::NAN } else { f64::from(i) }).collect::<Vec<_>>());
        let z = strings(&["u", "v", "", "u", "v", "w", "u", "u", "", "w"]);
        let a = table("a.csv", 23, vec![column("x", x(23)), column("y", y)]);
        let b = table("b.csv", 10, vec![column("x", x(10)), column("z", z)]);
        let of = |table| SourceTables { train: Some(table), ..Default::default() };
        let dataset = Dataset::from_tables(&config, vec![of(a), of(b)]).unwrap();
        (config, Arc::new(dataset))
    }

    fn loader(data: &(Config, Arc<Dataset>), world: World, accumulate: usize, prefetch: usize, first: u64) -> Loader {
        let sampler = data.1.sampler(&data.0).unwrap();
        Loader::new(data.1.clone(), sampler, world, accumulate, 1, prefetch, first, Device::Cpu).unwrap()
    }

    fn list(tensor: &tch::Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.to_kind(tch::Kind::Double).flatten(0, -1)).unwrap()
    }

    /// A part in plain numbers: source, inputs, and per target values, mask, number of labels.
    type Plain = (usize, Vec<f64>, Vec<(Vec<f64>, Option<Vec<f64>>, usize)>);

    fn plain(part: &Part) -> Plain {
        let target = |t: &super::super::Target| (list(&t.values), t.mask.as_ref().map(list), t.n_labelled);
        (part.source, list(part.inputs.dense.as_ref().unwrap()), part.targets.iter().map(target).collect())
    }

    fn steps(loader: &mut Loader, n: usize) -> Vec<Vec<Vec<Plain>>> {
        let step = |batches: Vec<Batch>| batches.iter().map(|b| b.parts.iter().map(plain).collect()).collect();
        (0..n).map(|_| step(loader.next().unwrap().0)).collect()
    }

    #[test]
    fn a_thread_changes_nothing_and_neither_does_a_later_start() {
        let data = dataset(Mix::Proportional);
        let inline = steps(&mut loader(&data, World::SOLO, 2, 0, 0), 12);
        for prefetch in [1, 2, 5] {
            assert_eq!(steps(&mut loader(&data, World::SOLO, 2, prefetch, 0), 12), inline);
            assert_eq!(steps(&mut loader(&data, World::SOLO, 2, prefetch, 7), 5), inline[7..]);
        }
    }

    #[test]
    fn a_source_without_rows_here_is_left_out_and_the_batch_is_not() {
        let data = dataset(Mix::Balanced);
        let world = World { rank: 0, size: 9, local_rank: 0, local_size: 9 };
        assert_eq!(steps(&mut loader(&data, world, 3, 0, 0), 1), [[vec![], vec![], vec![]]]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn ranks_and_micro_batches_together_are_the_global_batch(size in 1usize..6, accumulate in 1usize..5, step in 0u64..30, uniform: bool) {
            let data = dataset(if uniform { Mix::Uniform } else { Mix::Balanced });
            let mut joined: [Vec<f64>; 2] = Default::default();
            let mut labels = [0; 2];
            for rank in 0..size {
                let world = World { rank, size, local_rank: rank, local_size: size };
                for batch in &steps(&mut loader(&data, world, accumulate, 0, step), 1)[0] {
                    for (source, inputs, targets) in batch {
                        prop_assert!(!inputs.is_empty());
                        joined[*source].extend(inputs);
                        labels[*source] += targets[0].2;
                    }
                }
            }
            let global = steps(&mut loader(&data, World::SOLO, 1, 0, step), 1).remove(0).remove(0);
            for (source, inputs, targets) in global {
                prop_assert_eq!(&joined[source], &inputs);
                prop_assert_eq!(labels[source], targets[0].2);
            }
        }
    }

    #[test]
    fn independent_batches_do_not_depend_on_the_ranks_or_on_accumulation() {
        for (size, per_batch, n) in [(1, 1, 10), (2, 1, 10), (3, 2, 17), (4, 3, 5), (5, 1, 2)] {
            for batch in 0..3 {
                let of = |world: World| {
                    let micros = batch * per_batch..(batch + 1) * per_batch;
                    micros.flat_map(move |micro| micro_slice(world, 3 * per_batch, 3, micro, n))
                };
                let ranks = (0..size).map(|rank| World { rank, size, local_rank: rank, local_size: size });
                let rows: Vec<usize> = ranks.flat_map(of).collect();
                assert_eq!(rows, (n * batch / 3..n * (batch + 1) / 3).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error_and_stays_one() {
        let mut loader = spawn(2, || panic!("row 7 is not there")).unwrap();
        let message = "batches can no longer be prepared: row 7 is not there";
        assert_eq!(loader.next().unwrap_err().to_string(), message);
        let again = "batches can no longer be prepared: its thread has ended";
        assert_eq!(loader.next().unwrap_err().to_string(), again);
    }

    #[test]
    fn dropping_the_loader_ends_its_thread() {
        let data = dataset(Mix::Balanced);
        for taken in [0, 1, 5] {
            let mut loader = loader(&data, World::SOLO, 1, 3, 0);
            steps(&mut loader, taken);
            assert_eq!(Arc::strong_count(&data.1), 2);
            drop(loader);
            assert_eq!(Arc::strong_count(&data.1), 1);
        }
    }

    #[test]
    fn at_most_so_many_steps_are_prepared_ahead() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let next = move || {
            counter.fetch_add(1, Ordering::SeqCst);
            Vec::new()
        };
        let mut loader = spawn(3, next).unwrap();
        loader.next().unwrap();
        while made.load(Ordering::SeqCst) < 4 {
            thread::yield_now();
        }
        thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(made.load(Ordering::SeqCst), 4);
    }
}
