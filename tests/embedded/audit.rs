//! The promises of docs/protocol.md §1, asked of a folder's database from outside.

use std::collections::HashMap;
use std::path::Path;

use crate::binary::config_of;
use crate::harness::{DataFolder, Stage as _, eventually};
use crate::load::Told;

/// `(what is promised, the number of breaches)`.
const PROMISES: &[(&str, &str)] = &[
    (
        "I1: units of live orders are held, and never more than the stock",
        "SELECT COUNT(*) FROM ledger l WHERE held + sold > stock OR held + sold <> (SELECT COALESCE(SUM(quantity), 0) \
         FROM orders o WHERE o.sale_id = l.sale_id AND o.sku_id = l.sku_id \
         AND state IN ('awaiting_payment', 'paid'))",
    ),
    (
        "I2: what is available and what was reserved is the stock",
        "SELECT COUNT(*) FROM ledger l WHERE stock <> \
         (SELECT SUM(available) FROM stock s WHERE s.sale_id = l.sale_id AND s.sku_id = l.sku_id) + \
         (SELECT COALESCE(SUM(quantity), 0) FROM reservations r WHERE r.sale_id = l.sale_id AND r.sku_id = l.sku_id)",
    ),
    (
        "I3: every reservation has its record",
        "SELECT COUNT(*) FROM reservations WHERE order_id NOT IN (SELECT payload->>'order_id' FROM order_log)",
    ),
    (
        "I3: every record has its order",
        "SELECT COUNT(*) FROM order_log WHERE payload->>'order_id' NOT IN (SELECT order_id FROM orders)",
    ),
    ("I3: nobody who was admitted is rejected", "SELECT COUNT(*) FROM orders WHERE state = 'rejected'"),
    ("I3: no record is a dead letter", "SELECT COUNT(*) FROM dead_letters"),
    (
        "I4: an order is in the log once",
        "SELECT COUNT(*) - COUNT(DISTINCT payload->>'order_id') FROM order_log",
    ),
    (
        "I4: an order was persisted once",
        "SELECT (SELECT COUNT(*) FROM orders) - (SELECT COUNT(*) FROM order_moves WHERE kind = 'persisted')",
    ),
    (
        "I5: a buyer's claims are the units of their live orders, and within the limit",
        "SELECT COUNT(*) FROM (SELECT sale_id, user_id, SUM(quantity) AS units FROM orders \
         WHERE state IN ('awaiting_payment', 'paid') GROUP BY 1, 2) b \
         WHERE units <> (SELECT COUNT(*) FROM claims c WHERE c.sale_id = b.sale_id AND c.user_id = b.user_id) \
         OR units > (SELECT MIN(buyer_limit) FROM gates g WHERE g.sale_id = b.sale_id)",
    ),
    (
        "I5: no claim without its order",
        "SELECT COUNT(*) FROM claims WHERE order_id NOT IN (SELECT order_id FROM orders)",
    ),
    (
        "the inventory counts its buyers' units",
        "SELECT COUNT(*) FROM buyers b WHERE units <> (SELECT SUM(quantity) FROM reservations r \
         WHERE r.sale_id = b.sale_id AND r.bucket = b.bucket AND r.user_id = b.user_id)",
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

/// Waits until a served folder has nothing left to write, then asks everything of it; `told` are orders that
/// buyers were told of.
pub async fn assert_clean(folder: &Path, told: &[Told]) {
    let data = DataFolder::of(&config_of(folder));
    eventually("every record is written", async || data.number(UNWRITTEN).await == 0).await;
    assert_eq!(data.texts("PRAGMA integrity_check").await, ["ok"]);
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

/// Orders in rows.
pub async fn orders(folder: &Path) -> i64 {
    DataFolder::of(&config_of(folder)).sum("COUNT(*)", "orders").await
}
