//! The terminal, shared by the progress bar, the lines of the run and the messages of `tracing`.

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// Width of lines where no terminal says otherwise.
const WIDTH: usize = 120;

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)))
}

/// A progress bar over steps, if standard error is a terminal. Standard output does not count: `mpirun` gives its ranks
/// a pseudo-terminal there even when its own output goes to a file.
pub fn bar(total_steps: u64, done: u64) -> Option<ProgressBar> {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    if !io::stderr().is_terminal() || dumb {
        return None;
    }
    let style = ProgressStyle::with_template("{bar:28.cyan/blue} {pos}/{len}  eta {eta}  {msg}").ok()?;
    let bar = bars().add(ProgressBar::new(total_steps).with_style(style.progress_chars("━╸─")));
    bar.set_position(done);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_secs(1));
    Some(bar)
}

/// Columns of the terminal, or a fixed width for files and pipes.
pub fn width() -> usize {
    let of = |term: Term| term.size_checked().map(|(_, columns)| columns as usize).filter(|columns| *columns >= 40);
    of(Term::stdout()).or_else(|| of(Term::stderr())).unwrap_or(WIDTH)
}

/// Standard output that steps aside for the progress bar. A reader that has gone away (`| head`) is no error.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = bars().suspend(|| io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error that steps aside for the progress bar.
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = bars().suspend(|| io::stderr().lock().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
