//! This rank's batches, step after step, prepared ahead by a thread.
//!
//! What a batch holds depends on the step alone: the thread changes when it is ready, never what is in it.

use super::sources::contain;
use super::whereabouts::Whereabouts;
use super::{Batch, DataError, Dataset, Sampler, Split};
use crate::config::Config;
use crate::world::World;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tch::Device;

/// Longest time between two looks at the clock while a batch is waited for.
const LOOK: Duration = Duration::from_millis(250);

/// How a [`Loader`] works.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    /// Which slice of every step is this rank's.
    pub world: World,
    /// Micro-batches per step; a multiple of `independent`.
    pub accumulate: usize,
    /// A step's rows are divided into so many batches before they are divided over ranks.
    pub independent: usize,
    /// Steps that are prepared ahead; 0: none, and no thread.
    pub prefetch: usize,
    /// The first step, from 0.
    pub first_step: u64,
    /// For a GPU, batches are put into page-locked memory, from which it copies by itself.
    pub device: Device,
    /// How long a batch may be waited for; zero: any time. Without a thread nobody looks at the clock.
    pub deadline: Duration,
    /// Called when the batch of a step (from 1) is begun, by whoever makes it: for tests of failures.
    pub hook: fn(u64, World),
}

impl LoaderOptions {
    /// What a configuration says, from the first step on.
    pub fn of(config: &Config, world: World, device: Device) -> Self {
        LoaderOptions {
            world,
            accumulate: config.batch.accumulate,
            independent: config.balance.independent_batches(),
            prefetch: config.batch.prefetch,
            first_step: 0,
            device,
            deadline: deadline(config.data.timeout, config.comm.timeout, world),
            hook: |_, _| (),
        }
    }
}

/// A rank says itself that it waits for data before the watchdogs of the others say that they wait for the rank.
fn deadline(data: u64, comm: u64, world: World) -> Duration {
    let data = Duration::from_secs(data);
    if world.size > 1 && comm > 0 { data.min(Duration::from_secs(comm) * 3 / 4) } else { data }
}

/// Yields the micro-batches of one step after the other. Dropping it ends its thread.
#[derive(Debug)]
pub struct Loader {
    source: Source,
    deadline: Duration,
    at: Arc<Whereabouts>,
}

/// The batches of a step, or why there are none.
type Made = Result<Vec<Batch>, String>;

#[derive(Debug)]
enum Source {
    Inline(Box<Steps>),
    Thread {
        /// `None` only while the loader is dropped.
        batches: Option<Receiver<Made>>,
        thread: Option<JoinHandle<()>>,
    },
}

impl Loader {
    /// A loader of the training split.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(dataset: Arc<Dataset>, sampler: Sampler, options: LoaderOptions) -> Result<Loader, DataError> {
        let LoaderOptions { accumulate, independent, first_step, deadline, prefetch, .. } = options;
        let options = LoaderOptions { accumulate: accumulate.max(1), independent: independent.max(1), ..options };
        let at = Arc::new(Whereabouts::new(&dataset));
        let mut steps = Steps { dataset, sampler, options, step: first_step, at: at.clone() };
        let source =
            if prefetch == 0 { Source::Inline(Box::new(steps)) } else { spawn(prefetch, move || steps.next())? };
        Ok(Loader { source, deadline, at })
    }

    /// The next step's micro-batches, `accumulate` of them (with no part where this rank has no sample), and for how many
    /// milliseconds they had to be waited for.
    ///
    /// # Errors
    /// The batch cannot be made, because of a panic, or was not made in time. Says of which step, source, file and rows.
    #[expect(clippy::should_implement_trait, reason = "the steps have no end, so `None` would mean nothing")]
    pub fn next(&mut self) -> Result<(Vec<Batch>, f64), DataError> {
        let start = Instant::now();
        let made = match &mut self.source {
            Source::Inline(steps) => steps.next(),
            Source::Thread { batches: Some(batches), thread } => match wait(batches, self.deadline, &self.at) {
                Ok(made) => made,
                Err(late) => {
                    // It may never wake up, and nobody is to wait for it.
                    drop(thread.take());
                    return Err(late);
                }
            },
            Source::Thread { batches: None, .. } => ended(),
        };
        let batches = made.map_err(DataError::Loader)?;
        Ok((batches, start.elapsed().as_secs_f64() * 1e3))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Source::Thread { batches, thread } = &mut self.source {
            // Without a receiver the thread's next send fails, and it ends.
            drop(batches.take());
            if let Some(thread) = thread.take() {
                // A batch that hangs is not waited for. Panics in there have become errors.
                let patience = Instant::now() + Duration::from_secs(2);
                while !thread.is_finished() && Instant::now() < patience {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if thread.is_finished() {
                    let _ = thread.join();
                }
            }
        }
    }
}

