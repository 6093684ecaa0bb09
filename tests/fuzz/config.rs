//! Fuzzes the configuration with files, variables and flags that are right, or nearly.
//!
//! An input is the TOML file. Its comments can hold the other layers: `#env NAME=value`, `#flag key=value` (only keys
//! that the command line has), and `#secret text` for what the file `@DIR@/secret` holds.

mod made;
mod ranges;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use seckill::config::{Config, ConfigError, Loaded, defaults_text, load_with};
use toml::{Table, Value};

use crate::engine::{Target, run};

/// The markers that no message and no debug text may hold: a text, and a number for secrets that lost their quotes.
const MARKERS: [&str; 2] = ["S3CRET-MARKER", "48151623421084815162342108481516234210"];
const SECRETS: [&str; 10] = [
    "auth.hs256_secret",
    "auth.hs256_previous_secret",
    "redis.password",
    "mysql.password",
    "payment.api_key",
    "notify.secret",
    "payment.webhook_secret",
    "payment.webhook_previous_secret",
    "auth.purchase_token_secret",
    "auth.purchase_token_previous_secret",
];
const FLAGS: [&str; 2] = ["http.bind", "admin.bind"];

/// Reads the default of every key, by its dotted name.
fn defaults() -> Vec<(String, Value)> {
    flat(&defaults_text().parse::<Table>().expect("the defaults are TOML"))
}

fn flat(table: &Table) -> Vec<(String, Value)> {
    let mut keys = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => {
                keys.extend(flat(inner).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => keys.push((name.clone(), value.clone())),
        }
    }
    keys
}

/// One input, taken apart.
struct Layers {
    file: Vec<u8>,
    variables: Vec<(String, String)>,
    flags: Vec<(&'static str, String)>,
    secret: Option<String>,
}

impl Layers {
    fn parse(input: &[u8], folder: &Path) -> Self {
        let text = String::from_utf8_lossy(input);
        let mut layers = Self { file: Vec::new(), variables: Vec::new(), flags: Vec::new(), secret: None };
        for line in text.lines() {
            if let Some((name, value)) = line.strip_prefix("#env ").and_then(|rest| rest.split_once('=')) {
                layers.variables.push((name.to_owned(), value.to_owned()));
            } else if let Some((key, value)) =
                line.strip_prefix("#flag ").and_then(|rest| rest.split_once('='))
            {
                layers
                    .flags
                    .extend(FLAGS.iter().find(|flag| **flag == key).map(|flag| (*flag, value.to_owned())));
            } else if let Some(secret) = line.strip_prefix("#secret ") {
                layers.secret = Some(secret.to_owned());
            }
        }
        let folder = folder.to_string_lossy();
        layers.file = match std::str::from_utf8(input) {
            Ok(text) => text.replace("@DIR@", &folder).into_bytes(),
            Err(_) => input.to_vec(),
        };
        layers
    }

    /// Returns whether the markers stand only where a secret may stand. Then no message may hold them.
    fn hides_marker(&self) -> bool {
        let is_secret = |key: &str| SECRETS.contains(&key);
        let variables = self.variables.iter().all(|(name, value)| {
            let is_ours = dotted(name).is_some_and(|key| is_secret(&key));
            !is_marked(name) && (!is_marked(value) || is_ours)
        });
        let flags = self.flags.iter().all(|(_, value)| !is_marked(value));
        let text = String::from_utf8_lossy(&self.file);
        let file = match text.parse::<Table>() {
            Ok(table) => flat(&table).iter().all(|(key, value)| {
                let is_url = key == "redis.url" && value.as_str().is_some_and(is_password_of_url);
                !is_marked(key) && (!is_marked(&value.to_string()) || is_secret(key) || is_url)
            }),
            // A file that cannot be read has no keys, so the beginning of each line is taken for the key.
            Err(_) => text.lines().filter(|line| is_marked(line)).all(|line| {
                let name = line.split('=').next().unwrap_or("").trim();
                line.starts_with('#') || ["hs256_secret", "hs256_previous_secret", "password"].contains(&name)
            }),
        };
        variables && flags && file
    }
}

/// Returns the key that a variable names, if it is one of ours.
fn dotted(name: &str) -> Option<String> {
    Some(name.to_lowercase().strip_prefix("seckill__")?.replace("__", "."))
}

fn is_marked(text: &str) -> bool {
    MARKERS.iter().any(|marker| text.contains(marker))
}

fn is_password_of_url(url: &str) -> bool {
    url.split_once('@').is_some_and(|(before, after)| before.contains(':') && !is_marked(after))
}

struct Bench {
    folder: PathBuf,
    defaults: Vec<(String, Value)>,
}

impl Bench {
    fn new() -> Self {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-config-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self { folder, defaults: defaults() }
    }

    fn check(&self, input: &[u8]) -> String {
        let layers = Layers::parse(input, &self.folder);
        let file = self.folder.join("config.toml");
        fs::write(&file, &layers.file).expect("written");
        let secret = self.folder.join("secret");
        match &layers.secret {
            Some(text) => fs::write(&secret, text).expect("written"),
            None => drop(fs::remove_file(&secret)),
        }
        let outcome = load_with(Some(&file), &layers.variables, &layers.flags);
        let shown = match &outcome {
            Ok(loaded) => {
                format!("{loaded:?} {:?}", loaded.config.require_secrets().map_err(|e| e.to_string()))
            }
            Err(error) => format!("{error} {error:?}"),
        };
        if layers.hides_marker() {
            assert!(!is_marked(&shown), "a secret is shown: {shown}");
        }
        match outcome {
            Ok(loaded) => self.loaded(&loaded, &layers),
            Err(error) => self.refused(&error, &file),
        }
    }

