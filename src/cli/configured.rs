//! Loads the configuration for a command.

use std::path::Path;

use super::output;
use crate::config::{self, ConfigError, Loaded};

/// Loads the configuration, and warns of variables that look like ours and are none.
///
/// # Errors
/// As [`config::load`].
pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Loaded, ConfigError> {
    let loaded = config::load(file, flags)?;
    loaded.warnings.iter().for_each(|warning| output::talk(&format!("warning: {warning}")));
    Ok(loaded)
}
