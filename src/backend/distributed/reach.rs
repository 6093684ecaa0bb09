//! Waits until the servers can be reached that a command cannot begin without, and says meanwhile what it waits for.
//!
//! The client libraries would wait as well, and then say no more than that a pool timed out.

use std::time::Duration;

use tokio::net::TcpStream;

use super::kafka_connection::{FIX, address_of};
use super::kafka_identity;
use super::settings::Settings;
use super::tls;
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

/// Longest time that one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time that a broker may take to let this program in and to answer: several round trips.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(250);
/// Time between two lines about the same server.
const TOLD_EVERY: Duration = Duration::from_secs(3);

/// A server, or several of which one is enough.
struct Server<'a> {
    part: String,
    /// How to log in, where that is tried as well.
    kafka: Option<&'a KafkaConfig>,
    addresses: Vec<String>,
    /// The key of the configuration that names them.
    setting: &'static str,
}

impl Server<'_> {
    /// Connects to one of the addresses.
    ///
    /// # Errors
    /// What the last attempt said.
    async fn reach(&self, clock: &Clock) -> Result<(), String> {
        let mut said = "it has no address".to_owned();
        for address in &self.addresses {
            let connecting = async {
                match self.kafka {
                    // A broker says at the first question whether it lets this program in.
                    Some(kafka) => drop(kafka_identity::ask(kafka, address).await?),
                    None => drop(TcpStream::connect(address.as_str()).await?),
                }
                anyhow::Ok(())
            };
            let most = if self.kafka.is_some() { ASK_TIMEOUT } else { CONNECT_TIMEOUT };
            match clock.timeout(most, connecting).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => said = format!("{error:#}"),
                Err(late) => said = late.to_string(),
            }
        }
        Err(said)
    }
}

/// Lists the first MySQL instances, as many as `instances` says, and Kafka when it is wanted.
fn servers(settings: &Settings, instances: usize, wants_kafka: bool) -> Vec<Server<'_>> {
    let instance = |(number, address): (usize, &String)| Server {
        part: format!("MySQL instance {number}"),
        kafka: None,
        addresses: vec![address.clone()],
        setting: "mysql.instances",
    };
    let mut servers: Vec<Server<'_>> =
        settings.mysql.instances.iter().enumerate().map(instance).take(instances).collect();
    if wants_kafka {
        let brokers = settings.kafka.brokers.split(',').map(address_of);
        let (part, setting) = ("Kafka".to_owned(), "kafka.brokers");
        servers.push(Server { part, kafka: Some(&settings.kafka), addresses: brokers.collect(), setting });
    }
    servers
}

/// Waits until the first `instances` MySQL instances, and Kafka if it is wanted, can be reached, at most `wait`. `tell`
/// is told every few seconds what is waited for, where, since when, and for how long still.
///
/// # Errors
/// When a server could not be reached in time. The text names it, its address and its setting.
pub async fn wait_for(
    settings: &Settings,
    (instances, wants_kafka): (usize, bool),
    wait: Duration,
    clock: &Clock,
    tell: &impl Fn(&str),
) -> StoreResult<()> {
    let began = clock.monotonic();
    for server in servers(settings, instances, wants_kafka) {
        let mut told_at = None;
        while let Err(said) = server.reach(clock).await {
            let Server { part, addresses, setting, .. } = &server;
            let at = addresses.join(", ");
            let now = clock.monotonic();
            let waited = now.since(began);
            if waited >= wait {
                let since = waited.as_secs();
                let (section, _) = setting.split_once('.').expect("a key has a section");
                let otherwise = match server.kafka {
                    Some(_) => FIX.to_owned(),
                    None => format!("is it running, and is {setting} right?"),
                };
                let fix = tls::fix(&said, section, otherwise);
                let detail =
                    format!("{part} at {at} ({setting}) cannot be reached since {since} s: {said}; {fix}");
                let (kind, effect) = (ErrorKind::Unavailable, Effect::NotApplied);
                return Err(StoreError { kind, effect, context: "wait for servers", source: detail.into() });
            }
            if told_at.is_none_or(|at| now.since(at) >= TOLD_EVERY) {
                let left = wait.saturating_sub(waited).as_secs();
                let since = waited.as_secs();
                tell(&format!(
                    "waiting for {part} at {at} ({setting}) since {since} s, {left} s left: {said}"
                ));
                told_at = Some(now);
            }
            clock.sleep(PAUSE).await;
        }
    }
    Ok(())
}
