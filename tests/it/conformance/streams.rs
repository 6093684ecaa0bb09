//! Streams: clients are told of a sale, its stock and their own orders as things happen.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::{SinkExt as _, StreamExt as _};
use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::order_life::OrderEvent;
use seckill::domain::{Instance, Mover, Order, OrderId, OrderRecord};
use seckill::ports::{Ending, Grace, Moved, OrderChanges, Overdue, StoreResult};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::call;
use crate::harness::{API_KEY, TestShop, config, eventually, migrated, open, sale_body, token};
use crate::stream_client::{EventStream, own, ticket};

in_both_modes!(
    a_stream_tells_of_the_sale_its_stock_and_ones_own_orders,
    a_stream_goes_on_where_it_broke_off,
    a_ticket_serves_once_and_only_its_buyer,
    what_cannot_be_heard_of_is_refused,
    a_buyer_and_an_address_have_a_bounded_number_of_streams,
    a_quiet_stream_is_kept_and_has_heartbeats,
    a_client_that_has_vanished_without_a_word_is_let_go,
    what_a_client_began_who_has_gone_is_done_and_told,
    a_process_that_goes_away_says_bye,
    streams_can_be_switched_off,
    who_may_see_a_sale_again_is_told_how_it_stands,
    a_web_socket_tells_the_same,
    a_web_socket_is_for_known_pages_and_short_messages,
);

const PHONE: &[(&str, u32)] = &[("phone", 2)];

async fn operate(shop: &TestShop, method: &str, path: &str, body: Value) -> Value {
    let answer = shop.operate(method, path, body).await;
    assert!(answer.status < 300, "{method} {path}: {answer:?}");
    answer.json()
}

async fn cancel(shop: &TestShop, user: &str, order: &str) {
    let bearer = format!("Bearer {}", token(user));
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "cancel")];
    let path = format!("/api/v1/orders/{order}/cancel");
    let done = call(shop.shopper, "POST", &path, &headers, "").await;
    assert_eq!(done.status, 200, "{done:?}");
}

async fn bought(shop: &TestShop, user: &str, key: &str) -> String {
    let bought = shop.buy(user, "drop", "phone", key).await;
    assert!(matches!(bought.status, 201 | 202), "{bought:?}");
    bought.json()["id"].as_str().expect("an id").to_owned()
}

async fn a_stream_tells_of_the_sale_its_stock_and_ones_own_orders(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, PHONE).await;
    let mut stream = own(&shop, "ada", "&sale=drop").await;
    assert_eq!(stream.headers["x-accel-buffering"], "no", "no proxy holds events back");
    let sale = stream.next().await.expect("the sale");
    assert_eq!((sale.name.as_str(), &sale.data["status"]), ("sale", &json!("live")));
    let read = shop.get("ada", "/api/v1/sales/drop").await.json();
    assert_eq!(sale.data, read, "an event has what a read answers");
    let stock = stream.next().await.expect("its stock");
    let bands = json!({ "sale_id": "drop", "items": [{ "sku_id": "phone", "stock": "plenty" }] });
    assert_eq!((stock.name.as_str(), &stock.data), ("stock", &bands));

    let order = bought(&shop, "ada", "k").await;
    let event = stream.order(&order, "awaiting_payment").await;
    let read = shop.decided("ada", &order).await;
    for member in ["id", "sale_id", "sku_id", "quantity", "price", "accepted_at", "final", "links"] {
        assert_eq!(event.data[member], read[member], "{member}");
    }
    cancel(&shop, "ada", &order).await;
    assert_eq!(stream.order(&order, "cancelled").await.data["final"], true);

    // The second buyer takes one of two units, and nobody else hears of the order.
    bought(&shop, "bob", "k").await;
    let paused = operate(&shop, "POST", "/sales/drop/pause", json!({ "reason": "x" })).await;
    assert_eq!(paused["state"], "paused");
    loop {
        let event = stream.next().await.expect("it is open");
        assert_ne!(event.name, "order", "{event:?}");
        if event.name == "sale" && event.data["status"] == "paused" {
            break;
        }
    }
    drop(stream);
    shop.finish().await;
}

