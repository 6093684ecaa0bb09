//! Who may do what on the operators' listener: keys, roles, sessions of pages, and the log of what was done.

use std::collections::HashMap;

use seckill::config::Mode;
use seckill::domain::Scope;
use seckill::domain::scope::Role;
use seckill::http::router::ADMIN_CONTRACT;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{API_KEY, TestShop, eventually, operate, sale_body};

in_both_modes!(
    every_route_refuses_a_key_without_its_scope_and_takes_the_least_role_that_has_it,
    a_key_makes_only_keys_that_may_do_what_it_may,
    a_key_is_rotated_with_an_overlap_and_revoked_at_once,
    it_is_noted_when_a_key_was_used_last,
    a_page_exchanges_a_key_for_a_cookie,
    a_cookie_alone_changes_nothing,
    a_session_ends_by_itself_by_its_end_and_with_its_key,
    the_listener_of_operators_answers_for_no_foreign_name,
    the_audit_log_is_read_by_pages_and_filters,
);

const HOUR_MS: i64 = 3_600_000;

/// Makes a key through the API, and answers its text and its id.
async fn made(shop: &TestShop, by: &str, wish: Value) -> (String, String) {
    let made = operate(shop.admin, by, "POST", "/keys", wish).await;
    assert_eq!(made.status, 201, "{made:?}");
    let text = |name: &str| made.json()[name].as_str().expect("text").to_owned();
    (text("key"), text("id"))
}

async fn key_of(shop: &TestShop, id: &str) -> Value {
    let keys = shop.operate("GET", "/keys", Value::Null).await.json();
    let keys = keys["keys"].as_array().expect("keys").clone();
    keys.into_iter().find(|key| key["id"] == id).expect("the key")
}

/// Lists verb, path and scope of every route that has one.
fn routes() -> Vec<(String, String, Scope)> {
    let paths = ADMIN_CONTRACT["paths"].as_object().expect("paths");
    let mut routes = Vec::new();
    for (path, verbs) in paths {
        for (verb, operation) in verbs.as_object().expect("verbs") {
            let Some(word) = operation["security"][0]["operator"][0].as_str() else { continue };
            let scope = Scope::ALL.into_iter().find(|scope| scope.as_str() == word).expect("a scope");
            let path = path.replace("{action}", "pause").replace("{switch}", "read_only");
            routes.push((verb.to_uppercase(), path.replace(['{', '}'], ""), scope));
        }
    }
    routes
}

