//! What operators do before, during and after a sale beside its life: check, clone, look for orders, end many, export
//! them, take processes out of service, read the report.

use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{API_KEY, Books, TestShop, eventually, sale_body};
use crate::provider::paying_shop;

in_both_modes!(
    a_preflight_says_what_is_missing_and_what_helps,
    a_clone_is_a_draft_with_other_times_and_is_made_once,
    an_action_heeds_the_version_that_the_operator_has_seen,
    orders_are_found_by_everything_that_is_known_of_them,
    an_order_tells_what_happened_to_it,
    many_orders_are_cancelled_and_refunded_after_a_dry_run,
    an_export_is_whole_goes_on_after_a_break_and_calculates_nothing,
    a_process_is_taken_out_of_service_and_back,
    a_report_is_for_programs_spreadsheets_and_people,
);

const PHONE: &[(&str, u32)] = &[("phone", 10)];

async fn operate(shop: &TestShop, method: &str, path: &str, body: Value) -> Value {
    let answer = shop.operate(method, path, body).await;
    assert!(answer.status < 300, "{method} {path}: {answer:?}");
    answer.json()
}

async fn preflight(shop: &TestShop, sale: &str) -> Value {
    operate(shop, "GET", &format!("/sales/{sale}/preflight"), Value::Null).await
}

fn level<'a>(preflight: &'a Value, name: &str) -> &'a str {
    let checks = preflight["checks"].as_array().expect("checks");
    let check =
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {preflight}"));
    let level = check["level"].as_str().expect("a level");
    assert!(check["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    assert_eq!(check["fix"].is_string(), level != "ok", "{check}");
    level
}

async fn a_preflight_says_what_is_missing_and_what_helps(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    operate(&shop, "POST", "/sales", sale_body("drop", 1, PHONE)).await;
    let draft = preflight(&shop, "drop").await;
    assert_eq!((draft["level"].as_str(), level(&draft, "state")), (Some("error"), "error"));
    operate(&shop, "POST", "/sales/drop/publish", json!({ "reason": "x" })).await;
    assert_eq!(level(&preflight(&shop, "drop").await, "state"), "error", "it is on, and not in place");
    operate(&shop, "POST", "/sales/drop/preheat", json!({ "reason": "x" })).await;
    // The process tells of itself twice a second, and looks for what was put in place as often.
    eventually("nothing is wrong", async || preflight(&shop, "drop").await["level"] != "error").await;
    eventually("it can buy", async || level(&preflight(&shop, "drop").await, "buy") == "ok").await;
    let ready = preflight(&shop, "drop").await;
    for name in [
        "definition",
        "window",
        "state",
        "tables",
        "payment",
        "fronts",
        "workers",
        "versions",
        "switches",
        "stock",
        "buy",
        "write",
    ] {
        assert_eq!(level(&ready, name), "ok", "{ready}");
    }
    assert_eq!((level(&ready, "limits"), ready["level"].as_str()), ("warning", Some("warning")), "bots");
    let off = json!({ "is_on": true, "reason": "x" });
    operate(&shop, "PUT", "/switches/no_purchases", off).await;
    assert_eq!(level(&preflight(&shop, "drop").await, "switches"), "error");
    let grey =
        json!({ "kind": "grey", "value": { "gives": { "sale": "drop" }, "percent": 5 }, "reason": "x" });
    operate(&shop, "PUT", "/rules/early", grey).await;
    assert_eq!(level(&preflight(&shop, "drop").await, "visibility"), "warning");
    operate(&shop, "POST", "/sales/drop/pause", json!({ "reason": "x" })).await;
    assert_eq!(level(&preflight(&shop, "drop").await, "state"), "error");
    let unknown = shop.operate("GET", "/sales/other/preflight", Value::Null).await;
    assert_eq!(unknown.problem(), (404, "sale_not_found".to_owned()));
    shop.finish().await;
}

async fn a_clone_is_a_draft_with_other_times_and_is_made_once(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 3, &[("bag", 4), ("phone", 7)]).await;
    let wish = json!({ "id": "drop-2", "starts_at": "2036-12-04T12:00:00.000Z", "ends_at": "2036-12-04T13:00:00.000Z" });
    let made = operate(&shop, "POST", "/sales/drop/clone", wish.clone()).await;
    let old = operate(&shop, "GET", "/sales/drop", Value::Null).await;
    assert_eq!((&made["state"], &made["version"], &made["epoch"]), (&json!("draft"), &json!(1), &json!(1)));
    for same in ["name", "buyer_limit", "items", "buckets", "access", "payment_window_ms"] {
        assert_eq!(made[same], old[same], "{same}");
    }
    assert_eq!(made["starts_at"], "2036-12-04T12:00:00.000Z");
    let again = shop.operate("POST", "/sales/drop/clone", wish).await;
    assert_eq!(again.problem(), (409, "sale_exists".to_owned()));
    let mut backwards =
        json!({ "id": "drop-3", "starts_at": "2036-12-04T12:00:00Z", "ends_at": "2036-12-03T12:00:00Z" });
    let refused = shop.operate("POST", "/sales/drop/clone", backwards.clone()).await;
    assert_eq!(refused.problem(), (400, "validation_failed".to_owned()));
    backwards["ends_at"] = "2036-12-05T12:00:00Z".into();
    let unknown = shop.operate("POST", "/sales/none/clone", backwards).await;
    assert_eq!(unknown.problem(), (404, "sale_not_found".to_owned()));
    assert_eq!(shop.stage().audit(Some("drop-2")).await[0][1], "clone");
    shop.finish().await;
}

