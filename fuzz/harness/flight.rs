//! Flight records, as `polytask doctor --flight` reads them.

use super::workplace::Workplace;
use polytask::cli::doctor::flight::report;
use std::fs;

/// Records of ranks 0, 1, 2, .., with a line `---` between them; the text is made of what they hold, and nothing else
/// happens.
pub fn run(data: &[u8]) {
    let workplace = Workplace::new();
    let dir = workplace.inside();
    let text = String::from_utf8_lossy(data);
    for (rank, record) in text.split("\n---\n").take(8).enumerate() {
        fs::write(dir.join(format!("flight_rank{rank}.json")), record).expect("a file");
    }
    let (page, code) = report(&dir).expect("the folder can be read");
    assert!(matches!(code, 0 | 3), "exit code {code}");
    assert!(page.len() < 1 << 20, "a page of {} bytes", page.len());
}
