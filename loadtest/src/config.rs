//! The server's configuration, as far as the load tool needs it. It reads the same file, the same defaults and the same
//! environment as the server. It leaves it to the server to refuse unknown keys.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::ids::Layout;

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The file that is read when none is named and embedded mode is not named either.
const SAMPLE: &str = "config/distributed.toml";

/// What the server stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Redis, Kafka and MySQL.
    Distributed,
    /// One process and one data folder.
    Embedded,
}

/// Where the parts of the system are, and how to reach them. The mode says which of them count.
#[derive(Debug, Clone)]
pub struct Config {
    /// `backend.mode`, what the server stands on.
    pub mode: Mode,
    /// `embedded.folder`, the data folder of embedded mode.
    pub folder: PathBuf,
    /// `http.bind`, the shopper listener.
    pub http_bind: String,
    /// `redis.url`.
    pub redis_url: String,
    /// `redis.password`; empty when it is not set.
    pub redis_password: String,
    /// The files of `[redis]` for TLS, which `rediss://` in its URL asks for.
    pub redis_tls: TlsFiles,
    /// `redis.key_prefix`, which stands before every key.
    pub key_prefix: String,
    /// `kafka.brokers`, host:port separated by commas.
    pub brokers: String,
    /// `kafka.tls`, and the files for it; `None` without TLS.
    pub kafka_tls: Option<TlsFiles>,
    /// How to log in to the brokers; `None` when nobody asks.
    pub kafka_login: Option<KafkaLogin>,
    /// `kafka.topic`, the topic of the order log.
    pub topic: String,
    /// `mysql.instances`: host:port of each instance, by its number.
    pub instances: Vec<String>,
    /// `mysql.user`.
    pub mysql_user: String,
    /// `mysql.password`; empty when it is not set.
    pub mysql_password: String,
    /// `mysql.tls`, and the files for it; `None` without TLS.
    pub mysql_tls: Option<TlsFiles>,
    /// `mysql.database_prefix`, which stands before the name of every database.
    pub database_prefix: String,
    /// The shard map.
    pub layout: Layout,
    /// How shoppers' tokens are signed.
    pub token: TokenConfig,
    /// The simulated payment provider; `None` where money is taken by another one or by nobody, or where the simulator
    /// has no address.
    pub provider: Option<ProviderConfig>,
}

/// The files of a section for TLS, each in PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// `ca_file`, the authorities of the server's certificate; `None` for those of this machine.
    pub ca: Option<PathBuf>,
    /// `cert_file` and `key_file`, our own certificate and its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// How to log in to Kafka.
#[derive(Debug, Clone)]
pub struct KafkaLogin {
    /// `kafka.sasl_mechanism`, in upper case as the client wants it.
    pub mechanism: String,
    /// `kafka.sasl_user`.
    pub user: String,
    /// `kafka.sasl_password`.
    pub password: String,
}

/// How shoppers' tokens are signed.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    /// The secret of HS256; empty when it is not set.
    pub secret: String,
    /// The id of the secret; empty when it has none.
    pub kid: String,
    /// The `aud` of tokens.
    pub audience: String,
    /// The `iss` of tokens; empty when they have none.
    pub issuer: String,
}

/// How the simulated payment provider is reached.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// `payment.provider_url`, the address of its API.
    pub url: String,
    /// `payment.api_key`.
    pub api_key: String,
}

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The mode, instead of `backend.mode`.
    pub mode: Option<Mode>,
    /// The data folder, instead of `embedded.folder`.
    pub folder: Option<PathBuf>,
}

/// The layers of the configuration: defaults < file < environment `SECKILL__SECTION__KEY`.
struct Layers {
    defaults: toml::Table,
    file: toml::Table,
    environment: Vec<(String, String)>,
}

impl Config {
    /// Reads all layers, and puts what the command line says over them. When neither a file nor embedded mode is named,
    /// the file is the sample of the local stack.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML, or a value is unusable.
    pub fn load(named: &Named) -> anyhow::Result<Self> {
        let environment: Vec<(String, String)> = std::env::vars().collect();
        let is_embedded = match named.mode {
            Some(mode) => mode == Mode::Embedded,
            None => {
                environment.iter().any(|(name, text)| name == "SECKILL__BACKEND__MODE" && text == "embedded")
            }
        };
        let file = match &named.file {
            None if is_embedded => toml::Table::new(),
            file => read(file.as_deref().unwrap_or(Path::new(SAMPLE)))?,
        };
        Self::from_layers(file, environment, named)
    }

