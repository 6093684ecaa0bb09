//! The crowd of `--rush`. It is the load tool's engine over real HTTP, and it has a runtime of its own. On the shop's
//! runtime it would take turns with the shop's work, and its own waiting would look like the shop's.

use std::path::PathBuf;

use loadtest::cli::{Output, RunArgs, Spike};
use loadtest::command;
use loadtest::config::{Config, TokenConfig};
use loadtest::report::Summary;
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: u32 = 1000;
/// The open files that are kept for everything but the crowd's connections.
const FILES_KEPT: u32 = 200;

/// A crowd, and the shop to which it comes.
pub struct Rush {
    /// The data folder, which is audited afterwards.
    pub folder: PathBuf,
    /// The numbers of shards and partitions of the folder.
    pub shards: (u16, u16),
    /// How the crowd's tokens are signed.
    pub token: TokenConfig,
    /// The size and the target of the crowd.
    pub spike: Spike,
}

impl Rush {
    /// Waits for the opening, sends the crowd, audits what it left, prints the report and returns the verdict's exit
    /// code. It gives up when it is dropped.
    ///
    /// # Errors
    /// When there can be no verdict: the crowd could not be sent, or what it left could not be read.
    pub async fn run(self) -> anyhow::Result<u8> {
        let config = Config::of_folder(&self.folder, self.shards, self.token)?;
        let args = RunArgs::spike(self.spike);
        let given_up = CancellationToken::new();
        let _guard = given_up.clone().drop_guard();
        let crowd = tokio::task::spawn_blocking(move || -> anyhow::Result<Option<Summary>> {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("crowd").build()?;
            let summary = runtime.block_on(async {
                tokio::select! {
                    summary = Box::pin(command::run(&config, &args)) => summary.map(Some),
                    () = given_up.cancelled() => Ok(None),
                }
            });
            runtime.shutdown_background();
            summary
        });
        let Some(summary) = crowd.await?? else {
            anyhow::bail!("the rush was given up");
        };
        command::print(&summary, Output::Table)?;
        Ok(summary.verdict.exit_code())
    }
}

/// Returns how many connections the crowd may use. Both ends of a connection are files of this process, and the limit
/// on open files bounds them.
pub fn connections() -> u32 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    connections_within(&limits)
}

fn connections_within(limits: &str) -> u32 {
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok());
    // When the limit is unknown or there is none, there is no reason to hold back.
    files.map_or(CONNECTIONS_MAX, |files| files.saturating_sub(FILES_KEPT) / 2).clamp(1, CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_on_open_files_makes_a_crowd_share_connections() {
        let line =
            |soft| format!("Limit  Soft Limit  Hard Limit  Units\nMax open files  {soft}  1048576  files\n");
        assert_eq!(connections_within(&line("1024")), 412);
        assert_eq!(connections_within(&line("20000")), CONNECTIONS_MAX);
        assert_eq!(connections_within(&line("unlimited")), CONNECTIONS_MAX);
        assert_eq!(connections_within(&line("50")), 1);
        assert_eq!(connections_within(""), CONNECTIONS_MAX);
    }
}
