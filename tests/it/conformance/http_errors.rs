//! A bad call gets its documented answer, never a 5xx, and leaves all stores as they were.

mod addresses;
mod headers;
mod limits;
mod tokens;

use seckill::config::{Config, Mode};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Answer, call};
use crate::harness::{TestShop, eventually, stage, token};

in_both_modes!(a_bad_body_is_refused_and_changes_nothing,);

const ONE: &str = r#"{"sku_id":"phone","quantity":1}"#;
/// A body that is refused only after everything else was found good. A control call with it sells nothing.
const NONE: &str = r#"{"sku_id":"phone","quantity":0}"#;
const JSON: (&str, &str) = ("Content-Type", "application/json");
const KEY: (&str, &str) = ("Idempotency-Key", "k1");
const UNREADABLE: &str = "malformed_json|validation_failed";

/// Collects what is wrong with answers, so that one run shows every wrong row of a table.
#[derive(Default)]
pub struct Findings(Vec<String>);

impl Findings {
    /// Checks a problem's body against RFC 9457 and docs/api.md. Where the documents leave the code open, `codes` holds
    /// alternatives: `a|b`.
    pub fn check(&mut self, what: &str, answer: &Answer, (status, codes): (u16, &str)) {
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let code = body["code"].as_str().unwrap_or_default();
        let id = body["request_id"].as_str().unwrap_or_default();
        let again = status == 408 || status == 429 || status >= 500 || code == "sale_delayed";
        let content_type = answer.header("Content-Type");
        let rules = [
            ("status", answer.status == status && body["status"] == status),
            ("code", codes.split('|').any(|one| one == code)),
            ("type", body["type"] == format!("/problems/{code}")),
            ("title", body["title"].as_str().is_some_and(|title| !title.is_empty())),
            ("retryable", body["retryable"] == again),
            ("retry_after_ms", body["retry_after_ms"].is_u64() == again),
            ("Retry-After", answer.header("Retry-After").is_empty() != again),
            ("request_id", !id.is_empty() && answer.header("X-Request-Id") == id),
            ("content type", content_type == "application/problem+json"),
            ("cache", answer.header("Cache-Control") == "no-store"),
        ];
        let broken: Vec<&str> = rules.iter().filter(|rule| !rule.1).map(|rule| rule.0).collect();
        self.rule(what, broken.is_empty(), &format!("wrong {broken:?}, not {status} {codes}: {answer:?}"));
    }

    pub fn rule(&mut self, what: &str, holds: bool, why: &str) {
        if !holds {
            self.0.push(format!("{what}: {}", why.chars().take(600).collect::<String>()));
        }
    }

