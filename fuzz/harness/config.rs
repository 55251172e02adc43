//! Configurations, overrides, and the text of `POLYTASK_FAULT`.

use polytask::config::load_str;
use polytask::fault::arm;
use polytask::world::World;

/// Arbitrary text, and arbitrary overrides: an error that names the file or the override, or a configuration that is
/// written, read back equal and hashed alike. Lines that begin with `--set ` are taken out of the text and used as
/// overrides.
pub fn file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (sets, lines): (Vec<&str>, Vec<&str>) = text.split('\n').partition(|line| line.starts_with("--set "));
    let sets: Vec<String> = sets.iter().map(|line| line["--set ".len()..].to_string()).collect();
    check(&lines.join("\n"), &sets);
}

/// Overrides of a good configuration, one a line.
pub fn overrides(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let sets: Vec<String> = text.lines().map(str::to_string).collect();
    check(GOOD, &sets);
}

const GOOD: &str = "\
run: {name: fuzz, seed: 1}
data: {sources: {s: {csv: {train: a.csv, val: b.csv, numeric: [x, y], categorical: [c]}}}}
tasks:
  a: {source: s, target: t, kind: binary, metrics: [auc]}
  b.c: {source: s, target: u, kind: {regression: {loss: huber}}}
model: {encoder: {mlp: {widths: [8, 4]}}}
balance: {weighting: uncertainty, surgery: pcgrad}
optim: {adamw: {lr: 0.001}}
train: {epochs: 2}
";

fn check(text: &str, sets: &[String]) {
    let config = match load_str("fuzz.yaml", text, sets) {
        Ok(config) => config,
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("fuzz.yaml:") || error.starts_with("--set "), "nothing is named: {error}");
            return printable(&error);
        }
    };
    let yaml = config.to_yaml().expect("a checked configuration can be written");
    let again = load_str("again.yaml", &yaml, &[]).expect("a written configuration can be read");
    assert_eq!(config, again);
    assert_eq!(config.hash(), again.hash());
}

/// Any text arms faults, which never happen here, or is refused with the name of the variable.
pub fn fault(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let world = World { rank: 0, size: 2, local_rank: 0, local_size: 2 };
    if let Err(error) = arm(Some(text), world) {
        assert!(error.to_string().starts_with("POLYTASK_FAULT: "), "{error}");
    }
}

/// # Panics
/// If a text holds what would move the cursor of a terminal, or worse.
fn printable(text: &str) {
    let odd = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(odd, None, "a control character reaches the terminal: {text:?}");
}
