//! A made-up run of 12 tasks, to look at the dashboard without training anything: `scripts/screenshot` uses it.

use polytask::config::{self, Metric};
use polytask::log::console::Console;
use polytask::log::{EvalRecord, Logger, Resumed, RunInfo, Status, Summary, TaskInfo, TaskMetrics, TrainRecord};
use polytask::rng::{ChaCha8Rng, Stream, rng};
use rand::RngExt;
use std::path::PathBuf;

const TASKS: [&str; 12] = [
    "NR-AR",
    "NR-AR-LBD",
    "NR-AhR",
    "NR-Aromatase",
    "NR-ER",
    "NR-ER-LBD",
    "NR-PPAR-gamma",
    "SR-ARE",
    "SR-ATAD5",
    "SR-HSE",
    "SR-MMP",
    "SR-p53",
];
const STEPS: u64 = 2000;
const EVERY: u64 = 20;

fn info() -> RunInfo {
    let metrics = vec![Metric::Auc, Metric::AveragePrecision];
    RunInfo {
        name: "demo".into(),
        tasks: TASKS.iter().map(|name| TaskInfo { name: name.to_string(), metrics: metrics.clone() }).collect(),
        world_size: 2,
        device: "cpu".into(),
        n_params_shared: 656_384,
        n_params_private: 3_084,
        total_steps: STEPS,
        config_yaml: "run: {name: demo, seed: 1}\nbalance: {weighting: uncertainty, surgery: pcgrad}\n".into(),
        hparams: vec![
            ("seed".into(), 1.0.into()),
            ("weighting".into(), "uncertainty".into()),
            ("surgery".into(), "pcgrad".into()),
            ("lr".into(), 1e-3.into()),
            ("batch".into(), 3072.0.into()),
            ("world_size".into(), 2.0.into()),
        ],
        libtorch: "2.11.0".into(),
    }
}

fn noise(rng: &mut ChaCha8Rng, size: f64) -> f64 {
    size * (rng.random::<f64>() + rng.random::<f64>() - 1.0)
}

/// How far a task is at a step, `0 ..= 1`; tasks differ in speed.
fn progress(task: usize, step: u64) -> f64 {
    1.0 - (-(step as f64) / (200.0 + 45.0 * task as f64)).exp()
}

fn train_record(step: u64) -> TrainRecord {
    let mut rng = rng(1, Stream::Recipe, step, 0);
    let t = TASKS.len();
    let loss: Vec<f64> =
        (0..t).map(|i| 0.69 - (0.25 + 0.03 * i as f64) * progress(i, step) + noise(&mut rng, 0.03)).collect();
    let weight: Vec<f64> = loss.iter().map(|loss| 0.5 / loss).collect();
    let mut cosine = vec![1.0; t * t];
    for a in 0..t {
        for b in a + 1..t {
            let kin = if TASKS[a][..2] == TASKS[b][..2] { 0.45 } else { -0.1 };
            let near = if b == a + 1 { 0.25 } else { 0.0 };
            let c: f64 = kin + near - 0.3 * progress(b, step) + noise(&mut rng, 0.3);
            cosine[a * t + b] = c.clamp(-1.0, 1.0);
            cosine[b * t + a] = cosine[a * t + b];
        }
    }
    let pairs = (t * (t - 1)) as f64;
    TrainRecord {
        step,
        epoch: step as f64 / 100.0,
        lr: 1e-3
            * (step as f64 / 100.0).min(1.0)
            * (0.5 + 0.5 * (std::f64::consts::PI * step as f64 / STEPS as f64).cos()),
        tasks: TASKS.map(String::from).to_vec(),
        coef: weight.iter().map(|w| w * (1.2 + noise(&mut rng, 0.4))).collect(),
        weight,
        grad_norm: Some(loss.iter().map(|loss| 2.0 * loss * loss + noise(&mut rng, 0.1)).collect()),
        loss: loss.into_iter().map(Some).collect(),
        conflict_rate: Some(cosine.iter().filter(|c| **c < 0.0).count() as f64 / pairs),
        cosine: Some(cosine),
        update_norm: 0.8 + noise(&mut rng, 0.2),
        time_ms: vec![
            ("data", 0.1),
            ("forward", 7.0 + noise(&mut rng, 0.5)),
            ("backward", 31.0 + noise(&mut rng, 2.0)),
            ("reduce", 6.0 + noise(&mut rng, 1.0)),
            ("balance", 0.4),
            ("update", 2.0 + noise(&mut rng, 0.2)),
        ],
        samples_per_s: 66_000.0 + noise(&mut rng, 2500.0),
        bytes_per_step: 17_000_000,
        skipped: 0,
        checkpoint_ms: None,
        device: None,
        ranks: None,
    }
}

fn eval_record(step: u64, split: &str) -> EvalRecord {
    let mut rng = rng(1, Stream::Recipe, step, split.len() as u64);
    let mut task = |(i, name): (usize, &&str)| {
        let auc = 0.5 + (0.36 - 0.012 * i as f64) * progress(i, step) + noise(&mut rng, 0.01);
        (name.to_string(), vec![("auc".into(), Some(auc)), ("average_precision".into(), Some(auc * auc * 0.6))])
    };
    let metrics: Vec<TaskMetrics> = TASKS.iter().enumerate().map(&mut task).collect();
    let score = metrics.iter().filter_map(|(_, m)| m[0].1).sum::<f64>() / TASKS.len() as f64;
    let epoch = step as f64 / 100.0;
    EvalRecord { step, epoch, split: split.into(), metrics, score: Some(score), best: true, seconds: 0.4 }
}

fn session(dir: PathBuf, resume_step: Option<u64>, steps: std::ops::RangeInclusive<u64>) -> Logger {
    let log = config::Log { every: EVERY, tensorboard: true, image_every: 10, ..Default::default() };
    let console = Console::plain(Box::new(std::io::stdout()), 110, &info(), resume_step);
    let resumed = resume_step.map(|step| Resumed { step, best_score: eval_record(step, "val").score });
    let mut logger = Logger::with_console(console, &dir, info(), resumed, &log);
    for step in steps {
        if step.is_multiple_of(EVERY) {
            logger.train(&train_record(step));
        }
        if step.is_multiple_of(200) {
            logger.eval(&eval_record(step, "val"));
        }
    }
    logger
}

/// Writes the run into `POLYTASK_DEMO_DIR`, or else into a temporary folder. It is cut off once and resumed.
#[test]
fn a_made_up_run_goes_through_every_output() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("POLYTASK_DEMO_DIR").map_or_else(|| temporary.path().join("demo"), PathBuf::from);
    drop(session(dir.clone(), None, 1..=1170));
    let mut logger = session(dir.clone(), Some(1000), 1001..=STEPS);
    let results = ["val", "test"].map(|split| eval_record(STEPS, split)).to_vec();
    logger.eval(&results[1]);
    logger.finish(&Summary {
        status: Status::Done,
        steps: STEPS,
        epochs: 20.0,
        samples: 3072 * STEPS,
        seconds: 93.0,
        skipped: 0,
        best: results.clone(),
        last: results,
    });
    assert!(logger.lost().is_empty(), "{:?}", logger.lost());
    let lines = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap().lines().count() as u64;
    assert_eq!(lines, STEPS / EVERY + STEPS / 200 + 1);
}