async fn an_action_heeds_the_version_that_the_operator_has_seen(mode: Mode) {
    let shop = TestShop::start(mode).await;
    operate(&shop, "POST", "/sales", sale_body("drop", 1, PHONE)).await;
    let bearer = format!("Bearer {API_KEY}");
    let act = async |action: &str, tag: &str| -> Answer {
        let headers =
            [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("If-Match", tag)];
        let path = format!("/api/v1/admin/sales/drop/{action}");
        call(shop.admin, "POST", &path, &headers, r#"{"reason":"x"}"#).await
    };
    let published = act("publish", "\"1\"").await;
    assert_eq!((published.status, published.header("etag")), (200, "\"2\""));
    for (action, tag) in [("preheat", "\"1\""), ("end", "W/\"2\""), ("settle", "\"1\"")] {
        assert_eq!(act(action, tag).await.problem(), (412, "etag_mismatch".to_owned()), "{action} {tag}");
    }
    let state = operate(&shop, "GET", "/sales/drop", Value::Null).await["state"].clone();
    assert_eq!(state, "published", "what was refused has changed nothing");
    assert_eq!(act("end", "\"9\", \"2\"").await.status, 200);
    shop.finish().await;
}

fn ids(page: &Value) -> Vec<String> {
    let orders = page["orders"].as_array().expect("orders");
    orders.iter().map(|order| order["id"].as_str().expect("an id").to_owned()).collect()
}

async fn orders_are_found_by_everything_that_is_known_of_them(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("bag", 9), ("phone", 20)]).await;
    shop.open_sale("other", 1, PHONE).await;
    let mut of_sale = Vec::new();
    for n in 0..12 {
        let body = json!({ "sku_id": "phone", "quantity": 1, "reference": format!("cart-{n}") }).to_string();
        let bought = shop.place(&format!("u{n}"), "drop", "k", &body, &[]).await;
        of_sale.push(bought.json()["id"].as_str().expect("an id").to_owned());
    }
    of_sale.push(shop.buy("u1", "drop", "bag", "k2").await.json()["id"].as_str().expect("an id").to_owned());
    assert_eq!(shop.buy("u1", "other", "phone", "k").await.status, 202);
    eventually("all have rows", async || shop.stage().orders("awaiting_payment").await == 14).await;
    of_sale.sort();
    let (mut found, mut query) = (Vec::new(), "?sale=drop&limit=5".to_owned());
    loop {
        let page = operate(&shop, "GET", &format!("/orders{query}"), Value::Null).await;
        found.extend(ids(&page));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?sale=drop&limit=5&cursor={cursor}");
    }
    assert_eq!(found, of_sale, "every order once, ascending");
    let count = async |query: &str| {
        ids(&operate(&shop, "GET", &format!("/orders?sale=drop{query}"), Value::Null).await).len()
    };
    assert_eq!(count("&user=u1").await, 2);
    assert_eq!(count("&user=u1&sku=bag").await, 1);
    assert_eq!((count("&sku=phone").await, count("&sku=bag").await), (12, 1));
    assert_eq!((count("&status=awaiting_payment").await, count("&status=paid").await), (13, 0));
    assert_eq!((count("&reference=cart-7").await, count("&reference=cart-99").await), (1, 0));
    assert_eq!(
        (count("&since=2036-01-01T00:00:00Z").await, count("&until=2036-01-01T00:00:00Z").await),
        (0, 13)
    );
    for bad in [
        "",
        "?sale=drop&status=lost",
        "?sale=drop&cursor=x",
        "?sale=drop&limit=0",
        "?sale=drop&who=u1",
        "?sale=drop&since=x",
    ] {
        let refused = shop.operate("GET", &format!("/orders{bad}"), Value::Null).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{bad}");
    }
    let unknown = shop.operate("GET", "/orders?sale=none", Value::Null).await;
    assert_eq!(unknown.problem(), (404, "sale_not_found".to_owned()));
    shop.finish().await;
}