async fn a_stream_goes_on_where_it_broke_off(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, PHONE).await;
    let mut stream = own(&shop, "ada", "&sale=drop").await;
    let first = bought(&shop, "ada", "k1").await;
    stream.order(&first, "awaiting_payment").await;
    let second = bought(&shop, "ada", "k2").await;
    let seen = stream.order(&second, "awaiting_payment").await.id;
    drop(stream);
    cancel(&shop, "ada", &first).await;
    // What has changed meanwhile is told, and how everything else stands.
    let mut stream = own(&shop, "ada", &format!("&sale=drop&last_event_id={seen}")).await;
    let seen = stream.order(&first, "cancelled").await;
    let again = stream.order(&second, "awaiting_payment").await.id;
    assert_ne!(seen.id, again);
    eventually("the stock is told", async || stream.next().await.is_some_and(|it| it.name == "stock")).await;
    drop(stream);
    // Whoever has seen all of it is told nothing, by the header, too.
    let mut last = again;
    let quiet = async |last: &str| {
        let ticket = ticket(&shop, "ada").await;
        let headers = [("Last-Event-ID", last)];
        EventStream::open(shop.shopper, &format!("ticket={ticket}"), &headers).await.expect("a stream")
    };
    let mut stream = quiet(&last).await;
    cancel(&shop, "ada", &second).await;
    let next = stream.next().await.expect("an event");
    assert_eq!((&next.data["id"], &next.data["status"]), (&json!(second), &json!("cancelled")));
    last = next.id;
    drop(stream);
    let mut stream = quiet(&last).await;
    shop.leave().await;
    assert_eq!(stream.next().await.expect("an event").name, "bye", "nothing else was to be told");
    shop.finish().await;
}

async fn a_ticket_serves_once_and_only_its_buyer(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, PHONE).await;
    let given = ticket(&shop, "ada").await;
    let query = format!("ticket={given}");
    let mut adas = EventStream::open(shop.shopper, &query, &[]).await.expect("a stream");
    let refused = EventStream::open(shop.shopper, &query, &[]).await.err().expect("it was taken");
    assert_eq!(refused.problem(), (401, "unauthenticated".to_owned()));
    let mut bobs = own(&shop, "bob", "").await;
    let order = bought(&shop, "bob", "k").await;
    bobs.order(&order, "awaiting_payment").await;
    let own_order = bought(&shop, "ada", "k").await;
    let first = adas.next().await.expect("an event");
    assert_eq!(first.data["id"], json!(own_order), "{first:?}");
    for other in ["x", &"a".repeat(43), &"a".repeat(3000)] {
        let refused = EventStream::open(shop.shopper, &format!("ticket={other}"), &[]).await.err();
        assert_eq!(refused.expect("it is none").problem(), (401, "unauthenticated".to_owned()));
    }
    let nobody = call(shop.shopper, "POST", "/api/v1/stream-tickets", &[], "").await;
    assert_eq!(nobody.problem(), (401, "unauthenticated".to_owned()));
    drop((adas, bobs));
    shop.finish().await;
}

async fn what_cannot_be_heard_of_is_refused(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, PHONE).await;
    operate(&shop, "POST", "/sales", sale_body("draft", 1, PHONE)).await;
    let refused = async |query: &str| {
        EventStream::open(shop.shopper, query, &[]).await.err().expect("refused").problem()
    };
    assert_eq!(refused("").await, (400, "validation_failed".to_owned()));
    assert_eq!(refused("sale=drop&other=1").await, (400, "validation_failed".to_owned()));
    for unknown in ["sale=none", "sale=draft", "sale=DROP", "sale="] {
        assert_eq!(refused(unknown).await, (404, "sale_not_found".to_owned()), "{unknown}");
    }
    // Who asks for the head alone has it, and the connection is free.
    let mut line = crate::client::Line::open(shop.shopper).await.expect("a connection");
    for path in ["/api/v1/stream?sale=drop", "/api/v1/time"] {
        let head = line.exchange("HEAD", path, &[], hyper::body::Bytes::new()).await.expect("an answer");
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
    }
    let head = line.exchange("HEAD", "/api/v1/stream?sale=none", &[], hyper::body::Bytes::new()).await;
    assert_eq!(head.expect("an answer").status, 404, "it says what a GET would");
    // So is every other answer of which nobody knows the length.
    let key = format!("Bearer {API_KEY}");
    let mut line = crate::client::Line::open(shop.admin).await.expect("a connection");
    for path in ["/api/v1/admin/exports/orders?sale=drop", "/livez"] {
        let headers = [("Authorization", key.as_str())];
        let head = line.exchange("HEAD", path, &headers, hyper::body::Bytes::new()).await.expect("an answer");
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
    }
    // A made-up id of an event is one that was never seen.
    let mut stream =
        EventStream::open(shop.shopper, "sale=drop&last_event_id=zzz", &[]).await.expect("a stream");
    assert_eq!(stream.next().await.expect("an event").name, "sale");
    drop(stream);
    let hidden =
        json!({ "kind": "grey", "value": { "gives": { "sale": "drop" }, "users": ["ada"] }, "reason": "x" });
    operate(&shop, "PUT", "/rules/early", hidden).await;
    assert_eq!(refused("sale=drop").await, (404, "sale_not_found".to_owned()));
    let mut adas = own(&shop, "ada", "&sale=drop").await;
    assert_eq!(adas.next().await.expect("an event").name, "sale");
    drop(adas);
    shop.finish().await;
}

