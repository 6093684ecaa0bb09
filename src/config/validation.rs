//! What must hold of a configuration beyond the types and ranges of its keys.

use super::auth::AuthConfig;
use super::config_error::ConfigError;
use super::readers::is_safe_source;
use super::sections::Config;

impl Config {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.shard_map()?;
        let secrets = [
            ("auth.hs256_secret", &self.auth.hs256_secret),
            ("auth.hs256_previous_secret", &self.auth.hs256_previous_secret),
            ("auth.purchase_token_secret", &self.auth.purchase_token_secret),
            ("auth.purchase_token_previous_secret", &self.auth.purchase_token_previous_secret),
        ];
        for (key, secret) in secrets {
            if (1..32).contains(&secret.expose().len()) {
                return Err(ConfigError::invalid(key, "must have at least 32 bytes"));
            }
        }
        for (key, value, range) in self.ranges() {
            if !range.contains(&value) {
                let problem = format!("must be from {} to {}, not {value}", range.start(), range.end());
                return Err(ConfigError::invalid(key, problem));
            }
        }
        self.auth.validate()?;
        let is_rotating = !self.auth.purchase_token_previous_secret.expose().is_empty();
        if is_rotating && self.auth.purchase_token_previous_key == self.auth.purchase_token_key {
            return Err(ConfigError::invalid(
                "auth.purchase_token_previous_key",
                "must be another number than auth.purchase_token_key",
            ));
        }
        self.payment.validate()?;
        self.notify.validate()?;
        self.redis.validate()?;
        self.kafka.validate()?;
        self.mysql.validate()?;
        if self.embedded.folder.as_os_str().is_empty() {
            return Err(ConfigError::invalid("embedded.folder", "must name a folder"));
        }
        if !["auto", "json", "pretty"].contains(&self.log.format.as_str()) {
            return Err(ConfigError::invalid("log.format", "must be auto, json or pretty"));
        }
        let is_of_header = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.http.device_header.as_deref().is_some_and(|header| !header.bytes().all(is_of_header)) {
            return Err(ConfigError::invalid(
                "http.device_header",
                "must be a header's name: a-z, 0-9 and -",
            ));
        }
        Ok(())
    }
}

impl AuthConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.jwks_file.is_some() && self.jwks_url.is_some() {
            return Err(ConfigError::invalid(
                "auth.jwks_url",
                "is set, and so is auth.jwks_file: set one of them",
            ));
        }
        match &self.jwks_url {
            Some(url) if !is_safe_source(url) => Err(ConfigError::invalid(
                "auth.jwks_url",
                "must be an https address without a user and password (http only to this machine): who can change the \
                 answer can log in as anybody",
            )),
            _ => Ok(()),
        }
    }
}
