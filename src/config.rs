//! Configuration. Its layers are: built-in defaults < TOML file < environment `SECKILL__SECTION__KEY` < flags.
//!
//! Only this module reads keys from the environment. Every key stands in `config/default.toml` with its unit and
//! meaning. A key that does not stand there is an error with a suggestion.
//!
//! Invariants:
//! - A [`Config`] that loaded is usable, except for secrets. [`Config::require_secrets`] checks those for the roles
//!   that need them.
//! - What is loaded is what was written, never a rounded or otherwise converted form of it.
//! - No message holds a value that may be a secret.

mod auth;
mod config_error;
mod inside;
mod layers;
mod payment;
mod ranges;
mod readers;
mod secret;
mod sections;
mod servers;
mod upkeep;
mod validation;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use auth::{AuthConfig, PublicKeyAlgorithm};
pub use config_error::ConfigError;
pub use inside::{DebugConfig, LogConfig, TracesConfig, TracesProtocol};
pub use layers::Explained;
use layers::{DEFAULTS, Layers, SECRETS};
pub use payment::{Expiry, PaymentConfig, ProviderKind};
pub use secret::Secret;
pub use sections::*;
pub use servers::*;
pub use upkeep::{NotifyConfig, RetentionConfig};

const ENV_PREFIX: &str = "seckill__";
/// Variables of ours that name no key: those of the command line, and switches of the tests.
const OTHER_VARIABLES: [&str; 5] =
    ["SECKILL_CONFIG", "SECKILL_ADMIN", "SECKILL_API_KEY", "SECKILL_MODEL_SEED", "SECKILL_HAMMER_S"];

/// A loaded configuration with the origin of every key.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The value and the origin of every key, ascending by dotted key. Secrets are masked.
    pub keys: BTreeMap<String, Explained>,
    /// Sentences about variables that look like ours and are none, which a person should see.
    pub warnings: Vec<String>,
}

/// Reads all layers. `flags` are dotted keys with their texts, and they are the strongest layer.
///
/// # Errors
/// [`ConfigError`] for an unreadable file, an unknown key, a value of the wrong type or out of its range.
pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Loaded, ConfigError> {
    let mut loaded = load_with(file, &variables()?, flags)?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    loaded.warnings = names.filter_map(|name| warning(&name, &loaded.keys)).collect();
    Ok(loaded)
}

/// Returns what to tell a person of a variable that looks like one of ours and is none; `None` for all others.
fn warning(name: &str, keys: &BTreeMap<String, Explained>) -> Option<String> {
    let is_ours = key_of(name).is_some() || OTHER_VARIABLES.contains(&name);
    if is_ours || !name.to_lowercase().starts_with("seckill_") {
        return None;
    }
    let letters = |text: &str| text.to_lowercase().replace(['_', '.'], "");
    let wanted = letters(name);
    let distance = |key: &String| strsim::damerau_levenshtein(&wanted, &format!("seckill{}", letters(key)));
    let nearest = keys.keys().map(|key| (distance(key), key)).min().filter(|(distance, _)| *distance <= 4);
    let variable = |key: &String| format!("SECKILL__{}", key.to_uppercase().replace('.', "__"));
    let remedy = nearest.map(|(_, key)| format!(": did you mean {}?", variable(key)));
    Some(format!("the variable {name} is none of ours{}", remedy.unwrap_or_default()))
}

/// Reads all layers as [`load`] does, with `variables` instead of the environment of the process.
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
    Ok(Loaded { config, keys: layers.explained(), warnings: Vec::new() })
}

/// Reads those variables of the environment that name a key.
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

/// Returns the key that a variable names: `SECKILL__HTTP__BIND` → `http.bind`.
fn key_of(variable: &str) -> Option<String> {
    variable.to_lowercase().strip_prefix(ENV_PREFIX).map(|key| key.replace("__", "."))
}

/// Answers whether a process follows a key without a restart, when it reads its configuration again.
pub fn is_reloaded(key: &str) -> bool {
    key.starts_with("limits.")
}

/// Returns the text of `config/default.toml`, with its comments. It is compiled in.
pub fn defaults_text() -> &'static str {
    DEFAULTS
}

