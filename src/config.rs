//! Configuration: built-in defaults < TOML file < environment `SECKILL__SECTION__KEY` < flags.
//!
//! The only place that reads the environment. Every key stands in `config/default.toml` with its unit and
//! meaning; a key that does not is an error with a suggestion. Invariants: a [`Config`] that loaded is usable,
//! except for secrets, which [`Config::require_secrets`] checks for the roles that need them; what is loaded is
//! what was written, never a rounded or otherwise converted form of it; no message holds a value that may be a
//! secret.

mod layers;
mod sections;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use layers::Layers;
pub use sections::*;

const DEFAULTS: &str = include_str!("../config/default.toml");
const ENV_PREFIX: &str = "seckill__";
const SECRETS: [&str; 3] = ["auth.hs256_secret", "redis.password", "mysql.password"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// Without the line's text: there may be a secret in it.
    #[error("{}, line {line}: {problem}", path.display())]
    Syntax { path: PathBuf, line: usize, problem: String },
    #[error("unknown key `{key}` (from {origin}){}", suggestion.as_ref().map(|s| format!(": did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey { key: String, origin: String, suggestion: Option<String> },
    #[error(transparent)]
    Unusable(#[from] config::ConfigError),
    #[error("cannot read `{key}_file` {}", path.display())]
    SecretFile { key: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{key}` {problem}")]
    Invalid { key: String, problem: String },
}

impl ConfigError {
    fn invalid(key: &str, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.to_owned(), problem: problem.into() }
    }
}

/// A key's value and where it came from, for `seckill config explain`.
#[derive(Debug, Clone)]
pub struct Explained {
    pub value: String,
    pub origin: String,
}

/// A loaded configuration with the origin of every key.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Ascending by dotted key; secrets are masked.
    pub keys: BTreeMap<String, Explained>,
}

/// Reads all layers. `flags` are dotted keys with their texts, the strongest layer.
///
/// # Errors
/// [`ConfigError`] for an unreadable file, an unknown key, a value of the wrong type or out of its range.
pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Loaded, ConfigError> {
    load_with(file, &variables()?, flags)
}

/// As [`load`], with `variables` instead of the process's environment.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    file: Option<&Path>,
    variables: &[(String, String)],
    flags: &[(&str, String)],
) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::of_defaults();
    if let Some(path) = file {
        layers.put_file(path)?;
    }
    for (name, text) in variables {
        if let Some(key) = key_of(name) {
            layers.put_text(&key, text, "the environment")?;
        }
    }
    for (key, text) in flags {
        layers.put_text(key, text, "the command line")?;
    }
    let mut config: Config = layers.merged()?.try_deserialize()?;
    config.read_secret_files()?;
    config.validate()?;
    Ok(Loaded { config, keys: layers.explained() })
}

/// The process's environment, as far as it is ours.
fn variables() -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some((name, key)) = name.to_str().and_then(|name| Some((name, key_of(name)?))) else {
            continue;
        };
        let text = value.into_string();
        let text = text.map_err(|_| ConfigError::invalid(&key, "is no Unicode text in the environment"))?;
        variables.push((name.to_owned(), text));
    }
    Ok(variables)
}

/// `SECKILL__HTTP__BIND` → `http.bind`.
fn key_of(variable: &str) -> Option<String> {
    variable.to_lowercase().strip_prefix(ENV_PREFIX).map(|key| key.replace("__", "."))
}

/// The configuration with its comments, as compiled in.
pub fn defaults_text() -> &'static str {
    DEFAULTS
}

impl Config {
    fn read_secret_files(&mut self) -> Result<(), ConfigError> {
        let slots: [(&'static str, &Option<PathBuf>, &mut Secret); 3] = [
            (SECRETS[0], &self.auth.hs256_secret_file, &mut self.auth.hs256_secret),
            (SECRETS[1], &self.redis.password_file, &mut self.redis.password),
            (SECRETS[2], &self.mysql.password_file, &mut self.mysql.password),
        ];
        for (key, path, secret) in slots {
            if let Some(path) = path {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::SecretFile {
                    key,
                    path: path.clone(),
                    source,
                })?;
                *secret = Secret::new(text.trim_end_matches(['\n', '\r']));
            }
        }
        Ok(())
    }

    /// What serving shoppers cannot do without.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when no token key is configured or the secret is guessable.
    pub fn require_secrets(&self) -> Result<(), ConfigError> {
        let secret = self.auth.hs256_secret.expose();
        if secret.is_empty() && self.auth.public_key_file.is_none() {
            return Err(ConfigError::invalid(
                "auth.hs256_secret",
                "is not set, and neither is auth.public_key_file: there is no default secret. Set \
                 SECKILL__AUTH__HS256_SECRET to 32 random bytes or more (openssl rand -hex 32), or give a public key",
            ));
        }
        Ok(())
    }
}

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(String);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "***" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_env(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        load_with(None, &pairs.iter().map(own).collect::<Vec<_>>(), &[])
    }

    #[test]
    fn defaults_load_and_are_safe() {
        let loaded = with_env(&[]).expect("defaults");
        assert!(loaded.config.http.bind.ip().is_loopback());
        assert!(loaded.config.admin.bind.ip().is_loopback());
        assert!(loaded.config.require_secrets().is_err());
    }

    #[test]
    fn the_samples_load() {
        for sample in ["distributed.toml", "shards-128.toml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(sample);
            load_with(Some(&path), &[], &[]).expect(sample);
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest() {
        let error = with_env(&[("SECKILL__HTTP__WORKRES", "2")]).expect_err("unknown").to_string();
        assert!(error.contains("http.workres") && error.contains("`http.workers`"), "{error}");
    }

    #[test]
    fn environment_overrides_the_file_and_a_flag_overrides_both() {
        let loaded = with_env(&[
            ("SECKILL__REDIS__KEY_PREFIX", "t1:"),
            ("SECKILL__MYSQL__INSTANCES", "127.0.0.1:1,127.0.0.1:2"),
        ])
        .expect("valid");
        assert_eq!(loaded.config.redis.key_prefix, "t1:");
        assert_eq!(loaded.config.mysql.instances.len(), 2);
        assert!(
            loaded.keys["redis.key_prefix"].origin.contains("env"),
            "{:?}",
            loaded.keys["redis.key_prefix"]
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = "0123456789abcdef0123456789abcdef";
        let loaded = with_env(&[("SECKILL__AUTH__HS256_SECRET", secret)]).expect("valid");
        assert_eq!(loaded.config.auth.hs256_secret.expose(), secret);
        assert!(!format!("{loaded:?}").contains(secret));
    }

    #[test]
    fn a_text_of_digits_is_kept_as_it_is_written() {
        let texts = [("SECKILL__MYSQL__PASSWORD", "0123"), ("SECKILL__MYSQL__USER", "1.10")];
        let loaded = with_env(&texts).expect("valid");
        assert_eq!(loaded.config.mysql.password.expose(), "0123");
        assert_eq!(loaded.config.mysql.user, "1.10");
    }

    #[test]
    fn a_guessable_secret_and_a_broken_shard_map_are_refused() {
        assert!(with_env(&[("SECKILL__AUTH__HS256_SECRET", "secret")]).is_err());
        assert!(with_env(&[("SECKILL__SHARDS__SHARDS", "6")]).is_err());
        assert!(with_env(&[("SECKILL__WRITER__BATCH_RECORDS_MAX", "0")]).is_err());
    }
}