async fn every_route_refuses_a_key_without_its_scope_and_takes_the_least_role_that_has_it(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut keys: HashMap<String, String> = HashMap::new();
    for role in Role::ALL.map(Role::as_str) {
        keys.insert(role.to_owned(), made(&shop, API_KEY, json!({ "name": role, "role": role })).await.0);
    }
    for scope in Scope::ALL {
        let others: Vec<&str> =
            Scope::ALL.iter().filter(|other| **other != scope).map(|it| it.as_str()).collect();
        let name = format!("all but {}", scope.as_str());
        let key = made(&shop, API_KEY, json!({ "name": name, "scopes": others })).await.0;
        keys.insert(name, key);
    }
    let routes = routes();
    assert!(routes.len() > 40, "{}", routes.len());
    let before = shop.stage().contents().await;
    let mut wrong = Vec::new();
    for (verb, path, scope) in &routes {
        let ask = async |key: Option<&str>| {
            let bearer = key.map(|key| format!("Bearer {key}"));
            let mut headers = vec![("Content-Type", "application/json")];
            headers.extend(bearer.as_ref().map(|bearer| ("Authorization", bearer.as_str())));
            call(shop.admin, verb, path, &headers, "{}").await
        };
        let bare = ask(None).await;
        if bare.problem() != (401, "unauthenticated".to_owned()) {
            wrong.push(format!("{verb} {path} without a key: {bare:?}"));
        }
        let least = Role::with(*scope);
        let lesser = Role::ALL.into_iter().rfind(|role| *role < least).map(|role| role.as_str().to_owned());
        for name in [Some(format!("all but {}", scope.as_str())), lesser].into_iter().flatten() {
            let answer = ask(Some(&keys[&name])).await;
            if answer.problem() != (403, "forbidden".to_owned()) || answer.json()["scope"] != scope.as_str() {
                wrong.push(format!("{verb} {path} with {name}: {answer:?}"));
            }
        }
        // What has no reason is refused, so nothing is changed here either.
        let allowed = ask(Some(&keys[least.as_str()])).await;
        if [401, 403].contains(&allowed.status) || allowed.status >= 500 {
            wrong.push(format!("{verb} {path} as {}: {allowed:?}", least.as_str()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let changed = shop.stage().contents().await;
    let tables = ["sales", "rules", "webhooks", "audit_log", "orders"];
    for (table, rows) in before.iter().filter(|(table, _)| tables.iter().any(|name| table.ends_with(name))) {
        assert_eq!(changed.get(table), Some(rows), "{table}");
    }
    shop.finish().await;
}

async fn a_key_makes_only_keys_that_may_do_what_it_may(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let scopes = json!(["keys:read", "keys:write", "sales:read"]);
    let (maker, maker_id) = made(&shop, API_KEY, json!({ "name": "maker", "scopes": scopes })).await;
    let as_maker =
        async |method: &str, path: &str, body: Value| operate(shop.admin, &maker, method, path, body).await;
    for (wish, scope) in [
        (json!({ "name": "x", "role": "viewer" }), "orders:read"),
        (json!({ "name": "x", "scopes": ["sales:read", "sales:write"] }), "sales:write"),
        (json!({ "name": "x", "role": "admin" }), "sales:write"),
    ] {
        let refused = as_maker("POST", "/keys", wish).await;
        assert_eq!(
            (refused.problem(), &refused.json()["scope"]),
            ((403, "forbidden".to_owned()), &json!(scope))
        );
    }
    let (reader, _) = made(&shop, &maker, json!({ "name": "reader 2", "scopes": ["sales:read"] })).await;
    assert_eq!(operate(shop.admin, &reader, "GET", "/sales", Value::Null).await.status, 200);
    // The text of a key that may more would be shown to who rotates it.
    let (_, greater) = made(&shop, API_KEY, json!({ "name": "greater", "role": "operator" })).await;
    let refused = as_maker("POST", &format!("/keys/{greater}/rotate"), json!({ "reason": "x" })).await;
    assert_eq!(refused.problem(), (403, "forbidden".to_owned()));
    for (wish, pointer) in [
        (json!({ "name": " ", "role": "viewer" }), "/name"),
        (json!({ "name": "é".repeat(33), "role": "viewer" }), "/name"),
        (json!({ "name": "x", "role": "owner" }), "/role"),
        (json!({ "name": "x", "scopes": [] }), ""),
        (json!({ "name": "x" }), ""),
        (json!({ "name": "x", "role": "viewer", "scopes": ["sales:read"] }), ""),
        (json!({ "name": "x", "scopes": ["sales:read", "sales:delete"] }), "/scopes/1"),
        (json!({ "name": "x", "role": "viewer", "reason": "" }), "/reason"),
    ] {
        let refused = shop.operate("POST", "/keys", wish.clone()).await;
        assert_eq!(refused.code(), "validation_failed", "{wish}");
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{wish}");
    }
    let again = shop.operate("POST", "/keys", json!({ "name": "maker", "role": "viewer" })).await;
    assert_eq!(
        (again.problem(), &again.json()["key_id"]),
        ((409, "key_exists".to_owned()), &json!(maker_id))
    );
    shop.finish().await;
}

async fn a_key_is_rotated_with_an_overlap_and_revoked_at_once(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let (old, old_id) = made(&shop, API_KEY, json!({ "name": "bob", "role": "promoter" })).await;
    let works = async |key: &str| operate(shop.admin, key, "GET", "/sales", Value::Null).await.status == 200;
    let rotate = format!("/keys/{old_id}/rotate");
    let rotated = shop.operate("POST", &rotate, json!({ "reason": "every quarter" })).await;
    assert_eq!(rotated.status, 201, "{rotated:?}");
    let new = rotated.json()["key"].as_str().expect("a key").to_owned();
    assert_eq!((&rotated.json()["name"], &rotated.json()["role"]), (&json!("bob"), &json!("promoter")));
    assert!(works(&old).await && works(&new).await, "both serve for a while");
    assert_eq!(key_of(&shop, &old_id).await["status"], "ending");
    let again = shop.operate("POST", &rotate, json!({ "reason": "once more" })).await;
    assert_eq!(again.problem(), (409, "key_ended".to_owned()), "a repetition makes no third key");
    let revoke = format!("/keys/{old_id}/revoke");
    for _ in 0..2 {
        let revoked = shop.operate("POST", &revoke, json!({ "reason": "it leaked" })).await;
        assert_eq!((revoked.status, &revoked.json()["status"]), (200, &json!("ended")), "{revoked:?}");
    }
    assert!(!works(&old).await && works(&new).await);
    let reasons =
        |notes: Vec<(String, Value)>| notes.into_iter().map(|(reason, _)| reason).collect::<Vec<_>>();
    assert_eq!(reasons(shop.stage().notes("key_revoke").await), ["it leaked"], "one change, one row");
    assert_eq!(reasons(shop.stage().notes("key_rotate").await), ["every quarter"]);
    let at_once = format!("/keys/{}/rotate", rotated.json()["id"].as_str().expect("an id"));
    let newest = shop.operate("POST", &at_once, json!({ "reason": "leaked", "overlap_ms": 0 })).await;
    assert_eq!(newest.status, 201);
    assert!(!works(&new).await, "without an overlap the old one ends at once");
    for missing in ["0123456789abcdef", "nonsense"] {
        for action in ["rotate", "revoke"] {
            let path = format!("/keys/{missing}/{action}");
            let answer = shop.operate("POST", &path, json!({ "reason": "x" })).await;
            assert_eq!(answer.problem(), (404, "key_not_found".to_owned()));
        }
    }
    let list = shop.operate("GET", "/keys", Value::Null).await;
    assert!(!list.text.contains("sk_"), "no text of a key is shown: {list:?}");
    shop.finish().await;
}

async fn it_is_noted_when_a_key_was_used_last(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let (key, id) = made(&shop, API_KEY, json!({ "name": "bob", "role": "viewer" })).await;
    assert_eq!(key_of(&shop, &id).await["last_used_at"], Value::Null, "nobody has used it");
    assert_eq!(operate(shop.admin, &key, "GET", "/sales", Value::Null).await.status, 200);
    eventually("its use is noted", async || key_of(&shop, &id).await["last_used_at"].is_string()).await;
    let used = key_of(&shop, &id).await;
    assert!(used["last_used_at"].as_str() >= used["created_at"].as_str(), "{used}");
    shop.finish().await;
}

/// A page that is signed in.
struct Page {
    shop: TestShop,
    cookie: String,
    csrf: String,
    origin: String,
}

impl Page {
    async fn signed_in(mode: Mode, key: &str) -> Self {
        let shop = TestShop::start(mode).await;
        let origin = format!("http://{}", shop.admin);
        let begun = begin(&shop, key, &origin).await;
        assert_eq!(begun.status, 201, "{begun:?}");
        let cookie = begun.header("set-cookie").split(';').next().expect("a cookie").to_owned();
        let csrf = begun.json()["csrf_token"].as_str().expect("a token").to_owned();
        Self { shop, cookie, csrf, origin }
    }

    async fn asks(&self, method: &str, path: &str, more: &[(&str, &str)], body: Value) -> Answer {
        let host = self.origin.strip_prefix("http://").expect("an origin").to_owned();
        let mut headers =
            vec![("Cookie", self.cookie.as_str()), ("Host", &host), ("Content-Type", "application/json")];
        headers.extend(more);
        call(self.shop.admin, method, &format!("/api/v1/admin{path}"), &headers, body.to_string()).await
    }

    /// Makes a change as the page itself makes it.
    async fn changes(&self, method: &str, path: &str, body: Value) -> Answer {
        let own = [("Origin", self.origin.as_str()), ("X-CSRF-Token", self.csrf.as_str())];
        self.asks(method, path, &own, body).await
    }
}

async fn begin(shop: &TestShop, key: &str, origin: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str()), ("Origin", origin)];
    call(shop.admin, "POST", "/api/v1/admin/session", &headers, "").await
}

async fn a_page_exchanges_a_key_for_a_cookie(mode: Mode) {
    let page = Page::signed_in(mode, API_KEY).await;
    let begun = begin(&page.shop, API_KEY, "http://localhost:9090").await;
    let set = begun.header("set-cookie");
    let text = set.strip_prefix("seckill_session=").and_then(|rest| rest.split(';').next()).expect("a text");
    assert_eq!(text.len(), 43, "256 random bits");
    assert_eq!(set, format!("seckill_session={text}; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200"));
    let behind_tls = begin(&page.shop, API_KEY, "https://ops.shop.example").await;
    let set = behind_tls.header("set-cookie");
    assert!(set.starts_with("__Host-seckill_session=") && set.ends_with("; Secure"), "{set}");
    for (_, rows) in page.shop.stage().contents().await {
        assert!(!rows.contains(text), "no text of a session is kept");
    }
    let read = page.asks("GET", "/session", &[], Value::Null).await.json();
    assert_eq!((&read["operator"], &read["role"]), (&json!("tester"), &json!("admin")));
    assert_eq!(read["csrf_token"], page.csrf.as_str(), "a page that is loaded again finds it");
    assert_eq!(page.asks("GET", "/sales", &[], Value::Null).await.status, 200);
    let made = page.changes("POST", "/sales", sale_body("drop", 1, &[("phone", 5)])).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(page.shop.stage().audit(Some("drop")).await[0][0], "tester");
    // The listener of shoppers takes it for nothing.
    let cookie = [("Cookie", page.cookie.as_str())];
    let shopper = call(page.shop.shopper, "GET", "/api/v1/orders", &cookie, "").await;
    assert_eq!(shopper.problem(), (401, "unauthenticated".to_owned()));
    assert_eq!(begin(&page.shop, "sk_unknown", &page.origin).await.status, 401);
    page.shop.finish().await;
}

async fn a_cookie_alone_changes_nothing(mode: Mode) {
    let page = Page::signed_in(mode, API_KEY).await;
    let (origin, csrf) = (page.origin.as_str(), page.csrf.as_str());
    let port: u16 = page.shop.admin.port();
    let (other_port, other_host) =
        (format!("http://127.0.0.1:{}", port.wrapping_add(1)), format!("http://evil.example:{port}"));
    let others: [&[(&str, &str)]; 8] = [
        &[],
        &[("Origin", origin)],
        &[("X-CSRF-Token", csrf)],
        &[("Origin", &other_port), ("X-CSRF-Token", csrf)],
        &[("Origin", &other_host), ("X-CSRF-Token", csrf)],
        &[("Origin", "null"), ("X-CSRF-Token", csrf)],
        &[("Origin", origin), ("X-CSRF-Token", "")],
        &[("Origin", origin), ("X-CSRF-Token", &csrf[1..])],
    ];
    for headers in others {
        for (method, path, body) in [
            ("POST", "/sales", sale_body("drop", 1, &[("phone", 5)])),
            ("DELETE", "/session", Value::Null),
            ("PUT", "/switches/read_only", json!({ "state": "on", "reason": "x" })),
        ] {
            let refused = page.asks(method, path, headers, body).await;
            assert_eq!(refused.problem(), (403, "forbidden".to_owned()), "{method} {path} {headers:?}");
        }
    }
    assert_eq!(page.asks("GET", "/sales", &[], Value::Null).await.json()["sales"], json!([]));
    // Two sessions in one request: nothing says which one is meant.
    let two = format!("{}; seckill_session=another", page.cookie);
    let answer = call(page.shop.admin, "GET", "/api/v1/admin/sales", &[("Cookie", &two)], "").await;
    assert_eq!(answer.status, 401);
    page.shop.finish().await;
}

async fn a_session_ends_by_itself_by_its_end_and_with_its_key(mode: Mode) {
    let page = Page::signed_in(mode, API_KEY).await;
    let is_on = async |page: &Page| page.asks("GET", "/sales", &[], Value::Null).await.status == 200;
    page.shop.stage().age_sessions(11 * HOUR_MS, HOUR_MS / 2 - 60_000).await;
    assert!(is_on(&page).await, "it was used less than half an hour ago");
    page.shop.stage().age_sessions(0, HOUR_MS / 2).await;
    assert!(!is_on(&page).await, "nobody has used it for half an hour");
    let again = async |page: &mut Page, key: &str| {
        let begun = begin(&page.shop, key, &page.origin).await;
        page.cookie = begun.header("set-cookie").split(';').next().expect("a cookie").to_owned();
        page.csrf = begun.json()["csrf_token"].as_str().expect("a token").to_owned();
    };
    let mut page = page;
    again(&mut page, API_KEY).await;
    assert!(is_on(&page).await);
    page.shop.stage().age_sessions(12 * HOUR_MS, 0).await;
    assert!(!is_on(&page).await, "twelve hours are all");
    again(&mut page, API_KEY).await;
    let ended = page.changes("DELETE", "/session", Value::Null).await;
    assert_eq!(ended.status, 204, "{ended:?}");
    assert!(
        ended.header("set-cookie").contains("seckill_session=; ")
            && ended.header("set-cookie").contains("Max-Age=0")
    );
    assert!(!is_on(&page).await, "it was ended");
    assert_eq!(page.shop.stage().notes("session_end").await.len(), 1);
    let (key, id) = made(&page.shop, API_KEY, json!({ "name": "bob", "role": "viewer" })).await;
    again(&mut page, &key).await;
    assert!(is_on(&page).await);
    page.shop.operate("POST", &format!("/keys/{id}/revoke"), json!({ "reason": "bob left" })).await;
    assert!(!is_on(&page).await, "its key was revoked");
    page.shop.finish().await;
}

async fn the_listener_of_operators_answers_for_no_foreign_name(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("admin.hosts", "ops.shop.example")]).await;
    let bearer = format!("Bearer {API_KEY}");
    for path in [
        "/api/v1/admin/sales",
        "/metrics",
        "/readyz?verbose",
        "/problems/sold_out",
        "/docs/index.html",
        "/nothing",
    ] {
        let of = async |host: &str| {
            call(shop.admin, "GET", path, &[("Authorization", &bearer), ("Host", host)], "").await
        };
        for foreign in ["evil.example", "evil.example:9090", "ops.shop.example.evil.example"] {
            let refused = of(foreign).await;
            assert_eq!(refused.problem(), (421, "misdirected_request".to_owned()), "{path} of {foreign}");
        }
        for own in ["localhost:9090", "ops.shop.example", "127.0.0.1", "seckill"] {
            assert_ne!(of(own).await.status, 421, "{path} of {own}");
        }
    }
    shop.finish().await;
}

