//! Tests that whoever should buy can buy: behind proxies and identity providers, from a browser, with any client of
//! HTTP.

use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use seckill::app::Role;
use seckill::clock::Clock;
use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{SECRET, TestShop, config, eventually, migrated, open, token, token_of};

in_both_modes!(
    every_subject_of_an_identity_provider_buys_and_is_itself,
    times_of_tokens_may_have_fractions,
    a_rotated_secret_logs_nobody_out,
    a_provider_changes_its_keys_while_shoppers_buy,
    a_key_is_the_same_key_in_quotes,
    a_head_is_answered_as_a_get,
    a_page_of_a_listed_origin_buys,
    a_wait_is_found_in_every_form,
    one_version_of_a_list_is_enough_to_patch,
    an_order_id_that_was_read_aloud_is_found,
    sales_come_in_pages,
);

const ORIGIN: &str = "https://shop.example";

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn expires_s() -> i64 {
    Clock::System.now_ms() / 1000 + 600
}

async fn buy_as(shop: &TestShop, token: &str, key: &str) -> Answer {
    let authorization = bearer(token);
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", key),
        ("Prefer", "wait=10"),
    ];
    let body = json!({ "sku_id": "phone", "quantity": 1 }).to_string();
    call(shop.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await
}

async fn every_subject_of_an_identity_provider_buys_and_is_itself(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    let longest = format!("auth0|{}", "x".repeat(249));
    let subjects = [
        "auth0|64a1b2c3d4e5f60718293a4b",
        "google-oauth2|100000000000000000001",
        "alice+drop@example.com",
        "alice-drop@example.com",
        "oidc/alice",
        "oidc:alice",
        "dGhpcyBpcyBiYXNlNjQ=",
        "{\"quoted\\'}",
        longest.as_str(),
    ];
    let mut ids: Vec<Value> = Vec::new();
    for subject in subjects {
        let token = token(subject);
        let bought = buy_as(&shop, &token, "the same key").await;
        assert_eq!(bought.status, 400, "a blank in a key: {bought:?}");
        let bought = buy_as(&shop, &token, "the-same-key").await;
        assert_eq!(bought.status, 201, "{subject}: {bought:?}");
        let again = buy_as(&shop, &token, "another-key").await;
        assert_eq!((again.status, again.code()), (409, "limit_reached".to_owned()), "{subject}");
        let orders = shop.get(subject, "/api/v1/orders").await.json();
        let own: Vec<&Value> =
            orders["orders"].as_array().expect("a list").iter().map(|o| &o["id"]).collect();
        assert_eq!(own, [&bought.json()["id"]], "{subject}");
        ids.push(bought.json()["id"].clone());
    }
    ids.sort_by_key(Value::to_string);
    ids.dedup();
    assert_eq!(ids.len(), subjects.len(), "two subjects are never one buyer");
    shop.finish().await;
}

async fn times_of_tokens_may_have_fractions(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    let now_s = Clock::System.now_ms() / 1000;
    for (n, (exp, status)) in [
        (json!(now_s + 600), 201),
        (serde_json::from_str(&format!("{}.25", now_s + 600)).expect("a number"), 201),
        (json!(2.0e9), 201),
        (serde_json::from_str(&format!("{}.5", now_s - 60)).expect("a number"), 401),
        (json!(1.5e9), 401),
        (json!((now_s + 600).to_string()), 401),
    ]
    .into_iter()
    .enumerate()
    {
        let claims = json!({ "sub": format!("u{n}"), "aud": "seckill", "exp": exp });
        let answer = buy_as(&shop, &token_of(&claims, SECRET), "k1").await;
        assert_eq!(answer.status, status, "{claims}: {answer:?}");
    }
    shop.finish().await;
}

async fn a_rotated_secret_logs_nobody_out(mode: Mode) {
    let new = "the secret after the rotation, 32 bytes or more";
    let flags = [("auth.hs256_secret", new), ("auth.hs256_previous_secret", SECRET)];
    let shop = TestShop::start_with(mode, &flags).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    let of =
        |user: &str, secret| token_of(&json!({ "sub": user, "aud": "seckill", "exp": expires_s() }), secret);
    assert_eq!(buy_as(&shop, &of("old", SECRET), "k1").await.status, 201);
    assert_eq!(buy_as(&shop, &of("new", new), "k1").await.status, 201);
    let stranger = "a secret of nobody at all, 32 bytes or more";
    assert_eq!(buy_as(&shop, &of("stranger", stranger), "k1").await.status, 401);
    shop.finish().await;
}

