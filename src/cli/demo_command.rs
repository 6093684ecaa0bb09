//! `seckill demo` runs the embedded mode with a sale, for people who see the shop for the first time.
//!
//! The demo makes two things that `serve` must never make by itself: a secret for tokens and an operator's key. Both
//! stay in the demo's folder.

mod guide;
mod rush;
mod secrets;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use loadtest::cli::Spike;
use loadtest::config::TokenConfig;
use loadtest::progress;
use serde_json::json;

use super::admin_client::AdminClient;
use super::runtime::block_on;
use super::{configured, output, token_command};
use crate::app::{self, CannotListen, Role, Running, RunningSimulator};
use crate::backend::embedded::{self, Found};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::{Config, ProviderKind, Secret};
use crate::domain::scope::Role as OperatorRole;
use crate::domain::{ApiKey, Change, SaleId, UserId};
use crate::http::auth::api_key_hash;
use crate::http::shopper::payments::WEBHOOK;
use crate::http::shopper::rfc3339;
use crate::ports::{Keys, SaleStore};
use crate::shutdown::{Signals, Tasks};
use crate::{metrics, telemetry};

use guide::Guide;
use rush::Rush;
use secrets::Secrets;

const SKU: &str = "phone-x";
const SALE_LASTS_MS: i64 = 24 * 3_600_000;
/// The user of the printed token.
const SHOPPER: &str = "you";
const TOKEN_LASTS_S: i64 = 24 * 3600;

const EXAMPLES: &str = "\
Without --data everything stands in a new folder, whose name is printed; --data FOLDER continues it.
Ctrl-C drains and ends the demo. With --rush it ends by itself, and its exit code is the verdict: 0 pass,
1 answers that are errors, 98 audit violation.

Examples:
  seckill demo
  seckill demo --rush
  seckill demo --rush --buyers 2000 --units 50 --opens-in 3
  seckill demo --rush --buyers 2000 --purchase-token --proof-of-work 3
  seckill demo --bind 127.0.0.1:8081 --admin-bind 127.0.0.1:9091";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoCommand {
    /// Send a crowd at the opening, audit what it left, and end with the verdict.
    #[arg(long)]
    rush: bool,
    /// Buyers of the rush: 80 % of them click within one second.
    #[arg(long, value_name = "N", requires = "rush", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    buyers: u32,
    /// Units for sale.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    units: u32,
    /// Sell only with purchase tokens.
    #[arg(long)]
    purchase_token: bool,
    /// Ask for a proof of work for each token: so many zeros, each of them sixteen times the work.
    #[arg(long, value_name = "ZEROS", requires_all = ["rush", "purchase_token"], default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=6))]
    proof_of_work: u8,
    /// Seconds until the sale opens.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    opens_in: u32,
    /// Shopper listener, instead of http.bind.
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind: Option<String>,
    /// Operator listener, instead of admin.bind.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_bind: Option<String>,
    /// Listener of the simulated payment provider.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8090")]
    provider_bind: SocketAddr,
}

/// A sale of the demo.
struct DemoSale {
    id: String,
    starts_ms: i64,
    /// The opening on this machine's monotonic clock.
    opens: Instant,
}

impl DemoCommand {
    /// Runs the demo until a signal comes or the rush is over.
    ///
    /// # Errors
    /// When the configuration is invalid, the folder cannot be used, or a port is taken.
    pub fn run(self, file: Option<&Path>, folder: Option<PathBuf>) -> anyhow::Result<ExitCode> {
        let began = Instant::now();
        let config = self.config(file, folder.as_deref())?;
        telemetry::install(&config.log, Clock::System).context("log.filter is not a filter")?;
        if folder.is_none() {
            // The ports are checked before a new folder is made, which nobody would use when a port is taken.
            check_ports(&config, self.provider_bind)?;
        }
        block_on(self.show(config, began))
    }

    fn config(&self, file: Option<&Path>, folder: Option<&Path>) -> anyhow::Result<Config> {
        let folder = folder.map_or_else(new_folder, Path::to_owned);
        let folder = folder.into_os_string().into_string();
        let folder = folder.map_err(|folder| anyhow::anyhow!("{} is no Unicode text", folder.display()))?;
        let mut flags = vec![("backend.mode", "embedded".to_owned()), ("embedded.folder", folder)];
        flags.extend(self.bind.clone().map(|bind| ("http.bind", bind)));
        flags.extend(self.admin_bind.clone().map(|bind| ("admin.bind", bind)));
        let loaded = configured::load(file, &flags)?;
        let mut config = loaded.config;
        if loaded.keys.get("log.filter").is_some_and(|filter| filter.origin == "default") {
            "warn".clone_into(&mut config.log.filter);
        }
        Ok(config)
    }