async fn a_buyer_and_an_address_have_a_bounded_number_of_streams(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("push.user_max", "2"), ("push.address_max", "3")]).await;
    shop.open_sale("drop", 1, PHONE).await;
    let mut first = own(&shop, "ada", "").await;
    let second = own(&shop, "ada", "").await;
    let third = own(&shop, "ada", "").await;
    assert_eq!(first.end().await, "evicted");
    let public = EventStream::open(shop.shopper, "sale=drop", &[]).await.expect("a stream");
    let refused = EventStream::open(shop.shopper, "sale=drop", &[]).await.err().expect("too many");
    assert_eq!(refused.problem(), (429, "too_many_streams".to_owned()));
    assert!(refused.headers.contains_key("retry-after"));
    drop((second, third, public));
    eventually("places are free", async || EventStream::open(shop.shopper, "sale=drop", &[]).await.is_ok())
        .await;
    shop.finish().await;
}

async fn a_quiet_stream_is_kept_and_has_heartbeats(mode: Mode) {
    // A connection without a request in hand would be cut after two seconds and a half.
    let quick = [
        ("http.keep_alive_ms", "1500"),
        ("http.request_head_timeout_ms", "1000"),
        ("push.heartbeat_ms", "1000"),
    ];
    let shop = TestShop::start_with(mode, &quick).await;
    shop.open_sale("drop", 1, PHONE).await;
    let mut stream = own(&shop, "ada", "").await;
    for _ in 0..4 {
        stream.beat().await;
    }
    let order = bought(&shop, "ada", "k").await;
    stream.order(&order, "awaiting_payment").await;
    drop(stream);
    shop.finish().await;
}

/// Opens a stream, and is gone at the next line of input: the server's end is told nothing. Without the right to do
/// that, which root has, the connection is reset.
const VANISHING: &str = r#"
import socket, struct, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(b"GET /api/v1/stream?sale=drop HTTP/1.1\r\nHost: test\r\n\r\n")
assert b" 200 " in client.recv(65536)
print("open", flush=True)
sys.stdin.readline()
try:
    client.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
except PermissionError:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.close()
"#;

