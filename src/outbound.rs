//! Sends messages to addresses that operators gave, from inside the network.
//!
//! Whoever may give an address must not be able to reach what only this network can reach. So a name is resolved here,
//! and of its addresses only those are connected to that are public or that the configuration names. That happens when
//! a connection is made: a name that leads elsewhere tomorrow is checked tomorrow. No answer leads to another address.

mod networks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use crate::clock::Clock;
use crate::config::EventsConfig;
use crate::ports::{Message, Outbound};
use crate::trace;
use networks::is_public;

/// Most bytes that are read of an answer. It is read so that the connection can be used again.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Sends messages over HTTP.
pub struct HttpOutbound {
    http: Client,
    allowed: Arc<[IpNet]>,
    clock: Clock,
}

/// Resolves names, and leaves out the addresses to which nothing may be sent.
struct Guard {
    allowed: Arc<[IpNet]>,
}

fn may_reach(address: SocketAddr, allowed: &[IpNet]) -> bool {
    is_public(address.ip()) || allowed.iter().any(|network| network.contains(&address.ip()))
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.allowed.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let reached: Vec<SocketAddr> =
                found.into_iter().filter(|address| may_reach(*address, &allowed)).collect();
            if reached.is_empty() {
                return Err(NOT_ALLOWED.into());
            }
            let addresses: Addrs = Box::new(reached.into_iter());
            Ok(addresses)
        })
    }
}

const NOT_ALLOWED: &str = "its address is not public, and is in no network of events.webhook_networks";

impl HttpOutbound {
    /// Makes the sender. It calls nothing.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(config: &EventsConfig, clock: Clock) -> anyhow::Result<Self> {
        let allowed: Arc<[IpNet]> = config.webhook_networks.clone().into();
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(Duration::from_millis(config.webhook_timeout_ms))
            .user_agent(concat!("seckill/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Guard { allowed: allowed.clone() }))
            .build()?;
        Ok(Self { http, allowed, clock })
    }

    /// Reads an address that names a host over https, or over http where the configuration lists its network. An
    /// address of numbers is no name, and is never resolved, so it is checked here.
    fn url(&self, text: &str) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("is no address: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user or a password".to_owned());
        }
        let Some(host) = url.host_str().map(|host| host.trim_matches(['[', ']'])) else {
            return Err("names no host".to_owned());
        };
        let port = url.port_or_known_default().unwrap_or(443);
        let literal = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
        if literal.is_some_and(|address| !may_reach(address, &self.allowed)) {
            return Err(NOT_ALLOWED.to_owned());
        }
        let is_listed =
            |address: SocketAddr| self.allowed.iter().any(|network| network.contains(&address.ip()));
        match url.scheme() {
            "https" => Ok(url),
            "http" if literal.is_some_and(is_listed) => Ok(url),
            "http" => Err("must be https (http only to an address of events.webhook_networks)".to_owned()),
            scheme => Err(format!("is {scheme}, and must be https")),
        }
    }
}

#[async_trait]
impl Outbound for HttpOutbound {
    async fn send(&self, message: &Message<'_>) -> Result<(), String> {
        let request = self
            .http
            .post(self.url(message.url)?)
            .header("Content-Type", message.content_type)
            .header("Seckill-Event-Id", message.id)
            .header("Seckill-Signature", &message.signature)
            .body(message.body.clone());
        // Receivers are strangers, so they are told of no trace.
        let sent = async |_| request.send().await.map_err(|error| reason(&error));
        let mut answer = trace::ask(("receiver", &self.clock), sent).await?;
        let status = answer.status();
        let mut read = 0;
        while read < ANSWER_BYTES_MAX
            && let Ok(Some(piece)) = answer.chunk().await
        {
            read += piece.len();
        }
        if status.is_success() { Ok(()) } else { Err(format!("answered {status}")) }
    }

    fn check(&self, url: &str) -> Result<(), String> {
        self.url(url).map(drop)
    }
}

/// Says why a call failed, without the address, which may hold a secret of the receiver.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "did not answer in time".to_owned();
    }
    let mut source: &dyn std::error::Error = error;
    while let Some(deeper) = source.source() {
        source = deeper;
    }
    format!("cannot be reached: {source}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbound(networks: &[&str]) -> HttpOutbound {
        let webhook_networks = networks.iter().map(|text| text.parse().expect("a network")).collect();
        HttpOutbound::new(
            &EventsConfig {
                interval_ms: 250,
                views_interval_ms: 1000,
                webhook_networks,
                webhook_timeout_ms: 1000,
                webhook_pause_after_ms: 1000,
            },
            Clock::System,
        )
        .expect("a client")
    }

    /// Checks an address that is written without its `//`, as nothing in these files names a real host.
    fn check(outbound: &HttpOutbound, scheme: &str, rest: &str) -> Result<(), String> {
        outbound.check(&format!("{scheme}://{rest}"))
    }

    #[test]
    fn an_address_is_https_and_public_or_listed() {
        let strict = outbound(&[]);
        for good in ["shop.example/hook?x=1", "93.184.215.14:8443/", "[2606:2800::1]/"] {
            assert_eq!(check(&strict, "https", good), Ok(()), "{good}");
        }
        for (scheme, bad) in [
            ("http", "shop.example/"),
            ("https", "127.0.0.1/"),
            ("https", "10.1.2.3/"),
            ("https", "[::1]/"),
            ("ftp", "shop.example/"),
            ("https", "user:pass@shop.example/"),
            ("https", "user@shop.example/"),
            ("https", "169.254.169.254/latest"),
            ("https", "[::ffff:127.0.0.1]/"),
            ("https", "2130706433/"),
            ("https", "0x7f.1/"),
            ("https", "0/"),
        ] {
            assert!(check(&strict, scheme, bad).is_err(), "{scheme} {bad}");
        }
        for bad in ["shop.example", "", "https:"] {
            assert!(strict.check(bad).is_err(), "{bad}");
        }
        let listed = outbound(&["127.0.0.0/8", "10.1.0.0/16"]);
        assert_eq!(check(&listed, "http", "127.0.0.1:9999/hook"), Ok(()));
        assert_eq!(check(&listed, "https", "10.1.2.3/"), Ok(()));
        for bad in ["10.2.0.1/", "localhost/", "shop.example/"] {
            assert!(check(&listed, "http", bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_called() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let url = format!("https://localhost:{}/", listener.local_addr().expect("bound").port());
        let message = Message {
            url: &url,
            id: "x",
            content_type: "application/json",
            signature: String::new(),
            body: Vec::new(),
        };
        let refused = outbound(&[]).send(&message).await.expect_err("refused");
        assert!(refused.contains("webhook_networks"), "{refused}");
        assert!(listener.accept().is_err(), "nobody called");
    }
}