async fn an_order_tells_what_happened_to_it(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, PHONE).await;
    let order = shop.unpaid("ada", "k").await;
    let page = shop.act("ada", &order, "pay").await.json()["payment"]["redirect_url"].clone();
    provider.press(page.as_str().expect("a page"), "pay").await;
    provider.events.run_once().await;
    operate(&shop, "POST", &format!("/orders/{order}/refund"), json!({ "reason": "a scratch" })).await;
    let read = operate(&shop, "GET", &format!("/orders/{order}"), Value::Null).await;
    let timeline = read["timeline"].as_array().expect("a timeline");
    let what: Vec<&str> = timeline.iter().map(|hop| hop["what"].as_str().expect("a word")).collect();
    for word in ["accepted", "persisted", "payment 1 opened", "paid", "payment 1 refund owed", "refunded"] {
        assert!(what.contains(&word), "no {word} in {timeline:#?}");
    }
    let at: Vec<&str> = timeline.iter().map(|hop| hop["at"].as_str().expect("a time")).collect();
    assert!(at.is_sorted(), "{at:?}");
    let of = |word: &str| timeline.iter().find(|hop| hop["what"] == word).expect("a hop");
    assert_eq!(
        (&of("persisted")["by"], &of("paid")["by"]),
        (&json!("order_writer"), &json!("payment_provider"))
    );
    assert_eq!(
        (&of("refunded")["by"], &of("refunded")["why"]),
        (&json!("operator:tester"), &json!("a scratch"))
    );
    let nodes = operate(&shop, "GET", "/nodes", Value::Null).await;
    let node = &nodes["nodes"][0]["id"].as_str().expect("a process")[..8];
    for hop in timeline {
        assert_eq!(hop["node"], node, "{hop} in {timeline:#?}");
    }
    assert_eq!(of("payment 1 heard of")["by"], "payment_provider");
    shop.finish_with(Books::Audited).await;
}

fn outcomes(answer: &Value) -> Vec<(&str, Option<&str>)> {
    let orders = answer["orders"].as_array().expect("orders");
    orders.iter().map(|one| (one["outcome"].as_str().expect("a word"), one["status"].as_str())).collect()
}

