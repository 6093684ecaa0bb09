//! Clients reset, close or repeat themselves at every stage of a request. Whatever answers they miss, each click makes
//! one order or none, and no unit is lost.

use seckill::config::Mode;
use std::collections::HashMap;
use std::net::SocketAddr;

use futures::stream::{StreamExt, iter};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, TestShop, eventually, token};

in_both_modes!(clients_that_break_off_leave_no_reservation_without_an_order,);

const CLICKS: u32 = 2000;
/// The stock, which is less than the clicks: the last of them are sold out.
const STOCK: u32 = 1500;

/// How a client ends its connection. `Reset` and `Close` come at every stage of the request in turn.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The client sends RST, and what is in flight is thrown away.
    Reset,
    /// The client sends FIN and reads no answer.
    Close,
    /// The client sends FIN for its own direction, and reads to the end.
    HalfClose,
    /// The client sends the same request twice in one write, then RST.
    PipelinedReset,
    /// The client sends the same request three times in one write, and reads all answers.
    Pipelined,
}

const ENDS: [End; 5] = [End::Reset, End::Close, End::HalfClose, End::PipelinedReset, End::Pipelined];

fn request(user: &str, is_chunked: bool) -> Vec<u8> {
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    let (first, rest) = body.split_at(body.len() / 2);
    let (length, body) = match is_chunked {
        true => ("Transfer-Encoding: chunked".to_owned(), chunk(first) + &chunk(rest) + "0\r\n\r\n"),
        false => (format!("Content-Length: {}", body.len()), body.to_owned()),
    };
    format!(
        "POST /api/v1/sales/drop/orders HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\n\
         Idempotency-Key: k\r\nContent-Type: application/json\r\n{length}\r\n\r\n{body}",
        token(user)
    )
    .into_bytes()
}

/// Makes a connection. When the client ends by RST, dropping the connection sends it.
fn connect(address: SocketAddr, end: End) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.connect(&address.into()).expect("a connection");
    if matches!(end, End::Reset | End::PipelinedReset) {
        socket.set_linger(Some(std::time::Duration::ZERO)).expect("set");
    }
    socket.set_nonblocking(true).expect("set");
    TcpStream::from_std(socket.into()).expect("a stream")
}

/// Runs one broken client, and returns what it heard.
async fn click(address: SocketAddr, n: u32) -> String {
    let end = ENDS[usize::try_from(n).expect("small") % ENDS.len()];
    let one = request(&format!("u{n}"), n.is_multiple_of(3));
    let mut stream = connect(address, end);
    let mut heard = Vec::new();
    match end {
        // The clients together stop at every stage, from no byte sent to all of them.
        End::Reset | End::Close => {
            let sent = one.len() * usize::try_from(n / 5).expect("small") / 399;
            let _ = stream.write_all(&one[..sent.min(one.len())]).await;
            // Half of the clients that sent the whole request wait for the first byte of the answer.
            if sent >= one.len() && n.is_multiple_of(2) {
                let _ = stream.read(&mut [0; 1]).await;
            }
        }
        End::HalfClose => {
            let _ = stream.write_all(&one).await;
            // Half of them have the answer by then. The others are clients that have gone.
            if (n / 5).is_multiple_of(2) {
                let mut first = [0; 2048];
                let length = stream.read(&mut first).await.unwrap_or(0);
                heard.extend_from_slice(&first[..length]);
            }
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut heard).await;
        }
        End::PipelinedReset => {
            let _ = stream.write_all(&[one.as_slice(), &one].concat()).await;
        }
        End::Pipelined => {
            let _ = stream.write_all(&[one.as_slice(), &one, &one].concat()).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut heard).await;
        }
    }
    drop(stream);
    String::from_utf8_lossy(&heard).into_owned()
}

/// Finds the order ids in what a client heard.
fn ids(heard: &str) -> Vec<String> {
    heard.split(r#""id":""#).skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())).collect()
}

async fn clients_that_break_off_leave_no_reservation_without_an_order(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", STOCK)]).await;
    let clicks = iter(0..CLICKS).map(|n| async move {
        let heard = tokio::time::timeout(PATIENCE, click(shop.shopper, n)).await;
        (n, heard.unwrap_or_else(|_| panic!("click {n} has neither an answer nor an end")))
    });
    let heard: HashMap<u32, String> = clicks.buffer_unordered(64).collect().await;

    for (n, text) in &heard {
        let mut of_one_click = ids(text);
        of_one_click.dedup();
        assert!(of_one_click.len() <= 1, "click {n} was told of several orders: {text}");
        assert!(!text.contains("HTTP/1.1 5") && !text.contains("HTTP/1.1 400"), "click {n}: {text}");
    }
    // All is quiet when no order is written any more, and the units taken are those that were written.
    let database = shop.stage();
    let mut last = (-1, -1);
    eventually("all is quiet", async || {
        let available = shop.stock("drop").await["phone"]["available"].as_i64().expect("units");
        let now = (available, database.orders("awaiting_payment").await);
        let is_quiet = now == last && now.0 + now.1 == i64::from(STOCK);
        last = now;
        is_quiet
    })
    .await;
    let (available, orders) = last;
    assert!(orders > 600, "only {orders} orders: the clients broke off too early to mean anything");
    assert_eq!(available + orders, i64::from(STOCK), "a unit is lost");
    assert_eq!(database.orders("rejected").await, 0);
    assert_eq!(database.sum("SUM(held)", "ledger").await, orders);
    assert_eq!(database.sum("COUNT(*)", "dead_letters").await, 0);

    // A buyer who was told of an order asks again, and gets the same order.
    let told: Vec<(&u32, &String)> = heard.iter().filter(|(_, text)| text.contains("HTTP/1.1 20")).collect();
    assert!(told.len() > 100, "only {} clients heard of an order", told.len());
    for (n, text) in told {
        let again = shop.buy(&format!("u{n}"), "drop", "phone", "k").await;
        assert_eq!(Some(&again.json()["id"].as_str().expect("an id").to_owned()), ids(text).first());
    }
    shop.finish().await;
}
