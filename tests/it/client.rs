//! A plain HTTP client that shows a test everything an answer holds.

#![expect(clippy::disallowed_methods, reason = "a connection's task ends with its sender")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt, Full};
use hyper::HeaderMap;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::contract;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Returns the problem's code. It is empty for anything but a problem.
    pub fn code(&self) -> String {
        let json: Value = serde_json::from_str(&self.text).unwrap_or_default();
        json["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns status and code, for short assertions.
    pub fn problem(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Sends one request on a connection of its own. It fails the test when there is no answer within [`ANSWER_MAX`].
pub async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let answer = exchange(address, method, path, headers, body.into()).await;
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error:#}"))
}

/// Does what [`call`] does, but returns `None` when the connection fails or no answer comes in time.
pub async fn try_call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Option<Answer> {
    exchange(address, method, path, headers, body.into()).await.ok()
}

async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> anyhow::Result<Answer> {
    Line::open(address).await?.exchange(method, path, headers, body).await
}

/// A connection that is kept and takes one request after the other.
pub struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Line {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// When there is no answer within [`ANSWER_MAX`].
    pub async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = hyper::Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request = request.header("Host", "test");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let answered = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            anyhow::Ok((head, body.collect().await?.to_bytes()))
        };
        let (head, bytes) = tokio::time::timeout(ANSWER_MAX, answered).await.context("no answer")??;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, text };
        contract::hold(method, path, &answer);
        Ok(answer)
    }
}
