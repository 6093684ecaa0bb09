//! Reads what operators give to commands.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// Reads a JSON document from a file, or from standard input for `-`.
///
/// # Errors
/// When the file cannot be read, or is not JSON.
pub fn document(file: &Path) -> anyhow::Result<Value> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    // Editors of Windows put a byte order mark first. Source: RFC 8259 §8.1.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    serde_json::from_str(text).context("the file is not JSON")
}