    pub fn done(self) {
        assert!(self.0.is_empty(), "{} findings:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Everything that a purchase could change, by place.
#[derive(Debug, PartialEq, Eq)]
struct Stores(BTreeMap<String, String>);

impl Stores {
    async fn of(config: &Config) -> Self {
        Self(stage(config).contents().await)
    }

    /// Waits until the order writers have nothing left to do, and reads the state.
    async fn at_rest(config: &Config) -> Self {
        let mut last = Self::of(config).await;
        let mut same = 0;
        eventually("the stores are at rest", async || {
            let now = Self::of(config).await;
            same = if now == last { same + 1 } else { 0 };
            last = now;
            same >= 3
        })
        .await;
        last
    }
}

/// Starts a shop with a sale `drop` in which alice holds one decided order. Returns the shop, the order's id and the
/// state of all stores.
async fn market(mode: Mode) -> (TestShop, String, Stores) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    let id = shop.buy("alice", "drop", "phone", "first").await.json()["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    shop.decided("alice", &id).await;
    let stores = Stores::at_rest(&shop.config).await;
    (shop, id, stores)
}

async fn finish_unchanged(shop: TestShop, before: &Stores, findings: Findings) {
    findings.done();
    let after = Stores::of(&shop.config).await;
    let places: BTreeSet<&String> = before.0.keys().chain(after.0.keys()).collect();
    for place in places {
        assert_eq!(after.0.get(place), before.0.get(place), "{place} was changed");
    }
    shop.finish().await;
}

async fn purchase(shop: &TestShop, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    call(shop.shopper, "POST", "/api/v1/sales/drop/orders", headers, body).await
}

/// Sends bytes, and returns everything that the server sends until it closes.
async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The server may refuse and close the connection before all is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "kept open: {:?}", String::from_utf8_lossy(&request[..request.len().min(80)]));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Lists `(what, body, code)` of bodies that are answered 400.
fn bad_bodies() -> Vec<(String, Vec<u8>, &'static str)> {
    let mut bodies = Vec::new();
    for quantity in [
        "0",
        "-1",
        "1.5",
        "1e9",
        "1000000000",
        "100",
        "18446744073709551617",
        "-0",
        "\"1\"",
        "null",
        "true",
        "[1]",
        "{}",
        "\"\"",
    ] {
        let body = format!(r#"{{"sku_id":"phone","quantity":{quantity}}}"#);
        bodies.push((format!("quantity {quantity}"), body.into_bytes(), "validation_failed"));
    }
    for sku in ["\"\"", "\"PHONE\"", "\"a b\"", "\"\\u0000\"", "7", "null", "[\"phone\"]"] {
        let body = format!(r#"{{"sku_id":{sku},"quantity":1}}"#);
        bodies.push((format!("sku {sku}"), body.into_bytes(), "validation_failed"));
    }
    let deep = format!(r#"{{"sku_id":"phone","quantity":{}{}}}"#, "[".repeat(400), "]".repeat(400));
    let unknown_deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(400), "]".repeat(400));
    let long = format!(r#"{{"sku_id":"{}","quantity":1}}"#, "a".repeat(33));
    let open = "[".repeat(1000);
    let texts = [
        ("no quantity", r#"{"sku_id":"phone"}"#, "validation_failed"),
        ("no sku", r#"{"quantity":1}"#, "validation_failed"),
        ("unknown field", r#"{"sku_id":"phone","quantity":1,"price":1}"#, "validation_failed"),
        ("user in the body", r#"{"sku_id":"phone","quantity":1,"user_id":"bob"}"#, "validation_failed"),
        ("duplicate key", r#"{"sku_id":"phone","quantity":1,"quantity":1}"#, UNREADABLE),
        ("duplicate sku", r#"{"sku_id":"phone","sku_id":"phone","quantity":1}"#, UNREADABLE),
        ("sku too long", &long, "validation_failed"),
        ("empty", "", "malformed_json"),
        ("blank", "  \n", "malformed_json"),
        ("truncated", r#"{"sku_id":"phone","quantity":1"#, "malformed_json"),
        ("trailing garbage", r#"{"sku_id":"phone","quantity":1} x"#, "malformed_json"),
        ("two documents", r#"{"sku_id":"phone","quantity":1}{}"#, "malformed_json"),
        ("trailing comma", r#"{"sku_id":"phone","quantity":1,}"#, "malformed_json"),
        ("not a number", r#"{"sku_id":"phone","quantity":NaN}"#, "malformed_json"),
        ("infinite", r#"{"sku_id":"phone","quantity":1e400}"#, UNREADABLE),
        ("a form", "sku_id=phone&quantity=1", "malformed_json"),
        ("byte order mark", "\u{feff}{\"sku_id\":\"phone\",\"quantity\":1}", "malformed_json"),
        ("array", r#"["phone",1]"#, UNREADABLE),
        ("null", "null", UNREADABLE),
        ("text", "\"phone\"", UNREADABLE),
        ("deep nesting", &deep, UNREADABLE),
        ("deep unknown field", &unknown_deep, UNREADABLE),
        ("open brackets", &open, UNREADABLE),
    ];
    bodies.extend(texts.map(|(what, text, code)| (what.to_owned(), text.as_bytes().to_vec(), code)));
    let bad_utf8 = b"{\"sku_id\":\"ph\xff\xfe\",\"quantity\":1}".to_vec();
    bodies.push(("bad UTF-8".to_owned(), bad_utf8, UNREADABLE));
    bodies.push(("UTF-16".to_owned(), ONE.encode_utf16().flat_map(u16::to_le_bytes).collect(), UNREADABLE));
    bodies
}

async fn a_bad_body_is_refused_and_changes_nothing(mode: Mode) {
    let (shop, _, before) = market(mode).await;
    let mut findings = Findings::default();
    let bearer = format!("Bearer {}", token("alice"));
    let auth = ("Authorization", bearer.as_str());
    for (what, body, code) in bad_bodies() {
        let answer = purchase(&shop, &[auth, KEY, JSON], body).await;
        findings.check(&what, &answer, (400, code));
        for field in ["quantity", "sku"].into_iter().filter(|field| what.starts_with(&format!("{field} "))) {
            let pointer = answer.json()["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned();
            findings.rule(&what, pointer.starts_with(&format!("/{field}")), &format!("pointer {pointer:?}"));
        }
    }
    let padded = |length: usize, body: &str| format!("{body}{}", " ".repeat(length - body.len()));
    for (length, want) in [
        (1024, (400, "validation_failed")),
        (1025, (413, "body_too_large")),
        (1_000_000, (413, "body_too_large")),
    ] {
        let what = format!("{length} bytes");
        findings.check(&what, &purchase(&shop, &[auth, KEY, JSON], padded(length, NONE)).await, want);
    }
    let head = format!(
        "POST /api/v1/sales/drop/orders HTTP/1.1\r\nHost: t\r\nAuthorization: {bearer}\r\n\
        Idempotency-Key: k1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    );
    let one_chunk = format!("7d0\r\n{}\r\n", padded(2000, ONE));
    let many_chunks =
        format!("64\r\n{}\r\n", padded(100, ONE)) + &format!("64\r\n{}\r\n", " ".repeat(100)).repeat(10);
    for (what, chunks) in [("one chunk", one_chunk), ("many chunks", many_chunks)] {
        let request = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
        let answer = raw(shop.shopper, request.as_bytes()).await;
        findings.rule(&format!("too large in {what}"), answer.starts_with("HTTP/1.1 413"), &answer);
    }
    let announced = format!("{head}Content-Length: 5000\r\n\r\n");
    let answer = raw(shop.shopper, announced.as_bytes()).await;
    findings.rule("announced and not sent", answer.starts_with("HTTP/1.1 413"), &answer);
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonx",
        "",
        "x",
    ] {
        let answer = purchase(&shop, &[auth, KEY, ("Content-Type", kind)], ONE).await;
        findings.check(&format!("type {kind:?}"), &answer, (415, "unsupported_media_type"));
    }
    findings.check("no type", &purchase(&shop, &[auth, KEY], ONE).await, (415, "unsupported_media_type"));
    let utf8 = ("Content-Type", "application/json; charset=utf-8");
    findings.check("charset", &purchase(&shop, &[auth, KEY, utf8], NONE).await, (400, "validation_failed"));
    finish_unchanged(shop, &before, findings).await;
}
