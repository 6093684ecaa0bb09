//! The pages of the binary, and the sessions with which shoppers use them.

use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{SECRET, TestShop, token, token_of};

in_both_modes!(
    pages_load_nothing_from_elsewhere_and_are_read_once,
    a_page_has_a_session_for_its_token_and_changes_things_only_itself,
    anybody_can_be_a_buyer_of_a_demo_and_of_nothing_else,
);

/// What the policy forbids.
const INLINE: [&str; 6] = [" style=", "<style", "<script>", " onclick=", "javascript:", "eval("];
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; form-action 'self'";

async fn pages_load_nothing_from_elsewhere_and_are_read_once(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut bytes = 0;
    let pages = [
        (shop.shopper, "/"),
        (shop.shopper, "/shop"),
        (shop.admin, "/console"),
        (shop.admin, "/ops"),
        (shop.shopper, "/assets/icon.svg"),
        (shop.shopper, "/assets/seckill.js"),
        (shop.shopper, "/assets/shop.js"),
        (shop.shopper, "/assets/style.css"),
        (shop.shopper, "/assets/ui.js"),
        (shop.shopper, "/assets/words.js"),
        (shop.admin, "/assets/admin.js"),
        (shop.admin, "/assets/admin-words.js"),
        (shop.admin, "/assets/chart.js"),
        (shop.admin, "/assets/console.js"),
        (shop.admin, "/assets/ops.js"),
    ];
    for (address, path) in pages {
        let page = call(address, "GET", path, &[], "").await;
        assert_eq!((page.status, page.header("content-security-policy")), (200, POLICY), "{path}");
        assert_eq!(
            (page.header("x-content-type-options"), page.header("referrer-policy")),
            ("nosniff", "same-origin")
        );
        assert_eq!(page.header("cache-control"), "no-cache", "{path}");
        let etag = page.header("etag").to_owned();
        let again = call(address, "GET", path, &[("If-None-Match", &etag)], "").await;
        assert_eq!(
            (again.status, again.text.as_str(), again.header("etag")),
            (304, "", etag.as_str()),
            "{path}"
        );
        let head = call(address, "HEAD", path, &[], "").await;
        assert_eq!(
            (head.status, head.text.as_str(), head.header("etag")),
            (200, "", etag.as_str()),
            "{path}"
        );
        let inline = INLINE.iter().find(|inline| page.text.contains(**inline));
        assert_eq!(inline, None, "{path}");
        let addresses = page.text.match_indices("http").map(|(at, _)| &page.text[at..]);
        let elsewhere = addresses.filter(|rest| rest.starts_with("http://") || rest.starts_with("https://"));
        assert_eq!(
            elsewhere.filter(|rest| !rest.starts_with("http://www.w3.org/2000/svg")).count(),
            0,
            "{path}"
        );
        if path == "/assets/seckill.js" {
            assert!(page.text.len() <= 6 * 1024, "the client has {} bytes", page.text.len());
        }
        bytes += page.text.len();
    }
    assert!(bytes <= 200 * 1024, "{bytes} bytes, before they are compressed");
    nothing_else_is_served(&shop).await;
    shop.finish().await;
}

async fn nothing_else_is_served(shop: &TestShop) {
    for (address, path) in [
        (shop.shopper, "/console"),
        (shop.shopper, "/assets/shop.html"),
        (shop.shopper, "/assets/none.js"),
        (shop.shopper, "/assets/..%2Fshop.js"),
        (shop.admin, "/shop"),
    ] {
        assert_eq!(
            call(address, "GET", path, &[], "").await.problem(),
            (404, "not_found".to_owned()),
            "{path}"
        );
    }
    let front = call(shop.admin, "GET", "/", &[], "").await;
    assert_eq!((front.status, front.header("location")), (307, "/console"));
}

async fn session(shop: &TestShop, method: &str, headers: &[(&str, &str)]) -> Answer {
    call(shop.shopper, method, "/api/v1/session", headers, "").await
}

