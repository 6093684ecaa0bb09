//! Runs crowds of buyers, who click twice and note what they were told.

#![expect(clippy::disallowed_methods, reason = "a crowd's task ends with its test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use hyper::body::Bytes;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::client::{Answer, Line};
use crate::harness::{operate, sale_body, token};

/// An order that a buyer was told of.
#[derive(Debug, Clone)]
pub struct Told {
    pub user: String,
    pub sale: String,
    pub id: String,
}

/// The answers that a crowd got until its shop went away.
#[derive(Debug, Default)]
pub struct Heard {
    pub told: Vec<Told>,
    pub refused: usize,
}

/// Creates a sale and opens it.
pub async fn open_sale(admin: SocketAddr, key: &str, sale: &str, stock: u32) {
    let created = operate(admin, key, "POST", "/sales", sale_body(sale, 2, &[("phone", stock)])).await;
    assert_eq!(created.status, 201, "{created:?}");
    for action in ["publish", "preheat"] {
        let path = format!("/sales/{sale}/{action}");
        let done = operate(admin, key, "POST", &path, json!({ "reason": "a test" })).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
}

/// Sends one click. `None` means that the shop is gone.
pub async fn click(line: &mut Line, user: &str, sale: &str, wait: &str) -> Option<Answer> {
    let bearer = format!("Bearer {}", token(user));
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", "k"),
        ("Prefer", wait),
    ];
    let body = Bytes::from_static(br#"{"sku_id":"phone","quantity":1}"#);
    line.exchange("POST", &format!("/api/v1/sales/{sale}/orders"), &headers, body).await.ok()
}

/// Buys for one buyer after the other, each clicking twice at once, until the shop is gone or the crowd is stopped.
async fn buy(shopper: SocketAddr, name: String, sale: String, stopped: Arc<AtomicBool>) -> Heard {
    let mut heard = Heard::default();
    let (Ok(mut one), Ok(mut two)) = (Line::open(shopper).await, Line::open(shopper).await) else {
        return heard;
    };
    for n in (0..).take_while(|_: &u32| !stopped.load(Ordering::Relaxed)) {
        let user = format!("{name}-{n}");
        let wait = if n.is_multiple_of(4) { "wait=1" } else { "wait=0" };
        let (first, second) =
            tokio::join!(click(&mut one, &user, &sale, wait), click(&mut two, &user, &sale, "wait=0"));
        let is_gone = first.is_none() || second.is_none();
        let mut ids: Vec<String> = Vec::new();
        for answer in [first, second].into_iter().flatten() {
            match answer.status {
                200..=202 => ids.push(answer.json()["id"].as_str().expect("an id").to_owned()),
                409 => {
                    assert_eq!(answer.code(), "sold_out", "{answer:?}");
                    heard.refused += 1;
                }
                _ => panic!("{answer:?}"),
            }
        }
        ids.dedup();
        assert!(ids.len() <= 1, "{user} clicked one key twice and was told of {ids:?}");
        let sale = sale.clone();
        heard.told.extend(ids.pop().map(|id| Told { user, sale, id }));
        if is_gone {
            break;
        }
    }
    heard
}

/// A crowd that buys until it is stopped or nobody answers.
pub struct Crowd {
    stopped: Arc<AtomicBool>,
    buyers: Vec<JoinHandle<Heard>>,
}

impl Crowd {
    /// Starts a crowd. `name` makes its users' names differ from those of other crowds.
    pub fn start(shopper: SocketAddr, name: &str, sale: &str, buyers: usize) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let buyer = |n| tokio::spawn(buy(shopper, format!("{name}-{n}"), sale.to_owned(), stopped.clone()));
        Self { buyers: (0..buyers).map(buyer).collect(), stopped }
    }

    /// Waits until every buyer is done, and returns all answers that the crowd got.
    pub async fn heard(self) -> Heard {
        let mut all = Heard::default();
        for heard in join_all(self.buyers).await {
            let heard = heard.expect("no panic");
            all.told.extend(heard.told);
            all.refused += heard.refused;
        }
        all
    }

    pub async fn stop(self) -> Heard {
        self.stopped.store(true, Ordering::Relaxed);
        self.heard().await
    }
}
