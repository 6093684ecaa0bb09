//! The server's configuration, as far as the load tool needs it: the same file, the same defaults, the same
//! environment. Unknown keys are the server's to complain about.

use std::path::Path;

use anyhow::{Context, bail};

use crate::ids::Layout;

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Where the parts of the system are, and how to speak to them.
#[derive(Debug, Clone)]
pub struct Config {
    /// `http.bind`, the shopper listener.
    pub http_bind: String,
    pub redis_url: String,
    pub redis_password: String,
    pub key_prefix: String,
    pub brokers: String,
    pub topic: String,
    /// host:port of each instance, by its number.
    pub instances: Vec<String>,
    pub mysql_user: String,
    pub mysql_password: String,
    pub database_prefix: String,
    pub layout: Layout,
    pub token: TokenConfig,
}

/// How shoppers' tokens are signed.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    pub secret: String,
    pub kid: String,
    pub audience: String,
    pub issuer: String,
}

/// The layers: defaults < file < environment `SECKILL__SECTION__KEY`.
struct Layers {
    defaults: toml::Table,
    file: toml::Table,
    environment: Vec<(String, String)>,
}

impl Config {
    /// Reads all layers.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML, or a value is unusable.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| {
            format!("cannot read the configuration {}; name it with --config", file.display())
        })?;
        let file: toml::Table = text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
        Self::from_layers(file, std::env::vars().collect())
    }

    fn from_layers(file: toml::Table, environment: Vec<(String, String)>) -> anyhow::Result<Self> {
        let defaults = DEFAULTS.parse().context("config/default.toml is not TOML")?;
        let layers = Layers { defaults, file, environment };
        let instances: Vec<String> = layers.list("mysql", "instances")?;
        let count = u16::try_from(instances.len()).context("mysql.instances has too many entries")?;
        let (shards, partitions) =
            (layers.number("shards", "shards")?, layers.number("shards", "partitions")?);
        let Some(layout) = Layout::new(shards, partitions, count) else {
            bail!("no layout has {shards} shards, {partitions} partitions and {count} instances");
        };
        Ok(Self {
            http_bind: layers.text("http", "bind")?,
            redis_url: layers.text("redis", "url")?,
            redis_password: layers.secret("redis", "password")?,
            key_prefix: layers.text("redis", "key_prefix")?,
            brokers: layers.text("kafka", "brokers")?,
            topic: layers.text("kafka", "topic")?,
            instances,
            mysql_user: layers.text("mysql", "user")?,
            mysql_password: layers.secret("mysql", "password")?,
            database_prefix: layers.text("mysql", "database_prefix")?,
            layout,
            token: TokenConfig {
                secret: layers.secret("auth", "hs256_secret")?,
                kid: layers.text("auth", "hs256_kid")?,
                audience: layers.text("auth", "audience")?,
                issuer: layers.text("auth", "issuer")?,
            },
        })
    }
}

impl Layers {
    fn value(&self, section: &str, key: &str) -> anyhow::Result<toml::Value> {
        let name = format!("SECKILL__{}__{}", section.to_uppercase(), key.to_uppercase());
        if let Some((_, text)) = self.environment.iter().find(|(found, _)| *found == name) {
            return Ok(toml::Value::String(text.clone()));
        }
        let within = |table: &toml::Table| table.get(section)?.get(key).cloned();
        within(&self.file)
            .or_else(|| within(&self.defaults))
            .with_context(|| format!("{section}.{key} is not a key of the configuration"))
    }

    fn text(&self, section: &str, key: &str) -> anyhow::Result<String> {
        match self.value(section, key)? {
            toml::Value::String(text) => Ok(text),
            other => bail!("{section}.{key} must be a text, not {other}"),
        }
    }

    /// A text that may also be named by a path in `<key>_file`.
    fn secret(&self, section: &str, key: &str) -> anyhow::Result<String> {
        let path = self.text(section, &format!("{key}_file"))?;
        if path.is_empty() {
            return self.text(section, key);
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {section}.{key}_file {path}"))?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }

    fn number(&self, section: &str, key: &str) -> anyhow::Result<u16> {
        let value = self.value(section, key)?;
        let number = match &value {
            toml::Value::Integer(number) => u16::try_from(*number).ok(),
            toml::Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number.with_context(|| format!("{section}.{key} must be a number up to 65535, not {value}"))
    }

    /// In the environment its entries are separated by commas.
    fn list(&self, section: &str, key: &str) -> anyhow::Result<Vec<String>> {
        let value = self.value(section, key)?;
        match value {
            toml::Value::String(text) => Ok(text.split(',').map(|entry| entry.trim().to_owned()).collect()),
            toml::Value::Array(entries) => entries
                .iter()
                .map(|entry| entry.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .with_context(|| format!("{section}.{key} must hold texts")),
            other => bail!("{section}.{key} must be a list, not {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)]) -> anyhow::Result<Config> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::from_layers(file.parse().expect("TOML"), environment)
    }

    #[test]
    fn missing_keys_take_the_servers_defaults() {
        let config = load("", &[]).expect("defaults");
        assert_eq!(config.topic, "seckill.orders.v1");
        assert_eq!(config.http_bind, "127.0.0.1:8080");
        assert_eq!(config.token.audience, "seckill");
        assert_eq!(config.layout, Layout::new(8, 4, 1).expect("a layout"));
    }

    #[test]
    fn the_environment_is_stronger_than_the_file() {
        let file = "[kafka]\ntopic = \"a\"\n[mysql]\ninstances = [\"x:1\"]\n";
        let environment = [("SECKILL__KAFKA__TOPIC", "b"), ("SECKILL__MYSQL__INSTANCES", "y:1, z:2")];
        let config = load(file, &environment).expect("usable");
        assert_eq!(
            (config.topic.as_str(), config.instances),
            ("b", vec!["y:1".to_owned(), "z:2".to_owned()])
        );
    }

    #[test]
    fn the_samples_load() {
        for sample in ["distributed.toml", "shards-128.toml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(sample);
            let text = std::fs::read_to_string(path).expect(sample);
            load(&text, &[]).expect(sample);
        }
    }

    #[test]
    fn a_layout_that_splits_a_partition_is_refused() {
        assert!(load("[mysql]\ninstances = [\"a:1\", \"b:1\", \"c:1\"]\n", &[]).is_err());
    }
}