    /// Makes the configuration of a shop on this machine that stands on a data folder. `shards` are the numbers of its
    /// shards and partitions.
    ///
    /// # Errors
    /// When there can be no layout of so many shards and partitions.
    pub fn of_folder(folder: &Path, shards: (u16, u16), token: TokenConfig) -> anyhow::Result<Self> {
        let named = Named { file: None, mode: Some(Mode::Embedded), folder: Some(folder.to_owned()) };
        let counts = [("SHARDS", shards.0), ("PARTITIONS", shards.1)];
        let counts = counts.map(|(key, count)| (format!("SECKILL__SHARDS__{key}"), count.to_string()));
        let config = Self::from_layers(toml::Table::new(), counts.into(), &named)?;
        Ok(Self { token, ..config })
    }

    fn from_layers(
        file: toml::Table,
        environment: Vec<(String, String)>,
        named: &Named,
    ) -> anyhow::Result<Self> {
        let defaults = DEFAULTS.parse().context("config/default.toml is not TOML")?;
        let layers = Layers { defaults, file, environment };
        let mode = match named.mode {
            Some(mode) => mode,
            None => layers.mode()?,
        };
        let instances: Vec<String> = layers.list("mysql", "instances")?;
        let count = match mode {
            Mode::Distributed => {
                u16::try_from(instances.len()).context("mysql.instances has too many entries")?
            }
            Mode::Embedded => 1,
        };
        let (shards, partitions) =
            (layers.number("shards", "shards")?, layers.number("shards", "partitions")?);
        let Some(layout) = Layout::new(shards, partitions, count) else {
            bail!("no layout has {shards} shards, {partitions} partitions and {count} instances");
        };
        Ok(Self {
            mode,
            folder: match &named.folder {
                Some(folder) => folder.clone(),
                None => layers.text("embedded", "folder")?.into(),
            },
            http_bind: layers.text("http", "bind")?,
            redis_url: layers.text("redis", "url")?,
            redis_password: layers.secret("redis", "password")?,
            redis_tls: layers.tls_files("redis")?,
            key_prefix: layers.text("redis", "key_prefix")?,
            brokers: layers.text("kafka", "brokers")?,
            kafka_tls: layers.tls("kafka")?,
            kafka_login: layers.kafka_login()?,
            topic: layers.text("kafka", "topic")?,
            instances,
            mysql_user: layers.text("mysql", "user")?,
            mysql_password: layers.secret("mysql", "password")?,
            mysql_tls: layers.tls("mysql")?,
            database_prefix: layers.text("mysql", "database_prefix")?,
            layout,
            token: TokenConfig {
                secret: layers.secret("auth", "hs256_secret")?,
                kid: layers.text("auth", "hs256_kid")?,
                audience: layers.text("auth", "audience")?,
                issuer: layers.text("auth", "issuer")?,
            },
            provider: layers.provider()?,
        })
    }
}

/// Makes the error of a mode that is not in this build.
#[cfg(not(all(feature = "distributed", feature = "embedded")))]
pub fn built_without(mode: Mode) -> anyhow::Error {
    let mode = format!("{mode:?}").to_lowercase();
    anyhow::anyhow!("this load tool was built without the {mode} mode: build it with `--features {mode}`")
}

fn read(file: &Path) -> anyhow::Result<toml::Table> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!(
            "cannot read the configuration {}; name it with --config, or a data folder with --mode embedded --data",
            file.display()
        )
    })?;
    text.parse().with_context(|| format!("{} is not TOML", file.display()))
}

impl Layers {
    fn mode(&self) -> anyhow::Result<Mode> {
        match self.text("backend", "mode")?.as_str() {
            "distributed" => Ok(Mode::Distributed),
            "embedded" => Ok(Mode::Embedded),
            other => bail!("backend.mode must be distributed or embedded, not {other:?}"),
        }
    }

    fn provider(&self) -> anyhow::Result<Option<ProviderConfig>> {
        let url = self.text("payment", "provider_url")?;
        if self.text("payment", "provider")? != "simulator" || url.is_empty() {
            return Ok(None);
        }
        Ok(Some(ProviderConfig { url, api_key: self.secret("payment", "api_key")? }))
    }

