//! A bounded pool of raw HTTP/1.1 connections, which are kept alive and come from many loopback addresses.
//!
//! There is no client library above hyper: its redirects, cookies and retries would cost more than the request, and
//! they would hide what the server did. The connection that was idle longest is reused first. So the source addresses
//! stay spread, and the server's limits per address see a crowd.

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::TaskTracker;

/// The most connections that are being opened at the same time before the start.
const WARMING_MAX: usize = 64;
/// How many idle connections a request tries before it opens a fresh one. The server may have closed them meanwhile.
const STALE_MAX: usize = 4;
/// A connection that never had a request is given up after this long; see [`IDLE_MAX`]. Servers wait the shortest for
/// the first request (`http.request_head_timeout_ms`).
const UNUSED_MAX: Duration = Duration::from_millis(2500);
/// A connection that is idle for this long is given up, well before a server closes it. When a server closes a
/// connection in the moment in which a request is sent, the tool would report an error that is none.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// The end of a connection at which requests are sent.
pub type Sender = SendRequest<Full<Bytes>>;

struct Idle {
    sender: Sender,
    until: Instant,
}

/// The address of the shop.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address to which connections are made.
    pub address: SocketAddr,
    /// The value of the header `Host`.
    pub host: HeaderValue,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Whether the answer says that it repeats an earlier one.
    pub replayed: bool,
    /// The whole body.
    pub body: Bytes,
}

/// The outcome of one request.
#[derive(Debug)]
pub struct Exchange {
    /// How long the request waited for a free connection.
    pub waited: Duration,
    /// The answer, or why there is none.
    pub result: Result<Reply, NoReply>,
}

/// The reason for which there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoReply {
    /// Nothing left this machine.
    NotSent(&'static str),
    /// The server may have acted.
    Unknown(&'static str),
}

impl Target {
    /// Reads `http://host:port`, and resolves the host. Anything but a loopback address needs `allow_remote`, because
    /// this tool floods its target.
    ///
    /// # Errors
    /// When the text is not such a URL, the name does not resolve, or the address is not allowed.
    pub async fn resolve(url: &str, allow_remote: bool) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else { bail!("{url} does not begin with http://") };
        let authority = rest.trim_end_matches('/');
        if authority.contains('/') {
            bail!("{url} must not have a path");
        }
        let with_port =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let mut addresses = tokio::net::lookup_host(&with_port)
            .await
            .with_context(|| format!("cannot resolve {with_port}"))?;
        let address = addresses.next().with_context(|| format!("{with_port} has no address"))?;
        if !address.ip().is_loopback() && !allow_remote {
            bail!("{address} is not a loopback address; flooding another machine needs --allow-remote");
        }
        Ok(Self { address, host: HeaderValue::from_str(authority)? })
    }
}

/// The pool of connections.
pub struct Client {
    target: Target,
    permits: Semaphore,
    idle: Mutex<VecDeque<Idle>>,
    connections: TaskTracker,
    /// Distinct source addresses; 0 lets the system choose.
    sources: u32,
    next_source: AtomicU32,
    timeout: Duration,
    /// Whether a connection is used again.
    keeps: bool,
}

impl Client {
    /// Makes an empty pool. `sources` counts only for a loopback address of IPv4.
    pub fn new(target: Target, connections_max: usize, sources: u32, timeout: Duration) -> Self {
        let is_v4_loopback = matches!(target.address.ip(), IpAddr::V4(ip) if ip.is_loopback());
        Self {
            target,
            permits: Semaphore::new(connections_max),
            idle: Mutex::default(),
            connections: TaskTracker::new(),
            sources: if is_v4_loopback { sources } else { 0 },
            next_source: AtomicU32::new(0),
            timeout,
            keeps: true,
        }
    }

    /// Makes a connection for every request, and opens none ahead of time.
    pub fn without_keeping(self) -> Self {
        Self { keeps: false, ..self }
    }

