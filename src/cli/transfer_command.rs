//! `seckill export` and `seckill import` move the sales and orders of a shop between the modes.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::output;
use crate::app::{self, Role, Running};
use crate::clock::Clock;
use crate::config::{Config, Expiry};
use crate::domain::SaleId;
use crate::ports::Ports;
use crate::transfer::{self, Contents};
use crate::{metrics, transfer::file};

/// What a command takes: where the lines are.
#[derive(Debug, Args)]
pub struct TransferFile {
    /// Lines of JSON, about 300 bytes an order.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What an export takes.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    file: TransferFile,
    /// Only this sale, and its orders; may be given several times. Other sales may be on. Without it all sales travel.
    #[arg(long = "sale", value_name = "SALE", value_parser = SaleId::parse)]
    sales: Vec<SaleId>,
}

impl Export {
    /// Exports to a new file. The file is complete, or it is not there at all.
    ///
    /// # Errors
    /// When a sale is on, the file exists, or the backend cannot be read.
    pub async fn export(self, config: &Config) -> anyhow::Result<()> {
        let Self { file: TransferFile { file: path }, mut sales } = self;
        sales.sort_unstable();
        sales.dedup();
        let shown = path.display();
        anyhow::ensure!(!path.exists(), "{shown} exists; give another name");
        app::require_shop(config)?;
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // The file holds names of buyers, so only its owner may read it.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
        let file = file.with_context(|| {
            let shown = partial.display();
            format!("cannot make {shown} (when it is what an export that was cut off left, remove it)")
        })?;
        let mut out = BufWriter::new(file);
        let work = async |ports: &Ports| {
            let map = config.shard_map()?;
            let moved = transfer::export(ports, &sales, map, &Clock::System, &mut out).await?;
            let contents = Contents::check(file::lines(open(&partial)?), map);
            let compared = match contents {
                Ok(contents) => transfer::compare(ports, map, &contents, file::lines(open(&partial)?)).await,
                Err(fault) => Err(fault),
            };
            compared.context("orders were changed while they were read: export again")?;
            Ok(moved)
        };
        let moved = match with_writer(config, work).await {
            Ok(moved) => moved,
            Err(error) => {
                std::fs::remove_file(&partial).ok();
                return Err(error);
            }
        };
        out.into_inner().context("cannot write the export")?.sync_all()?;
        std::fs::rename(&partial, &path)?;
        output::talk(&format!("{} sales and {} orders exported to {shown}", moved.sales, moved.orders));
        Ok(())
    }
}

impl TransferFile {
    /// Checks the whole file, then puts its sales and orders in place, and compares what stands with the file.
    ///
    /// # Errors
    /// When the file is not whole or has a fault; then nothing was changed. When a store fails; then repeat the import.
    pub async fn import(self, config: &Config) -> anyhow::Result<()> {
        let map = config.shard_map()?;
        let contents = Contents::check(file::lines(open(&self.file)?), map)
            .with_context(|| format!("{} was not imported, nothing was changed", self.file.display()))?;
        app::wait_for_servers(config, app::Needed::Everything, output::talk).await?;
        app::prepare_months(config, &transfer::months(&contents)).await?;
        let (lines, again) = (file::lines(open(&self.file)?), file::lines(open(&self.file)?));
        let total = contents.orders;
        let told = AtomicI64::new(0);
        let progress = |unwritten: i64| {
            let tenth = unwritten / 10_000;
            if told.swap(tenth, Ordering::Relaxed) != tenth {
                output::talk(&format!("{unwritten} of {total} orders to be written"));
            }
        };
        let work = async |ports: &Ports| {
            transfer::import(ports, map, &contents, lines, &Clock::System, &progress).await?;
            transfer::compare(ports, map, &contents, again).await
        };
        with_writer(config, work).await?;
        output::talk(&format!(
            "{} sales and {} orders stand as they were exported",
            contents.sales.len(),
            contents.orders
        ));
        Ok(())
    }
}

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    Ok(BufReader::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?))
}

/// Does `work` on an opened backend, while the workers of this process write what is in the order log.
async fn with_writer<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Ports) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut config = config.clone();
    // Nobody needs the operators' listener, so it takes a free port.
    config.admin.bind = (Ipv4Addr::LOCALHOST, 0).into();
    // What stands is what the file says, until a server of the shop takes over.
    config.payment.expiry = Expiry::Off;
    app::wait_for_servers(&config, app::Needed::Serving, output::talk).await?;
    let ports = app::open_backend(&config).await?;
    let running: Running = app::start_on(ports.clone(), &config, Role::Worker, metrics::install()?).await?;
    let outcome = work(&ports).await;
    let is_drained = running.stop(Duration::from_millis(config.shutdown.deadline_ms)).await;
    let outcome = outcome?;
    anyhow::ensure!(is_drained, "not everything ended within shutdown.deadline_ms");
    Ok(outcome)
}
