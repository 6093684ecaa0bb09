//! Tests of purchase tokens: a sale that requires them sells to nobody else, and a token serves one buyer on one device
//! for a minute. Proofs of work are solved as the widget of a page would.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::purchase_token::{Bound, TokenKey, TokenKeys};
use seckill::domain::{DeviceId, SaleId, UserId, calendar};
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{TestShop, rfc3339, sale_body, token};

in_both_modes!(
    a_sale_that_requires_a_token_sells_only_with_a_good_one,
    a_token_is_given_before_the_opening_and_serves_from_it_on,
    who_has_done_no_work_gets_no_token,
    tokens_are_limited_and_outlive_a_rotation,
);

const SECRET: &str = "the secret of purchase tokens, 32 bytes or more";
const FLAGS: [(&str, &str); 2] = [("auth.purchase_token_secret", SECRET), ("http.device_header", "x-device")];

async fn open(shop: &TestShop, id: &str, access: Value) {
    let mut body = sale_body(id, 2, &[("phone", 9)]);
    body["access"] = access;
    crate::harness::open_sale(shop.admin, body).await;
}

async fn ask(shop: &TestShop, user: &str, sale: &str, device: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {}", token(user));
    let headers =
        [("Authorization", bearer.as_str()), ("X-Device", device), ("Content-Type", "application/json")];
    let path = format!("/api/v1/sales/{sale}/token");
    call(shop.shopper, "POST", &path, &headers, body.to_string()).await
}

async fn given(shop: &TestShop, user: &str, sale: &str) -> String {
    let answer = ask(shop, user, sale, "d1", &json!({})).await;
    assert_eq!((answer.status, answer.header("Cache-Control")), (200, "no-store"), "{answer:?}");
    answer.json()["purchase_token"].as_str().expect("a token").to_owned()
}

async fn buy(shop: &TestShop, user: &str, sale: &str, device: &str, purchase_token: Option<&str>) -> Answer {
    let mut body = json!({ "sku_id": "phone", "quantity": 1 });
    if let Some(text) = purchase_token {
        body["purchase_token"] = json!(text);
    }
    shop.place(user, sale, "k", &body.to_string(), &[("X-Device", device)]).await
}

fn keys() -> TokenKeys {
    TokenKeys { current: TokenKey::new(1, SECRET.as_bytes()), previous: None }
}

