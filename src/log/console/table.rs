//! Numbers and tables as people read them.

use console::{measure_text_width, truncate_str};

/// A metric, loss or rate with four significant decimals; `-` where not defined.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(v) if !v.is_finite() => v.to_string(),
        Some(0.0) => "0".into(),
        Some(v) if v.abs() < 1e-3 || v.abs() >= 1e5 => format!("{v:.2e}"),
        Some(v) if v.abs() >= 100.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.4}"),
    }
}

/// A count with commas: `410,001`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds as `0:42`, `12:05`, `3:00:00`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// Rows under a header. The first `left` columns are words, the others numbers. Words are cut if the table would be
/// wider than `width`.
pub fn table(header: &[&str], rows: &[Vec<String>], left: usize, width: usize) -> String {
    let header: Vec<String> = header.iter().map(|h| h.to_string()).collect();
    let all = || std::iter::once(&header).chain(rows);
    let mut widths: Vec<usize> = (0..header.len())
        .map(|c| all().map(|row| row.get(c).map_or(0, |cell| measure_text_width(cell))).max().unwrap_or(0))
        .collect();
    let excess = (widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)).saturating_sub(width);
    if let Some(first) = widths.first_mut() {
        *first = first.saturating_sub(excess).max(8.min(*first));
    }
    let mut out = String::new();
    for (i, row) in all().enumerate() {
        out.push_str(line(row, &widths, left).trim_end());
        out.push('\n');
        if i == 0 {
            out.push_str(&widths.iter().map(|w| "─".repeat(*w)).collect::<Vec<_>>().join("  "));
            out.push('\n');
        }
    }
    out
}

fn line(row: &[String], widths: &[usize], left: usize) -> String {
    let cell = |(c, (text, width)): (usize, (&String, &usize))| {
        let text = truncate_str(text, *width, "…");
        let room = " ".repeat(width.saturating_sub(measure_text_width(&text)));
        if c < left { format!("{text}{room}") } else { format!("{room}{text}") }
    };
    row.iter().zip(widths).enumerate().map(cell).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_clear() {
        let values = [0.78123, 12.5, 1234.5, 0.00012, 0.0, -3e7, f64::NAN];
        let texts: Vec<_> = values.iter().map(|v| number(Some(*v))).collect();
        assert_eq!(texts, ["0.7812", "12.5000", "1234.5", "1.20e-4", "0", "-3.00e7", "NaN"]);
        assert_eq!(
            (count(7), count(999), count(1000), count(1234567)),
            ("7".into(), "999".into(), "1,000".into(), "1,234,567".into())
        );
        assert_eq!((clock(42.4), clock(725.0), clock(10800.0)), ("0:42".into(), "12:05".into(), "3:00:00".into()));
    }

    #[test]
    fn columns_line_up_and_words_give_way() {
        let rows =
            [vec!["income".to_string(), "auc".into(), "0.9".into()], vec!["é".into(), "mae".into(), "12.5".into()]];
        assert_eq!(
            table(&["task", "metric", "val"], &rows, 2, 80),
            "task    metric   val\n──────  ──────  ────\nincome  auc      0.9\né       mae     12.5\n"
        );
        let rows = [vec!["a_very_long_name_of_a_task".to_string(), "0.9".into()]];
        let narrow = table(&["task", "val"], &rows, 1, 20);
        assert!(narrow.lines().all(|l| measure_text_width(l) <= 20) && narrow.contains("a_very_long_na…"), "{narrow}");
    }
}