async fn many_orders_are_cancelled_and_refunded_after_a_dry_run(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, PHONE).await;
    let mut orders = Vec::new();
    for n in 0..5 {
        orders.push(shop.unpaid(&format!("u{n}"), "k").await);
    }
    for (n, order) in orders.iter().take(2).enumerate() {
        let page = shop.act(&format!("u{n}"), order, "pay").await.json()["payment"]["redirect_url"].clone();
        provider.press(page.as_str().expect("a page"), "pay").await;
        provider.events.run_once().await;
    }
    // One has an open payment, which is closed first.
    shop.act("u2", &orders[2], "pay").await;
    let wish = |dry_run: bool| json!({ "reason": "a wrong price", "sale_id": "drop", "dry_run": dry_run });
    let dry = operate(&shop, "POST", "/orders/cancel", wish(true)).await;
    assert_eq!(outcomes(&dry), [("done", Some("cancelled")); 3]);
    assert_eq!((dry["dry_run"].as_bool(), shop.stage().orders("cancelled").await), (Some(true), 0));
    let done = operate(&shop, "POST", "/orders/cancel", wish(false)).await;
    assert_eq!(outcomes(&done), [("done", Some("cancelled")); 3]);
    assert_eq!(shop.stage().orders("cancelled").await, 3);
    let again = operate(&shop, "POST", "/orders/cancel", wish(false)).await;
    assert_eq!(outcomes(&again), [], "nothing is left to cancel");
    let mut named =
        json!({ "reason": "a wrong price", "ids": [orders[0], orders[3], "ord_00000000000000000000000000"] });
    let refunded = operate(&shop, "POST", "/orders/refund", named.clone()).await;
    assert_eq!(
        outcomes(&refunded),
        [("done", Some("refunded")), ("refused", Some("cancelled")), ("unknown", None)]
    );
    let refunded = operate(&shop, "POST", "/orders/refund", named.clone()).await;
    assert_eq!(outcomes(&refunded)[0], ("done", Some("refunded")), "a repetition finds it done");
    let notes = shop.stage().notes("order_cancel").await;
    assert_eq!(notes.len(), 3, "each order has its row: {notes:?}");
    named["sale_id"] = "drop".into();
    for bad in [
        named,
        json!({ "reason": "x" }),
        json!({ "reason": "x", "sale_id": "drop", "limit": 101 }),
        json!({ "reason": "", "ids": [orders[0]] }),
    ] {
        let refused = shop.operate("POST", "/orders/refund", bad.clone()).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{bad}");
    }
    let misled = json!({ "reason": "x", "sale_id": "drop", "restock": true });
    assert_eq!(shop.operate("POST", "/orders/cancel", misled).await.status, 400);
    shop.finish_with(Books::Audited).await;
}

