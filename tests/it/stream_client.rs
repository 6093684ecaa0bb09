//! A client of streams: it reads server-sent events as they come. It parses them by the standard, and not as our own
//! code writes them.

#![expect(clippy::disallowed_methods, reason = "a connection's task ends with its sender")]

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::HeaderMap;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::client::Answer;
use crate::harness::{PATIENCE, TestShop, token};

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub id: String,
    pub data: Value,
}

pub struct EventStream {
    pub headers: HeaderMap,
    body: Incoming,
    text: String,
    /// How many comments came.
    pub beats: usize,
    _sender: http1::SendRequest<Empty<Bytes>>,
}

impl EventStream {
    /// Opens a stream; the answer, when it is none.
    pub async fn open(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let stream = TcpStream::connect(address).await.expect("connected");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("connected");
        tokio::spawn(connection);
        let mut request = hyper::Request::get(format!("/api/v1/stream?{query}")).header("Host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = sender.send_request(request.body(Empty::new()).expect("a request"));
        let (head, body) =
            tokio::time::timeout(PATIENCE, sent).await.expect("an answer").expect("an answer").into_parts();
        if head.status != 200 {
            let bytes = body.collect().await.expect("a body").to_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return Err(Answer { status: head.status.as_u16(), headers: head.headers, text });
        }
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        assert_eq!((header("content-type"), header("cache-control")), ("text/event-stream", "no-store"));
        Ok(Self { headers: head.headers, body, text: String::new(), beats: 0, _sender: sender })
    }

    /// Reads the next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("an event in time")
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(event) = self.event(&block) {
                    return Some(event);
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(bytes) = frame.data_ref() {
                self.text.push_str(std::str::from_utf8(bytes).expect("text"));
            }
        }
    }

    /// Reads a block; `None` when it dispatches nothing.
    fn event(&mut self, block: &str) -> Option<Event> {
        let (mut name, mut id, mut data) = ("message".to_owned(), String::new(), Vec::new());
        for line in block.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => self.beats += 1,
                "event" => value.clone_into(&mut name),
                "id" => value.clone_into(&mut id),
                "data" => data.push(value),
                "retry" => assert!(value.parse::<u64>().is_ok(), "{line}"),
                other => panic!("{other} is no field"),
            }
        }
        if data.is_empty() {
            return None;
        }
        let data = serde_json::from_str(&data.join("\n")).expect("JSON");
        Some(Event { name, id, data })
    }

    /// Reads until a comment comes, and no event.
    pub async fn beat(&mut self) {
        let before = self.beats;
        while self.beats == before {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("in time");
            let frame = frame.expect("it is open").expect("it is open");
            self.text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let event = self.event(&block);
                assert!(event.is_none(), "{event:?}");
            }
        }
    }

    /// Reads until an order has a status. Answers its event.
    pub async fn order(&mut self, order: &str, status: &str) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("it ended before {order} was {status}"));
            if event.name == "order" && event.data["id"] == order && event.data["status"] == status {
                return event;
            }
        }
    }

    /// Reads until the last event, and answers why the stream has ended.
    pub async fn end(&mut self) -> String {
        let mut reason = None;
        while let Some(event) = self.next().await {
            if event.name == "bye" {
                assert!(event.data["retry_ms"].is_u64(), "{event:?}");
                reason = event.data["reason"].as_str().map(str::to_owned);
            }
        }
        reason.expect("it says why")
    }
}

/// Gets a ticket.
pub async fn ticket(shop: &TestShop, user: &str) -> String {
    ticket_at(shop.shopper, user).await
}

async fn ticket_at(shopper: SocketAddr, user: &str) -> String {
    let bearer = format!("Bearer {}", token(user));
    let headers = [("Authorization", bearer.as_str())];
    let given = crate::client::call(shopper, "POST", "/api/v1/stream-tickets", &headers, "").await;
    assert_eq!(given.status, 201, "{given:?}");
    given.json()["ticket"].as_str().expect("a ticket").to_owned()
}

/// Opens a stream of a buyer's own orders.
pub async fn own(shop: &TestShop, user: &str, more: &str) -> EventStream {
    own_at(shop.shopper, user, more).await
}

/// Opens a stream of a buyer at a process.
pub async fn own_at(shopper: SocketAddr, user: &str, more: &str) -> EventStream {
    let ticket = ticket_at(shopper, user).await;
    EventStream::open(shopper, &format!("ticket={ticket}{more}"), &[]).await.expect("a stream")
}