    fn kafka_login(&self) -> anyhow::Result<Option<KafkaLogin>> {
        let mechanism = self.text("kafka", "sasl_mechanism")?.to_uppercase();
        if mechanism == "NONE" {
            return Ok(None);
        }
        if mechanism == "PLAIN" && self.tls("kafka")?.is_none() {
            bail!("kafka.sasl_mechanism = \"plain\" sends the password as it is: set kafka.tls = true");
        }
        let (user, password) = (self.text("kafka", "sasl_user")?, self.secret("kafka", "sasl_password")?);
        Ok(Some(KafkaLogin { mechanism, user, password }))
    }

    fn tls(&self, section: &str) -> anyhow::Result<Option<TlsFiles>> {
        match self.value(section, "tls")?.to_string().trim_matches('"') {
            "true" => self.tls_files(section).map(Some),
            "false" => Ok(None),
            other => bail!("{section}.tls must be true or false, not {other}"),
        }
    }

    fn tls_files(&self, section: &str) -> anyhow::Result<TlsFiles> {
        let file = |key| {
            let path = self.text(section, key)?;
            anyhow::Ok(Some(path).filter(|path| !path.is_empty()).map(PathBuf::from))
        };
        let own = match (file("cert_file")?, file("key_file")?) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => bail!("{section}.cert_file and {section}.key_file belong together"),
        };
        Ok(TlsFiles { ca: file("ca_file")?, own })
    }

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

    /// Reads a text, or the file that `<key>_file` names when that is set.
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

    /// Reads a list of texts. In the environment its entries are separated by commas.
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
        Config::from_layers(file.parse().expect("TOML"), environment, &Named::default())
    }

    #[test]
    fn an_embedded_shop_is_one_instance_in_its_folder() {
        let mode = [("SECKILL__BACKEND__MODE", "embedded")];
        let config = load("[embedded]\nfolder = \"shop\"\n", &mode).expect("usable");
        assert_eq!((config.mode, config.folder.as_path()), (Mode::Embedded, Path::new("shop")));
        assert_eq!(config.layout, Layout::new(8, 4, 1).expect("a layout"));
        assert!(load("", &[("SECKILL__BACKEND__MODE", "cloud")]).is_err());
        let token = config.token;
        let config = Config::of_folder(Path::new("demo"), (4, 2), token).expect("usable");
        assert_eq!((config.mode, config.folder.as_path()), (Mode::Embedded, Path::new("demo")));
        assert_eq!(config.layout, Layout::new(4, 2, 1).expect("a layout"));
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
    fn servers_are_reached_as_the_server_reaches_them() {
        let plain = load("", &[]).expect("defaults");
        assert!(plain.kafka_tls.is_none() && plain.kafka_login.is_none() && plain.mysql_tls.is_none());
        let file =
            "[kafka]\ntls = true\nca_file = \"ca\"\nsasl_mechanism = \"scram-sha-512\"\nsasl_user = \"u\"\n";
        let config = load(file, &[("SECKILL__MYSQL__TLS", "true")]).expect("usable");
        let login = config.kafka_login.expect("a login");
        assert_eq!((login.mechanism.as_str(), login.user.as_str()), ("SCRAM-SHA-512", "u"));
        let files = config.kafka_tls.expect("TLS");
        assert_eq!((files.ca.as_deref(), files.own), (Some(Path::new("ca")), None));
        assert!(config.mysql_tls.is_some_and(|files| files.ca.is_none()));
        for wrong in [
            ("SECKILL__MYSQL__TLS", "maybe"),
            ("SECKILL__KAFKA__SASL_MECHANISM", "plain"),
            ("SECKILL__REDIS__CERT_FILE", "cert"),
        ] {
            assert!(load("", &[wrong]).is_err(), "{wrong:?}");
        }
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
    fn only_the_books_of_a_simulator_with_an_address_are_read() {
        let file =
            "[payment]\nprovider = \"simulator\"\nprovider_url = \"http://127.0.0.1:1\"\napi_key = \"k\"\n";
        let provider = |environment: &[(&str, &str)]| load(file, environment).expect("usable").provider;
        let read = provider(&[]).expect("a simulator");
        assert_eq!((read.url.as_str(), read.api_key.as_str()), ("http://127.0.0.1:1", "k"));
        assert!(provider(&[("SECKILL__PAYMENT__PROVIDER", "stripe")]).is_none());
        assert!(provider(&[("SECKILL__PAYMENT__PROVIDER_URL", "")]).is_none());
        assert!(load("", &[]).expect("defaults").provider.is_none());
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