async fn a_page_has_a_session_for_its_token_and_changes_things_only_itself(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let bearer = format!("Bearer {}", token("ada"));
    let begun = session(&shop, "POST", &[("Authorization", &bearer)]).await;
    assert_eq!((begun.status, &begun.json()["user_id"]), (201, &json!("ada")), "{begun:?}");
    let set = begun.header("set-cookie").to_owned();
    assert!(
        set.starts_with("seckill_shopper=eyJ")
            && set.contains("; Path=/; HttpOnly; SameSite=Strict; Max-Age="),
        "{set}"
    );
    let behind_tls =
        [("Authorization", bearer.as_str()), ("Origin", "https://shop.example"), ("Host", "shop.example")];
    let set_behind_tls = session(&shop, "POST", &behind_tls).await.header("set-cookie").to_owned();
    assert!(set_behind_tls.starts_with("__Host-seckill_shopper=") && set_behind_tls.ends_with("; Secure"));
    let cookie = set.split(';').next().expect("a cookie");
    let read = session(&shop, "GET", &[("Cookie", cookie)]).await;
    assert_eq!(
        (read.status, &read.json()["user_id"], read.header("cache-control")),
        (200, &json!("ada"), "no-store")
    );
    // A purchase with the cookie needs the origin of the page itself.
    let buy = async |origin: Option<&str>, cookie: &str| {
        let mut headers = vec![
            ("Cookie", cookie),
            ("Host", "shop.example:8080"),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", "k"),
        ];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        let body = r#"{"sku_id":"phone","quantity":1}"#;
        call(shop.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await
    };
    for other in [
        None,
        Some("null"),
        Some("http://shop.example"),
        Some("http://evil.example"),
        Some("http://shop.example:8081"),
    ] {
        assert_eq!(buy(other, cookie).await.problem(), (403, "forbidden".to_owned()), "{other:?}");
    }
    assert_eq!(shop.stage().orders("awaiting_payment").await, 0);
    let bought = buy(Some("http://SHOP.example:8080"), cookie).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let two = format!("{cookie}; seckill_shopper={}", token("bob"));
    assert_eq!(
        buy(Some("http://shop.example:8080"), &two).await.problem(),
        (401, "unauthenticated".to_owned())
    );
    a_session_ends(&shop, cookie).await;
    shop.finish().await;
}

async fn a_session_ends(shop: &TestShop, cookie: &str) {
    // The operators' cookie is none here, and a token in the header goes before one in a cookie.
    let theirs = session(shop, "GET", &[("Cookie", "seckill_session=x")]).await;
    assert_eq!(theirs.problem(), (401, "unauthenticated".to_owned()));
    assert!(theirs.json()["demo"].is_null());
    let bobs = format!("Bearer {}", token("bob"));
    let who = session(shop, "GET", &[("Cookie", cookie), ("Authorization", &bobs)]).await.json();
    assert_eq!(who["user_id"], "bob");
    // It ends by itself with its token, and with a word.
    let long = token_of(
        &json!({ "sub": "a", "aud": "seckill", "exp": 4_000_000_000_u64, "more": "x".repeat(2900) }),
        SECRET,
    );
    let refused = session(shop, "POST", &[("Authorization", &format!("Bearer {long}"))]).await;
    assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{refused:?}");
    assert_eq!(session(shop, "DELETE", &[("Cookie", cookie)]).await.problem(), (403, "forbidden".to_owned()));
    let ended = session(
        shop,
        "DELETE",
        &[("Cookie", cookie), ("Origin", "http://shop.example"), ("Host", "shop.example")],
    )
    .await;
    assert_eq!(ended.status, 204);
    assert!(
        ended.header("set-cookie").starts_with("seckill_shopper=; ")
            && ended.header("set-cookie").contains("Max-Age=0")
    );
}

async fn anybody_can_be_a_buyer_of_a_demo_and_of_nothing_else(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let own = [("Origin", "http://shop.example"), ("Host", "shop.example")];
    assert_eq!(session(&shop, "POST", &own).await.problem(), (401, "unauthenticated".to_owned()));
    shop.let_anybody_buy();
    assert_eq!(session(&shop, "GET", &[]).await.json()["demo"], true);
    assert_eq!(session(&shop, "POST", &[]).await.problem(), (403, "forbidden".to_owned()), "another page");
    let (one, other) = (session(&shop, "POST", &own).await, session(&shop, "POST", &own).await);
    assert_eq!((one.status, other.status), (201, 201));
    let user = |answer: &Answer| answer.json()["user_id"].as_str().unwrap_or_default().to_owned();
    assert!(user(&one).starts_with("guest-") && user(&one) != user(&other));
    assert_eq!(session(&shop, "POST", &[("Authorization", "Bearer x")]).await.status, 401);
    assert_ne!(Value::Null, one.json()["ends_at"]);
    shop.finish().await;
}
