//! What is in the log of a process: nothing secret at any level, and enough to follow a request.

use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::call;
use crate::harness::process::Process;
use crate::harness::{API_KEY, SECRET, TestShop, eventually, token};

/// What no log may have. Each is used below.
const PURCHASE_SECRET: &str = "canary-of-a-purchase-secret-0123456789abcdef";
const PROVIDER_KEY: &str = "sk_test_canary0123456789";
const WEBHOOK_SECRET: &str = "whsec_canary_of_a_webhook_secret_0123456789";
const CALL_SECRET: &str = "canary-of-a-call-secret-0123456789abcdef";
const REFERENCE: &str = "canary-reference-of-a-body";

/// A process that logs everything, with secrets of its own.
const TALKATIVE: [(&str, &str); 10] = [
    ("LOG__FILTER", "trace"),
    ("LOG__FORMAT", "json"),
    ("AUTH__PURCHASE_TOKEN_SECRET", PURCHASE_SECRET),
    ("PAYMENT__PROVIDER", "stripe"),
    ("PAYMENT__API_KEY", PROVIDER_KEY),
    ("PAYMENT__WEBHOOK_SECRET", WEBHOOK_SECRET),
    ("PAYMENT__PROVIDER_URL", "http://127.0.0.1:9"),
    ("PAYMENT__RETURN_URL", "https://shop.example/thanks/{order}"),
    ("NOTIFY__URL", "https://calls.example/hook"),
    ("NOTIFY__SECRET", CALL_SECRET),
];

/// Reads a log of JSON lines. The lines that a person is told stand before it.
fn lines(log: &str) -> Vec<Value> {
    log.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

async fn front_of(shop: &TestShop, settings: &[(&str, &str)]) -> Process {
    let front = Process::start(&shop.config, "all", settings).await;
    eventually("the front sells", async || {
        call(front.shopper, "GET", "/api/v1/sales/drop", &[], "").await.text.contains("\"live\"")
    })
    .await;
    front
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn no_secret_and_no_body_is_in_a_log_at_any_level() {
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    let mut front = front_of(&shop, &TALKATIVE).await;
    let bearer = token("ada");
    let authorization = format!("Bearer {bearer}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Idempotency-Key", "k"),
        ("Content-Type", "application/json"),
    ];
    let body = json!({ "sku_id": "phone", "quantity": 1, "reference": REFERENCE }).to_string();
    let bought = call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body.clone()).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let order = bought.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/orders/{order}");
    eventually("it has its row", async || {
        call(front.shopper, "GET", &path, &headers, "").await.text.contains("awaiting_payment")
    })
    .await;
    // The provider cannot be reached, and says so.
    let paid = call(front.shopper, "POST", &format!("{path}/pay"), &headers, "").await;
    assert!(paid.status >= 500, "{paid:?}");
    let ticket = call(front.shopper, "POST", "/api/v1/stream-tickets", &headers, "").await;
    let ticket = ticket.json()["ticket"].as_str().expect("a ticket").to_owned();
    let _ = call(front.shopper, "GET", &format!("/api/v1/stream?ticket={ticket}x"), &[], "").await;
    let forged = format!("Bearer {bearer}forged");
    let _ = call(front.shopper, "GET", &path, &[("Authorization", forged.as_str())], "").await;
    let hook = [("Stripe-Signature", "t=1,v1=00"), ("Content-Type", "application/json")];
    let _ = call(front.shopper, "POST", "/api/v1/webhooks/payments", &hook, body.clone()).await;
    let operator = format!("Bearer {API_KEY}");
    let operator = [("Authorization", operator.as_str()), ("Content-Type", "application/json")];
    let made = json!({ "name": "bob", "role": "viewer", "reason": "x" }).to_string();
    let made = call(front.admin, "POST", "/api/v1/admin/keys", &operator, made).await;
    let key = made.json()["key"].as_str().expect("a key").to_owned();
    let session = call(front.admin, "POST", "/api/v1/admin/session", &operator, "").await;
    let cookie =
        session.headers.get("set-cookie").and_then(|cookie| cookie.to_str().ok()).unwrap_or_default();
    let cookie = cookie.split(['=', ';']).nth(1).unwrap_or_default().to_owned();
    assert!(cookie.len() > 10, "{session:?}");
    let bad =
        call(front.admin, "POST", "/api/v1/admin/sales", &operator, format!("{{\"x\":\"{REFERENCE}\"}}"))
            .await;
    assert_eq!(bad.status, 400, "{bad:?}");
    assert_eq!(front.stop(), Some(0));

    let log = front.log();
    assert!(lines(&log).len() > 100, "at this level there is much: {}", log.len());
    let canaries = [
        ("the secret of shoppers", SECRET),
        ("a shopper's token", &bearer),
        ("the signature of a token", bearer.rsplit('.').next().expect("a part")),
        ("an operator's key", API_KEY),
        ("a key that was made", &key),
        ("a session", &cookie),
        ("a stream's ticket", &ticket),
        ("the secret of purchase tokens", PURCHASE_SECRET),
        ("the databases' password", shop.config.mysql.password.expose()),
        ("the provider's key", PROVIDER_KEY),
        ("the provider's secret", WEBHOOK_SECRET),
        ("the secret of calls", CALL_SECRET),
        ("a body", REFERENCE),
    ];
    for (what, canary) in canaries {
        let found = log.lines().find(|line| line.contains(canary));
        assert_eq!(found, None, "{what}");
    }
    shop.finish_with(crate::harness::Books::LeftAlone).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_line_has_the_members_that_the_documents_name_and_leads_to_its_request() {
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let settings = [
        ("LOG__FILTER", "info,seckill=debug"),
        ("LOG__FORMAT", "json"),
        ("LOG__ORDERS_PER_MILLION", "1000000"),
    ];
    let mut front = front_of(&shop, &settings).await;
    let bearer = format!("Bearer {}", token("ada"));
    let headers =
        [("Authorization", bearer.as_str()), ("Idempotency-Key", "k"), ("Content-Type", "application/json")];
    let body = json!({ "sku_id": "phone", "quantity": 1 }).to_string();
    let bought = call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body.clone()).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let again = call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body.clone()).await;
    assert!(again.status < 300, "{again:?}");
    assert_eq!(front.stop(), Some(0));
    let log = front.log();
    let lines = lines(&log);
    for line in &lines {
        for member in ["timestamp", "level", "message", "target"] {
            assert!(line[member].is_string(), "{member}: {line}");
        }
        let levels = ["ERROR", "WARN", "INFO", "DEBUG"];
        assert!(levels.contains(&line["level"].as_str().expect("text")), "{line}");
        let id = &line["request_id"];
        assert!(id.is_null() || id.as_str().is_some_and(|id| id.len() == 16), "{line}");
    }
    let id = bought.headers.get("x-request-id").and_then(|id| id.to_str().ok()).expect("an id");
    let of_order: Vec<&Value> = lines.iter().filter(|line| line["message"] == "order accepted").collect();
    let [accepted] = of_order[..] else { panic!("one line for one order: {of_order:?}") };
    assert_eq!(accepted["order"], bought.json()["id"]);
    assert_eq!((&accepted["sale"], &accepted["request_id"]), (&json!("drop"), &json!(id)));
    let request = lines.iter().find(|line| line["message"] == "request" && line["request_id"] == id);
    assert_eq!(request.expect("a line of the request")["status"], 202);
    shop.finish().await;
}
