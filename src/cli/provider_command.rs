//! `seckill provider` runs the simulated payment provider, for shops that sell for play money.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::output;
use crate::app::RunningSimulator;
use crate::clock::Clock;
use crate::config::Config;
use crate::provider::simulator::Faults;
use crate::shutdown::{Signals, Tasks};

const EXAMPLES: &str = "\
The simulator speaks the part of Stripe's API that a shop uses, and has a page on which a buyer pays or not. No money
moves. It takes payment.api_key, and signs its events with payment.webhook_secret, so that one configuration serves both
sides; the shop needs payment.provider = \"simulator\" and payment.provider_url = \"http://127.0.0.1:8090\".

Examples:
  seckill provider --webhook http://127.0.0.1:8080/api/v1/webhooks/payments
  seckill provider --books books.jsonl --lost-percent 10 --repeated-percent 20 --delay-ms 3000";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ProviderCommand {
    /// Where it listens.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8090")]
    bind: SocketAddr,
    /// Where it sends its events.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/api/v1/webhooks/payments")]
    webhook: String,
    /// A file that keeps its books; without one they are forgotten.
    #[arg(long, value_name = "FILE")]
    books: Option<PathBuf>,
    /// Events that are never sent, in per cent.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    lost_percent: u8,
    /// Events that are sent twice, in per cent.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    repeated_percent: u8,
    /// Events beside which a forged one is sent, in per cent.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    forged_percent: u8,
    /// Each event waits for a random time up to this, in ms, so that they come in another order.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    delay_ms: u64,
}

impl ProviderCommand {
    /// Runs until a signal comes.
    ///
    /// # Errors
    /// When a secret is missing, the address is taken, or the books cannot be used.
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let payment = &config.payment;
        let is_set = !payment.api_key.expose().is_empty() && !payment.webhook_secret.expose().is_empty();
        anyhow::ensure!(is_set, "payment.api_key and payment.webhook_secret have to be set, as for the shop");
        let signals = Signals::catch()?;
        let tasks = Tasks::on_current_runtime();
        let bind = (self.bind, "--bind");
        let simulator =
            RunningSimulator::start(bind, self.books.as_deref(), &payment.api_key, Clock::System, &tasks)?;
        let events = simulator.events(&self.webhook, &payment.webhook_secret)?;
        events.set_faults(Faults {
            lost_percent: self.lost_percent,
            repeated_percent: self.repeated_percent,
            forged_percent: self.forged_percent,
            delay_ms_max: self.delay_ms,
        });
        output::talk(&format!(
            "provider   http://{} (play money), events to {}",
            simulator.address, self.webhook
        ));
        tokio::select! {
            _ = signals.first() => {}
            () = events.run() => {}
        }
        simulator.stop().await;
        Ok(())
    }
}
