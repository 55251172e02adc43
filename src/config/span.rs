//! Lengths of time as people write them: `23:50:00`, `90m`, or a number of seconds.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// A length of time in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan {
    /// The seconds.
    pub seconds: u64,
}

impl TimeSpan {
    /// So many seconds.
    pub const fn of(seconds: u64) -> Self {
        TimeSpan { seconds }
    }

    /// As the standard library has it.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (days, s) = (self.seconds / 86400, self.seconds % 86400);
        if days > 0 {
            write!(f, "{days}-")?;
        }
        write!(f, "{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    }
}

/// `None` for what is no length of time. `M:S` and `H:M` look alike, so that two numbers are none.
fn parse(text: &str) -> Option<u64> {
    if let Some((number, seconds)) = text.char_indices().last().and_then(|(at, c)| Some((&text[..at], unit(c)?))) {
        return number_of(number)?.checked_mul(seconds);
    }
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (Some(number_of(days)?), clock),
        None => (None, text),
    };
    let parts: Vec<u64> = clock.split(':').map(number_of).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = match (days, parts[..].as_ref()) {
        (None, [seconds]) => [0, 0, *seconds],
        (Some(_), [hours]) => [*hours, 0, 0],
        (Some(_), [hours, minutes]) => [*hours, *minutes, 0],
        (_, [hours, minutes, seconds]) => [*hours, *minutes, *seconds],
        _ => return None,
    };
    let is_clock = parts.len() > 1;
    if (is_clock && (minutes > 59 || seconds > 59)) || (days.is_some() && hours > 23) {
        return None;
    }
    let hours = days.unwrap_or(0).checked_mul(24)?.checked_add(hours)?;
    hours.checked_mul(3600)?.checked_add(60 * minutes)?.checked_add(seconds)
}

fn unit(letter: char) -> Option<u64> {
    match letter {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86400),
        _ => None,
    }
}

fn number_of(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

struct Span;

impl Visitor<'_> for Span {
    type Value = TimeSpan;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a length of time such as 23:50:00, 90m or a number of seconds")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<TimeSpan, E> {
        Ok(TimeSpan::of(seconds))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TimeSpan, E> {
        let message = || {
            format!(
                "expected hours:minutes:seconds (23:50:00), days-hours:minutes:seconds (1-12:00:00), a unit (90m, 12h) or \
                 a number of seconds, found `{text}`"
            )
        };
        parse(text).map(TimeSpan::of).ok_or_else(|| E::custom(message()))
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Span)
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_length_of_time() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("45s", 45),
            ("90m", 5400),
            ("12h", 43200),
            ("2d", 172_800),
            ("23:50:00", 85800),
            ("0:00:05", 5),
            ("100:00:00", 360_000),
            ("1-12", 129_600),
            ("1-12:30", 131_400),
            ("1-12:30:15", 131_415),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_may_mean_two_things_is_no_length_of_time() {
        for text in [
            "",
            "m",
            ":",
            "-",
            "-5",
            "1.5",
            "1.5h",
            "5 m",
            "23:50",
            "1:60:00",
            "1:00:60",
            "1-24:00:00",
            "1-",
            "1-1-1",
            "1:2:3:4",
            "1::2",
            "ten",
            "1w",
            "99999999999999999999",
            "9999999999999999999d",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn it_reads_well() {
        assert_eq!(TimeSpan::of(85800).to_string(), "23:50:00");
        assert_eq!(TimeSpan::of(131_415).to_string(), "1-12:30:15");
    }
}
