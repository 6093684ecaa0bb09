//! Tests of headers that are missing, malformed, too long or too many.

use crate::client::try_call;
use crate::harness::{TestShop, token};
use seckill::config::Mode;

use super::{Findings, JSON, KEY, NONE, ONE, finish_unchanged, market, purchase, raw};

in_both_modes!(a_bad_header_is_refused_and_never_breaks_the_server,);

async fn a_bad_header_is_refused_and_never_breaks_the_server(mode: Mode) {
    let (shop, _, before) = market(mode).await;
    let mut findings = Findings::default();
    let bearer = format!("Bearer {}", token("alice"));
    let auth = ("Authorization", bearer.as_str());
    let missing = (400, "idempotency_key_missing");
    findings.check("no key", &purchase(&shop, &[auth, JSON], ONE).await, missing);
    let invalid = (400, "idempotency_key_invalid");
    let (long, longest) = ("k".repeat(256), "k".repeat(255));
    for key in ["", "a b", "a\tb", "\"\"", "\"k1", "\"k\"1", "\"k 1\"", "\"k1\\", long.as_str()] {
        let answer = purchase(&shop, &[auth, JSON, ("Idempotency-Key", key)], ONE).await;
        findings.check(&format!("key {key:?}"), &answer, invalid);
    }
    let two = [auth, JSON, ("Idempotency-Key", "k1"), ("Idempotency-Key", "k2")];
    findings.check("two keys", &purchase(&shop, &two, ONE).await, invalid);
    for key in [longest.as_str(), "a/b", "a,b", "{k}", "k*", "\"k\\\"1\""] {
        let answer = purchase(&shop, &[auth, JSON, ("Idempotency-Key", key)], NONE).await;
        findings.check(&format!("key {key:?}"), &answer, (400, "validation_failed"));
    }
    let other = format!("Bearer {}", token("bob"));
    let two = [auth, ("Authorization", other.as_str()), JSON, KEY];
    findings.check("two tokens", &purchase(&shop, &two, ONE).await, (401, "unauthenticated"));
    let twice = [auth, auth, JSON, JSON, KEY, KEY];
    findings.check("everything twice", &purchase(&shop, &twice, NONE).await, (400, "validation_failed"));
    for (name, value) in
        [("Content-Type", "text/plain"), ("Content-Encoding", "gzip"), ("Content-Encoding", "br")]
    {
        let answer = purchase(&shop, &[auth, JSON, KEY, (name, value)], ONE).await;
        findings.check(value, &answer, (415, "unsupported_media_type"));
        let named = (answer.header("Accept"), answer.header("Accept-Encoding"));
        findings.rule(value, named == ("application/json", "identity"), "does not say what is read");
    }
    let plain = [auth, JSON, KEY, ("Content-Encoding", "Identity")];
    findings.check("identity", &purchase(&shop, &plain, NONE).await, (400, "validation_failed"));
    // The stock is too small for this body, so even a purchase that gets through cannot change anything.
    let many = r#"{"sku_id":"phone","quantity":99}"#;
    for (name, value) in [
        ("Prefer", "wait=x"),
        ("Prefer", "wait=-1"),
        ("Prefer", "wait=99999999999999999999"),
        ("traceparent", "00-zz-yy-01"),
        ("X-Request-Id", "a b\u{7f}"),
        ("X-Forwarded-For", "not, an, address"),
    ] {
        let headers = [auth, JSON, KEY, (name, value)];
        let answer = try_call(shop.shopper, "POST", "/api/v1/sales/drop/orders", &headers, many).await;
        let status = answer.map_or(400, |answer| answer.status);
        findings.rule(&format!("{name}: {value}"), (400..500).contains(&status), &status.to_string());
    }
    too_many_headers(&shop, &bearer, &mut findings).await;
    malformed_heads(&shop, &bearer, &mut findings).await;
    assert_eq!(shop.get("alice", "/api/v1/time").await.status, 200);
    finish_unchanged(shop, &before, findings).await;
}

