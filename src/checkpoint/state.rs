//! Small state (balancer, sampler, schedule, best so far) as JSON, without losing a bit.
//!
//! `serde_json` writes the shortest decimal that reads back as the same `f64`, `-0.0` included, so finite numbers
//! may stand in JSON directly. NaN and the infinities have no JSON form and `json!` silently turns them into `null`:
//! numbers that may be one of these go through [`float`] and [`read_float`], which write them as strings.

use serde_json::Value;

/// Something small that a checkpoint keeps.
pub trait State {
    /// The state. Loading it into a freshly built object of the same configuration continues exactly.
    fn save(&self) -> Value;

    /// Takes over a saved state.
    ///
    /// # Errors
    /// What does not fit: name, found and expected. The object is then not to be used.
    fn load(&mut self, value: &Value) -> Result<(), String>;
}

/// A number that may be NaN or infinite. The sign and payload bits of a NaN are not kept.
pub fn float(x: f64) -> Value {
    match serde_json::Number::from_f64(x) {
        Some(number) => Value::Number(number),
        None if x.is_nan() => "nan".into(),
        None if x > 0.0 => "inf".into(),
        None => "-inf".into(),
    }
}

/// Numbers that may be NaN or infinite.
pub fn floats(values: &[f64]) -> Value {
    values.iter().map(|&x| float(x)).collect()
}

/// Reads what [`float`] wrote.
///
/// # Errors
/// If it is neither a number nor one of `"nan"`, `"inf"`, `"-inf"`.
pub fn read_float(value: &Value) -> Result<f64, String> {
    match (value.as_f64(), value.as_str()) {
        (Some(x), _) => Ok(x),
        (_, Some("nan")) => Ok(f64::NAN),
        (_, Some("inf")) => Ok(f64::INFINITY),
        (_, Some("-inf")) => Ok(f64::NEG_INFINITY),
        _ => Err(format!("found {value}, expected a number")),
    }
}

/// Reads `len` numbers that [`floats`] wrote under `key` of an object.
///
/// # Errors
/// If the key is missing, or holds another number of values, or something else than numbers.
pub fn read_floats(object: &Value, key: &str, len: usize) -> Result<Vec<f64>, String> {
    let list = object.get(key).and_then(Value::as_array).ok_or_else(|| format!("`{key}` is missing or no list"))?;
    if list.len() != len {
        return Err(format!("`{key}` has {} values, expected {len}", list.len()));
    }
    list.iter().map(|x| read_float(x).map_err(|e| format!("`{key}`: {e}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through_text(value: &Value) -> Value {
        serde_json::from_str(&serde_json::to_string_pretty(value).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn every_bit_pattern_but_nan_payloads_comes_back(bits in any::<u64>()) {
            let x = f64::from_bits(bits);
            let back = read_float(&through_text(&float(x))).unwrap();
            prop_assert!(back.to_bits() == bits || (x.is_nan() && back.is_nan()));
        }
    }

    #[test]
    fn special_numbers_come_back() {
        let values = [0.0, -0.0, f64::MIN_POSITIVE / 8.0, f64::MAX, 0.1, f64::INFINITY, f64::NEG_INFINITY];
        let object = through_text(&serde_json::json!({ "v": floats(&values) }));
        let back = read_floats(&object, "v", values.len()).unwrap();
        assert_eq!(back.map_bits(), values.to_vec().map_bits());
        assert!(read_float(&through_text(&float(f64::NAN))).unwrap().is_nan());
    }

    trait MapBits {
        fn map_bits(&self) -> Vec<u64>;
    }

    impl MapBits for Vec<f64> {
        fn map_bits(&self) -> Vec<u64> {
            self.iter().map(|x| x.to_bits()).collect()
        }
    }

    #[test]
    fn misfits_are_named() {
        let object = serde_json::json!({ "v": [1, "x"], "w": 3 });
        assert_eq!(read_floats(&object, "v", 3).unwrap_err(), "`v` has 2 values, expected 3");
        assert_eq!(read_floats(&object, "v", 2).unwrap_err(), "`v`: found \"x\", expected a number");
        assert_eq!(read_floats(&object, "w", 1).unwrap_err(), "`w` is missing or no list");
        assert_eq!(read_floats(&object, "u", 1).unwrap_err(), "`u` is missing or no list");
    }
}
