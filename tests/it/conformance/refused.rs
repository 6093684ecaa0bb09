//! What is refused changes nothing, and no request is answered by a 5xx: every operation of both contracts is sent
//! requests that are made of its example, with something in each that does not belong there.

use std::net::SocketAddr;

use hyper::body::Bytes;
use seckill::chance::Chance;
use seckill::config::Mode;
use seckill::http::router::{ADMIN_CONTRACT, SHOPPER_CONTRACT};
use serde_json::{Value, json};

use crate::client::{Answer, Line};
use crate::harness::{API_KEY, TestShop, token};
use crate::provider::paying_shop;

in_both_modes!(what_is_refused_changes_nothing_and_nothing_is_answered_by_a_5xx);

/// How many requests each operation gets, unless `CONTRACT_REQUESTS` has said at the build.
const REQUESTS: u64 = 60;

/// Operations that turn others off when a request happens to be a good one.
const TURNING_OFF: [&str; 2] = ["put_switch", "force_breaker"];

/// What is sent.
struct Request {
    verb: String,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// An operation of a contract.
struct Operation<'a> {
    id: &'a str,
    verb: String,
    path: &'a str,
    example: &'a Value,
    is_open: bool,
}

/// Lists the operations of a contract.
fn operations(contract: &Value) -> Vec<Operation<'_>> {
    let mut all = Vec::new();
    for (path, verbs) in contract["paths"].as_object().expect("paths") {
        // The contract does not describe itself.
        if path == "/openapi.json" {
            continue;
        }
        for (verb, operation) in verbs.as_object().expect("verbs") {
            all.push(Operation {
                id: operation["operationId"].as_str().expect("an id"),
                verb: verb.to_uppercase(),
                path,
                example: &operation["requestBody"]["content"]["application/json"]["example"],
                is_open: operation["security"].as_array().is_none_or(Vec::is_empty),
            });
        }
    }
    all
}

/// Makes requests. The same seed makes the same ones.
struct Maker {
    chance: Chance,
    bearer: String,
}

impl Maker {
    fn below(&self, end: usize) -> usize {
        usize::try_from(self.chance.number() % u64::try_from(end).expect("small")).expect("small")
    }

    fn one<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Makes a value that fits nowhere in particular.
    fn value(&self, depth: usize) -> Value {
        match self.below(if depth == 0 { 9 } else { 11 }) {
            0 => Value::Null,
            1 => json!(self.chance.number().is_multiple_of(2)),
            2 => json!(-1),
            3 => json!(self.chance.number()),
            4 => json!(1e300),
            5 => json!(""),
            6 => json!("x".repeat(1 + self.below(400))),
            7 => json!("\u{0}\u{202e}<script>é'\"--"),
            8 => json!("2036-11-27T12:00:00.000Z"),
            9 => Value::Array((0..self.below(4)).map(|_| self.value(depth - 1)).collect()),
            _ => json!({ "x": self.value(depth - 1) }),
        }
    }

    /// Makes a text for a place in a path.
    fn name(&self) -> String {
        let odd = ["%00", "%2e%2e", "%F0%9F%98%80", "0-1", "-", "a%20b", "ord_00000000000000000000000000"];
        match self.below(3) {
            0 => (*self.one(&odd)).to_owned(),
            1 => "x".repeat(1 + self.below(300)),
            _ => format!("{:x}", self.chance.number()),
        }
    }

    fn path(&self, operation: &Operation<'_>, is_known: bool) -> String {
        let mut path = operation.path.to_owned();
        while let Some((before, rest)) = path.split_once('{') {
            let (name, after) = rest.split_once('}').expect("a name");
            let known = match name {
                "sale" => "friday-drop",
                "action" => "pause",
                "switch" => "no_new_sales",
                "dependency" => "redis",
                "rule" => "walk",
                _ => "0-1",
            };
            let filled = if is_known { known.to_owned() } else { self.name() };
            path = format!("{before}{filled}{after}");
        }
        if self.below(3) == 0 {
            let name = self.one(&["limit", "cursor", "sale", "wait", "x", "reason", "status"]);
            path = format!("{path}?{name}={}", self.name());
        }
        path
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Authorization", format!("Bearer {}", self.bearer)),
            ("Content-Type", "application/json".to_owned()),
            ("Idempotency-Key", format!("k{}", self.chance.number())),
        ]
    }

    /// Makes a request that has to be refused.
    fn bad(&self, operation: &Operation<'_>) -> Request {
        let mut headers = self.headers();
        let mut body = operation.example.to_string().into_bytes();
        let has_body = !operation.example.is_null();
        match self.below(if has_body { 6 } else { 1 }) {
            0 if !operation.is_open => headers[0].1 = (*self.one(&["", "Bearer x", "Basic YTpi"])).to_owned(),
            0 => headers[1].1 = "text/plain".to_owned(),
            1 => {
                let mut whole = operation.example.clone();
                whole["no_such_member"] = self.value(2);
                body = whole.to_string().into_bytes();
            }
            2 => body.truncate(1 + self.below(body.len() - 1)),
            3 => body = (0..1 + self.below(200)).map(|_| self.chance.number().to_le_bytes()[0]).collect(),
            4 => body = vec![b'['; 1 + self.below(60_000)],
            _ => headers[1].1 = (*self.one(&["text/plain", "application/xml", ""])).to_owned(),
        }
        if !has_body {
            body.clear();
        }
        Request { verb: operation.verb.clone(), path: self.path(operation, true), headers, body }
    }

    /// Makes a request of which some may be good.
    fn any(&self, operation: &Operation<'_>) -> Request {
        let mut headers = self.headers();
        let mut whole = operation.example.clone();
        if let Some(members) = whole.as_object_mut().filter(|members| !members.is_empty()) {
            let names: Vec<String> = members.keys().cloned().collect();
            let name = self.one(&names).clone();
            match self.below(3) {
                0 => drop(members.remove(&name)),
                _ => drop(members.insert(name, self.value(3))),
            }
        }
        for name in ["If-Match", "Prefer", "X-Request-Id", "Accept-Language", "Range"] {
            if self.below(6) == 0 {
                let odd = ["*", "\"1\"", "W/\"1\"", ",,", "wait=99999999999", "\t", "bytes=0-1", "é"];
                headers.push((name, (*self.one(&odd)).to_owned()));
            }
        }
        let body = if whole.is_null() { Vec::new() } else { whole.to_string().into_bytes() };
        let is_known = self.below(2) == 0;
        Request { verb: operation.verb.clone(), path: self.path(operation, is_known), headers, body }
    }
}

