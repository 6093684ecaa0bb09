//! The sections `[notify]` and `[retention]`: whom a shop calls, and what it keeps.

use std::path::PathBuf;

use serde::Deserialize;

use super::config_error::ConfigError;
use super::readers::path;
use super::secret::Secret;

/// The calls to a person.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyConfig {
    /// The address to which alarms are sent; empty for none.
    pub url: String,
    /// What calls are signed with.
    pub secret: Secret,
    /// A file with the secret.
    #[serde(deserialize_with = "path")]
    pub secret_file: Option<PathBuf>,
    /// How often a standing alarm is called out again; 0 for never.
    pub repeat_ms: u64,
}

/// How long is kept what is no book; 0 for ever.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// Events, once their sale is settled.
    pub events_ms: i64,
    /// Dead letters, since an operator decided about them.
    pub dead_letters_ms: i64,
    /// Rows of the audit log.
    pub audit_log_ms: i64,
}

impl NotifyConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.url.is_empty() || self.secret.expose().len() >= 32 {
            return Ok(());
        }
        Err(ConfigError::invalid(
            "notify.secret",
            "must have at least 32 bytes when notify.url is set: the receiver knows by it who calls",
        ))
    }
}
