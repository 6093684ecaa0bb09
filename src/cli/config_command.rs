//! `seckill config …` shows what is configured, and where each value comes from.

use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::admin_client::AdminClient;
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
    /// The same with the origin of each value, and when a change of it is followed; or only of keys that begin with
    /// PREFIX.
    Explain { prefix: Option<String> },
    /// Has a process read its configuration again, as SIGHUP does. It follows the keys that need no restart.
    Reload(Reload),
}

#[derive(Debug, Args)]
pub struct Reload {
    /// Admin listener of the process, host:port.
    #[arg(long, env = "SECKILL_ADMIN", default_value = "127.0.0.1:9090")]
    admin: String,
    /// API key (`seckill key create`); better set in the environment than typed.
    #[arg(long, env = "SECKILL_API_KEY", hide_env_values = true)]
    api_key: String,
    /// Kept in the audit log.
    #[arg(long)]
    reason: String,
}

impl Reload {
    /// Runs the command.
    ///
    /// # Errors
    /// When the process has refused it: the configuration is not valid, and nothing was changed.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = AdminClient { address: self.admin, key: self.api_key };
        let body = json!({ "reason": self.reason });
        let answer = client.call("POST", "/config/reload", Some(body)).await?;
        let mut rows = Vec::new();
        for (member, words) in [("followed", "now"), ("at_restart", "at a restart")] {
            for key in answer[member].as_array().into_iter().flatten() {
                rows.push(vec![key.as_str().unwrap_or_default().to_owned(), words.to_owned()]);
            }
        }
        output::print(format, &answer, &["CHANGED KEY", "FOLLOWED"], &rows);
        Ok(())
    }
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
            Self::Init | Self::Reload(_) => None,
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
            let followed = if config::is_reloaded(key) { "reload" } else { "restart" };
            let value = json!({ "value": explained.value, "origin": origin, "followed": followed });
            values.insert(key.clone(), value);
            rows.push(vec![key.clone(), explained.value.clone(), origin.to_owned(), followed.to_owned()]);
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
            output::print(
                format,
                &Value::Object(values),
                &["KEY", "VALUE", "ORIGIN", "FOLLOWED AFTER"],
                &rows,
            );
        }
        Ok(())
    }
}
