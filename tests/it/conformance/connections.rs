//! Tests of connections: bodies that never come, clients that have gone, and a process that goes away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::batch_plan::LogBatch;
use seckill::domain::{Part, Sales};
use seckill::ports::{BatchOutcome, Effect, ErrorKind, OrderWrites, StoreError, StoreResult, TakenOver};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::call;
use crate::harness::{TestShop, config, eventually, migrated, open, place, token};

use super::doors::bearer;

in_both_modes!(
    a_body_that_never_comes_ends,
    a_change_is_under_way_when_its_body_is_there,
    chunks_that_never_end_end_on_every_route,
    a_waiter_who_has_gone_frees_the_place,
    a_process_that_goes_away_serves_until_balancers_know,
);

/// Announces a body, sends a part of it, and returns what is answered.
async fn half_a_body(address: SocketAddr, path: &str, bearer: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: t\r\nAuthorization: {bearer}\r\nIdempotency-Key: k1\r\n\
         Content-Type: application/json\r\nContent-Length: 34\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    ended.expect("within 20 s").expect("answered, and closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends a request whose body comes in chunks and never ends, and returns what is answered before the end.
async fn endless_chunks(address: SocketAddr, start: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let start = if start.contains("HTTP/1.1") { start.to_owned() } else { format!("{start} HTTP/1.1") };
    let head = format!("{start}\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    ended.expect("within 20 s").expect("answered, and closed");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn chunks_that_never_end_end_on_every_route(mode: Mode) {
    let flags = [("http.body_timeout_ms", "300"), ("http.cors_origins", "https://shop.example")];
    let shop = TestShop::start_with(mode, &flags).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let preflight = "OPTIONS /api/v1/sales HTTP/1.1\r\nOrigin: https://shop.example\r\nAccess-Control-Request-Method: POST";
    for (address, start) in [
        (shop.shopper, preflight.trim_end()),
        (shop.shopper, "POST /api/v1/sales/drop/orders"),
        (shop.shopper, "GET /api/v1/time"),
        (shop.shopper, "GET /nowhere"),
        (shop.shopper, "DELETE /api/v1/sales"),
        (shop.admin, "GET /readyz"),
        (shop.admin, "POST /api/v1/admin/sales"),
    ] {
        let answer = endless_chunks(address, start).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_too_slow"), "{start}: {answer}");
        // A page of a listed origin reads why.
        let is_read = answer.contains("access-control-allow-origin: https://shop.example");
        assert_eq!(is_read, start.contains("Origin:"), "{start}: {answer}");
    }
    // A whole body in chunks is a body.
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let (start, end) = body.split_at(9);
    let mut stream = TcpStream::connect(shop.shopper).await.expect("connected");
    let request = format!(
        "POST /api/v1/sales/drop/orders HTTP/1.1\r\nHost: t\r\nAuthorization: {}\r\nIdempotency-Key: k1\r\n\
         Connection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n",
        bearer(&token("alice")),
        start.len(),
        end.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 202"), "{answer:?}");
    shop.finish().await;
}

async fn a_body_that_never_comes_ends(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("http.body_timeout_ms", "300")]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let (shopper, operator) = (bearer(&token("alice")), bearer(crate::harness::API_KEY));
    for (address, path, bearer) in [
        (shop.shopper, "/api/v1/sales/drop/orders", &shopper),
        (shop.admin, "/api/v1/admin/sales", &operator),
        (shop.admin, "/api/v1/admin/sales/drop/pause", &operator),
    ] {
        let answer = half_a_body(address, path, bearer).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_too_slow"), "{path}: {answer}");
    }
    assert_eq!(shop.stock("drop").await["phone"]["available"], 1);
    shop.finish().await;
}

async fn a_change_is_under_way_when_its_body_is_there(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("http.body_timeout_ms", "60000")]).await;
    let head = format!(
        "POST /api/v1/admin/sales HTTP/1.1\r\nHost: t\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        bearer(crate::harness::API_KEY)
    );
    let mut slow = TcpStream::connect(shop.admin).await.expect("connected");
    slow.write_all(head.as_bytes()).await.expect("sent");
    // The listener of operators has one thread, so it has seen the one when it answers the other.
    assert_eq!(call(shop.admin, "GET", "/livez", &[], "").await.status, 200);
    // The process waits for changes that are under way, and not for who sends slowly.
    shop.finish().await;
}

/// Writes nothing while it stands still.
struct StillWrites {
    inner: Arc<dyn OrderWrites>,
    is_still: AtomicBool,
}

#[async_trait]
impl OrderWrites for StillWrites {
    async fn write(&self, batch: &LogBatch, sales: &Sales) -> StoreResult<BatchOutcome> {
        if self.is_still.load(Ordering::SeqCst) {
            let (kind, effect) = (ErrorKind::Unavailable, Effect::NotApplied);
            return Err(StoreError { kind, effect, context: "a test's fault", source: "injected".into() });
        }
        self.inner.write(batch, sales).await
    }

    async fn take_over(&self, part: Part) -> StoreResult<TakenOver> {
        self.inner.take_over(part).await
    }
}

async fn a_waiter_who_has_gone_frees_the_place(mode: Mode) {
    let config = config(mode, &[("admission.waiters_max", "1"), ("admission.wait_s_max", "60")]);
    migrated(&config).await;
    let mut backend = open(&config).await;
    let writes =
        Arc::new(StillWrites { inner: backend.order_writes.clone(), is_still: AtomicBool::new(true) });
    backend.order_writes = writes.clone();
    let shop = TestShop::start_on(config, backend, Role::All).await;
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    let order = shop.buy("alice", "drop", "phone", "k1").await.json();
    let order = format!("/api/v1/orders/{}", order["id"].as_str().expect("an id"));
    let waits = async || {
        let began = Instant::now();
        let answer = shop.get("alice", &format!("{order}?wait=1")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        began.elapsed() >= Duration::from_secs(1)
    };
    let head = format!(
        "GET {order}?wait=60 HTTP/1.1\r\nHost: t\r\nAuthorization: {}\r\n\r\n",
        bearer(&token("alice"))
    );
    // A long wait that comes while a short one has the place is answered at once, so each look brings one of its own.
    let mut streams = Vec::new();
    eventually("the only place is taken", async || {
        let mut stream = TcpStream::connect(shop.shopper).await.expect("connected");
        stream.write_all(head.as_bytes()).await.expect("sent");
        streams.push(stream);
        !waits().await
    })
    .await;
    drop(streams);
    eventually("the place is free again", waits).await;
    writes.is_still.store(false, Ordering::SeqCst);
    shop.finish().await;
}

async fn a_process_that_goes_away_serves_until_balancers_know(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    let kept = shop.get("alice", "/api/v1/time").await;
    assert_ne!(kept.header("Connection"), "close", "{kept:?}");
    shop.leave().await;
    let ready = call(shop.admin, "GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("draining")), "{ready:?}");
    for duty in ["buy", "read", "write"] {
        let able = call(shop.admin, "GET", &format!("/readyz?duty={duty}"), &[], "").await;
        assert_eq!(able.status, 503, "{duty}: {able:?}");
    }
    let bought =
        place(shop.shopper, "alice", "drop", ("k1", r#"{"sku_id":"phone","quantity":1}"#), &[]).await;
    assert_eq!((bought.status, bought.header("Connection")), (202, "close"), "{bought:?}");
    shop.finish().await;
}
