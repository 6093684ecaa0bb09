//! Reads the configuration again, and has the process follow what it says of limits. Everything else needs a restart.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::clock::Clock;
use crate::config::{ConfigError, Explained, Loaded, is_reloaded};
use crate::http::Reloaded;
use crate::memory::rulebook::Rulebook;

/// Reads the configuration as the process did when it started.
pub type Load = Box<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>;

/// The configuration of a process that can be read again.
pub struct Reloader {
    load: Load,
    /// What the process follows.
    followed: Mutex<BTreeMap<String, Explained>>,
    rules: Arc<Rulebook>,
    clock: Clock,
}

impl Reloader {
    /// Makes it of what the process has started with.
    pub fn new(
        load: Load,
        followed: BTreeMap<String, Explained>,
        rules: Arc<Rulebook>,
        clock: Clock,
    ) -> Self {
        Self { load, followed: Mutex::new(followed), rules, clock }
    }

    /// Reads the configuration again. Secrets are not compared.
    ///
    /// # Errors
    /// When it is not valid. Then nothing was changed.
    pub fn reload(&self) -> Result<Reloaded, ConfigError> {
        let mut followed = self.followed.lock().expect("no code panics while holding it");
        let Loaded { config, keys, .. } = (self.load)()?;
        let differs = |(key, explained): &(&String, &Explained)| {
            followed.get(*key).is_none_or(|before| before.value != explained.value)
        };
        let changed: Vec<String> = keys.iter().filter(differs).map(|(key, _)| key.clone()).collect();
        let (followed_now, at_restart) = changed.into_iter().partition(|key| is_reloaded(key));
        self.rules.configure(config.limits.rates(), self.clock.now_ms());
        followed.extend(keys.into_iter().filter(|(key, _)| is_reloaded(key)));
        let reloaded = Reloaded { followed: followed_now, at_restart };
        tracing::info!(?reloaded, "the configuration was read again");
        Ok(reloaded)
    }
}