/// Two throw-away Ed25519 pairs, which `openssl genpkey -algorithm ed25519` made for this test: the `x` of the public
/// half, and the private half.
const PAIRS: [(&str, &str); 2] = [
    (
        "pqdFGc_JBsRliUWzTgZLMq-VvnZAf96zG74hnweyWmo",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIOznaTYIamE+lr2AaRu17a43HOCKyZf1BiyQj7OPYrf+\n-----END PRIVATE KEY-----\n",
    ),
    (
        "h_SQIhl2irtO9b2wb1iN5ZXNuX2w4DrI_U8cx-IHBI8",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFkrgQaC3pSQJB4fNVfnghHhyMN0oXPSKo5q/gaQk3mR\n-----END PRIVATE KEY-----\n",
    ),
];

/// Makes a JWK Set of the pairs with these numbers.
fn published(pairs: &[usize]) -> String {
    let key = |n: &usize| json!({ "kty": "OKP", "crv": "Ed25519", "x": PAIRS[*n].0, "kid": format!("key-{n}"), "use": "sig" });
    json!({ "keys": pairs.iter().map(key).collect::<Vec<_>>() }).to_string()
}

fn signed(user: &str, pair: usize) -> String {
    let header = Header { kid: Some(format!("key-{pair}")), ..Header::new(Algorithm::EdDSA) };
    let claims = json!({ "sub": user, "aud": "seckill", "exp": expires_s() });
    let key = EncodingKey::from_ed_pem(PAIRS[pair].1.as_bytes()).expect("a private key");
    encode(&header, &claims, &key).expect("a token")
}

async fn a_provider_changes_its_keys_while_shoppers_buy(mode: Mode) {
    let mut config = config(mode, &[]);
    let folder = std::env::temp_dir();
    let file = folder.join(format!("{}.jwks", config.kafka.topic));
    std::fs::write(&file, published(&[0])).expect("written");
    config.auth.jwks_file = Some(file.clone());
    migrated(&config).await;
    let backend = open(&config).await;
    let shop = TestShop::start_on(config, backend, Role::All).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    assert_eq!(buy_as(&shop, &signed("ann", 0), "k1").await.status, 201);
    assert_eq!(buy_as(&shop, &token("hal"), "k1").await.status, 201, "the configured secret goes on");
    // The provider signs with a new key. The first token that names it makes the front read the keys anew.
    std::fs::write(&file, published(&[0, 1])).expect("written");
    let began = Instant::now();
    eventually("the new key is known", async || buy_as(&shop, &signed("bea", 1), "k1").await.status != 401)
        .await;
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(buy_as(&shop, &signed("cleo", 0), "k1").await.status, 201, "the old key goes on");
    let ready = call(shop.admin, "GET", "/readyz?verbose", &[], "").await;
    assert_eq!(ready.json()["components"]["token-keys"], "up", "{ready:?}");
    std::fs::remove_file(&file).expect("removed");
    shop.finish().await;
}

async fn a_key_is_the_same_key_in_quotes(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 5, &[("phone", 100)]).await;
    let first = buy_as(&shop, &token("ann"), "3b1f-7a52").await;
    let again = buy_as(&shop, &token("ann"), "\"3b1f-7a52\"").await;
    assert_eq!(again.header("Idempotent-Replayed"), "true", "{again:?}");
    assert_eq!(again.json()["id"], first.json()["id"]);
    let longest = "k".repeat(255);
    let first = buy_as(&shop, &token("bea"), &format!("\"{longest}\"")).await;
    let again = buy_as(&shop, &token("bea"), &longest).await;
    assert_eq!((first.status, &again.json()["id"]), (201, &first.json()["id"]));
    shop.finish().await;
}

