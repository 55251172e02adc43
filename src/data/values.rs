//! Small questions about cells and their values.

use super::table::{Cells, shortest};

/// Whether a value listed in the configuration means the value of a cell: both in the form in which readers give
/// categories (`1.0` is `1`, `007` stays).
pub(crate) fn same_value(listed: &str, cell: &str) -> bool {
    shortest(listed) == shortest(cell)
}

/// Distinct values in their natural order: by number where all are numbers, else by text.
pub(crate) fn sort_values(mut values: Vec<String>) -> Vec<String> {
    let numbers: Option<Vec<f64>> = values.iter().map(|v| v.parse().ok().filter(|x: &f64| x.is_finite())).collect();
    match numbers {
        Some(numbers) => {
            let mut pairs: Vec<(f64, String)> = numbers.into_iter().zip(values).collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            pairs.into_iter().map(|(_, value)| value).collect()
        }
        None => {
            values.sort();
            values
        }
    }
}

/// Values per row.
pub(crate) fn width(cells: &Cells) -> usize {
    match cells {
        Cells::Numbers { shape, .. } | Cells::Bytes { shape, .. } => shape.iter().product(),
        Cells::Bits { width, .. } => *width,
        Cells::Strings(_) => 1,
    }
}

/// Values of all rows.
pub(crate) fn n_values(cells: &Cells) -> usize {
    match cells {
        Cells::Numbers { values, .. } => values.len(),
        Cells::Bits { values, .. } | Cells::Bytes { values, .. } => values.len(),
        Cells::Strings(values) => values.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_values_match_by_text_or_number() {
        assert!(same_value("a b", "a b") && same_value("1.0", "1"));
        assert!(!same_value("7", "007") && !same_value("1", "2") && !same_value("a", "A") && !same_value("nan", "a"));
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let sorted = |list: &[&str]| sort_values(list.iter().map(|s| s.to_string()).collect());
        assert_eq!(sorted(&["10", "9", "-1", "2.5"]), ["-1", "2.5", "9", "10"]);
        assert_eq!(sorted(&["10", "9", "b", "a"]), ["10", "9", "a", "b"]);
    }
}