async fn an_export_is_whole_goes_on_after_a_break_and_calculates_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 50)]).await;
    let users = ["=1+1", "-ada", "@eve", "+bob", "\"q\",x"];
    for user in users {
        let bought = shop.buy(user, "drop", "phone", "k").await;
        assert_eq!(bought.status, 202, "{bought:?}");
    }
    eventually("all have rows", async || shop.stage().orders("awaiting_payment").await == 5).await;
    let export = async |query: &str| {
        let answer = shop.operate("GET", &format!("/exports/orders?sale=drop{query}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    };
    let whole = export("").await;
    assert_eq!(whole.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> =
        whole.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut buyers: Vec<&str> = lines.iter().map(|line| line["user_id"].as_str().expect("a user")).collect();
    buyers.sort_unstable();
    let mut expected = users;
    expected.sort_unstable();
    assert_eq!(buyers, expected);
    let rest = export(&format!("&cursor={}", lines[1]["id"].as_str().expect("an id"))).await;
    assert_eq!(rest.text.lines().count(), 3, "it goes on after the last order that came");
    assert_eq!(export("&status=paid").await.text, "");
    let csv = export("&format=csv").await;
    let mut rows = csv.text.split("\r\n");
    assert!(rows.next().is_some_and(|head| head.starts_with("id,sale_id,sku_id,user_id,")));
    for cell in [",'=1+1,", ",'-ada,", ",'@eve,", ",'+bob,", ",\"\"\"q\"\",x\","] {
        assert!(csv.text.contains(cell), "no {cell} in {}", csv.text);
    }
    let disposition = csv.header("content-disposition");
    assert_eq!(disposition, "attachment; filename=\"drop-orders.csv\"");
    assert_eq!(shop.operate("GET", "/exports/orders?sale=drop&format=xml", Value::Null).await.status, 400);
    shop.finish().await;
}

async fn a_process_is_taken_out_of_service_and_back(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, PHONE).await;
    let nodes = async || operate(&shop, "GET", "/nodes", Value::Null).await["nodes"].clone();
    eventually("the process has told of itself", async || {
        nodes().await.as_array().is_some_and(|all| all.len() == 1)
    })
    .await;
    let id = nodes().await[0]["id"].as_str().expect("an id").to_owned();
    let ready = async || call(shop.admin, "GET", "/readyz", &[], "").await.status;
    operate(&shop, "POST", &format!("/nodes/{id}/drain"), json!({ "reason": "a new machine" })).await;
    eventually("it is not ready", async || ready().await == 503).await;
    eventually("others see it", async || nodes().await[0]["status"] == "draining").await;
    let served = shop.buy("ada", "drop", "phone", "k").await;
    assert_eq!(
        (served.status, served.header("connection")),
        (202, "close"),
        "who comes all the same is served"
    );
    operate(&shop, "POST", &format!("/nodes/{id}/resume"), json!({ "reason": "all is well" })).await;
    eventually("it is ready again", async || ready().await == 200).await;
    assert_eq!(shop.stage().notes("node_drain").await[0].1, json!({ "node": id }));
    let unknown = shop.operate("POST", "/nodes/none/drain", json!({ "reason": "x" })).await;
    assert_eq!(unknown.problem(), (404, "node_not_found".to_owned()));
    shop.finish().await;
}

async fn a_report_is_for_programs_spreadsheets_and_people(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, PHONE).await;
    let order = shop.unpaid("ada", "k").await;
    let page = shop.act("ada", &order, "pay").await.json()["payment"]["redirect_url"].clone();
    provider.press(page.as_str().expect("a page"), "pay").await;
    provider.events.run_once().await;
    operate(&shop, "POST", "/sales/drop/end", json!({ "reason": "x" })).await;
    eventually("it is settled", async || {
        shop.operate("POST", "/sales/drop/settle", json!({ "reason": "x" })).await.status == 200
    })
    .await;
    let read =
        async |query: &str| shop.operate("GET", &format!("/sales/drop/report{query}"), Value::Null).await;
    let report = read("").await.json();
    assert_eq!(report["verdict"], json!({ "is_right": true, "findings": [] }), "{report}");
    let csv = read("?format=csv").await.text;
    assert_eq!(
        csv,
        "sale_id,sku_id,configured,sold,withheld,available,is_right\r\ndrop,phone,10,1,0,9,true\r\n"
    );
    let html = read("?format=html").await;
    assert!(html.header("content-type").starts_with("text/html"));
    assert!(html.header("content-security-policy").contains("style-src 'sha256-"));
    assert!(
        html.text.contains("The accounts are right")
            && html.text.contains("<td>phone</td><td>10</td><td>1</td>")
    );
    assert!(!html.text.contains("http") && !html.text.contains("<script"), "it needs nothing else");
    assert_eq!(read("?format=pdf").await.problem(), (400, "validation_failed".to_owned()));
    shop.finish_with(Books::Audited).await;
}
