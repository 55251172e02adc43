//! Plain scalars by the core schema of YAML 1.2: what is null, a boolean, a whole number, a number.
//!
//! YAML 1.1 forms (`yes`, `on`, `1_000`, octal `017`) are no numbers or booleans here: they are refused where one
//! is expected.

/// Whether a plain scalar is null.
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// A whole number that is not negative: decimal, `0x` or `0o`. `None` also when it does not fit.
pub(super) fn unsigned(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    radix(text.strip_prefix('+').unwrap_or(text), 10)
}

fn radix(digits: &str, base: u32) -> Option<u64> {
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
    plain.then(|| u64::from_str_radix(digits, base).ok()).flatten()
}

/// Why a scalar is not a number that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoNumber {
    /// It is something else.
    Other,
    /// `.nan`, `.inf`, or larger than any number.
    NotFinite,
}

/// A finite number.
pub(super) fn number(text: &str) -> Result<f64, NoNumber> {
    let unsigned_text = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned_text, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(NoNumber::NotFinite);
    }
    if let Some(whole) = unsigned(text) {
        return Ok(whole as f64);
    }
    // Rust also reads `inf`, `nan` and `infinity`, which are plain text in YAML.
    let starts = unsigned_text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    match text.parse::<f64>() {
        Ok(value) if starts && value.is_finite() => Ok(value),
        Ok(_) if starts => Err(NoNumber::NotFinite),
        _ => Err(NoNumber::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_core_schema() {
        for (text, value) in [("1", 1.0), ("-0.5", -0.5), ("1e-3", 1e-3), (".5", 0.5), ("5.", 5.0), ("+2", 2.0)] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        for text in [".nan", ".inf", "-.inf", "1e999", "-1e400"] {
            assert_eq!(number(text), Err(NoNumber::NotFinite), "{text}");
        }
        for text in ["", "nan", "inf", "-infinity", "1_000", "1,5", "abc", ".", "1e", "0x", "--1", "1 2"] {
            assert_eq!(number(text), Err(NoNumber::Other), "{text}");
        }
    }

    #[test]
    fn whole_numbers_must_fit() {
        assert_eq!(unsigned("18446744073709551615"), Some(u64::MAX));
        assert_eq!(unsigned("0x1F"), Some(31));
        assert_eq!(unsigned("0o17"), Some(15));
        for text in ["18446744073709551616", "-1", "1.0", "1e3", "++1", "0x+1", ""] {
            assert_eq!(unsigned(text), None, "{text}");
        }
    }
}
