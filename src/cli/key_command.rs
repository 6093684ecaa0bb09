//! `seckill key …` writes API keys straight into the directory. The admin API needs a key, so the first key has to come
//! from somewhere else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;

use super::output;
use crate::config::Config;
use crate::domain::operator::Subject;
use crate::domain::{ApiKey, Change};
use crate::http::admin::Scope;
use crate::http::auth::api_key_hash;
use crate::{app, chance};

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an API key and print it, once. Needs the database's credentials, or a data folder that nobody serves.
    Create {
        /// Who will use it; the actor of the audit log.
        #[arg(long)]
        name: String,
        /// What it allows.
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "sales:read,sales:write,orders:read,orders:write"
        )]
        scopes: Vec<String>,
    },
}

impl KeyCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a scope is unknown, the name is too long or empty, or the directory cannot be written.
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self::Create { name, scopes } = self;
        let known = Scope::ALL.map(Scope::as_str);
        if let Some(unknown) = scopes.iter().find(|scope| !known.contains(&scope.as_str())) {
            anyhow::bail!("unknown scope {unknown}: known are {}", known.join(", "));
        }
        anyhow::ensure!((1..=64).contains(&name.len()), "--name must have 1 to 64 bytes");
        app::wait_for_servers(config, app::Needed::Directory, output::talk).await?;
        let ports = app::open_keys(config).await?;
        let (text, key) = (random_key(), ApiKey { name, scopes });
        let change = Change {
            actor: "command line".to_owned(),
            action: "key_create",
            reason: "created".to_owned(),
            request_id: "-".to_owned(),
        };
        ports.audit_log.note(&change, &Subject::Key(key.clone())).await?;
        ports.keys.add_api_key(api_key_hash(&text), &key).await?;
        output::talk("this key is shown once:");
        output::data(&text);
        Ok(())
    }
}

/// Makes a new key of 256 random bits.
pub fn random_key() -> String {
    format!("sk_{}", URL_SAFE_NO_PAD.encode(chance::bytes::<32>()))
}
