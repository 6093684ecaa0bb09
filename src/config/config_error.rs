//! The reasons for which a configuration cannot be used.

use std::path::PathBuf;

/// The reason for which a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file is not TOML. The message leaves out the line's text, because there may be a secret in it.
    #[error("{}, line {line}: {problem}", path.display())]
    Syntax { path: PathBuf, line: usize, problem: String },
    /// A layer names a key that there is not.
    #[error("unknown key `{key}` (from {origin}){}", suggestion.as_ref().map(|s| format!(": did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey { key: String, origin: String, suggestion: Option<String> },
    /// A section cannot be made from the merged values.
    #[error(transparent)]
    Unusable(#[from] config::ConfigError),
    /// The file that holds a secret cannot be read.
    #[error("cannot read `{key}_file` {}", path.display())]
    SecretFile { key: &'static str, path: PathBuf, source: std::io::Error },
    /// A key has a value of the wrong type or out of its range, or a secret is missing.
    #[error("`{key}` {problem}")]
    Invalid { key: String, problem: String },
}

impl ConfigError {
    pub(super) fn invalid(key: &str, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.to_owned(), problem: problem.into() }
    }
}