async fn a_head_is_answered_as_a_get(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    let authorization = bearer(&token("alice"));
    let key = bearer(crate::harness::API_KEY);
    for (address, path, authorization) in [
        (shop.shopper, "/api/v1/time", &authorization),
        (shop.shopper, "/api/v1/sales", &authorization),
        (shop.shopper, "/api/v1/sales/drop", &authorization),
        (shop.shopper, "/api/v1/sales/nowhere", &authorization),
        (shop.shopper, "/api/v1/orders", &authorization),
        (shop.shopper, "/problems/sold_out", &authorization),
        (shop.admin, "/livez", &key),
        (shop.admin, "/readyz", &key),
        (shop.admin, "/api/v1/admin/sales/drop", &key),
    ] {
        let headers = [("Authorization", authorization.as_str())];
        let get = call(address, "GET", path, &headers, "").await;
        let head = call(address, "HEAD", path, &headers, "").await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        for name in ["ETag", "Cache-Control", "Content-Type", "Content-Length"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
    }
    shop.finish().await;
}

async fn a_page_of_a_listed_origin_buys(mode: Mode) {
    let flags = [("http.cors_origins", ORIGIN), ("http.device_header", "x-device-id")];
    let shop = TestShop::start_with(mode, &flags).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    let path = "/api/v1/sales/drop/orders";
    let asks = "authorization,content-type,idempotency-key,prefer,x-device-id";
    let ask = |origin| {
        [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", asks),
        ]
    };
    let flight = call(shop.shopper, "OPTIONS", path, &ask(ORIGIN), "").await;
    assert!(matches!(flight.status, 200 | 204), "{flight:?}");
    assert_eq!(flight.header("Access-Control-Allow-Origin"), ORIGIN);
    let allowed = flight.header("Access-Control-Allow-Headers").to_ascii_lowercase();
    assert!(asks.split(',').all(|header| allowed.contains(header)), "{allowed}");
    assert_eq!(flight.header("Access-Control-Allow-Credentials"), "", "no cookies");
    let stranger = call(shop.shopper, "OPTIONS", path, &ask("https://evil.example"), "").await;
    assert_eq!(stranger.header("Access-Control-Allow-Origin"), "", "{stranger:?}");
    assert_eq!((stranger.status, stranger.code()), (403, "forbidden".to_owned()), "{stranger:?}");
    assert!(!flight.header("X-Request-Id").is_empty(), "{flight:?}");
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let bought = shop.place("alice", "drop", "k1", body, &[("Origin", ORIGIN)]).await;
    assert_eq!((bought.status, bought.header("Access-Control-Allow-Origin")), (202, ORIGIN));
    let shown = bought.header("Access-Control-Expose-Headers").to_ascii_lowercase();
    for header in ["location", "retry-after", "idempotent-replayed", "x-request-id"] {
        assert!(shown.contains(header), "{header} is not among {shown}");
    }
    // A refusal can be read, too, and other origins get no permission from any answer.
    let refused = shop.place("alice", "drop", "k2", body, &[("Origin", ORIGIN)]).await;
    assert_eq!((refused.status, refused.header("Access-Control-Allow-Origin")), (409, ORIGIN));
    let lost = call(shop.shopper, "GET", "/nowhere", &[("Origin", ORIGIN)], "").await;
    assert_eq!((lost.status, lost.header("Access-Control-Allow-Origin")), (404, ORIGIN));
    let other = call(shop.shopper, "GET", "/api/v1/sales", &[("Origin", "https://evil.example")], "").await;
    assert_eq!(other.header("Access-Control-Allow-Origin"), "", "{other:?}");
    assert!(
        other.header("Vary").to_ascii_lowercase().contains("origin"),
        "a cache must tell them apart: {other:?}"
    );
    let admin = call(shop.admin, "GET", "/livez", &[("Origin", ORIGIN)], "").await;
    assert_eq!(admin.header("Access-Control-Allow-Origin"), "", "no page calls the operators' listener");
    shop.finish().await;
}

async fn a_wait_is_found_in_every_form(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    for (n, lines) in [
        &["wait=9"][..],
        &["respond-async", "wait=9"],
        &["Wait=9"],
        &["WAIT = \"9\"; x=1, respond-async"],
        &["return=minimal", "handling=\"a, wait=3\"", "wait=9, wait=1"],
    ]
    .into_iter()
    .enumerate()
    {
        let headers: Vec<(&str, &str)> = lines.iter().map(|line| ("Prefer", *line)).collect();
        let answer = shop.place(&format!("u{n}"), "drop", "k1", body, &headers).await;
        assert_eq!((answer.status, answer.header("Preference-Applied")), (201, "wait=9"), "{lines:?}");
    }
    shop.finish().await;
}

async fn one_version_of_a_list_is_enough_to_patch(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let body = crate::harness::sale_body("drop", 1, &[("phone", 1)]);
    assert_eq!(shop.operate("POST", "/sales", body).await.status, 201);
    let key = bearer(crate::harness::API_KEY);
    for (n, (lines, status)) in [
        (&["NOW"][..], 200),
        (&["*"], 200),
        (&["\"999\", NOW"], 200),
        (&["\"998\"", "\"999\" ,NOW"], 200),
        (&["\"999\""], 412),
        (&["\"999\", W/NOW"], 412),
        (&["W/NOW"], 412),
        (&["x"], 412),
    ]
    .into_iter()
    .enumerate()
    {
        let now = shop.operate("GET", "/sales/drop", Value::Null).await.header("ETag").to_owned();
        let lines: Vec<String> = lines.iter().map(|line| line.replace("NOW", &now)).collect();
        let mut headers = vec![("Authorization", key.as_str()), ("Content-Type", "application/json")];
        headers.extend(lines.iter().map(|line| ("If-Match", line.as_str())));
        let patch = json!({ "name": format!("name {n}"), "reason": "a test" }).to_string();
        let answer = call(shop.admin, "PATCH", "/api/v1/admin/sales/drop", &headers, patch).await;
        assert_eq!(answer.status, status, "{lines:?}: {answer:?}");
        assert_eq!(answer.text.contains("weak"), lines == [format!("W/{now}")], "{lines:?}: {answer:?}");
    }
    shop.finish().await;
}

async fn an_order_id_that_was_read_aloud_is_found(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let bought = buy_as(&shop, &token("alice"), "k1").await.json();
    let id = bought["id"].as_str().expect("an id");
    let digits = &id["ord_".len()..];
    let spoken = digits.replace('0', "O").replace('1', "l");
    for spelled in [id.to_uppercase(), format!("ord_{spoken}"), format!("Ord_{}", spoken.replace('l', "I"))] {
        let answer = shop.get("alice", &format!("/api/v1/orders/{spelled}")).await;
        assert_eq!((answer.status, answer.json()["id"].as_str()), (200, Some(id)), "{spelled}");
    }
    shop.finish().await;
}

async fn sales_come_in_pages(mode: Mode) {
    let shop = TestShop::start(mode).await;
    for n in 0..5 {
        let body = crate::harness::sale_body(&format!("drop-{n}"), 1, &[("phone", 1)]);
        assert_eq!(shop.operate("POST", "/sales", body).await.status, 201);
        let reason = json!({ "reason": "a test" });
        assert_eq!(shop.operate("POST", &format!("/sales/drop-{n}/publish"), reason).await.status, 200);
    }
    eventually("all are in the catalog", async || {
        shop.get("alice", "/api/v1/sales").await.json()["sales"].as_array().map(Vec::len) == Some(5)
    })
    .await;
    let ids = |page: &Value| -> Vec<String> {
        let sales = page["sales"].as_array().expect("a list");
        sales.iter().map(|sale| sale["id"].as_str().expect("an id").to_owned()).collect()
    };
    let key = bearer(crate::harness::API_KEY);
    for (address, path) in [(shop.shopper, "/api/v1/sales"), (shop.admin, "/api/v1/admin/sales")] {
        let headers = [("Authorization", key.as_str())];
        let whole = call(address, "GET", path, &headers, "").await.json();
        assert_eq!(whole["next_cursor"], Value::Null, "{whole}");
        let (mut found, mut cursor) = (Vec::new(), String::new());
        for left in [2, 2, 1] {
            let page = call(address, "GET", &format!("{path}?limit=2{cursor}"), &headers, "").await.json();
            assert_eq!(ids(&page).len(), left, "{page}");
            assert_eq!(page["next_cursor"].is_string(), left == 2, "{page}");
            cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap_or(""));
            found.extend(ids(&page));
        }
        assert_eq!(found, ids(&whole), "every sale once, in order");
        for query in ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=AAAA"] {
            let answer = call(address, "GET", &format!("{path}?{query}"), &headers, "").await;
            assert_eq!((answer.status, answer.code()), (400, "validation_failed".to_owned()), "{query}");
        }
    }
    shop.finish().await;
}
