//! `seckill key …`: API keys of operators. The admin API needs a key, so a new one is written straight into the
//! directory. They are listed, rotated and ended over the admin API.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, quoted};
use super::confirm::Confirm;
use super::output::{self, Format};
use crate::app;
use crate::config::Config;
use crate::domain::api_key::check_name;
use crate::domain::scope::Role;
use crate::domain::{ApiKey, Change, Scope};
use crate::http::auth::{api_key_hash, new_api_key};

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an API key and print it, once. Needs the database's credentials, or a data folder that nobody serves.
    Create(Create),
    /// List the keys: whose they are, what they may do, when they were used last.
    List {
        #[command(flatten)]
        admin: Admin,
    },
    /// Make a key that may do what another one may, and print it, once. The other one goes on for a while.
    Rotate {
        #[command(flatten)]
        admin: Admin,
        /// The id of the key, as `key list` has it.
        key: String,
        /// How long the old key goes on, in seconds.
        #[arg(long, default_value_t = 86_400)]
        overlap_s: i64,
        /// Why; kept in the audit log.
        #[arg(long, default_value = "by command line")]
        reason: String,
    },
    /// End a key at once, on every node, and the sessions that were begun with it.
    Revoke {
        #[command(flatten)]
        admin: Admin,
        /// The id of the key, as `key list` has it.
        key: String,
        #[command(flatten)]
        confirm: Confirm,
        /// Why; kept in the audit log.
        #[arg(long, default_value = "by command line")]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// Who will use it; the actor of the audit log.
    #[arg(long)]
    name: String,
    /// What its user does: viewer, promoter, operator or admin. Each may do what the one before it may.
    #[arg(long, default_value = "operator", conflicts_with = "scopes", value_parser = role)]
    role: Role,
    /// Single scopes instead of a role.
    #[arg(long, value_delimiter = ',', value_parser = scope)]
    scopes: Vec<String>,
}

fn role(word: &str) -> Result<Role, String> {
    Role::parse(word).ok_or_else(|| format!("known are {}", Role::ALL.map(Role::as_str).join(", ")))
}

fn scope(word: &str) -> Result<String, String> {
    let known = Scope::ALL.map(Scope::as_str);
    if known.contains(&word) { Ok(word.to_owned()) } else { Err(format!("known are {}", known.join(", "))) }
}

impl Create {
    /// Runs the command.
    ///
    /// # Errors
    /// When the name is too long or empty, or the directory cannot be written.
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self { name, role, scopes } = self;
        check_name(&name).map_err(|why| anyhow::anyhow!("--name {why}"))?;
        let scopes = if scopes.is_empty() { vec![role.as_str().to_owned()] } else { scopes };
        app::wait_for_servers(config, app::Needed::Directory, output::talk).await?;
        let keys = app::open_keys(config).await?;
        let text = new_api_key();
        keys.add_api_key(
            api_key_hash(&text),
            &ApiKey { name, scopes },
            &Change::by_hand("key_create", "created"),
        )
        .await?;
        output::talk("this key is shown once:");
        output::data(&text);
        Ok(())
    }
}

const HEAD: [&str; 7] = ["KEY", "NAME", "ROLE", "STATUS", "CREATED", "LAST USED", "ENDS"];

fn row(key: &Value) -> Vec<String> {
    let names = ["id", "name", "role", "status", "created_at", "last_used_at", "ends_at"];
    names.map(|name| output::cell(&key[name])).to_vec()
}

impl KeyCommand {
    /// Runs a command over the admin API. [`Create`] runs by itself.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        match self {
            Self::Create(_) => {}
            Self::List { admin } => {
                let answer = admin.client().call("GET", "/keys", None).await?;
                output::list(format, &answer, "keys", &HEAD, row);
            }
            Self::Rotate { admin, key, overlap_s, reason } => {
                let body = json!({ "reason": reason, "overlap_ms": overlap_s.saturating_mul(1000) });
                let made = admin
                    .client()
                    .call("POST", &format!("/keys/{}/rotate", quoted(&key)), Some(body))
                    .await?;
                output::talk(&format!(
                    "this key is shown once; the old one ends at {}:",
                    output::cell(&made["replaces"]["ends_at"])
                ));
                match format {
                    Format::Table => output::data(made["key"].as_str().unwrap_or_default()),
                    Format::Json | Format::Ndjson => output::print(format, &made, &[], &[]),
                }
            }
            Self::Revoke { admin, key, confirm, reason } => {
                confirm.ask(&format!("Revoke {key}?"))?;
                let body = json!({ "reason": reason });
                let ended = admin
                    .client()
                    .call("POST", &format!("/keys/{}/revoke", quoted(&key)), Some(body))
                    .await?;
                output::print(format, &ended, &HEAD, &[row(&ended)]);
            }
        }
        Ok(())
    }
}