    async fn show(self, mut config: Config, began: Instant) -> anyhow::Result<ExitCode> {
        let folder = config.embedded.folder.clone();
        let opened = embedded::open(&app::embedded_settings(&config)?, Clock::System).await?;
        let secrets = Secrets::of(&folder, opened.found.sales)?;
        config.auth.hs256_secret = Secret::new(&secrets.token_secret);
        let tasks = Tasks::on_current_runtime();
        let simulator = self.simulate_payments(&mut config, &secrets, &tasks)?;
        let sales = opened.ports.sales.clone();
        let_operate(opened.ports.keys.as_ref(), &secrets.api_key).await?;
        let signals = Signals::catch()?;
        let running = app::start_on(opened.ports, &config, Role::All, metrics::install()?).await?;
        let auth = config.auth.clone();
        running.let_anybody_buy(std::sync::Arc::new(move |user| {
            let now_s = Clock::System.now_ms() / 1000;
            token_command::mint(&auth, user, now_s, TOKEN_LASTS_S).unwrap_or_default()
        }));
        let found = (opened.found.sales > 0).then_some(opened.found);
        let shopper = running.shopper.context("a demo serves shoppers")?;
        let events =
            simulator.events(&format!("http://{shopper}{WEBHOOK}"), &config.payment.webhook_secret)?;
        let outcome = tokio::select! {
            outcome = self.open_and_wait(&config, &running, &secrets, (sales, found), (began, signals)) => outcome,
            () = events.run() => Ok(0),
        };
        output::talk("draining; a second signal ends at once");
        let draining = Instant::now();
        let drained = running.stop(Duration::from_millis(config.shutdown.deadline_ms)).await;
        simulator.stop().await;
        let code = outcome?;
        anyhow::ensure!(drained, "not everything ended within shutdown.deadline_ms");
        output::talk(&format!("drained in {} ms", draining.elapsed().as_millis()));
        Ok(ExitCode::from(code))
    }

    async fn open_and_wait(
        &self,
        config: &Config,
        running: &Running,
        secrets: &Secrets,
        (sales, found): (std::sync::Arc<dyn SaleStore>, Option<Found>),
        (began, signals): (Instant, Signals),
    ) -> anyhow::Result<u8> {
        let shopper = running.shopper.context("a demo serves shoppers")?;
        let client = AdminClient { address: running.admin.to_string(), key: secrets.api_key.clone() };
        let first = found.map_or(1, |found| found.sales + 1);
        let sale = self.open_sale(&client, sales.as_ref(), first).await?;
        let now_s = Clock::System.now_ms() / 1000;
        let guide = Guide {
            took: began.elapsed(),
            folder: &config.embedded.folder,
            found,
            shopper,
            admin: running.admin,
            sale: &sale.id,
            sku: SKU,
            units: self.units,
            opens_in_s: self.opens_in,
            opens_at: &rfc3339(sale.starts_ms),
            token: &token_command::mint(&config.auth, &UserId::parse(SHOPPER)?, now_s, TOKEN_LASTS_S)?,
            api_key: &secrets.api_key,
            purchase_token: self.purchase_token,
            rush: self.rush,
        };
        output::data(&guide.text());
        if !self.rush {
            let name = sale.id.clone();
            tokio::select! {
                _ = signals.first() => {}
                () = open_and_stay(&name, sale.opens) => {}
            }
            return Ok(0);
        }
        let rush = self.rush(config, shopper, sale.id);
        tokio::select! {
            _ = signals.first() => {
                output::talk("the rush was interrupted: no verdict");
                Ok(1)
            }
            code = rush.run() => code,
        }
    }