async fn too_many_headers(shop: &TestShop, bearer: &str, findings: &mut Findings) {
    for size in [5_000, 20_000, 70_000, 140_000, 2_000_000] {
        let long = "x".repeat(size);
        for name in [
            "Authorization",
            "Idempotency-Key",
            "Cookie",
            "X-Forwarded-For",
            "Prefer",
            "traceparent",
            "X-Request-Id",
        ] {
            let others = [("Authorization", bearer), JSON, KEY];
            let mut headers: Vec<_> = others.into_iter().filter(|other| other.0 != name).collect();
            headers.push((name, &long));
            let answer = try_call(shop.shopper, "POST", "/api/v1/sales/drop/orders", &headers, NONE).await;
            let status = answer.map_or(400, |answer| answer.status);
            findings.rule(&format!("{size} of {name}"), (400..500).contains(&status), &status.to_string());
        }
        let path = format!("/api/v1/orders?cursor={}", &long[..size.min(60_000)]);
        let answer = try_call(shop.shopper, "GET", &path, &[("Authorization", bearer)], "").await;
        let status = answer.map_or(400, |answer| answer.status);
        findings.rule(&format!("{size} of address"), (400..500).contains(&status), &status.to_string());
    }
    for count in [90, 200, 5_000] {
        let flood: String = (0..count).map(|n| format!("X-Flood-{n}: {n}\r\n")).collect();
        let request = format!("GET /api/v1/nothing HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{flood}\r\n");
        let answer = raw(shop.shopper, request.as_bytes()).await;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        findings.rule(&format!("{count} headers"), refused, &answer);
    }
}

async fn malformed_heads(shop: &TestShop, bearer: &str, findings: &mut Findings) {
    let post = format!(
        "POST /api/v1/sales/drop/orders HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
        Authorization: {bearer}\r\nContent-Type: application/json\r\n"
    );
    let keyed = format!("{post}Idempotency-Key: k1\r\n");
    let chunk = format!("{:x}\r\n{ONE}\r\n0\r\n\r\n", ONE.len());
    let length = ONE.len();
    let mut heads: Vec<(&str, Vec<u8>)> = [
        ("garbage", "\u{1}\u{2}\u{3} nothing like HTTP\r\n\r\n".to_owned()),
        ("a TLS hello", "\u{16}\u{3}\u{1}\u{0}\u{5}hello\r\n\r\n".to_owned()),
        ("negative length", format!("{keyed}Content-Length: -1\r\n\r\n{ONE}")),
        ("length not a number", format!("{keyed}Content-Length: many\r\n\r\n{ONE}")),
        ("two lengths", format!("{keyed}Content-Length: {length}\r\nContent-Length: 5\r\n\r\n{ONE}")),
        (
            "length and chunks",
            format!("{keyed}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"),
        ),
        ("bad chunk size", format!("{keyed}Transfer-Encoding: chunked\r\n\r\nzz\r\n{ONE}\r\n0\r\n\r\n")),
        ("unknown coding", format!("{keyed}Transfer-Encoding: magic\r\n\r\n{chunk}")),
        ("name with a blank", format!("{keyed}Bad Name: 1\r\nContent-Length: {length}\r\n\r\n{ONE}")),
        ("unknown version", "GET /api/v1/time HTTP/9.9\r\nHost: t\r\n\r\n".to_owned()),
    ]
    .map(|(what, text)| (what, text.into_bytes()))
    .into();
    for (what, key) in
        [("key of bytes", &b"k\xff\xfe"[..]), ("key of NUL", b"k\0k"), ("key of UTF-8", "鍵".as_bytes())]
    {
        let rest = format!("\r\nContent-Length: {length}\r\n\r\n{ONE}");
        heads.push((what, [post.as_bytes(), b"Idempotency-Key: ", key, rest.as_bytes()].concat()));
    }
    for (what, head) in heads {
        let answer = raw(shop.shopper, &head).await;
        let refused =
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4");
        findings.rule(what, refused, &answer);
    }
}
