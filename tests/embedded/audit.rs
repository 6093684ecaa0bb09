//! Checks the promises of docs/protocol/promises.md on a folder's database, from outside. It runs the load tool's
//! audit, and it checks what only a process that was killed can break.

use std::collections::HashMap;
use std::path::Path;

use crate::binary::config_of;
use crate::harness::{Books, DataFolder, Stage as _, assert_kept, eventually};
use crate::load::Told;

/// Each promise, with the query that counts its breaches.
const PROMISES: &[(&str, &str)] = &[
    ("I3: nobody who was admitted is rejected", "SELECT COUNT(*) FROM orders WHERE state = 'rejected'"),
    ("I3: no record is a dead letter", "SELECT COUNT(*) FROM dead_letters"),
    (
        "I4: an order is in the log once",
        "SELECT COUNT(*) - COUNT(DISTINCT payload->>'order_id') FROM order_log",
    ),
    (
        "the inventory counts its orders",
        "SELECT COUNT(*) FROM gates g WHERE orders_made <> \
         (SELECT COUNT(*) FROM reservations r WHERE r.sale_id = g.sale_id AND r.bucket = g.bucket)",
    ),
    (
        "the log has no gaps and the position stands at its end",
        "SELECT COUNT(*) FROM consumer_positions p WHERE next_offset <> \
         (SELECT COUNT(*) FROM order_log l WHERE l.part = p.part) OR next_offset <> \
         (SELECT COALESCE(MAX(log_offset) + 1, 0) FROM order_log l WHERE l.part = p.part)",
    ),
];

const UNWRITTEN: &str = "SELECT COUNT(*) FROM order_log l LEFT JOIN consumer_positions p ON p.part = l.part \
     WHERE log_offset >= COALESCE(next_offset, 0)";

/// Waits until a served folder has nothing left to write, then checks everything. `told` are orders that buyers were
/// told of.
pub async fn assert_clean(folder: &Path, told: &[Told]) {
    let config = config_of(folder);
    let data = DataFolder::of(&config);
    eventually("every record is written", async || data.number(UNWRITTEN).await == 0).await;
    assert_eq!(data.texts("PRAGMA integrity_check").await, ["ok"]);
    assert_kept(&config, None, Books::LeftAlone).await;
    let mut breaches = Vec::new();
    for (promise, text) in PROMISES {
        let number = data.number(text).await;
        if number != 0 {
            breaches.push(format!("{promise}: {number}"));
        }
    }
    let states: HashMap<String, String> = data
        .texts("SELECT order_id || ' ' || user_id || ' ' || sale_id || ' ' || state FROM orders")
        .await
        .into_iter()
        .filter_map(|row| Some((row.split(' ').next()?.to_owned(), row)))
        .collect();
    for Told { user, sale, id } in told {
        let expected = format!("{id} {user} {sale} awaiting_payment");
        if states.get(id) != Some(&expected) {
            breaches.push(format!("I3: told of {expected}, found {:?}", states.get(id)));
        }
    }
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// Counts the order rows.
pub async fn orders(folder: &Path) -> i64 {
    DataFolder::of(&config_of(folder)).sum("COUNT(*)", "orders").await
}