    /// Starts the simulated payment provider, and lets the shop take payments through it.
    fn simulate_payments(
        &self,
        config: &mut Config,
        secrets: &Secrets,
        tasks: &Tasks,
    ) -> anyhow::Result<RunningSimulator> {
        let books = config.embedded.folder.join("provider-books.jsonl");
        let payment = &mut config.payment;
        (payment.provider, payment.simulator_is_play_money) = (ProviderKind::Simulator, true);
        payment.api_key = Secret::new(&secrets.provider_key);
        payment.webhook_secret = Secret::new(&secrets.webhook_secret);
        payment.return_url = format!("http://{}/shop?order={{order}}", config.http.bind);
        let bind = (self.provider_bind, "--provider-bind");
        let simulator = RunningSimulator::start(bind, Some(&books), &payment.api_key, Clock::System, tasks)?;
        payment.provider_url = format!("http://{}", simulator.address);
        Ok(simulator)
    }

    /// Creates, publishes and preheats a sale through the admin API, as an operator would.
    async fn open_sale(
        &self,
        client: &AdminClient,
        sales: &dyn SaleStore,
        first: i64,
    ) -> anyhow::Result<DemoSale> {
        let mut number = first;
        let id = loop {
            let id = format!("drop-{number}");
            if sales.sale(&SaleId::parse(&id)?).await?.is_none() {
                break id;
            }
            number += 1;
        };
        let opens = Instant::now() + Duration::from_secs(self.opens_in.into());
        let starts_ms = Clock::System.now_ms() + i64::from(self.opens_in) * 1000;
        let sale = json!({
            "id": id, "name": format!("Drop {number}"), "buyer_limit": 1,
            "starts_at": rfc3339(starts_ms), "ends_at": rfc3339(starts_ms + SALE_LASTS_MS),
            "access": { "purchase_token": self.purchase_token, "proof_of_work": self.proof_of_work },
            "items": [{ "sku_id": SKU, "name": "Phone X", "stock": self.units,
                        "price": { "amount": 19_900, "currency": "CNY" } }],
        });
        client.call("POST", "/sales", Some(sale)).await?;
        for action in ["publish", "preheat"] {
            client.call("POST", &format!("/sales/{id}/{action}"), Some(json!({ "reason": "demo" }))).await?;
        }
        Ok(DemoSale { id, starts_ms, opens })
    }

    fn rush(&self, config: &Config, shopper: SocketAddr, sale: String) -> Rush {
        let folder = config.embedded.folder.clone();
        Rush {
            shards: (config.shards.shards, config.shards.partitions),
            token: TokenConfig {
                secret: config.auth.hs256_secret.expose().to_owned(),
                kid: config.auth.hs256_kid.clone().unwrap_or_default(),
                audience: config.auth.audience.clone(),
                issuer: config.auth.issuer.clone().unwrap_or_default(),
            },
            spike: Spike {
                url: format!("http://{shopper}"),
                summary: folder.join(format!("{sale}-summary.json")),
                sale,
                sku: SKU.to_owned(),
                buyers: self.buyers,
                connections: rush::connections(),
            },
            folder,
        }
    }
}

/// Names a new folder for this demo, among the system's temporary files.
fn new_folder() -> PathBuf {
    std::env::temp_dir().join(format!("seckill-demo-{:08x}", Chance::System.number() >> 32))
}

fn check_ports(config: &Config, provider: SocketAddr) -> Result<(), CannotListen> {
    let binds =
        [("http.bind", config.http.bind), ("admin.bind", config.admin.bind), ("--provider-bind", provider)];
    for (key, address) in binds {
        let listener = std::net::TcpListener::bind(address);
        drop(listener.map_err(|source| CannotListen { address, key, source })?);
    }
    Ok(())
}

/// Puts the operator's key into the directory, unless it is there.
async fn let_operate(keys: &dyn Keys, key: &str) -> anyhow::Result<()> {
    let hash = api_key_hash(key);
    if keys.api_key(hash, Clock::System.now_ms()).await?.is_none() {
        let key = ApiKey { name: "demo".to_owned(), scopes: vec![OperatorRole::Admin.as_str().to_owned()] };
        keys.add_api_key(hash, &key, &Change::by_hand("key_create", "created")).await?;
    }
    Ok(())
}

/// Counts down to the opening, and says when the sale is open. This never completes.
async fn open_and_stay(sale: &str, opens: Instant) {
    progress::countdown(sale, opens, opens).await;
    output::talk(&format!("{sale} is open"));
    std::future::pending().await
}