async fn a_sale_that_requires_a_token_sells_only_with_a_good_one(mode: Mode) {
    let shop = TestShop::start_with(mode, &FLAGS).await;
    open(&shop, "drop", json!({ "purchase_token": true })).await;
    open(&shop, "other", json!({ "purchase_token": true })).await;
    shop.open_sale("free", 1, &[("phone", 5)]).await;
    let policy = shop.get("ada", "/api/v1/sales/drop").await.json()["policy"].clone();
    assert_eq!((&policy["purchase_token"], &policy["proof_of_work"]), (&json!(true), &json!(0)), "{policy}");

    let good = given(&shop, "ada", "drop").await;
    let other_sale = given(&shop, "bob", "other").await;
    let now_ms = Clock::System.now_ms();
    let (bob, drop) = (UserId::parse("bob").expect("a user"), SaleId::parse("drop").expect("a sale"));
    let device = DeviceId::parse("d1").expect("a device");
    let bound = Bound { user: &bob, sale: &drop, device: Some(&device) };
    let expired = keys().issue(bound, now_ms - 120_000, now_ms - 1);
    let stranger = TokenKeys { current: TokenKey::new(1, &[7; 32]), previous: None };
    let forged = stranger.issue(bound, now_ms - 1000, now_ms + 60_000);
    let early = keys().issue(bound, now_ms + 60_000, now_ms + 120_000);
    for (purchase_token, code) in [
        (None, "purchase_token_required"),
        (Some(good.as_str()), "purchase_token_invalid"),
        (Some(other_sale.as_str()), "purchase_token_invalid"),
        (Some(expired.as_str()), "purchase_token_invalid"),
        (Some(forged.as_str()), "purchase_token_invalid"),
        (Some(""), "purchase_token_invalid"),
        (Some("nonsense"), "purchase_token_invalid"),
    ] {
        let refused = buy(&shop, "bob", "drop", "d1", purchase_token).await;
        assert_eq!(refused.problem(), (403, code.to_owned()), "{purchase_token:?}: {refused:?}");
    }
    let refused = buy(&shop, "bob", "drop", "d1", Some(&early)).await;
    assert_eq!(refused.problem(), (403, "purchase_token_invalid".to_owned()), "the sale is on: {refused:?}");
    let refused = buy(&shop, "ada", "drop", "d2", Some(&good)).await;
    assert_eq!(refused.problem(), (403, "purchase_token_invalid".to_owned()), "another device: {refused:?}");

    let bought = buy(&shop, "ada", "drop", "d1", Some(&good)).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let again = buy(&shop, "ada", "drop", "d1", Some(&good)).await;
    assert_eq!((again.status / 100, again.header("Idempotent-Replayed")), (2, "true"), "{again:?}");
    // Who had no answer in time repeats the call, whatever became of the token.
    let ada = UserId::parse("ada").expect("a user");
    let old = keys().issue(Bound { user: &ada, ..bound }, now_ms - 120_000, now_ms - 1);
    let again = buy(&shop, "ada", "drop", "d1", Some(&old)).await;
    assert_eq!((again.status / 100, again.header("Idempotent-Replayed")), (2, "true"), "{again:?}");
    assert_eq!(shop.operate("POST", "/sales/drop/end", json!({ "reason": "enough" })).await.status, 200);
    let again = buy(&shop, "ada", "drop", "d1", None).await;
    assert_eq!((again.status / 100, again.header("Idempotent-Replayed")), (2, "true"), "{again:?}");
    let late = buy(&shop, "bob", "drop", "d1", None).await;
    assert_eq!(late.problem(), (409, "sale_ended".to_owned()), "{late:?}");
    assert_eq!(shop.buy("ada", "free", "phone", "k").await.status, 202, "not every sale asks for one");
    let none = ask(&shop, "ada", "nowhere", "d1", &json!({})).await;
    assert_eq!(none.problem(), (404, "sale_not_found".to_owned()));
    let stranger = call(shop.shopper, "POST", "/api/v1/sales/drop/token", &[], "").await;
    assert_eq!(stranger.status, 401, "{stranger:?}");
    shop.finish().await;
}

async fn a_token_is_given_before_the_opening_and_serves_from_it_on(mode: Mode) {
    let shop = TestShop::start_with(mode, &FLAGS).await;
    let mut body = sale_body("soon", 1, &[("phone", 9)]);
    let starts_ms = Clock::System.now_ms() + 3000;
    body["starts_at"] = json!(rfc3339(starts_ms));
    body["access"] = json!({ "purchase_token": true });
    crate::harness::open_sale(shop.admin, body).await;
    let answer = ask(&shop, "ada", "soon", "d1", &json!({})).await.json();
    assert_eq!(answer["not_before"], calendar::rfc3339(starts_ms), "{answer}");
    assert_eq!(answer["expires_at"], calendar::rfc3339(starts_ms + 60_000), "{answer}");
    let purchase_token = answer["purchase_token"].as_str().expect("a token");
    let early = buy(&shop, "ada", "soon", "d1", Some(purchase_token)).await;
    assert_eq!(early.problem(), (409, "sale_not_started".to_owned()), "{early:?}");
    crate::harness::eventually("it opens", async || {
        buy(&shop, "ada", "soon", "d1", Some(purchase_token)).await.status == 202
    })
    .await;
    assert!(Clock::System.now_ms() >= starts_ms - 250);
    shop.finish().await;
}

fn solved(challenge: &Value) -> String {
    let challenge: altcha::Challenge = serde_json::from_value(challenge.clone()).expect("a challenge");
    let solution = altcha::solve_challenge(altcha::SolveChallengeOptions::new(&challenge)).expect("solvable");
    let payload = altcha::Payload { challenge, solution: solution.expect("in time") };
    STANDARD.encode(serde_json::to_vec(&payload).expect("JSON"))
}

