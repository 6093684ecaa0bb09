//! Configuration: built-in defaults < TOML file < environment `SECKILL__SECTION__KEY` < flags.
//!
//! The only place that reads the environment. Every key stands in `config/default.toml` with its unit and
//! meaning; a key that does not is an error with a suggestion. Invariant: a [`Config`] that loaded is usable,
//! except for secrets, which [`Config::require_secrets`] checks for the roles that need them.

mod sections;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};
use serde::Deserialize;

pub use sections::*;

const DEFAULTS: &str = include_str!("../config/default.toml");
const ENV_PREFIX: &str = "SECKILL";
const SECRETS: [&str; 3] = ["auth.hs256_secret", "redis.password", "mysql.password"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration: {0}")]
    Unreadable(#[from] config::ConfigError),
    #[error("unknown key `{key}` (from {origin}){}", suggestion.as_ref().map(|s| format!(": did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey { key: String, origin: String, suggestion: Option<String> },
    #[error("cannot read `{key}_file` {}: {source}", path.display())]
    SecretFile { key: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{key}` {problem}")]
    Invalid { key: &'static str, problem: String },
}

impl ConfigError {
    fn invalid(key: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { key, problem: problem.into() }
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
    load_layers(file, environment(), flags)
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
    load_layers(file, environment().source(Some(variables.iter().cloned().collect())), flags)
}

fn environment() -> Environment {
    let environment = Environment::with_prefix(ENV_PREFIX)
        .prefix_separator("__")
        .separator("__")
        .list_separator(",")
        .with_list_parse_key("mysql.instances")
        .with_list_parse_key("http.trusted_proxies")
        .try_parsing(true);
    environment
}

fn load_layers(
    file: Option<&Path>,
    environment: Environment,
    flags: &[(&str, String)],
) -> Result<Loaded, ConfigError> {
    let environment_texts = environment.clone().try_parsing(false).collect()?;
    let defaults =
        config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)).build()?;
    let mut builder = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(path) = file {
        builder = builder.add_source(File::from(path).format(FileFormat::Toml));
    }
    builder = builder.add_source(environment);
    for (key, value) in flags {
        builder = builder.set_override(*key, value.as_str())?;
    }
    let merged = builder.build()?;
    let known = flatten(&defaults.cache);
    let mut keys = BTreeMap::new();
    for (key, value) in flatten(&merged.cache) {
        let origin = value.origin().unwrap_or("default").to_owned();
        if !known.contains_key(&key) {
            let suggestion = nearest(&key, known.keys());
            return Err(ConfigError::UnknownKey { key, origin, suggestion });
        }
        let has_password = key == "redis.url" && value.to_string().contains('@');
        let secret = has_password || SECRETS.contains(&key.as_str());
        let text = if secret && !value.to_string().is_empty() { "***".to_owned() } else { value.to_string() };
        keys.insert(key, Explained { value: text, origin });
    }
    let mut config: Config = merged.try_deserialize()?;
    config.read_secret_files()?;
    config.read_secret_texts(&environment_texts);
    config.validate()?;
    Ok(Loaded { config, keys })
}

/// The configuration with its comments, as compiled in.
pub fn defaults_text() -> &'static str {
    DEFAULTS
}

fn flatten(root: &Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
        match &value.kind {
            ValueKind::Table(table) => walk_table(prefix, table, into),
            _ => drop(into.insert(prefix.to_owned(), value.clone())),
        }
    }
    fn walk_table(prefix: &str, table: &Map<String, Value>, into: &mut BTreeMap<String, Value>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            walk(&key, value, into);
        }
    }
    let mut keys = BTreeMap::new();
    walk("", root, &mut keys);
    keys
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= 4)
        .map(|(_, candidate)| candidate.clone())
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

    /// Secrets of the environment as they are written: one of digits is no number.
    fn read_secret_texts(&mut self, environment: &Map<String, Value>) {
        let slots: [(&'static str, &mut Secret); 3] = [
            (SECRETS[0], &mut self.auth.hs256_secret),
            (SECRETS[1], &mut self.redis.password),
            (SECRETS[2], &mut self.mysql.password),
        ];
        for (key, secret) in slots {
            if let Some(ValueKind::String(text)) = environment.get(key).map(|value| &value.kind) {
                *secret = Secret::new(text);
            }
        }
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
        let source = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let environment = Environment::with_prefix(ENV_PREFIX)
            .prefix_separator("__")
            .separator("__")
            .list_separator(",")
            .with_list_parse_key("mysql.instances")
            .try_parsing(true)
            .source(Some(source));
        load_layers(None, environment, &[])
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
            load_layers(Some(&path), Environment::with_prefix("NOTHING_IS_CALLED_SO"), &[]).expect(sample);
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
    fn a_secret_of_digits_is_kept_as_it_is_written() {
        let loaded = with_env(&[("SECKILL__MYSQL__PASSWORD", "0123")]).expect("valid");
        assert_eq!(loaded.config.mysql.password.expose(), "0123");
    }

    #[test]
    fn a_guessable_secret_and_a_broken_shard_map_are_refused() {
        assert!(with_env(&[("SECKILL__AUTH__HS256_SECRET", "secret")]).is_err());
        assert!(with_env(&[("SECKILL__SHARDS__SHARDS", "6")]).is_err());
        assert!(with_env(&[("SECKILL__WRITER__BATCH_RECORDS_MAX", "0")]).is_err());
    }
}