impl Config {
    fn read_secret_files(&mut self) -> Result<(), ConfigError> {
        let (auth, payment) = (&mut self.auth, &mut self.payment);
        let slots: [(&'static str, &Option<PathBuf>, &mut Secret); SECRETS.len()] = [
            (SECRETS[0], &auth.hs256_secret_file, &mut auth.hs256_secret),
            (SECRETS[1], &auth.hs256_previous_secret_file, &mut auth.hs256_previous_secret),
            (SECRETS[2], &self.redis.password_file, &mut self.redis.password),
            (SECRETS[3], &self.kafka.sasl_password_file, &mut self.kafka.sasl_password),
            (SECRETS[4], &self.mysql.password_file, &mut self.mysql.password),
            (SECRETS[5], &payment.api_key_file, &mut payment.api_key),
            (SECRETS[6], &payment.webhook_secret_file, &mut payment.webhook_secret),
            (SECRETS[7], &payment.webhook_previous_secret_file, &mut payment.webhook_previous_secret),
            (SECRETS[8], &self.notify.secret_file, &mut self.notify.secret),
            (SECRETS[9], &auth.purchase_token_secret_file, &mut auth.purchase_token_secret),
            (
                SECRETS[10],
                &auth.purchase_token_previous_secret_file,
                &mut auth.purchase_token_previous_secret,
            ),
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

    /// Checks that there is a key for shoppers' tokens, without which no shopper can be served.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when neither a secret nor a public key is configured. Loading has already refused a
    /// secret that is too short.
    pub fn require_secrets(&self) -> Result<(), ConfigError> {
        let secret = self.auth.hs256_secret.expose();
        let AuthConfig { public_key_file, jwks_file, jwks_url, .. } = &self.auth;
        if secret.is_empty() && public_key_file.is_none() && jwks_file.is_none() && jwks_url.is_none() {
            return Err(ConfigError::invalid(
                "auth.hs256_secret",
                "is not set, and neither is auth.public_key_file, auth.jwks_file or auth.jwks_url: there is no default \
                 secret. Set SECKILL__AUTH__HS256_SECRET to 32 random bytes or more (openssl rand -hex 32), or give \
                 public keys",
            ));
        }
        Ok(())
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
    fn a_variable_with_one_underscore_is_named_with_the_one_that_was_meant() {
        let keys = with_env(&[]).expect("defaults").keys;
        let told = |name: &str| warning(name, &keys);
        let meant = "the variable SECKILL_HTTP_BIND is none of ours: did you mean SECKILL__HTTP__BIND?";
        assert_eq!(told("SECKILL_HTTP_BIND").as_deref(), Some(meant));
        let meant = "the variable SECKILL_AUTH__HS256_SECRET is none of ours: did you mean SECKILL__AUTH__HS256_SECRET?";
        assert_eq!(told("SECKILL_AUTH__HS256_SECRET").as_deref(), Some(meant));
        assert_eq!(
            told("SECKILL_WHATEVER_ELSE").as_deref(),
            Some("the variable SECKILL_WHATEVER_ELSE is none of ours")
        );
        for ours in ["SECKILL__HTTP__BIND", "SECKILL_API_KEY", "SECKILL_CONFIG", "SECKILLS", "PATH"] {
            assert_eq!(told(ours), None, "{ours}");
        }
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
    fn origins_are_taken_as_browsers_write_them() {
        let with = |origins: &str| with_env(&[("SECKILL__HTTP__CORS_ORIGINS", origins)]).is_ok();
        for good in ["https://shop.example", "http://localhost:3000, https://[2001:db8::1]:8443", "*", ""] {
            assert!(with(good), "{good}");
        }
        for bad in [
            "shop.example",
            "https://shop.example/",
            "https://Shop.example",
            "https://shop.example:443",
            "http://localhost:80",
            "https://shop.example:0443",
            "https://[",
            "https://localhost:b",
            "https://localhost:1:2",
            "*, https://shop.example",
        ] {
            assert!(!with(bad), "{bad}");
        }
    }

    #[test]
    fn tls_and_logins_are_asked_for_whole() {
        let kafka = cfg!(feature = "kafka-tls");
        let tls = cfg!(feature = "tls");
        let files = [("SECKILL__MYSQL__CERT_FILE", "c"), ("SECKILL__MYSQL__KEY_FILE", "k")];
        let login = [("SECKILL__KAFKA__SASL_USER", "u"), ("SECKILL__KAFKA__SASL_PASSWORD", "p")];
        let scram = ("SECKILL__KAFKA__SASL_MECHANISM", "scram-sha-512");
        let plain = ("SECKILL__KAFKA__SASL_MECHANISM", "plain");
        let of_kafka = ("SECKILL__KAFKA__TLS", "true");
        let of_mysql = ("SECKILL__MYSQL__TLS", "true");
        for (is_taken, pairs) in [
            (tls, vec![("SECKILL__REDIS__URL", "rediss://h:1"), ("SECKILL__REDIS__CA_FILE", "ca")]),
            (false, vec![("SECKILL__REDIS__CA_FILE", "ca")]),
            (tls, vec![of_mysql, files[0], files[1]]),
            (false, vec![of_mysql, files[0]]),
            (false, vec![files[0], files[1]]),
            (kafka, vec![of_kafka]),
            (kafka, vec![login[0], login[1], scram]),
            (kafka, vec![login[0], login[1], plain, of_kafka]),
            (false, vec![login[0], login[1], plain]),
            (false, vec![login[0], scram]),
            (false, vec![login[1]]),
            (false, vec![of_kafka, ("SECKILL__KAFKA__BROKERS", "SSL://h:1")]),
            (false, vec![login[0], login[1]]),
            (false, vec![("SECKILL__KAFKA__SASL_MECHANISM", "gssapi")]),
        ] {
            let found = with_env(&pairs);
            assert_eq!(found.is_ok(), is_taken, "{pairs:?}: {:?}", found.err());
        }
    }

    #[test]
    fn a_guessable_secret_and_a_broken_shard_map_are_refused() {
        assert!(with_env(&[("SECKILL__AUTH__HS256_SECRET", "secret")]).is_err());
        assert!(with_env(&[("SECKILL__SHARDS__SHARDS", "6")]).is_err());
        assert!(with_env(&[("SECKILL__WRITER__BATCH_RECORDS_MAX", "0")]).is_err());
    }
}
