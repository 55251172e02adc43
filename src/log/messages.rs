//! Messages of the program (`tracing`) on standard error, told apart by rank.

use super::console::terminal::Stderr;
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Prints messages of this process from now on: rank 0 from `info` up, other ranks from `warn` up and with a
/// `[rank r]` before every line. `POLYTASK_LOG`, or else `RUST_LOG`, says otherwise (`debug`, `polytask::data=trace`).
/// A second call changes nothing.
pub fn init(rank: usize, size: usize) {
    let named = ["POLYTASK_LOG", "RUST_LOG"].iter().find_map(|name| Some((*name, std::env::var(name).ok()?)));
    let wanted = named.filter(|(_, text)| !text.trim().is_empty());
    let usual = || EnvFilter::new(if rank == 0 { "info" } else { "warn" });
    let parsed = wanted.map(|(name, text)| EnvFilter::try_new(&text).map_err(|e| (name, text, e)));
    let (filter, refused) = match parsed {
        None => (usual(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(refused)) => (usual(), Some(refused)),
    };
    let lines = Lines { prefix: prefix(rank, size) };
    // Failing means that a subscriber is there already, which is fine.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).event_format(lines).with_writer(|| Stderr).try_init();
    if let Some((name, text, error)) = refused
        && rank == 0
    {
        tracing::warn!("{name} is `{text}`, which is no filter: {error}\n  hint: `debug`, or `polytask::data=trace`");
    }
}

fn prefix(rank: usize, size: usize) -> String {
    if rank == 0 || size == 1 { String::new() } else { format!("[rank {rank}] ") }
}

/// `[rank 3] warning: text`, every line of it.
struct Lines {
    prefix: String,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        let level = *event.metadata().level();
        let word = match level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        };
        for (i, line) in text.lines().enumerate() {
            writeln!(out, "{}{}{line}", self.prefix, if i == 0 { word } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

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

    fn printed(rank: usize, size: usize) -> String {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Lines { prefix: prefix(rank, size) })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("read {} rows", 7);
            tracing::warn!("slow disk\n  hint: use another");
        });
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn other_ranks_sign_every_line() {
        assert_eq!(printed(0, 4), "read 7 rows\nwarning: slow disk\n  hint: use another\n");
        assert_eq!(printed(0, 1), printed(0, 4));
        assert_eq!(printed(3, 4), "[rank 3] read 7 rows\n[rank 3] warning: slow disk\n[rank 3]   hint: use another\n");
    }
}