async fn the_audit_log_is_read_by_pages_and_filters(mode: Mode) {
    let shop = TestShop::start(mode).await;
    for n in 0..5 {
        let made = shop.operate("POST", "/sales", sale_body(&format!("drop-{n}"), 1, &[("phone", 5)])).await;
        assert_eq!(made.status, 201);
    }
    shop.operate("POST", "/sales/drop-3/publish", json!({ "reason": "=1+1 \"quoted\"" })).await;
    let (key, _) = made(&shop, API_KEY, json!({ "name": "bob", "role": "promoter" })).await;
    operate(shop.admin, &key, "POST", "/sales/drop-4/publish", json!({ "reason": "bob's" })).await;
    let rows = async |query: &str| {
        let page = shop.operate("GET", &format!("/audit{query}"), Value::Null).await;
        assert_eq!(page.status, 200, "{page:?}");
        (page.json()["rows"].as_array().expect("rows").clone(), page.json()["next_cursor"].clone())
    };
    let (all, end) = rows("").await;
    assert_eq!(end, Value::Null);
    assert_eq!((&all[0]["actor"], &all[0]["action"]), (&json!("bob"), &json!("publish")), "the last first");
    assert_eq!(all[0]["subject"]["state"], "published", "a sale as it was then");
    let (mut paged, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let (page, next) = rows(&query).await;
        assert!(page.len() <= 3);
        paged.extend(page);
        let Some(cursor) = next.as_str() else { break };
        query = format!("?limit=3&cursor={cursor}");
    }
    assert_eq!(paged, all, "pages are the whole");
    assert_eq!(rows("?actor=bob").await.0.len(), 1);
    assert_eq!(rows("?action=publish").await.0.len(), 2);
    let of_sale = rows("?sale=drop-3").await.0;
    assert_eq!(of_sale.iter().map(|row| row["action"].clone()).collect::<Vec<_>>(), ["publish", "create"]);
    assert_eq!(of_sale[0]["reason"], "=1+1 \"quoted\"");
    let at = all[2]["at"].as_str().expect("a time");
    let (since, until) = (rows(&format!("?since={at}")).await.0, rows(&format!("?until={at}")).await.0);
    assert_eq!(since.len() + until.len(), all.len());
    assert!(since.iter().all(|row| row["at"].as_str() >= Some(at)), "{since:?}");
    for bad in ["?limit=0", "?limit=1001", "?cursor=x", "?since=yesterday", "?whatever=1", "?cursor=-1"] {
        let refused = shop.operate("GET", &format!("/audit{bad}"), Value::Null).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{bad}");
    }
    shop.finish().await;
}