async fn a_client_that_has_vanished_without_a_word_is_let_go(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("push.streams_max", "1"), ("push.heartbeat_ms", "1000")]).await;
    shop.open_sale("drop", 1, PHONE).await;
    let port = shop.shopper.port().to_string();
    let mut client = Command::new("python3")
        .args(["-c", VANISHING, &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is there");
    let mut said = String::new();
    let mut out = BufReader::new(client.stdout.take().expect("piped"));
    out.read_line(&mut said).expect("text");
    assert_eq!(said, "open\n");
    let open = async || EventStream::open(shop.shopper, "sale=drop", &[]).await;
    assert_eq!(open().await.err().expect("no place").problem(), (503, "overloaded".to_owned()));
    client.stdin.take().expect("piped").write_all(b"\n").expect("told");
    assert!(client.wait().expect("a child").success());
    eventually("its place is free", async || open().await.is_ok()).await;
    shop.finish().await;
}

/// Changes of orders that wait at a gate before they are made.
struct Gated {
    of: Arc<dyn OrderChanges>,
    gate: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

#[async_trait]
impl OrderChanges for Gated {
    fn instances(&self) -> Vec<Instance> {
        self.of.instances()
    }

    async fn change(&self, order: OrderId, event: OrderEvent, mover: &Mover<'_>) -> StoreResult<Moved> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _passing = self.gate.acquire().await.expect("a gate");
        self.of.change(order, event, mover).await
    }

    async fn end_unwritten(
        &self,
        record: &OrderRecord,
        ending: Ending,
        mover: &Mover<'_>,
    ) -> StoreResult<Moved> {
        self.of.end_unwritten(record, ending, mover).await
    }

    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        self.of.overdue(orders, limit).await
    }

    async fn expire(&self, at: Instance, orders: &[OrderId], grace: Grace) -> StoreResult<Vec<Order>> {
        self.of.expire(at, orders, grace).await
    }
}

async fn what_a_client_began_who_has_gone_is_done_and_told(mode: Mode) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let mut backend = open(&config).await;
    let (gate, waiting) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
    let of = backend.order_changes.clone();
    backend.order_changes = Arc::new(Gated { of, gate: gate.clone(), waiting: waiting.clone() });
    let shop = TestShop::start_on(config, backend, Role::All).await;
    shop.open_sale("drop", 1, PHONE).await;
    let order = shop.unpaid("ada", "k").await;
    let mut stream = own(&shop, "ada", "").await;
    stream.order(&order, "awaiting_payment").await;
    let shut = gate.acquire().await.expect("a gate");
    let mut client = TcpStream::connect(shop.shopper).await.expect("connected");
    let head = format!(
        "POST /api/v1/orders/{order}/cancel HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\n\
         Idempotency-Key: gone\r\nContent-Length: 0\r\n\r\n",
        token("ada")
    );
    client.write_all(head.as_bytes()).await.expect("sent");
    eventually("it is being cancelled", async || waiting.load(Ordering::Relaxed) == 1).await;
    drop(client);
    // Nothing tells when the server has heard of it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(shut);
    stream.order(&order, "cancelled").await;
    drop(stream);
    shop.finish().await;
}

async fn a_process_that_goes_away_says_bye(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, PHONE).await;
    let mut own = own(&shop, "ada", "").await;
    let mut public = EventStream::open(shop.shopper, "sale=drop", &[]).await.expect("a stream");
    let node = operate(&shop, "GET", "/nodes", Value::Null).await["nodes"][0]["id"].clone();
    let path = format!("/nodes/{}", node.as_str().expect("an id"));
    operate(&shop, "POST", &format!("{path}/drain"), json!({ "reason": "x" })).await;
    assert_eq!((own.end().await, public.end().await), ("drain".to_owned(), "drain".to_owned()));
    let refused = EventStream::open(shop.shopper, "sale=drop", &[]).await.err().expect("it goes away");
    assert_eq!(refused.problem(), (503, "draining".to_owned()));
    operate(&shop, "POST", &format!("{path}/resume"), json!({ "reason": "x" })).await;
    let mut stream = None;
    eventually("it is back", async || {
        stream = EventStream::open(shop.shopper, "sale=drop", &[]).await.ok();
        stream.is_some()
    })
    .await;
    // A process that stops waits for nobody who listens.
    let mut stream = stream.expect("a stream");
    let (reason, ()) = tokio::join!(stream.end(), shop.finish());
    assert_eq!(reason, "drain");
}

async fn streams_can_be_switched_off(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, PHONE).await;
    let mut stream = EventStream::open(shop.shopper, "sale=drop", &[]).await.expect("a stream");
    operate(&shop, "PUT", "/switches/no_streams", json!({ "is_on": true, "reason": "x" })).await;
    assert_eq!(stream.end().await, "switched_off");
    let refused = EventStream::open(shop.shopper, "sale=drop", &[]).await.err().expect("off");
    assert_eq!(refused.problem(), (503, "switched_off".to_owned()));
    operate(&shop, "PUT", "/switches/no_streams", json!({ "is_on": false, "reason": "x" })).await;
    eventually("it is on", async || EventStream::open(shop.shopper, "sale=drop", &[]).await.is_ok()).await;
    shop.finish().await;
}

fn address(shop: &TestShop, query: &str) -> String {
    format!("ws://{}/api/v1/ws?{query}", shop.shopper)
}

