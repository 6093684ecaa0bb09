//! Tests of what a load balancer and Prometheus see.

use seckill::config::Mode;
use seckill::metrics::{ADMISSION_OUTCOMES, Kind, TABLE};
use serde_json::Value;

use crate::client::{Answer, call};
use crate::conformance::http_errors::Findings;
use crate::harness::{TestShop, eventually};

in_both_modes!(
    a_shop_that_can_sell_is_live_and_ready_and_names_its_components,
    every_metric_is_on_the_page_before_anything_happened,
    a_purchase_moves_its_counters,
);

async fn see(shop: &TestShop, path: &str) -> Answer {
    call(shop.admin, "GET", path, &[], "").await
}

async fn a_shop_that_can_sell_is_live_and_ready_and_names_its_components(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let live = see(&shop, "/livez").await;
    assert_eq!(live.status, 200, "{live:?}");
    let ready = see(&shop, "/readyz").await;
    assert_eq!((ready.status, &ready.json()["components"]), (200, &Value::Null), "{ready:?}");
    let verbose = see(&shop, "/readyz?verbose").await;
    assert_eq!(verbose.status, 200, "{verbose:?}");
    let components = verbose.json()["components"].as_object().expect("components").clone();
    assert!(components.values().all(|state| state == "up"), "{components:?}");
    let parts = match mode {
        Mode::Distributed => &["redis", "kafka", "mysql"][..],
        Mode::Embedded => &["folder"],
    };
    for part in parts {
        assert!(components.keys().any(|name| name.contains(part)), "no {part} in {components:?}");
    }
    shop.finish().await;
}

/// Lists the series of a metric: `(labels as text, value)`.
fn series<'a>(page: &'a str, name: &str) -> Vec<(&'a str, f64)> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name));
    let own = lines.filter(|rest| rest.starts_with(['{', ' ']));
    own.map(|rest| {
        let (labels, value) = rest.rsplit_once(' ').expect("a value");
        (labels, value.parse().expect("a number"))
    })
    .collect()
}

async fn every_metric_is_on_the_page_before_anything_happened(mode: Mode) {
    // Each rule has its series, and this limit is one.
    let shop = TestShop::start_with(mode, &[("limits.address_per_s", "1000000")]).await;
    // The sale's id is of this test alone, because the tests of one run share a recorder.
    shop.open_sale("nobody-comes", 1, &[("phone", 5)]).await;
    let labels_of = |outcome: &str| format!("{{sale=\"nobody-comes\",outcome=\"{outcome}\"}}");
    let mut page = see(&shop, "/metrics").await;
    eventually("the sale and the partitions have all their series", async || {
        page = see(&shop, "/metrics").await;
        let admissions = series(&page.text, "seckill_admission_total");
        !series(&page.text, "seckill_partition_halted").is_empty()
            && ADMISSION_OUTCOMES
                .iter()
                .all(|outcome| admissions.iter().any(|(labels, _)| *labels == labels_of(outcome)))
    })
    .await;
    let mut findings = Findings::default();
    let kind = page.header("Content-Type");
    findings.rule("page", kind.starts_with("text/plain; version=0.0.4"), kind);
    for metric in TABLE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let name = metric.name;
        findings.rule(name, page.text.contains(&format!("# HELP {name} {}", metric.help)), "no help");
        findings.rule(name, page.text.contains(&format!("# TYPE {name} {kind}")), "no type");
        let sample = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        findings.rule(name, !series(&page.text, &sample).is_empty(), "no series");
    }
    let admissions = series(&page.text, "seckill_admission_total");
    for outcome in ADMISSION_OUTCOMES {
        let found = admissions.iter().find(|(labels, _)| *labels == labels_of(outcome));
        let found = found.map(|(_, value)| *value);
        findings.rule(outcome, found == Some(0.0), &format!("of a sale without purchases: {found:?}"));
    }
    findings.done();
    shop.finish().await;
}

async fn a_purchase_moves_its_counters(mode: Mode) {
    let shop = TestShop::start(mode).await;
    // All tests of this process share its counters.
    let sale = format!("counted-{}", mode.as_str());
    shop.open_sale(&sale, 1, &[("phone", 5)]).await;
    let order = shop.buy("alice", &sale, "phone", "k1").await.json();
    shop.decided("alice", order["id"].as_str().expect("an id")).await;
    assert_eq!(shop.buy("alice", &sale, "phone", "k2").await.status, 409);
    let count = |page: &str, outcome: &str| {
        let label = format!("outcome=\"{outcome}\"");
        let all = series(page, "seckill_admission_total").into_iter();
        let own =
            all.filter(|(labels, _)| labels.contains(&format!("sale=\"{sale}\"")) && labels.contains(&label));
        own.map(|(_, value)| value).sum::<f64>()
    };
    let page = see(&shop, "/metrics").await.text;
    assert_eq!(
        (count(&page, "queued") + count(&page, "reserved"), count(&page, "limit_reached")),
        (1.0, 1.0)
    );
    eventually("the ledger's units are shown", async || {
        let page = see(&shop, "/metrics").await.text;
        let units = |state: &str| {
            let own = series(&page, "seckill_stock_units").into_iter().find(|(labels, _)| {
                labels.contains(&format!("sale=\"{sale}\"")) && labels.contains(&format!("state=\"{state}\""))
            });
            own.map(|(_, value)| value)
        };
        (units("available"), units("held")) == (Some(4.0), Some(1.0))
    })
    .await;
    shop.finish().await;
}
