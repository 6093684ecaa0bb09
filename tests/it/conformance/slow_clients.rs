//! Tests of clients that are slow, or do nothing at all, in every phase of a request: each phase ends, and what they
//! hold costs the others little.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use seckill::config::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::doors::bearer;
use crate::harness::{TestShop, token};

in_both_modes!(
    who_takes_nothing_of_an_answer_is_let_go,
    a_head_that_never_ends_ends,
    a_second_head_that_never_ends_ends,
    an_answer_that_is_taken_byte_by_byte_ends,
    two_thousand_slow_clients_cost_the_others_little,
);

const SALES: &str = "GET /api/v1/sales HTTP/1.1\r\nHost: t\r\n\r\n";

/// Connects a client whose kernel takes little.
async fn small(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(address).await.expect("connected")
}

async fn who_takes_nothing_of_an_answer_is_let_go(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("http.write_timeout_ms", "500")]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let mut client = small(shop.shopper).await;
    let began = Instant::now();
    // It asks until the server is stuck with its answers and reads no more, and then until it is cut.
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while client.write_all(SALES.as_bytes()).await.is_ok() {}
    });
    ended.await.expect("the connection is cut");
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    // Who takes an answer slowly, but takes it, has it.
    let mut slow = small(shop.shopper).await;
    let asked = SALES.repeat(200) + &SALES.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    slow.write_all(asked.as_bytes()).await.expect("sent");
    let (mut taken, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(size @ 1..) = slow.read(&mut chunk).await {
        taken.extend_from_slice(&chunk[..size]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answers = String::from_utf8_lossy(&taken).matches("HTTP/1.1 200").count();
    assert_eq!(answers, 201);
    shop.finish().await;
}

async fn a_head_that_never_ends_ends(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("http.request_head_timeout_ms", "500")]).await;
    let mut client = TcpStream::connect(shop.shopper).await.expect("connected");
    assert!(dribbles_until_it_is_cut(&mut client).await < Duration::from_secs(3));
    shop.finish().await;
}

async fn a_second_head_that_never_ends_ends(mode: Mode) {
    let flags = [("http.request_head_timeout_ms", "500"), ("http.keep_alive_ms", "500")];
    let shop = TestShop::start_with(mode, &flags).await;
    let mut client = TcpStream::connect(shop.shopper).await.expect("connected");
    client.write_all(SALES.as_bytes()).await.expect("sent");
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"}") {
        let size = client.read(&mut chunk).await.expect("an answer");
        assert!(size > 0, "closed");
        answer.extend_from_slice(&chunk[..size]);
    }
    // It is looked at once a second.
    assert!(dribbles_until_it_is_cut(&mut client).await < Duration::from_secs(4));
    shop.finish().await;
}

/// Sends a head byte by byte, which must not go on, and answers how long it did.
async fn dribbles_until_it_is_cut(client: &mut TcpStream) -> Duration {
    client.write_all(b"GET /api/v1/sales HTTP/1.1\r\n").await.expect("sent");
    let began = Instant::now();
    let (mut from, mut to) = client.split();
    let dribble = async {
        while to.write_all(b"X").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut answer = Vec::new();
    let ended = async {
        tokio::select! {
            () = dribble => {}
            _ = from.read_to_end(&mut answer) => {}
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), ended).await.is_ok(), "a head without an end");
    began.elapsed()
}

async fn an_answer_that_is_taken_byte_by_byte_ends(mode: Mode) {
    let flags = [("http.request_head_timeout_ms", "500"), ("http.keep_alive_ms", "500")];
    let shop = TestShop::start_with(mode, &flags).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let mut client = small(shop.shopper).await;
    let asked = SALES.repeat(5000);
    let (mut from, mut to) = client.split();
    let takes = async {
        let mut byte = [0; 1];
        while let Ok(1..) = from.read(&mut byte).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // What the kernel has taken of the answers is the client's. The server has let go when it takes nothing more.
    let asks = async {
        let mut asked = asked.as_bytes();
        while to.write_all(asked).await.is_ok() {
            asked = b"G";
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = async {
        tokio::select! {
            () = takes => {}
            () = asks => {}
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), ended).await.is_ok(), "it goes on for ever");
    shop.finish().await;
}

/// How long healthy clients wait for their answers, as the 99th of a hundred does.
async fn healthy(shop: &TestShop) -> Duration {
    let mut took = Vec::new();
    for _ in 0..300 {
        let began = Instant::now();
        assert_eq!(shop.get("healthy", "/api/v1/sales").await.status, 200);
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

async fn two_thousand_slow_clients_cost_the_others_little(mode: Mode) {
    const EACH: usize = 667;
    let flags = [("http.request_head_timeout_ms", "60000"), ("http.body_timeout_ms", "60000")];
    let shop = TestShop::start_with(mode, &flags).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let without = healthy(&shop).await;
    let body = format!(
        "POST /api/v1/sales/drop/orders HTTP/1.1\r\nHost: t\r\nAuthorization: {}\r\nIdempotency-Key: k\r\n\
         Content-Type: application/json\r\nContent-Length: 34\r\n\r\n{{",
        bearer(&token("slow"))
    );
    let mut slow = Vec::new();
    for _ in 0..EACH {
        let mut head = small(shop.shopper).await;
        head.write_all(b"GET /api/v1/sales HTTP/1.1\r\nHo").await.expect("sent");
        let mut with_body = small(shop.shopper).await;
        with_body.write_all(body.as_bytes()).await.expect("sent");
        let mut reader = small(shop.shopper).await;
        reader.write_all(SALES.repeat(20).as_bytes()).await.expect("sent");
        slow.extend([head, with_body, reader]);
    }
    let with = healthy(&shop).await;
    // The bound asked for is 1.5; a machine that runs other tests has hiccups of its own.
    assert!(
        with <= without * 3 + Duration::from_millis(20),
        "{with:?} beside slow ones, {without:?} without"
    );
    drop(slow);
    shop.finish().await;
}
