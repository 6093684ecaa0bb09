//! A small HTTP client of our own admin API.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::progress::Progress;
use crate::shutdown::Tasks;

/// A listener that is there lets connect at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server may wait for several components before it says what stands, for each up to `mysql.write_timeout_ms` (30 s
/// unless set). Who gives up before it answers learns nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);
/// After so long a person is told that an answer is awaited.
const SHOWN_AFTER: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Which admin listener is called, and as whom.
#[derive(Debug, clap::Args)]
pub struct Admin {
    /// Admin listener, host:port.
    #[arg(long, env = "SECKILL_ADMIN", default_value = "127.0.0.1:9090")]
    admin: String,
    /// API key (`seckill key create`); better set in the environment than typed.
    #[arg(long, env = "SECKILL_API_KEY", hide_env_values = true)]
    api_key: String,
}

impl Admin {
    /// Makes the client.
    pub fn client(self) -> AdminClient {
        AdminClient { address: self.admin, key: self.api_key }
    }
}

/// A client of one admin listener. Every call makes its own connection.
pub struct AdminClient {
    /// The listener's `host:port`.
    pub address: String,
    /// The API key.
    pub key: String,
}

impl AdminClient {
    /// Calls `/api/v1/admin{path}`, and returns the JSON of a success.
    ///
    /// # Errors
    /// When the listener does not answer in time, or with the words of its problem.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        self.awaited(self.exchange(method, path, body)).await?
    }

    /// Waits for an answer, and shows on a terminal for how long.
    async fn awaited<T>(&self, answer: impl Future<Output = T>) -> anyhow::Result<T> {
        let (mut answer, mut progress) = (std::pin::pin!(answer), Progress::default());
        let began = Instant::now();
        let mut wait = SHOWN_AFTER;
        while began.elapsed() < ANSWER_TIMEOUT {
            if let Ok(answer) = tokio::time::timeout(wait, &mut answer).await {
                return Ok(answer);
            }
            wait = Duration::from_secs(1);
            progress.show(&format!(
                "{} has not answered for {} s …",
                self.address,
                began.elapsed().as_secs()
            ));
        }
        let address = &self.address;
        anyhow::bail!(
            "{address} did not answer within {ANSWER_TIMEOUT:?}: what was wanted may be done or not, and the same command again finds out"
        )
    }

    async fn reach(&self) -> anyhow::Result<TcpStream> {
        let reached = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await;
        reached.map_err(anyhow::Error::from).and_then(|reached| Ok(reached?)).with_context(|| {
            format!("cannot reach the admin API at {}: is `seckill serve` running?", self.address)
        })
    }

    /// Reads all pages of a list as one answer. `path` has a query already.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn all(&self, path: &str, member: &str) -> anyhow::Result<Value> {
        self.at_most(path, member, usize::MAX).await
    }

    /// Reads pages of a list as one answer, until there are `most` entries. `path` has a query already.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn at_most(&self, path: &str, member: &str, most: usize) -> anyhow::Result<Value> {
        let (mut entries, mut cursor) = (Vec::new(), String::new());
        let mut progress = Progress::default();
        loop {
            let mut page = self.call("GET", &format!("{path}{cursor}"), None).await?;
            entries.extend(page[member].as_array_mut().into_iter().flat_map(std::mem::take));
            match page["next_cursor"].as_str() {
                Some(next) if entries.len() < most => {
                    progress.show(&format!("{} read …", entries.len()));
                    cursor = format!("&cursor={}", quoted(next));
                }
                _ => return Ok(serde_json::json!({ member: entries })),
            }
        }
    }

    /// Copies the answer of a GET to stdout as it comes, however long it is.
    ///
    /// # Errors
    /// When the listener does not answer with a success, or the answer breaks off.
    pub async fn copy(&self, path: &str) -> anyhow::Result<()> {
        let mut sender = self.connected().await?;
        let request = self.request("GET", path, None)?;
        let response = self.awaited(sender.send_request(request)).await??;
        let status = response.status();
        if !status.is_success() {
            let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = limited.collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            return Err(problem(status, &serde_json::from_slice(&bytes).unwrap_or(Value::Null)));
        }
        let mut body = response.into_body();
        let mut out = std::io::stdout();
        let (mut progress, mut bytes) = (Progress::default(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the answer broke off: go on after the last whole line (--after)")?;
            if let Some(piece) = frame.data_ref() {
                match out.write_all(piece) {
                    // The reader has what it wanted.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written?,
                }
                bytes += piece.len();
                if !out.is_terminal() {
                    progress.show(&format!("{} KiB …", bytes / 1024));
                }
            }
        }
        Ok(())
    }

    /// Connects. The connection ends with the sender.
    async fn connected(&self) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.reach().await?)).await?;
        let tasks = Tasks::on_current_runtime();
        tasks.spawn(async {
            // What went wrong is the error of the exchange.
            drop(connection.await);
        });
        Ok(sender)
    }

    fn request(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/admin{path}"))
            .header("Host", &self.address)
            .header("Authorization", format!("Bearer {}", self.key))
            .header("Content-Type", "application/json");
        Ok(request.body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))?)
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.reach().await?)).await?;
        let request = self.request(method, path, body)?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = limited.collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok((status, bytes))
        };
        let mut exchange = std::pin::pin!(exchange);
        let (status, bytes) = tokio::select! {
            answer = &mut exchange => answer?,
            // A server may answer and hang up at once, before it has read the body.
            ended = connection => match exchange.await {
                Ok(answer) => answer,
                Err(error) => {
                    ended?;
                    return Err(error.context("the connection ended without an answer"));
                }
            },
        };
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(answer);
        }
        Err(problem(status, &answer))
    }
}

/// Writes a problem for a person.
fn problem(status: StatusCode, answer: &Value) -> anyhow::Error {
    let text = |member: &str| answer[member].as_str().unwrap_or_default().to_owned();
    let mut words = format!("{status}: {}", text("title"));
    if answer["detail"].is_string() {
        words.push_str(&format!(" {}", text("detail")));
    }
    for member in ["open", "differences", "errors", "scope"] {
        if !answer[member].is_null() {
            words.push_str(&format!(" ({member}: {})", answer[member]));
        }
    }
    if answer["allowed"].is_array() {
        words.push_str(&format!(" (state {}, allowed: {})", answer["state"], answer["allowed"]));
    }
    anyhow!("{words}")
}

/// Writes the conditions that are wanted, each after an `&`.
pub fn conditions<const N: usize>(wanted: [(&str, Option<String>); N]) -> String {
    let given = wanted.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!("&{name}={}", quoted(&value))).collect()
}

/// Writes a text so that it can stand in a path or a query. Source: RFC 3986 §2.1.
pub fn quoted(text: &str) -> String {
    let quote = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(quote).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_awaited_for_longer_than_a_server_waits_for_its_components() {
        let config = crate::config::load_with(None, &[], &[]).expect("the defaults").config;
        assert!(ANSWER_TIMEOUT.as_millis() > 4 * u128::from(config.mysql.write_timeout_ms));
    }

    #[test]
    fn a_reason_stands_in_a_query_whatever_it_is() {
        assert_eq!(quoted("a b&c=d/愿"), "a%20b%26c%3Dd%2F%E6%84%BF");
    }
}