    /// Asserts that an error names the key, or the file and the line.
    fn refused(&self, error: &ConfigError, file: &Path) -> String {
        let text = error.to_string();
        let known = |key: &str| text.contains(&format!("`{key}")) || text.contains(&format!("{key}_file`"));
        let key = self
            .defaults
            .iter()
            .map(|(key, _)| key.as_str())
            .filter(|key| known(key))
            .max_by_key(|k| k.len());
        let name = file.file_name().expect("a name").to_string_lossy();
        let has_line = text.contains(&*name) && text.contains("line ");
        if let ConfigError::UnknownKey { key, suggestion, .. } = error {
            assert!(text.contains(key.as_str()));
            return format!("unknown key, a suggestion {}", suggestion.is_some());
        }
        assert!(key.is_some() || has_line || text.contains("`shards`"), "nobody can find that: {text}");
        let problem = match error {
            ConfigError::Syntax { problem, .. } | ConfigError::Invalid { problem, .. } => problem.as_str(),
            _ => "",
        };
        let problem: Vec<&str> = problem.split(' ').take(4).collect();
        format!("refused {} {}", key.unwrap_or("a line"), problem.join(" "))
    }

    fn loaded(&self, loaded: &Loaded, layers: &Layers) -> String {
        ranges::hold(&loaded.config);
        assert_eq!(loaded.keys.len(), self.defaults.len(), "every key is explained, and no other");
        let text = String::from_utf8(layers.file.clone()).expect("a file that loads is a text");
        let given = text.trim_start_matches('\u{feff}').parse::<Table>().expect("a file that loads is TOML");
        let is_section =
            |name: &String| self.defaults.iter().any(|(key, _)| key.starts_with(&format!("{name}.")));
        assert!(given.keys().all(is_section), "an unknown section: {given:?}");
        let given = flat(&given);
        let mut from_file = 0;
        for (key, default) in &self.defaults {
            let of_file = given.iter().find(|(name, _)| name == key).map(|(_, value)| value);
            let of_variables: Vec<&String> = layers
                .variables
                .iter()
                .filter(|(name, _)| dotted(name).as_ref() == Some(key))
                .map(|(_, value)| value)
                .collect();
            from_file += usize::from(of_file.is_some());
            let is_elsewhere = !of_variables.is_empty() || layers.flags.iter().any(|(flag, _)| flag == key);
            if is_elsewhere {
                if let [text] = of_variables[..] {
                    self.as_written(loaded, key, default, &Value::String(text.clone()), layers);
                }
                continue;
            }
            let wanted = of_file.unwrap_or(default);
            assert!(wanted.same_type(default), "{key} is {} and was loaded", wanted.type_str());
            self.as_written(loaded, key, default, wanted, layers);
        }
        format!("loaded {}", from_file.min(4))
    }

    /// Asserts that what is loaded is what was written.
    fn as_written(&self, loaded: &Loaded, key: &str, default: &Value, wanted: &Value, layers: &Layers) {
        if layers.flags.iter().any(|(flag, _)| *flag == key) {
            return;
        }
        let explained = &loaded.keys[key].value;
        match (default, wanted) {
            (Value::Integer(_), Value::Integer(number)) => {
                assert_eq!(*explained, number.to_string(), "{key}")
            }
            (Value::Integer(_), Value::String(text)) => {
                assert_eq!(explained.parse::<i64>().ok(), text.parse::<i64>().ok(), "{key} of {text:?}");
            }
            (Value::String(_), Value::String(text)) if SECRETS.contains(&key) => {
                assert_eq!(
                    secret_of(&loaded.config, key),
                    self.secret_text(key, text, loaded, layers),
                    "{key}"
                );
            }
            (Value::String(_), Value::String(text)) if key != "redis.url" => {
                assert_eq!(explained, text, "{key}")
            }
            _ => {}
        }
    }

    /// Returns a secret, or the text of the file that stands for it.
    fn secret_text(&self, key: &str, text: &str, loaded: &Loaded, layers: &Layers) -> String {
        let path = &loaded.keys[&format!("{key}_file")].value;
        if Path::new(path) != self.folder.join("secret") {
            return text.to_owned();
        }
        let text = layers.secret.as_deref().expect("it was read");
        text.trim_end_matches(['\n', '\r']).to_owned()
    }
}

fn secret_of<'a>(config: &'a Config, key: &str) -> &'a str {
    match key {
        "auth.hs256_secret" => config.auth.hs256_secret.expose(),
        "auth.hs256_previous_secret" => config.auth.hs256_previous_secret.expose(),
        "redis.password" => config.redis.password.expose(),
        "payment.api_key" => config.payment.api_key.expose(),
        "notify.secret" => config.notify.secret.expose(),
        "auth.purchase_token_secret" => config.auth.purchase_token_secret.expose(),
        "auth.purchase_token_previous_secret" => config.auth.purchase_token_previous_secret.expose(),
        "payment.webhook_secret" => config.payment.webhook_secret.expose(),
        "payment.webhook_previous_secret" => config.payment.webhook_previous_secret.expose(),
        _ => config.mysql.password.expose(),
    }
}

#[test]
fn a_configuration_that_loads_is_as_written_and_in_range_and_no_message_tells_a_secret() {
    let bench = Bench::new();
    ranges::know_every_number(&bench.defaults);
    run(&Target {
        name: "config",
        check: &|input| bench.check(input),
        generate: &|rng| made::file(&bench.defaults, rng),
        bytes_max: 16 * 1024,
        slowest: Duration::from_millis(200),
    });
    fs::remove_dir_all(&bench.folder).expect("removed");
}
