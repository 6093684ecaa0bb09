//! Makes requests that are right, or nearly.

use rand::Rng;
use rand::rngs::StdRng;

use super::head::PROXIES;
use crate::grammar::{INTEGERS, Node, one_of, slug, text_of};

const TIMES: [&str; 12] = [
    "2026-11-11T20:00:00.000Z",
    "2026-11-11T20:00:00Z",
    "2026-11-11T20:00:00+08:00",
    "2026-11-11t20:00:00.123456789z",
    "2028-02-29T23:59:59.999-23:59",
    "2027-02-29T00:00:00Z",
    "1969-12-31T23:59:59.999Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "2026-12-31T23:59:60Z",
    "2026-11-11 20:00:00Z",
    "tomorrow",
];

pub fn request(rng: &mut StdRng) -> Vec<u8> {
    let (line, body) = match rng.random_range(0..20) {
        0..=8 => (format!("POST /sales/{}/orders", sale(rng)), place(rng)),
        9..=10 => (format!("GET /orders/{}{}", order(rng), wait(rng)), String::new()),
        11..=12 => (format!("GET /orders?{}", list(rng)), String::new()),
        13..=16 => ("POST /admin/sales".to_owned(), create(rng)),
        17..=18 => (format!("PATCH /admin/sales/{}", sale(rng)), patch(rng)),
        _ => {
            let action = one_of(&["publish", "preheat", "pause", "end", "x"], rng);
            let mut body = Node::object(&[("reason", reason(rng))]);
            body.perhaps_corrupt(rng);
            (format!("POST /admin/sales/{}/{action}", sale(rng)), body.write(rng))
        }
    };
    format!("{line}\n{}\n{body}", headers(rng)).into_bytes()
}

fn headers(rng: &mut StdRng) -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: &str| text.push_str(&format!("{name}: {value}\n"));
    let types =
        ["application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", "application/jsonx", ";", ""];
    add("content-type", if rng.random_bool(0.95) { "application/json" } else { one_of(&types, rng) });
    if rng.random_bool(0.3) {
        let key = if rng.random_bool(0.6) { slug(rng) } else { text_of(rng).replace('\n', "") };
        add("idempotency-key", &key);
    }
    if rng.random_bool(0.2) {
        let number = one_of(INTEGERS, rng);
        let sign = one_of(&["", "", "", "+", "-", " "], rng);
        let before = one_of(&["", "respond-async, ", "a; ", "wait=x, ", "Wait=1; "], rng);
        add("prefer", &format!("{before}wait={sign}{number}"));
    }
    if rng.random_bool(0.2) {
        let version = one_of(INTEGERS, rng);
        add(
            "if-match",
            &one_of(&["\"N\"", "N", "*", "W/\"N\"", "\"+N\"", "\"\""], rng).replace('N', version),
        );
    }
    let addresses =
        [PROXIES[0], PROXIES[1], PROXIES[2], "192.0.2.1", "::ffff:10.0.0.1", "2001:db8::2", "x", ""];
    if rng.random_bool(0.3) {
        add(":peer", one_of(&["10.0.0.1:80", "192.0.2.9:1", "[2001:db8::1]:1", "[::ffff:10.0.0.2]:9"], rng));
        for _ in 0..rng.random_range(0..3) {
            let hops: Vec<&str> = (0..rng.random_range(0..4)).map(|_| one_of(&addresses, rng)).collect();
            add("x-forwarded-for", &hops.join(one_of(&[", ", ",", " ,  "], rng)));
        }
    }
    text
}

fn sale(rng: &mut StdRng) -> String {
    if rng.random_bool(0.8) { slug(rng) } else { text_of(rng).replace(['\n', '/', '?', ' '], "") }
}

fn order(rng: &mut StdRng) -> String {
    let digits = b"0123456789abcdefghjkmnpqrstvwxyzABCDEFGHJKMNPQRSTVWXYZ";
    let mut text: String = (0..26).map(|_| char::from(one_of(digits, rng))).collect();
    text.replace_range(..1, one_of(&["0", "1", "7", "7", "8", "z"], rng));
    if rng.random_bool(0.2) {
        text = text.replace(one_of(&["a", "b", "1"], rng), one_of(&["u", "i", "l", "o", "é", ""], rng));
    }
    format!("{}{text}", one_of(&["ord_", "ord_", "ord_", "ORD_", ""], rng))
}