async fn who_has_done_no_work_gets_no_token(mode: Mode) {
    let shop = TestShop::start_with(mode, &[FLAGS[0], FLAGS[1], ("limits.tokens_per_s", "0")]).await;
    let invalid = json!({ "purchase_token": false, "proof_of_work": 2 });
    let mut body = sale_body("lazy", 1, &[("phone", 9)]);
    body["access"] = invalid;
    let refused = shop.operate("POST", "/sales", body).await;
    assert_eq!(
        (refused.status, &refused.json()["errors"][0]["pointer"]),
        (400, &json!("/access/proof_of_work"))
    );
    open(&shop, "drop", json!({ "purchase_token": true, "proof_of_work": 3 })).await;
    let first = ask(&shop, "ada", "drop", "d1", &json!({})).await;
    assert_eq!(first.problem(), (403, "proof_required".to_owned()), "{first:?}");
    let proof = solved(&first.json()["challenge"]);
    let of_bob = ask(&shop, "bob", "drop", "d1", &json!({ "proof": proof })).await;
    assert_eq!(of_bob.problem(), (403, "proof_invalid".to_owned()), "another buyer's work: {of_bob:?}");
    let nonsense = ask(&shop, "ada", "drop", "d1", &json!({ "proof": "e30=" })).await;
    assert_eq!(nonsense.problem(), (403, "proof_invalid".to_owned()), "{nonsense:?}");
    let answer = ask(&shop, "ada", "drop", "d1", &json!({ "proof": proof })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let purchase_token = answer.json()["purchase_token"].as_str().expect("a token").to_owned();
    assert_eq!(buy(&shop, "ada", "drop", "d1", Some(&purchase_token)).await.status, 202);
    shop.finish().await;
}

async fn tokens_are_limited_and_outlive_a_rotation(mode: Mode) {
    let mut shop = TestShop::start_with(mode, &FLAGS).await;
    open(&shop, "drop", json!({ "purchase_token": true })).await;
    let old = given(&shop, "ada", "drop").await;
    let mut passed = 0;
    let refused = loop {
        let answer = ask(&shop, "bob", "drop", "d1", &json!({})).await;
        if answer.status != 200 || passed > 20 {
            break answer;
        }
        passed += 1;
    };
    assert_eq!(refused.problem(), (429, "rate_limited".to_owned()), "{refused:?}");
    assert!((5..=7).contains(&passed) && refused.json()["policy"] == "token", "{passed}: {refused:?}");
    shop.stop().await;

    let mut config = shop.config.clone();
    config.auth.purchase_token_previous_secret = config.auth.purchase_token_secret.clone();
    config.auth.purchase_token_previous_key = config.auth.purchase_token_key;
    config.auth.purchase_token_secret =
        seckill::config::Secret::new("another secret of 32 bytes or more, really");
    config.auth.purchase_token_key = 2;
    let backend = crate::harness::open(&config).await;
    let shop = TestShop::start_on(config, backend, seckill::app::Role::All).await;
    assert_eq!(buy(&shop, "ada", "drop", "d1", Some(&old)).await.status, 202, "of the key before");
    let new = given(&shop, "carl", "drop").await;
    assert_eq!(buy(&shop, "carl", "drop", "d1", Some(&new)).await.status, 202);
    shop.finish().await;
}

#[cfg(feature = "distributed")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_sale_that_requires_tokens_is_not_made_where_nobody_can_make_them() {
    let shop = TestShop::start(Mode::Distributed).await;
    let mut body = sale_body("drop", 1, &[("phone", 9)]);
    body["access"] = json!({ "purchase_token": true });
    let refused = shop.operate("POST", "/sales", body).await;
    let pointer = refused.json()["errors"][0]["pointer"].clone();
    assert_eq!((refused.status, pointer), (400, json!("/access/purchase_token")), "{refused:?}");
    shop.finish().await;
}