    /// Opens connections ahead of time, so that the first clicks do not pay for them.
    ///
    /// # Errors
    /// When a connection cannot be opened.
    pub async fn warm(&self, count: usize) -> anyhow::Result<()> {
        let count = if self.keeps { count.min(self.permits.available_permits()) } else { 0 };
        let mut opening =
            futures::stream::iter((0..count).map(|_| self.connect())).buffer_unordered(WARMING_MAX);
        while let Some(opened) = opening.next().await {
            let sender = opened.with_context(|| format!("cannot connect to {}", self.target.address))?;
            self.put_back(sender, UNUSED_MAX);
        }
        Ok(())
    }

    /// Sends one request, and reads the whole answer within the time-out. It never sends a request twice.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Exchange {
        let began = Instant::now();
        let mut waited = Duration::ZERO;
        let mut sent = false;
        let exchange = async {
            let permit = self.permits.acquire().await.map_err(|_| NoReply::NotSent("pool closed"))?;
            waited = began.elapsed();
            self.exchange(request, permit, &mut sent).await
        };
        let result = tokio::time::timeout(self.timeout, exchange).await;
        let result = result.unwrap_or_else(|_| {
            Err(if sent { NoReply::Unknown("timeout") } else { NoReply::NotSent("no_free_connection") })
        });
        Exchange { waited, result }
    }

    /// Sends a GET with an optional token.
    pub async fn get(&self, path: &str, authorization: Option<&HeaderValue>) -> Exchange {
        let mut request = Request::get(path).header(HOST, &self.target.host);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        match request.body(Full::default()) {
            Ok(request) => self.send(request).await,
            Err(_) => Exchange { waited: Duration::ZERO, result: Err(NoReply::NotSent("invalid path")) },
        }
    }

    /// Returns the value of the header `Host`.
    pub fn host(&self) -> &HeaderValue {
        &self.target.host
    }

    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        _permit: SemaphorePermit<'_>,
        sent: &mut bool,
    ) -> Result<Reply, NoReply> {
        for attempt in 0..=STALE_MAX {
            let idle = if attempt < STALE_MAX { self.idle() } else { None };
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.connect().await.map_err(|_| NoReply::NotSent("connect_failed"))?,
            };
            if sender.ready().await.is_err() {
                continue;
            }
            *sent = true;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body.collect().await.map_err(|_| NoReply::Unknown("answer_cut"))?;
                    self.put_back(sender, IDLE_MAX);
                    return Ok(Reply {
                        status: head.status.as_u16(),
                        replayed: head
                            .headers
                            .get("idempotent-replayed")
                            .is_some_and(|value| value == "true"),
                        body: body.to_bytes(),
                    });
                }
                Err(mut failure) => match failure.take_message() {
                    // The connection was closed before any byte of the request was written.
                    Some(unsent) => {
                        *sent = false;
                        request = unsent;
                    }
                    None => return Err(NoReply::Unknown("connection_lost")),
                },
            }
        }
        Err(NoReply::NotSent("connections_close"))
    }

    /// Takes the connection that was idle longest, of those that can still be trusted.
    fn idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().expect("no code panics while holding it");
        let now = Instant::now();
        let mut oldest_first = std::iter::from_fn(|| idle.pop_front());
        oldest_first.find(|idle| now < idle.until && !idle.sender.is_closed()).map(|idle| idle.sender)
    }

    fn put_back(&self, sender: Sender, trusted: Duration) {
        if self.keeps && !sender.is_closed() {
            let idle = Idle { sender, until: Instant::now() + trusted };
            self.idle.lock().expect("no code panics while holding it").push_back(idle);
        }
    }

    /// Opens a connection that is none of the pool, for an answer without an end.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect(&self) -> anyhow::Result<Sender> {
        let stream = match self.source() {
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(source.into(), 0))?;
                socket.connect(self.target.address).await?
            }
            None => TcpStream::connect(self.target.address).await?,
        };
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The exchange that needs the connection reports how it ended.
        self.connections.spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Returns the next source address: 127.1.x.y, in turn.
    fn source(&self) -> Option<Ipv4Addr> {
        let number = self.next_source.fetch_add(1, Ordering::Relaxed).checked_rem(self.sources)?;
        let third = u8::try_from(number / 250 % 250).expect("below 250");
        let fourth = u8::try_from(number % 250 + 1).expect("at most 250");
        Some(Ipv4Addr::new(127, 1, third, fourth))
    }
}
