//! What may end a command early: signals, and the end of the job as its launcher tells it.

use crate::error::{Error, Result};
use crate::train::StopFlag;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Variables with the end of the job in seconds since 1970: ours, which `launch/slurm_job.sh` sets, and that of newer
/// versions of SLURM.
const END: [&str; 2] = ["POLYTASK_END_TIME", "SLURM_JOB_END_TIME"];

/// Listens to signals from now on, and knows when the job ends.
///
/// # Errors
/// If the system refuses a handler, or a variable holds no moment.
pub(super) fn listen() -> Result<StopFlag> {
    let stop = StopFlag::install().map_err(|source| Error::Io { path: "signal handlers".into(), source })?;
    let set = END
        .iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !matches!(text.as_str(), "" | "0"))?)));
    let Some((name, text)) = set else { return Ok(stop) };
    let left = left(&text, SystemTime::now()).ok_or_else(|| {
        Error::Usage(format!(
            "{name} is `{text}`, expected the end of the job in seconds since 1970\n  hint: unset it, or set it with \
             `date -d '2 hours' +%s`"
        ))
    })?;
    // SLURM writes a far future for a job without a limit, which no clock may reach.
    Ok(match Instant::now().checked_add(left) {
        Some(end) => stop.with_job_end(end),
        None => stop,
    })
}

/// How long it is until a moment; zero when it is past. `None`: the text is no moment.
fn left(text: &str, now: SystemTime) -> Option<Duration> {
    let seconds: u64 = text.trim().parse().ok()?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Duration::from_secs(seconds).saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_job_is_read_as_seconds_since_1970() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(left("1060", now), Some(Duration::from_secs(60)));
        assert_eq!(left(" 1060\n", now), Some(Duration::from_secs(60)));
        assert_eq!(left("900", now), Some(Duration::ZERO));
        for text in ["", "NONE", "-1", "2026-11-21T18:21:11", "1e9"] {
            assert_eq!(left(text, now), None, "{text}");
        }
    }
}