async fn who_may_see_a_sale_again_is_told_how_it_stands(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, PHONE).await;
    let mut anybodys = EventStream::open(shop.shopper, "sale=drop", &[]).await.expect("a stream");
    let mut friends = own(&shop, "friend", "&sale=drop").await;
    for stream in [&mut anybodys, &mut friends] {
        assert_eq!(stream.next().await.expect("an event").data["status"], "live");
        assert_eq!(stream.next().await.expect("an event").name, "stock");
    }
    let gives = json!({ "gives": { "sale": "drop" }, "percent": 0, "users": ["friend"] });
    operate(&shop, "PUT", "/rules/friends", json!({ "kind": "grey", "value": gives, "reason": "x" })).await;
    operate(&shop, "POST", "/sales/drop/pause", json!({ "reason": "x" })).await;
    // Once a friend is told, all who may see it were.
    let told = friends.next().await.expect("an event");
    assert_eq!((told.name.as_str(), &told.data["status"]), ("sale", &json!("paused")), "{told:?}");
    operate(&shop, "DELETE", "/rules/friends?reason=x", Value::Null).await;
    let told = anybodys.next().await.expect("an event");
    assert_eq!((told.name.as_str(), &told.data["status"]), ("sale", &json!("paused")), "{told:?}");
    drop((anybodys, friends));
    shop.finish().await;
}

async fn a_web_socket_tells_the_same(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("push.heartbeat_ms", "1000")]).await;
    shop.open_sale("drop", 1, PHONE).await;
    let given = ticket(&shop, "ada").await;
    let (mut socket, _) =
        connect_async(address(&shop, &format!("sale=drop&ticket={given}"))).await.expect("a socket");
    let mut stream = own(&shop, "ada", "&sale=drop").await;
    let order = bought(&shop, "ada", "k").await;
    stream.order(&order, "awaiting_payment").await;
    cancel(&shop, "ada", &order).await;
    stream.order(&order, "cancelled").await;
    socket.send(Message::Ping(vec![7].into())).await.expect("sent");
    let (mut told, mut pings, mut ponged) = (Vec::new(), 0, false);
    while pings < 3 || !ponged || told.iter().filter(|event: &&Value| event["event"] == "order").count() < 2 {
        match socket.next().await.expect("it is open").expect("it is open") {
            Message::Text(text) => told.push(serde_json::from_str::<Value>(&text).expect("JSON")),
            Message::Ping(_) => pings += 1,
            Message::Pong(bytes) => ponged = bytes.as_ref() == [7],
            other => panic!("{other:?}"),
        }
    }
    let names: Vec<&str> = told.iter().filter_map(|event| event["event"].as_str()).collect();
    assert!(names.contains(&"sale") && names.contains(&"stock"), "{names:?}");
    let orders: Vec<&Value> = told.iter().filter(|event| event["event"] == "order").collect();
    assert_eq!(orders[0]["data"]["status"], "awaiting_payment");
    assert_eq!(
        (&orders[1]["data"]["status"], &orders[1]["data"]["id"]),
        (&json!("cancelled"), &json!(order))
    );
    assert!(orders[1]["id"].as_str().is_some_and(|id| id.len() == 50), "{orders:?}");
    shop.leave().await;
    let mut last = None;
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) => last = serde_json::from_str::<Value>(&text).ok(),
            Message::Close(Some(frame)) => {
                assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "drain"))
            }
            _ => {}
        }
    }
    assert_eq!(last.expect("a message")["data"]["reason"], "drain");
    drop(stream);
    shop.finish().await;
}

async fn a_web_socket_is_for_known_pages_and_short_messages(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("http.cors_origins", "https://shop.example")]).await;
    shop.open_sale("drop", 1, PHONE).await;
    let connect = async |origin: &str| {
        let mut request = address(&shop, "sale=drop").into_client_request().expect("a request");
        if !origin.is_empty() {
            request.headers_mut().insert("Origin", origin.parse().expect("a header"));
        }
        connect_async(request).await
    };
    let own = format!("http://{}", shop.shopper);
    for known in ["", own.as_str(), "https://shop.example"] {
        assert!(connect(known).await.is_ok(), "{known}");
    }
    for other in ["https://evil.example", "null", "https://evil.shop.example", "http://127.0.0.1:1"] {
        let Err(Error::Http(refused)) = connect(other).await else { panic!("{other} is let in") };
        assert_eq!(refused.status(), 403, "{other}");
    }
    let (mut socket, _) = connect("").await.expect("a socket");
    socket.send(Message::Text("x".repeat(100_000).into())).await.expect("sent");
    let mut is_closed = false;
    while let Some(Ok(message)) = socket.next().await {
        is_closed |= matches!(message, Message::Close(_));
    }
    assert!(is_closed);
    let plain = call(shop.shopper, "GET", "/api/v1/ws?sale=drop", &[], "").await;
    assert_eq!(plain.problem(), (400, "validation_failed".to_owned()));
    shop.finish().await;
}
