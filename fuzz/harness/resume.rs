//! A run that continues from a checkpoint whose small state is a stranger's: it goes on, or says why it does not.
//!
//! Each line of an input changes one value of a checkpoint that a real run wrote: `FILE POINTER VALUE`, with a JSON
//! pointer and JSON, as in `state /progress/step 18446744073709551615`.

use super::workplace::Workplace;
use polytask::checkpoint::{self, Snapshot};
use polytask::comm::Solo;
use polytask::config::{Config, load_str};
use polytask::train::{Options, Resume, StopFlag, train};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// The step of the base checkpoint.
const STEP: u64 = 2;

/// One source with columns of every kind that one encoder takes, and a task of every kind.
const DATA: &str = "\
x,y,c,bits,label,class,number
1,2,red,f0,1,a,0.5
2,4,blue,0f,0,b,1.5
3,,red,aa,1,c,2.5
4,8,green,55,,a,-3
5,1,,00,0,b,
6,3,blue,ff,1,,7
";

fn config(dir: &Path) -> Config {
    let text = format!(
        "run: {{name: fuzz, dir: {run}}}
data:
  sources:
    s: {{csv: {{train: {data}, numeric: [x, y], categorical: [c], bits: [bits], missing: mean}}}}
tasks:
  label: {{source: s, target: label, kind: binary}}
  class: {{source: s, target: class, kind: multiclass}}
  number: {{source: s, target: number, kind: regression}}
batch: {{per_task: 3, prefetch: 0}}
model: {{encoder: {{mlp: {{widths: [4]}}}}}}
balance: {{weighting: dwa, surgery: gradvac, smoothing: 0.5}}
train: {{steps: {steps}, device: cpu, threads: 1}}
checkpoint: {{every: 1}}
",
        run = dir.join("run").display(),
        data = dir.join("data.csv").display(),
        steps = STEP + 1,
    );
    load_str("fuzz.yaml", &text, &[]).expect("a good configuration")
}

fn prepare(dir: &Path) -> Config {
    fs::write(dir.join("data.csv"), DATA).expect("a file");
    config(dir)
}

fn go(config: &Config) -> polytask::Result<()> {
    let options = Options { resume: Resume::Auto, allow_config_change: true };
    train(config, &options, &StopFlag::default(), &Solo).map(drop)
}

/// What a real run wrote after step [`STEP`].
fn base() -> &'static Snapshot {
    static BASE: OnceLock<Snapshot> = OnceLock::new();
    BASE.get_or_init(|| {
        let workplace = Workplace::new();
        let config = prepare(&workplace.inside());
        go(&config).expect("a run");
        let step = workplace.inside().join(format!("run/checkpoints/step_{STEP:08}"));
        checkpoint::read(&step).expect("its checkpoint")
    })
}

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut snapshot = base().clone();
    for line in text.lines().take(8) {
        change(&mut snapshot, line);
    }
    let workplace = Workplace::new();
    let config = prepare(&workplace.inside());
    let root = workplace.inside().join("run/checkpoints");
    if checkpoint::write(&root, &snapshot).is_err() {
        return;
    }
    match go(&config) {
        Ok(()) => {
            let last = checkpoint::latest(&root).expect("a run leaves a checkpoint").expect("one is there");
            assert!(last.snapshot.step >= snapshot.step.max(1), "the run went back");
        }
        Err(error) => {
            // 70 is for bugs of ours.
            assert_ne!(error.exit_code(), 70, "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Applies one line; one that fits nothing changes nothing.
fn change(snapshot: &mut Snapshot, line: &str) {
    let mut words = line.splitn(3, ' ');
    let (Some(file), Some(pointer), Some(value)) = (words.next(), words.next(), words.next()) else { return };
    let Ok(value) = serde_json::from_str::<Value>(value) else { return };
    if file == "step" {
        snapshot.step = value.as_u64().unwrap_or(snapshot.step);
    } else if let Some(place) = snapshot.json.get_mut(file).and_then(|json| json.pointer_mut(pointer)) {
        *place = value;
    }
}
