//! What `/readyz` says of every fault of a server: which duty cannot be done and why, soon after the fault and soon
//! after its end, and that this process is not to be blamed for it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::call;
use crate::harness::{TestShop, eventually};
use crate::world::{LOSSES, Loss, World};

/// How soon a fault and its end are said.
const SAID_WITHIN: Duration = Duration::from_secs(2);
/// How much longer this machine may take for it, when it has a server to start or to stop beside.
const MACHINE: Duration = Duration::from_secs(1);

/// Each server, the duties that need it, and how the verdict about them begins.
const NEEDED: [(&str, &[&str], &str); 4] = [
    ("redis", &["buy"], "no: redis"),
    ("kafka", &["write"], "no: kafka"),
    ("mysql-a", &["read", "write"], "in part: mysql-0"),
    ("mysql-b", &["read", "write"], "in part: mysql-1"),
];

async fn duties(shop: &TestShop) -> Value {
    let page = call(shop.admin, "GET", "/readyz", &[], "").await;
    assert_eq!(page.status, 200, "no process fares better, so none is taken out: {page:?}");
    page.json()["duties"].clone()
}

fn is_well(duties: &Value) -> bool {
    duties.as_object().is_some_and(|duties| duties.values().all(|verdict| verdict == "yes"))
}

/// Loses a server and brings it back, and reads what is said meanwhile.
async fn lose(world: &mut World, shop: &TestShop, server: &'static str, loss: Loss) {
    let (_, needing, verdict) = NEEDED.iter().find(|(name, ..)| *name == server).expect("a server");
    let says =
        |duties: &Value, duty: &str| duties[duty].as_str().is_some_and(|said| said.starts_with(verdict));
    world.lose(server, loss);
    let lost = Instant::now();
    let mut said = Value::Null;
    eventually("the fault is said", async || {
        said = duties(shop).await;
        needing.iter().all(|duty| says(&said, duty))
    })
    .await;
    assert!(lost.elapsed() <= SAID_WITHIN + MACHINE, "{server} {loss:?} after {:?}", lost.elapsed());
    for (duty, verdict) in said.as_object().expect("duties") {
        assert!(needing.contains(&duty.as_str()) || verdict == "yes", "{server} {loss:?}: {said}");
    }
    for duty in ["buy", "read", "write"] {
        let asked = call(shop.admin, "GET", &format!("/readyz?duty={duty}"), &[], "").await;
        let can = said[duty].as_str().is_some_and(|said| !said.starts_with("no"));
        assert_eq!(asked.status == 200, can, "{server} {loss:?} {duty}: {asked:?}");
    }
    world.restore();
    let restored = Instant::now();
    eventually("its end is said", async || is_well(&duties(shop).await)).await;
    assert!(restored.elapsed() <= SAID_WITHIN + MACHINE, "{server} {loss:?}: {:?}", restored.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_a_server_is_said_with_its_duty_and_so_is_its_end() {
    let mut world = World::new(&[]).await;
    let shop = world.shop().await;
    eventually("all is well", async || is_well(&duties(&shop).await)).await;
    for (server, ..) in NEEDED {
        for loss in LOSSES {
            lose(&mut world, &shop, server, loss).await;
        }
    }
    shop.finish().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hiccup_of_a_server_is_no_fault() {
    let mut world = World::new(&[]).await;
    let shop = world.shop().await;
    eventually("all is well", async || is_well(&duties(&shop).await)).await;
    for (server, ..) in NEEDED {
        world.lose(server, Loss::Frozen);
        let frozen = Instant::now();
        while frozen.elapsed() < Duration::from_millis(500) {
            let said = duties(&shop).await;
            assert!(is_well(&said), "{server}: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world.restore();
        let resumed = Instant::now();
        while resumed.elapsed() < Duration::from_secs(2) {
            let said = duties(&shop).await;
            assert!(is_well(&said), "{server}: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    shop.finish().await;
    world.finish().await;
}