fn spawn(prefetch: usize, mut next: impl FnMut() -> Made + Send + 'static) -> Result<Source, DataError> {
    // The step that waits in `send` is one of those prepared ahead.
    let (sender, receiver) = sync_channel(prefetch - 1);
    let work = move || {
        let mut goes_on = true;
        while goes_on {
            let made = next();
            goes_on = made.is_ok();
            goes_on &= sender.send(made).is_ok();
        }
    };
    let thread = thread::Builder::new().name("loader".into()).spawn(work);
    let thread = thread.map_err(|e| DataError::Loader(format!("its thread cannot be started: {e}")))?;
    Ok(Source::Thread { batches: Some(receiver), thread: Some(thread) })
}

/// Waits for the thread: warns when half of the time is over. Time counts by looks, so that a job that was suspended as a
/// whole has not waited meanwhile.
fn wait(batches: &Receiver<Made>, deadline: Duration, at: &Whereabouts) -> Result<Made, DataError> {
    if deadline.is_zero() {
        return Ok(batches.recv().unwrap_or_else(|_| ended()));
    }
    let (look, mut waited, mut warned) = (LOOK.min(deadline / 8), Duration::ZERO, false);
    while waited < deadline {
        match batches.recv_timeout(look) {
            Ok(made) => return Ok(made),
            Err(RecvTimeoutError::Disconnected) => return Ok(ended()),
            Err(RecvTimeoutError::Timeout) => waited += look,
        }
        if !warned && waited >= deadline / 2 {
            warned = true;
            let (waited, deadline) = (waited.as_secs_f64(), deadline.as_secs_f64());
            tracing::warn!(
                "{waited:.1} s have been waited for {at}; after {deadline} s this ends the job (`data.timeout`)"
            );
        }
    }
    Err(DataError::Stalled { what: at.to_string(), seconds: deadline.as_secs_f64() })
}

fn ended() -> Made {
    Err("its thread has ended".into())
}

/// The work itself: step after step of one rank.
#[derive(Debug)]
struct Steps {
    dataset: Arc<Dataset>,
    sampler: Sampler,
    options: LoaderOptions,
    step: u64,
    at: Arc<Whereabouts>,
}

impl Steps {
    fn next(&mut self) -> Made {
        self.at.begin(self.step + 1);
        let made = contain(|| self.make());
        self.step += 1;
        made.map_err(|panic| format!("{}: {panic}", self.at))
    }

    fn make(&mut self) -> Vec<Batch> {
        let LoaderOptions { world, device, accumulate, hook, .. } = self.options;
        hook(self.step + 1, world);
        let rows = self.sampler.rows(self.step);
        let placed = |batch: Batch| if device.is_cuda() { batch.pinned() } else { batch };
        (0..accumulate).map(|micro| placed(self.batch(&rows, micro))).collect()
    }

