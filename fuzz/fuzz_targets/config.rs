//! Arbitrary text, and arbitrary overrides, as a configuration: an error or a configuration that is written, read
//! back equal and hashed alike, never a panic.
//!
//! Lines that begin with `--set ` are taken out of the text and used as overrides.
#![no_main]

use libfuzzer_sys::fuzz_target;
use polytask::config::load_str;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (sets, lines): (Vec<&str>, Vec<&str>) = text.split('\n').partition(|line| line.starts_with("--set "));
    let sets: Vec<String> = sets.iter().map(|line| line["--set ".len()..].to_string()).collect();
    let Ok(config) = load_str("fuzz.yaml", &lines.join("\n"), &sets) else { return };
    let yaml = config.to_yaml().expect("a checked configuration can be written");
    let again = load_str("again.yaml", &yaml, &[]).expect("a written configuration can be read");
    assert_eq!(config, again);
    assert_eq!(config.hash(), again.hash());
});
