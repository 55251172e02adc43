use super::super::Status;
use super::super::samples::{eval_record, run_info, train_record};
use super::*;
use std::io;
use std::sync::{Arc, Mutex};

/// Output that a test can read.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn printed(tasks: &[&str], resume: Option<u64>, act: impl Fn(&mut Console)) -> String {
    let page = Page::default();
    act(&mut Console::plain(Box::new(page.clone()), 120, &run_info(tasks), resume));
    String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn the_header_names_the_run_and_where_it_continues() {
    let text = printed(&["a", "b"], Some(120), |c| c.header(&run_info(&["a", "b"]), Path::new("runs/sample")));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        text,
        format!(
            "polytask {version} · run sample · 2 tasks · 410,001 shared + 2,344 task parameters · 2 ranks · cpu\n\
             writing to runs/sample\ncontinuing after step 120 of 400\n"
        )
    );
}

#[test]
fn progress_lines_are_rate_limited_but_the_last_one_comes() {
    let text = printed(&["a", "b"], None, |c| {
        for step in [20, 40, 60, 400] {
            c.train(&train_record(step, &["a", "b"]));
        }
    });
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("step  20/400  epoch   0.50  loss 0.5000  lr 0.0010  5,120 samples/s  eta "),
        "{text}"
    );
    assert!(lines[1].starts_with("step 400/400"), "{text}");
}

#[test]
fn an_evaluation_shows_every_task_where_they_fit() {
    let text = printed(&["a", "b"], None, |c| c.eval(&eval_record(40, "val", &[("a", Some(0.5)), ("b", None)])));
    assert_eq!(text, "step  40/400  epoch   1.00  val  score 0.5000 best  a auc 0.5000  b auc -  (0.2 s)\n");
}

#[test]
fn an_evaluation_of_many_tasks_shows_mean_and_worst() {
    let names: Vec<String> = (0..12).map(|i| format!("NR-task-{i}")).collect();
    let tasks: Vec<(&str, Option<f64>)> =
        names.iter().enumerate().map(|(i, n)| (n.as_str(), Some(0.9 - i as f64 / 50.0))).collect();
    let text = printed(&["a"], None, |c| c.eval(&eval_record(40, "val", &tasks)));
    assert!(text.contains("  auc mean 0.7900 worst 0.6800 NR-task-11  ("), "{text}");
    assert!(text.trim_end().chars().count() <= 120, "{text}");
}

#[test]
fn the_worst_of_an_error_is_the_largest() {
    let mut info = run_info(&["a", "b"]);
    info.tasks.iter_mut().for_each(|task| task.metrics = vec![crate::config::Metric::Mae]);
    let mut record = eval_record(40, "val", &[("a", Some(1.0)), ("b", Some(3.0))]);
    record.metrics.iter_mut().for_each(|(_, metrics)| metrics[0].0 = "mae".into());
    let console = Console::plain(Box::new(Page::default()), 40, &info, None);
    assert_eq!(console.extremes(&record), "  mae mean 2.0000 worst 3.0000 b");
}

#[test]
fn the_last_table_has_best_and_final_of_both_splits() {
    let evals = |step, a: f64| {
        ["val", "test"].map(|split| eval_record(step, split, &[("income", Some(a)), ("hours", None)])).to_vec()
    };
    let summary = Summary {
        status: Status::Done,
        steps: 400,
        epochs: 10.0,
        samples: 51_200,
        seconds: 61.0,
        skipped: 2,
        best: evals(360, 0.75),
        last: evals(400, 0.5),
    };
    let text = printed(&["income", "hours"], None, |c| c.finish(&summary));
    insta::assert_snapshot!(text.trim(), @r"
    task    metric  val best  val final  test best  test final
    ──────  ──────  ────────  ─────────  ─────────  ──────────
    income  auc       0.7500     0.5000     0.7500      0.5000
    hours   auc            -          -          -           -
    mean    auc       0.7500     0.5000     0.7500      0.5000

    best: step 360, epoch 9.00, val score 0.7500
    final: step 400, epoch 10.00, val score 0.5000
    done: 400 steps, 2 skipped, 10.00 epochs, 51,200 samples in 1:01
    ");
    let text = printed(&["income"], None, |c| c.finish(&Summary { last: summary.best.clone(), ..summary.clone() }));
    assert!(text.contains("test best\n") && !text.contains("test final"), "{text}");
}
