//! Opens the backend that a configuration names, and hands it its settings.

use std::sync::Arc;

#[cfg(feature = "distributed")]
use crate::backend::distributed;
#[cfg(feature = "embedded")]
use crate::backend::embedded;
use crate::clock::Clock;
use crate::config::{Config, Mode};
use crate::domain::Month;
use crate::ports::{Keys, Ports};

/// Picks the settings of the distributed backend from a configuration.
///
/// # Errors
/// When the shard map's counts do not fit together.
#[cfg(feature = "distributed")]
pub fn backend_settings(config: &Config) -> anyhow::Result<distributed::Settings> {
    Ok(distributed::Settings {
        redis: config.redis.clone(),
        kafka: config.kafka.clone(),
        mysql: config.mysql.clone(),
        map: config.shard_map()?,
    })
}

/// Picks the settings of the embedded backend from a configuration.
///
/// # Errors
/// When the shard map's counts do not fit together.
#[cfg(feature = "embedded")]
pub fn embedded_settings(config: &Config) -> anyhow::Result<embedded::Settings> {
    Ok(embedded::Settings { embedded: config.embedded.clone(), map: config.shard_map()? })
}

/// Opens the backend that the configuration names.
///
/// # Errors
/// When the backend cannot be reached or was not migrated, or this program was built without it.
pub async fn open_backend(config: &Config) -> anyhow::Result<Ports> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => Ok(distributed::open(&backend_settings(config)?, Clock::System).await?),
        #[cfg(feature = "embedded")]
        Mode::Embedded => {
            let embedded::Opened { ports, found } =
                embedded::open(&embedded_settings(config)?, Clock::System).await?;
            tracing::info!(?found, folder = %config.embedded.folder.display(), "folder opened");
            Ok(ports)
        }
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
}

/// Opens only the directory of API keys, for commands that need nothing else.
///
/// # Errors
/// As [`open_backend`], for the first MySQL instance or for the data folder.
pub async fn open_keys(config: &Config) -> anyhow::Result<Arc<dyn Keys>> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => Ok(distributed::open_keys(&backend_settings(config)?, Clock::System).await?),
        #[cfg(feature = "embedded")]
        Mode::Embedded => Ok(embedded::open_keys(&embedded_settings(config)?, Clock::System).await?),
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
}

/// Refuses a data folder that holds no shop, for commands that a new shop would not help.
///
/// # Errors
/// When embedded mode is configured and its folder holds no shop.
pub fn require_shop(config: &Config) -> anyhow::Result<()> {
    match config.backend.mode {
        #[cfg(feature = "embedded")]
        Mode::Embedded if !embedded::holds_shop(&config.embedded.folder) => {
            let folder = config.embedded.folder.display();
            Err(anyhow::anyhow!("there is no shop in {folder} (embedded.folder, --data)"))
        }
        _ => Ok(()),
    }
}

/// Lists the months for which orders tables are made ahead of time: the current month, then those after it.
pub fn months_ahead(config: &Config) -> Vec<Month> {
    let first = Month::of_ms(Clock::System.now_ms());
    let months = std::iter::successors(Some(first), |month| Some(month.next()));
    months.take(config.shards.months_ahead.into()).collect()
}

/// Makes what orders of these months need. In distributed mode it does all that `seckill migrate` does.
///
/// # Errors
/// As `seckill migrate`.
pub async fn prepare_months(config: &Config, months: &[Month]) -> anyhow::Result<()> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => {
            let mut all = months_ahead(config);
            all.extend(months);
            distributed::migrate::run(&backend_settings(config)?, &all, Clock::System, |_| ()).await?;
            Ok(())
        }
        // In embedded mode one table holds the orders of every month.
        _ => {
            let _ = months;
            Ok(())
        }
    }
}

#[cfg(not(all(feature = "distributed", feature = "embedded")))]
fn built_without(mode: Mode) -> anyhow::Error {
    let mode = mode.as_str();
    anyhow::anyhow!("this program was built without the {mode} mode: build it with `--features {mode}`")
}
