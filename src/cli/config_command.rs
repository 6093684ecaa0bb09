//! `seckill config …` shows what is configured, and where each value comes from.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::configured;
use super::output::{self, Format};
use crate::config::{self, ConfigError};

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the built-in defaults with their comments, a start for a file of your own.
    Init,
    /// Load everything and say whether it is valid.
    Check,
    /// Every key with its value; secrets are masked.
    Show,
    /// The same with the origin of each value; or only of keys that begin with PREFIX.
    Explain { prefix: Option<String> },
}

impl ConfigCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the configuration is invalid, or no key has the prefix.
    pub fn run(self, file: Option<&Path>, format: Format) -> anyhow::Result<()> {
        if matches!(self, Self::Init) {
            output::data(config::defaults_text().trim_end());
            return Ok(());
        }
        let loaded = configured::load(file, &[])?;
        let prefix = match &self {
            Self::Init => None,
            Self::Check => {
                loaded.config.require_secrets()?;
                output::talk("the configuration is valid");
                return Ok(());
            }
            Self::Show => None,
            Self::Explain { prefix } => prefix.as_deref(),
        };
        let keys = loaded.keys.iter().filter(|(key, _)| key.starts_with(prefix.unwrap_or("")));
        let (mut values, mut rows) = (Map::new(), Vec::new());
        for (key, explained) in keys {
            let origin = if explained.origin == "default" { "default" } else { explained.origin.as_str() };
            values.insert(key.clone(), json!({ "value": explained.value, "origin": origin }));
            rows.push(vec![key.clone(), explained.value.clone(), origin.to_owned()]);
        }
        if rows.is_empty() {
            let key = prefix.unwrap_or("").to_owned();
            return Err(ConfigError::UnknownKey {
                key,
                origin: "the command line".to_owned(),
                suggestion: None,
            }
            .into());
        }
        if matches!(self, Self::Show) {
            rows.iter_mut().for_each(|row| row.truncate(2));
            output::print(format, &Value::Object(values), &["KEY", "VALUE"], &rows);
        } else {
            output::print(format, &Value::Object(values), &["KEY", "VALUE", "ORIGIN"], &rows);
        }
        Ok(())
    }
}
