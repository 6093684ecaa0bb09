//! Moves a shop: the real binary exports it from one mode, imports it into the other, and moves it back. The audit runs
//! on what stands afterwards.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Output;

use loadtest::audit;
use seckill::config::{Config, Mode};
use seckill::ports::Ports;
use seckill::transfer::{Contents, compare};
use seckill::worker::driver::Task as _;
use serde_json::{Value, json};

use crate::conformance::ends::sweeper;
use crate::harness::process::program;
use crate::harness::{
    TestShop, config, eventually, evidence_of, open, open_sale, remove, rfc3339, sale_body, temporary,
};
use crate::provider::{Provider, paying, simulator};

/// Runs the binary on the stores of `config`.
fn seckill(config: &Config, args: &[&str]) -> Output {
    program(config).args(args).output().expect("the binary runs")
}

fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn refused(output: &Output, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(says), "{said}");
}

/// Reads every line of an export but the header, which has the time of the export.
fn body(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("an export");
    text.lines().skip(1).map(str::to_owned).collect()
}

async fn audited(config: &Config, sale: &str, persisted: usize) {
    let evidence = evidence_of(config, sale).await;
    assert_eq!(evidence.rows.len(), persisted);
    assert_eq!(audit::audit(&evidence), []);
}

/// Ends and settles the sale `past`.
async fn settle(shop: &TestShop) {
    for action in ["end", "settle"] {
        let answer =
            shop.operate("POST", &format!("/sales/past/{action}"), json!({ "reason": "it is over" })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Makes a sale with orders of every kind that there is, a settled one, another that was never touched, and a draft.
async fn fill(shop: &TestShop, ports: &Ports, provider: &Provider) -> Vec<(String, Value)> {
    shop.open_sale("past", 1, &[("phone", 2)]).await;
    settle(shop).await;
    shop.open_sale("drop", 2, &[("pad", 3), ("phone", 20)]).await;
    // The order of the first buyer expires, and no other one is overdue then.
    shop.unpaid("u7", "k").await;
    shop.stage().make_due(-31_000).await;
    let swept = sweeper(ports, false).await.run_once().await;
    assert_eq!(swept.expect("a round").done, 1);
    for n in (0..12).filter(|n| *n != 7) {
        let (user, sku) = (format!("u{n}"), if n % 4 == 0 { "pad" } else { "phone" });
        let body = json!({ "sku_id": sku, "quantity": 1, "reference": format!("cart {n}") }).to_string();
        assert!(shop.place(&user, "drop", "k", &body, &[]).await.status < 300);
    }
    assert!(shop.buy("u1", "drop", "phone", "again").await.status < 300);
    let now_ms = seckill::clock::Clock::System.now_ms();
    let mut later = sale_body("later", 1, &[("phone", 7)]);
    later["starts_at"] = rfc3339(now_ms + 3_000_000).into();
    open_sale(shop.admin, later).await;
    assert_eq!(shop.operate("POST", "/sales", sale_body("idea", 1, &[("phone", 1)])).await.status, 201);
    let stage = shop.stage();
    eventually("all are written", async || stage.orders("awaiting_payment").await == 12).await;
    let cancelled = order_of(shop, "u2").await;
    assert_eq!(shop.act("u2", &cancelled, "cancel").await.status, 200);
    for buyer in ["u4", "u5"] {
        let (_, page) = shop.payment(buyer, &order_of(shop, buyer).await).await;
        provider.press(&page, "pay").await;
    }
    provider.events.run_once().await;
    eventually("two are paid", async || stage.orders("paid").await == 2).await;
    let refunded = order_of(shop, "u5").await;
    refund(shop, &refunded).await;
    let read = async || shop.get("u5", &format!("/api/v1/orders/{refunded}")).await.json();
    eventually("the money is back", async || read().await["payments"][0]["refund"]["status"] == "done").await;
    orders(shop).await
}

async fn refund(shop: &TestShop, order: &str) {
    let reason = json!({ "reason": "broken" });
    let refunded = shop.operate("POST", &format!("/orders/{order}/refund"), reason).await;
    assert_eq!(refunded.status, 200, "{refunded:?}");
}

/// Returns the id of a buyer's newest order.
async fn order_of(shop: &TestShop, user: &str) -> String {
    let page = shop.get(user, "/api/v1/orders").await.json();
    page["orders"][0]["id"].as_str().expect("an order").to_owned()
}

/// Reads the orders that every buyer reads.
async fn orders(shop: &TestShop) -> Vec<(String, Value)> {
    let mut read = Vec::new();
    for n in 0..12 {
        let user = format!("u{n}");
        let page = shop.get(&user, "/api/v1/orders").await;
        assert_eq!(page.status, 200, "{page:?}");
        for order in page.json()["orders"].as_array().expect("orders") {
            let path = order["links"]["self"].as_str().expect("a link");
            read.push((user.clone(), shop.get(&user, path).await.json()));
        }
    }
    read
}

async fn there_and_back(first: Mode, second: Mode) {
    let simulator = simulator();
    let url = format!("http://{}", simulator.address);
    let flags = paying(&url);
    let (from, to, back) = (config(first, &flags), config(second, &flags), config(first, &flags));
    let place = temporary(&format!("transfer-{}", from.kafka.group));
    std::fs::create_dir_all(&place).expect("a folder");
    let file = |name: &str| -> PathBuf { place.join(name) };
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (there, again) = (text(&file("there.jsonl")), text(&file("again.jsonl")));

    crate::harness::migrated(&from).await;
    let ports = open(&from).await;
    let mut shop = start_on(&from, ports.clone()).await;
    let provider = Provider::of(simulator, &shop);
    let before = fill(&shop, &ports, &provider).await;
    drop(ports);
    let end = |sale: &str| (format!("/sales/{sale}/end"), json!({ "reason": "moving" }));
    if first == Mode::Distributed {
        refused(&seckill(&from, &["export", &there]), "end it first");
    }
    let (path, reason) = end("drop");
    assert_eq!(shop.operate("POST", &path, reason).await.status, 200);
    shop.stop().await;
    drop(shop);
    let one = text(&file("one.jsonl"));
    refused(&seckill(&from, &["export", "--sale", "nope", &one]), "there is no sale nope");
    done(&seckill(&from, &["export", "--sale", "past", "--sale", "past", &one]));
    assert!(body(Path::new(&one))[1].contains(r#"{"sales":1,"orders":0}"#), "{:?}", body(Path::new(&one)));
    done(&seckill(&from, &["export", &there]));
    refused(&seckill(&from, &["export", &there]), "exists");

    done(&seckill(&to, &["import", &there]));
    audited(&to, "drop", 13).await;
    done(&seckill(&to, &["import", &there]));
    audited(&to, "drop", 13).await;
    let mut moved = start(&to).await;
    assert_eq!(orders(&moved).await, before);
    assert_eq!(moved.operate("GET", "/sales/later", Value::Null).await.json()["state"], "published");
    assert_eq!(moved.buy("u0", "drop", "pad", "k2").await.status, 409);
    let asked = json!({ "sku_id": "pad", "quantity": 1, "reference": "cart 0" }).to_string();
    let repeated = moved.place("u0", "drop", "k", &asked, &[]).await;
    assert_eq!(repeated.status, 200, "its key made an order");
    moved.stop().await;
    drop(moved);

    done(&seckill(&to, &["export", &again]));
    assert_eq!(body(Path::new(&again)), body(Path::new(&there)));
    done(&seckill(&back, &["import", &again]));
    audited(&back, "drop", 13).await;
    assert_eq!(differs_from(&back, &again).await, None);
    let mut shop = start(&back).await;
    settle(&shop).await;
    let report = shop.operate("GET", "/sales/past/report", Value::Null).await.json();
    assert_eq!(report["report"]["items"][0]["configured"], 2, "{report}");
    // What was paid elsewhere can be paid back here.
    refund(&shop, &order_of(&shop, "u4").await).await;
    let is_back = |books: Vec<(String, i64, i64)>| books.iter().all(|(_, paid, back)| paid == back);
    eventually("the money is back", async || is_back(provider.books())).await;
    shop.stop().await;
    drop(shop);
    // Then a file that was made before is not what stands.
    let differs = differs_from(&back, &again).await.expect("an order was changed");
    assert!(differs.contains("Refunded") && differs.contains("Paid"), "{differs}");
    audited(&back, "past", 0).await;
    for config in [&from, &to, &back] {
        remove(config).await;
    }
    std::fs::remove_dir_all(&place).expect("removed");
}

/// Compares what stands with a file, as every export does before it says that it is done.
async fn differs_from(config: &Config, file: &str) -> Option<String> {
    let (ports, map) = (open(config).await, config.shard_map().expect("a map"));
    let lines = || seckill::transfer::file::lines(BufReader::new(File::open(file).expect("a file")));
    let contents = Contents::check(lines(), map).expect("a whole file");
    compare(&ports, map, &contents, lines()).await.err().map(|error| error.to_string())
}

async fn start(config: &Config) -> TestShop {
    start_on(config, open(config).await).await
}

async fn start_on(config: &Config, ports: Ports) -> TestShop {
    TestShop::start_on(config.clone(), ports, seckill::app::Role::All).await
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_shop_moves_to_the_distributed_mode_and_back() {
    Box::pin(there_and_back(Mode::Embedded, Mode::Distributed)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_shop_moves_to_the_embedded_mode_and_back() {
    Box::pin(there_and_back(Mode::Distributed, Mode::Embedded)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_file_that_is_not_whole_or_contradicts_what_stands_changes_nothing() {
    let simulator = simulator();
    let url = format!("http://{}", simulator.address);
    let (from, to) = (config(Mode::Embedded, &paying(&url)), config(Mode::Embedded, &[]));
    let place = temporary(&format!("transfer-{}", from.kafka.group));
    std::fs::create_dir_all(&place).expect("a folder");
    let path = |name: &str| place.join(name).to_str().expect("text").to_owned();
    let ports = open(&from).await;
    let mut shop = start_on(&from, ports.clone()).await;
    fill(&shop, &ports, &Provider::of(simulator, &shop)).await;
    drop(ports);
    let ended = shop.operate("POST", "/sales/drop/end", json!({ "reason": "moving" })).await;
    assert_eq!(ended.status, 200);
    shop.stop().await;
    drop(shop);
    done(&seckill(&from, &["export", &path("whole")]));
    let whole = std::fs::read_to_string(path("whole")).expect("an export");

    let cut = whole.lines().take(5).collect::<Vec<_>>().join("\n");
    std::fs::write(path("cut"), cut).expect("written");
    refused(&seckill(&to, &["import", &path("cut")]), "cut off");
    std::fs::write(path("greedy"), whole.replace("\"stock\":3,", "\"stock\":2,")).expect("written");
    refused(&seckill(&to, &["import", &path("greedy")]), "more units");
    assert!(!to.embedded.folder.exists(), "nothing was opened");

    let mut other = start(&to).await;
    assert_eq!(other.operate("POST", "/sales", sale_body("later", 1, &[("x", 1)])).await.status, 201);
    other.stop().await;
    let before = other.stage().contents().await;
    refused(&seckill(&to, &["import", &path("whole")]), "sale later stands here already and is another one");
    assert_eq!(other.stage().contents().await, before);
    drop(other);
    // The paid order is not paid in an older file. What was imported keeps its state, and gets no payment of another.
    let third = config(Mode::Embedded, &[]);
    let unpaid = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        if line["order"]["decided"]["state"] == "paid" {
            let order = line["order"].as_object_mut().expect("an order");
            order.remove("payments");
            order["decided"]["state"] = "awaiting_payment".into();
            order["decided"]["steps"].as_array_mut().expect("steps").truncate(1);
        }
        line.to_string()
    };
    std::fs::write(path("older"), whole.lines().map(unpaid).collect::<Vec<_>>().join("\n")).expect("written");
    done(&seckill(&third, &["import", &path("older")]));
    let payments = crate::harness::stage(&third).sum("COUNT(*)", "payments").await;
    refused(&seckill(&third, &["import", &path("whole")]), "is awaiting_payment here and paid in the file");
    assert_eq!(crate::harness::stage(&third).sum("COUNT(*)", "payments").await, payments);
    for config in [&from, &to, &third] {
        remove(config).await;
    }
    std::fs::remove_dir_all(&place).expect("removed");
}
