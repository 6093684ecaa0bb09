//! Merges the layers of a configuration key by key, from the weakest to the strongest.
//!
//! Every value is compared with its default when it is put in: the key must exist, and the type must be the same. So no
//! value reaches the sections that they would have to convert.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use config::{Value as Merged, ValueKind};
use toml::de::DeTable;
use toml::{Table, Value};

use super::config_error::ConfigError;
use super::servers::shown_url;

/// The text of `config/default.toml`, which has every key with its default.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");
/// The keys whose values are never shown.
pub const SECRETS: [&str; 11] = [
    "auth.hs256_secret",
    "auth.hs256_previous_secret",
    "redis.password",
    "kafka.sasl_password",
    "mysql.password",
    "payment.api_key",
    "payment.webhook_secret",
    "payment.webhook_previous_secret",
    "notify.secret",
    "auth.purchase_token_secret",
    "auth.purchase_token_previous_secret",
];

/// A key's value and where it came from, for `seckill config explain`.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The value as text. A secret is masked.
    pub value: String,
    /// The layer that set the value.
    pub origin: String,
}

pub(super) struct Layers {
    defaults: BTreeMap<String, Value>,
    /// The strongest value of each key so far, and where it came from.
    keys: BTreeMap<String, (Value, String)>,
}

impl Layers {
    pub(super) fn of_defaults() -> Self {
        let table: Table = DEFAULTS.parse().expect("config/default.toml is compiled in and tested");
        let mut defaults = BTreeMap::new();
        for (section, keys) in table {
            if let Value::Table(keys) = keys {
                defaults.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
            }
        }
        let keys = defaults.iter().map(|(key, value)| (key.clone(), (value.clone(), "default".to_owned())));
        Self { keys: keys.collect(), defaults }
    }

    pub(super) fn put_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let fault = |before: &[u8], problem: &str| {
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::Syntax { path: path.to_owned(), line, problem: problem.to_owned() }
        };
        let bytes = fs::read(path).map_err(unreadable)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| fault(&bytes[..error.valid_up_to()], "is not UTF-8"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let at = |error: &toml::de::Error, problem: &str| {
            let start = error.span().map_or(0, |span| span.start);
            fault(&text.as_bytes()[..start.min(text.len())], problem)
        };
        DeTable::parse(text).map_err(|error| at(&error, error.message()))?;
        // What is wrong now is a number. The library would repeat it, and it may be a secret that lost its quotes.
        let table: Table = text.parse().map_err(|error| at(&error, "holds a number that is too large"))?;
        self.put_table("", table, &path.display().to_string())
    }

    fn put_table(&mut self, prefix: &str, table: Table, origin: &str) -> Result<(), ConfigError> {
        for (name, value) in table {
            // A quoted name with a dot in it is not a path of two names.
            let name = if name.contains('.') { format!("{name:?}") } else { name };
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(inner) if !inner.is_empty() && !self.defaults.contains_key(&key) => {
                    self.put_table(&key, inner, origin)?;
                }
                Value::Table(_) if self.is_section(&key) => {}
                value => self.put(&key, value, origin)?,
            }
        }
        Ok(())
    }

    fn is_section(&self, key: &str) -> bool {
        self.defaults.keys().any(|known| known.split_once('.').is_some_and(|(section, _)| section == key))
    }

    /// Puts in a value of a variable or a flag, which is text. The type of the default says how to read it.
    pub(super) fn put_text(&mut self, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
        let no = |what| ConfigError::invalid(key, format!("must be {what} (from {origin})"));
        let value = match self.default_of(key, origin)? {
            Value::Integer(_) => Value::Integer(text.parse().map_err(|_| no("a whole number"))?),
            Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| no("true or false"))?),
            Value::Float(_) => Value::Float(text.parse().map_err(|_| no("a number"))?),
            Value::Array(_) if text.is_empty() => Value::Array(Vec::new()),
            Value::Array(_) => {
                Value::Array(text.split(',').map(|one| Value::String(one.trim().to_owned())).collect())
            }
            Value::String(_) | Value::Datetime(_) | Value::Table(_) => Value::String(text.to_owned()),
        };
        self.put(key, value, origin)
    }

    fn put(&mut self, key: &str, value: Value, origin: &str) -> Result<(), ConfigError> {
        let default = self.default_of(key, origin)?;
        let has_texts = |value: &Value| value.as_array().is_none_or(|list| list.iter().all(Value::is_str));
        if !value.same_type(default) || !has_texts(&value) {
            let problem = format!("must be {}, not {} (from {origin})", kind(default), kind(&value));
            return Err(ConfigError::invalid(key, problem));
        }
        self.keys.insert(key.to_owned(), (value, origin.to_owned()));
        Ok(())
    }

    fn default_of(&self, key: &str, origin: &str) -> Result<&Value, ConfigError> {
        self.defaults.get(key).ok_or_else(|| ConfigError::UnknownKey {
            key: key.to_owned(),
            origin: origin.to_owned(),
            suggestion: nearest(key, self.defaults.keys()),
        })
    }

    pub(super) fn merged(&self) -> Result<config::Config, config::ConfigError> {
        let mut builder = config::Config::builder();
        for (key, (value, origin)) in &self.keys {
            builder = builder.set_override(key, merged(value, origin))?;
        }
        builder.build()
    }

    /// Returns every key with its value and its origin. Secrets are masked.
    pub(super) fn explained(&self) -> BTreeMap<String, Explained> {
        let explained = |(key, (value, origin)): (&String, &(Value, String))| {
            let text = match value {
                Value::String(text) if SECRETS.contains(&key.as_str()) && !text.is_empty() => {
                    "***".to_owned()
                }
                Value::String(text) if key == "redis.url" => shown_url(text).to_owned(),
                Value::String(text) => text.clone(),
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
                other => other.to_string(),
            };
            (key.clone(), Explained { value: text, origin: origin.clone() })
        };
        self.keys.iter().map(explained).collect()
    }
}

fn merged(value: &Value, origin: &str) -> Merged {
    let kind = match value {
        Value::String(text) => ValueKind::String(text.clone()),
        Value::Integer(number) => ValueKind::I64(*number),
        Value::Float(number) => ValueKind::Float(*number),
        Value::Boolean(is_so) => ValueKind::Boolean(*is_so),
        Value::Array(list) => ValueKind::Array(list.iter().map(|one| merged(one, origin)).collect()),
        // No default has one of these types, so no value has.
        Value::Datetime(_) | Value::Table(_) => ValueKind::Nil,
    };
    Merged::new(Some(&origin.to_owned()), kind)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text in quotes",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list of texts",
        Value::Table(_) => "a section",
    }
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= 4)
        .map(|(_, candidate)| candidate.clone())
}
