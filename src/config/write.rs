//! The resolved configuration as a file that people read and [`super::load`] reads back equal.

use super::Config;
use super::error::ConfigError;

impl Config {
    /// The whole configuration as YAML, every default written out.
    ///
    /// # Errors
    /// A value that YAML cannot hold; a checked configuration has none.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        let failed = |error| ConfigError { message: format!("the configuration cannot be written as YAML: {error}") };
        let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
        serde_saphyr::to_string_with_options(self, options).map_err(failed)
    }
}