/// Sends requests over one connection, which is opened again when the server has closed it.
struct Sender {
    to: SocketAddr,
    line: Option<Line>,
}

impl Sender {
    async fn send(&mut self, request: &Request) -> Answer {
        for _ in 0..3 {
            if self.line.is_none() {
                self.line = Some(Line::open(self.to).await.expect("a connection"));
            }
            let line = self.line.as_mut().expect("open");
            let headers: Vec<(&str, &str)> =
                request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let body = Bytes::from(request.body.clone());
            match line.exchange(&request.verb, &request.path, &headers, body).await {
                Ok(answer) => return answer,
                Err(_) => self.line = None,
            }
        }
        panic!("no answer to {} {}", request.verb, request.path);
    }
}

/// Reads what a request could change, but for what time and reading alone change.
async fn contents(shop: &TestShop) -> std::collections::BTreeMap<String, String> {
    let mut contents = shop.stage().contents().await;
    let moves = ["api_keys", "alarms", "event_readers", "event_leases", "consumer_positions"];
    contents.retain(|place, _| !moves.iter().any(|name| place.ends_with(name)));
    contents
}

async fn walk(
    shop: &TestShop,
    contract: &Value,
    (to, bearer): (SocketAddr, String),
    wrong: &mut Vec<String>,
) {
    let requests = option_env!("CONTRACT_REQUESTS").map_or(REQUESTS, |text| text.parse().expect("a number"));
    let maker = Maker { chance: Chance::seeded(7), bearer };
    let mut sender = Sender { to, line: None };
    for operation in operations(contract) {
        let before = contents(shop).await;
        for _ in 0..requests / 2 {
            let request = maker.bad(&operation);
            let answer = sender.send(&request).await;
            let is_read = request.verb == "GET" && request.body.is_empty();
            if answer.status >= 500 || (answer.status < 400 && !is_read) {
                wrong.push(format!(
                    "{}: {}: {answer:?}",
                    operation.id,
                    String::from_utf8_lossy(&request.body)
                ));
            }
        }
        let after = contents(shop).await;
        for (place, was) in &before {
            if after.get(place) != Some(was) {
                wrong.push(format!("{} changed {place}: {was} to {:?}", operation.id, after.get(place)));
            }
        }
        if TURNING_OFF.contains(&operation.id) {
            continue;
        }
        for _ in 0..requests / 2 {
            let request = maker.any(&operation);
            let answer = sender.send(&request).await;
            if answer.status >= 500 {
                wrong.push(format!(
                    "{}: {}: {answer:?}",
                    operation.id,
                    String::from_utf8_lossy(&request.body)
                ));
            }
        }
    }
}

async fn what_is_refused_changes_nothing_and_nothing_is_answered_by_a_5xx(mode: Mode) {
    let secret = ("auth.purchase_token_secret", "a secret of 32 bytes or more ……");
    let (shop, _provider) = paying_shop(mode, &[secret]).await;
    shop.open_sale("friday-drop", 9, &[("phone-x", 1000)]).await;
    let mut wrong = Vec::new();
    Box::pin(walk(&shop, &SHOPPER_CONTRACT, (shop.shopper, token("ada")), &mut wrong)).await;
    Box::pin(walk(&shop, &ADMIN_CONTRACT, (shop.admin, API_KEY.to_owned()), &mut wrong)).await;
    let few: Vec<&String> = wrong.iter().take(20).collect();
    assert!(wrong.is_empty(), "{} of them: {few:#?}", wrong.len());
    shop.finish().await;
}
