//! Opens the backend that a configuration names, and hands it its settings.

use std::sync::Arc;

#[cfg(feature = "distributed")]
use crate::backend::distributed;
#[cfg(feature = "embedded")]
use crate::backend::embedded;
use crate::clock::Clock;
use crate::config::{Config, Mode};
use crate::domain::Month;
#[cfg(feature = "embedded")]
use crate::domain::calendar::rfc3339;
use crate::ports::{AuditLog, Keys, OrderEvents, OrderLog, Ports, Positions, Views};

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
            // A folder that was put back from a backup knows nothing of what came after its newest order.
            let knows_until = (found.newest_ms > 0).then(|| rfc3339(found.newest_ms));
            tracing::info!(?found, folder = %config.embedded.folder.display(), knows_until, "folder opened");
            Ok(ports)
        }
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
}

/// The ports with which an operator looks at the writers' positions and moves them.
pub struct PositionPorts {
    /// The positions.
    pub positions: Arc<dyn Positions>,
    /// The order log; `None` when it is gone.
    pub order_log: Option<Arc<dyn OrderLog>>,
    /// The audit log.
    pub audit_log: Arc<dyn AuditLog>,
}

/// Opens what the positions of the writers are compared with and moved in.
///
/// # Errors
/// As [`open_backend`], but a topic that is gone is none.
pub async fn open_positions(config: &Config) -> anyhow::Result<PositionPorts> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => {
            let (positions, audit_log, order_log) =
                distributed::open_positions(&backend_settings(config)?, Clock::System).await?;
            Ok(PositionPorts { positions, order_log, audit_log })
        }
        _ => {
            require_shop(config)?;
            let Ports { positions, order_log, audit_log, .. } = open_backend(config).await?;
            Ok(PositionPorts { positions, order_log: Some(order_log), audit_log })
        }
    }
}

/// The events and what is built of them.
pub struct EventPorts {
    /// The events.
    pub events: Arc<dyn OrderEvents>,
    /// The views.
    pub views: Arc<dyn Views>,
    /// The audit log.
    pub audit_log: Arc<dyn AuditLog>,
}

/// Opens what views are made anew in.
///
/// # Errors
/// As [`open_backend`], but of MySQL alone.
pub async fn open_events(config: &Config) -> anyhow::Result<EventPorts> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => {
            let (events, views, audit_log) =
                distributed::open_events(&backend_settings(config)?, Clock::System).await?;
            Ok(EventPorts { events, views, audit_log })
        }
        _ => {
            require_shop(config)?;
            let Ports { events, views, audit_log, .. } = open_backend(config).await?;
            Ok(EventPorts { events, views, audit_log })
        }
    }
}

/// Opens the audit log, for commands that change the stores themselves.
///
/// # Errors
/// As [`open_backend`], for the first MySQL instance or for the data folder.
pub async fn open_audit_log(config: &Config) -> anyhow::Result<Arc<dyn AuditLog>> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => {
            Ok(distributed::open_audit_log(&backend_settings(config)?, Clock::System).await?)
        }
        _ => Ok(open_backend(config).await?.audit_log),
    }
}

/// Opens only the directory, for commands that need nothing else.
///
/// # Errors
/// As [`open_backend`], for the first MySQL instance or for the data folder.
pub async fn open_keys(config: &Config) -> anyhow::Result<Arc<dyn Keys>> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => Ok(distributed::open_keys(&backend_settings(config)?, Clock::System).await?),
        #[cfg(feature = "embedded")]
        Mode::Embedded => Ok(open_backend(config).await?.keys),
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
}

/// Which servers a command cannot begin without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// The directory.
    Directory,
    /// What a process needs to serve.
    Serving,
    /// All of them.
    Everything,
}

/// Waits until the servers can be reached that a command needs, at most `start.wait_ms`. `tell` is told what is waited
/// for. In embedded mode there is nothing to wait for.
///
/// # Errors
/// When one could not be reached in time. The text names it, its address and its setting.
pub async fn wait_for_servers(config: &Config, needed: Needed, tell: impl Fn(&str)) -> anyhow::Result<()> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => {
            let servers = match needed {
                Needed::Directory => (1, false),
                Needed::Serving => (1, true),
                Needed::Everything => (usize::MAX, true),
            };
            let wait = std::time::Duration::from_millis(config.start.wait_ms);
            let settings = backend_settings(config)?;
            distributed::reach::wait_for(&settings, servers, wait, &Clock::System, &tell).await?;
            Ok(())
        }
        _ => {
            let _ = (needed, tell);
            Ok(())
        }
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

/// Lists in words what `seckill migrate` would do, in its order. Changes nothing.
///
/// # Errors
/// When the backend cannot be reached, or this program was built without it.
pub async fn migration_plan(config: &Config) -> anyhow::Result<Vec<String>> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => {
            let (settings, months) = (backend_settings(config)?, months_ahead(config));
            Ok(distributed::migrate::plan(&settings, &months, Clock::System).await?)
        }
        #[cfg(feature = "embedded")]
        Mode::Embedded => Ok(embedded::plan(&config.embedded.folder).await?),
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
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