    fn batch(&self, rows: &[(usize, Vec<u32>)], micro: usize) -> Batch {
        let LoaderOptions { world, accumulate, independent, .. } = self.options;
        let part = |(source, rows): &(usize, Vec<u32>)| {
            let mine = &rows[micro_slice(world, accumulate, independent, micro, rows.len())];
            (!mine.is_empty()).then(|| {
                self.at.gather(*source, mine);
                self.dataset.gather(*source, Split::Train, mine)
            })
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

    fn options(config: &Config, world: World, accumulate: usize, prefetch: usize, first_step: u64) -> LoaderOptions {
        LoaderOptions { accumulate, prefetch, first_step, ..LoaderOptions::of(config, world, Device::Cpu) }
    }

    fn loader(data: &(Config, Arc<Dataset>), world: World, accumulate: usize, prefetch: usize, first: u64) -> Loader {
        let sampler = data.1.sampler(&data.0).unwrap();
        Loader::new(data.1.clone(), sampler, options(&data.0, world, accumulate, prefetch, first)).unwrap()
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

    /// A loader with a hook, that waits for so long.
    fn hooked(hook: fn(u64, World), prefetch: usize, deadline: Duration) -> Loader {
        let data = dataset(Mix::Balanced);
        let options = LoaderOptions { hook, deadline, ..options(&data.0, World::SOLO, 1, prefetch, 0) };
        Loader::new(data.1.clone(), data.1.sampler(&data.0).unwrap(), options).unwrap()
    }

    #[test]
    fn a_panic_is_an_error_with_its_step_and_sources_and_stays_one() {
        for prefetch in [0, 2] {
            let hook = |step, _| assert!(step != 2, "row 7 is not there");
            let mut loader = hooked(hook, prefetch, Duration::ZERO);
            assert!(loader.next().is_ok());
            let message = "batches can no longer be prepared: the batch of step 2 of source `a` (a.csv) and source `b` \
                           (b.csv): row 7 is not there";
            assert_eq!(loader.next().unwrap_err().to_string(), message);
            if prefetch > 0 {
                let again = "batches can no longer be prepared: its thread has ended";
                assert_eq!(loader.next().unwrap_err().to_string(), again);
            }
        }
    }

    #[test]
    fn a_panic_over_rows_names_them() {
        let at = Whereabouts::new(&dataset(Mix::Balanced).1);
        at.begin(9);
        at.gather(1, &[5, 2, 8, 1]);
        assert_eq!(at.to_string(), "the batch of step 9, training rows 5, 2, 8, .. (4 in all) of source `b` (b.csv)");
        at.gather(0, &[7]);
        assert_eq!(at.to_string(), "the batch of step 9, training rows 7 (1 in all) of source `a` (a.csv)");
    }

    #[test]
    fn a_batch_that_does_not_come_is_an_error_in_time_and_nobody_waits_for_its_thread() {
        let hook = |step, _| {
            if step == 2 {
                thread::sleep(Duration::from_secs(3600))
            }
        };
        let start = Instant::now();
        let mut loader = hooked(hook, 1, Duration::from_millis(200));
        assert!(loader.next().is_ok());
        let error = loader.next().unwrap_err();
        let words = "has waited 0.2 s for the batch of step 2 of source `a` (a.csv) and source `b` (b.csv)";
        assert!(error.to_string().contains(words), "{error}");
        drop(loader);
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_rank_speaks_before_the_watchdogs_of_the_others() {
        let two = World { rank: 0, size: 2, local_rank: 0, local_size: 2 };
        let seconds = |data, comm, world| deadline(data, comm, world).as_secs_f64();
        assert_eq!(seconds(300, 600, two), 300.0);
        assert_eq!(seconds(300, 30, two), 22.5);
        assert_eq!(seconds(300, 0, two), 300.0);
        assert_eq!(seconds(300, 30, World::SOLO), 300.0);
        assert_eq!(seconds(0, 30, two), 0.0, "off");
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
            Ok(Vec::new())
        };
        let at = Arc::new(Whereabouts::new(&dataset(Mix::Balanced).1));
        let mut loader = Loader { source: spawn(3, next).unwrap(), deadline: Duration::ZERO, at };
        loader.next().unwrap();
        while made.load(Ordering::SeqCst) < 4 {
            thread::yield_now();
        }
        thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(made.load(Ordering::SeqCst), 4);
    }
}