fn wait(rng: &mut StdRng) -> String {
    let sign = one_of(&["", "", "+", "-", "%2B"], rng);
    let more = one_of(&["", "", "&wait=1", "&x=1", "&"], rng);
    format!("{}{sign}{}{more}", one_of(&["?wait=", "?wait=", "?Wait=", "?"], rng), one_of(INTEGERS, rng))
}

fn list(rng: &mut StdRng) -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let length = one_of(&[32, 32, 32, 31, 33, 0, 11, 22], rng);
    let cursor: String = (0..length).map(|_| char::from(one_of(letters, rng))).collect();
    let limit = one_of(INTEGERS, rng);
    match rng.random_range(0..5) {
        0 => format!("limit={limit}{}", one_of(&["", "", "&", "&x=1"], rng)),
        1 => format!("cursor={cursor}"),
        2 => format!("limit=20&cursor={cursor}{}", one_of(&["=", "", "%3D", "+"], rng)),
        3 => format!("cursor={cursor}&limit={limit}&limit=1"),
        _ => text_of(rng).replace(['\n', ' '], ""),
    }
}

fn whole(usual: i64, rng: &mut StdRng) -> Node {
    Node::raw(if rng.random_bool(0.9) { usual.to_string() } else { one_of(INTEGERS, rng).to_string() })
}

fn place(rng: &mut StdRng) -> String {
    let quantity = one_of(&[1, 1, 1, 2, 3, 98, 99, 100, 101], rng);
    let mut members = vec![("sku_id", Node::Text(slug(rng))), ("quantity", whole(quantity, rng))];
    if rng.random_bool(0.3) {
        let long = "ö".repeat(one_of(&[1, 64, 65], rng));
        members.push(("reference", Node::Text(if rng.random_bool(0.5) { text_of(rng) } else { long })));
    }
    let mut body = Node::object(&members);
    body.perhaps_corrupt(rng);
    body.write(rng)
}

fn item(rng: &mut StdRng) -> Node {
    let price = Node::object(&[("amount", whole(19_900, rng)), ("currency", Node::text("CNY"))]);
    let (sku, name) = (Node::Text(slug(rng)), Node::text("Phone"));
    Node::object(&[("sku_id", sku), ("name", name), ("stock", whole(100, rng)), ("price", price)])
}

fn time(rng: &mut StdRng, usual: &str) -> Node {
    Node::text(if rng.random_bool(0.7) { usual } else { one_of(&TIMES, rng) })
}

fn reason(rng: &mut StdRng) -> Node {
    if rng.random_bool(0.7) { Node::text("a reason") } else { Node::Text(text_of(rng)) }
}

/// Makes the members of a sale. Each of them is left out now and then.
fn members(rng: &mut StdRng) -> Vec<(String, Node)> {
    let items = (0..rng.random_range(0..4)).map(|_| item(rng)).collect();
    let all = [
        ("id", Node::Text(slug(rng))),
        ("name", Node::text("Friday drop")),
        ("starts_at", time(rng, "2026-11-11T20:00:00.000Z")),
        ("ends_at", time(rng, "2026-11-11T21:00:00+00:00")),
        ("buyer_limit", whole(2, rng)),
        ("payment_window_ms", whole(60_000, rng)),
        ("buckets", whole(4, rng)),
        ("items", Node::List(items)),
        ("reason", reason(rng)),
    ];
    let is_kept = |_: &(&str, Node)| rng.random_bool(0.97);
    all.into_iter().filter(is_kept).map(|(name, node)| (name.to_owned(), node)).collect()
}

fn create(rng: &mut StdRng) -> String {
    let mut body = Node::Object(members(rng));
    body.perhaps_corrupt(rng);
    body.write(rng)
}

fn patch(rng: &mut StdRng) -> String {
    let mut members = members(rng);
    members.retain(|(name, _)| name != "id" && (name == "reason" || rng.random_bool(0.5)));
    let mut body = Node::Object(members);
    body.perhaps_corrupt(rng);
    body.write(rng)
}
