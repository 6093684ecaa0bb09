//! Tests on folders that no working server leaves, made by hand: what is broken in a table must reach the audit.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use super::*;
use crate::audit::{Rule, audit, judged, notes};
use crate::collect;
use crate::config::TokenConfig;
use crate::ids::month_of_ms;

const SCHEMA: [&str; 9] = [
    include_str!("../../../../migrations/embedded/0001_shop.sql"),
    include_str!("../../../../migrations/embedded/0002_halts_audit_and_places.sql"),
    include_str!("../../../../migrations/embedded/0003_user_ids.sql"),
    include_str!("../../../../migrations/embedded/0004_units_return.sql"),
    include_str!("../../../../migrations/embedded/0005_payments.sql"),
    include_str!("../../../../migrations/embedded/0006_unpaid_max.sql"),
    include_str!("../../../../migrations/embedded/0007_notices_and_failed_refunds.sql"),
    include_str!("../../../../migrations/embedded/0008_journal_and_events.sql"),
    include_str!("../../../../migrations/embedded/0009_references.sql"),
];
const SALE: &str = "friday";
/// 15 May 2026.
const STARTS_MS: i64 = 1_778_803_200_000;

/// A folder that goes away with its test.
struct Folder {
    config: Config,
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.config.folder));
    }
}

fn id(user: &str) -> OrderId {
    let layout = Layout::new(8, 4, 1).expect("a layout");
    OrderId::derive(layout.shard_of(user), month_of_ms(STARTS_MS).expect("a month"), SALE, user, "k")
}

impl Folder {
    /// A sale of ten phones in which `u-0` to `u-3` have one each.
    async fn good() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("loadtest-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path: PathBuf = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        let token = TokenConfig {
            secret: String::new(),
            kid: String::new(),
            audience: String::new(),
            issuer: String::new(),
        };
        let folder = Self { config: Config::of_folder(&path, (8, 4), token).expect("a configuration") };
        let ends_ms = STARTS_MS + 3_600_000;
        let definition = serde_json::json!({
            "id": SALE, "name": "Friday", "state": "preheated", "starts_ms": STARTS_MS, "ends_ms": ends_ms,
            "buyer_limit": 1, "payment_window_ms": 900_000, "buckets": 1, "epoch": 1, "version": 3,
            "items": [{ "sku_id": "phone", "name": "Phone", "stock": 10,
                        "price": { "amount": 100, "currency": "CNY" } }],
        });
        folder.damage(&SCHEMA.join("\n")).await;
        folder
            .damage(&format!(
                "PRAGMA journal_mode = WAL;
                 INSERT INTO settings VALUES ('shard_map', '8 shards, 4 partitions');
                 INSERT INTO sales VALUES ('friday', {STARTS_MS}, 3, '{definition}');
                 INSERT INTO gates VALUES ('friday', 0, 1, 'open', NULL, {STARTS_MS}, {ends_ms}, 1, 4, 3);
                 INSERT INTO stock VALUES ('friday', 0, 'phone', 6);
                 INSERT INTO ledger VALUES ('friday', 'phone', 10, 4, 0, 0);
                 INSERT INTO consumer_positions (part, next_offset) VALUES (0, 0), (1, 0), (2, 0), (3, 0);"
            ))
            .await;
        for user in ["u-0", "u-1", "u-2", "u-3"] {
            folder.order(user).await;
        }
        folder
    }

    /// Inserts every row that one decided order leaves.
    async fn order(&self, user: &str) {
        let (id, layout) = (id(user), self.config.layout);
        let (part, month) = (layout.partition_of(id.shard()), id.month());
        let digest = Sha256::digest(b"phone\0\0\0\0\x01cart 7");
        let print: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let accepted_ms = STARTS_MS + 5;
        let record = serde_json::json!({
            "v": 1, "order_id": id, "sale_id": SALE, "sku_id": "phone", "user_id": user, "quantity": 1,
            "unit_price": { "amount": 100, "currency": "CNY" }, "epoch": 1, "accepted_ms": accepted_ms,
            "reference": "cart 7",
        });
        self.damage(&format!(
            "INSERT INTO reservations VALUES ('{id}', 'friday', 0, 'phone', '{user}', 1, '{print}', {accepted_ms},
               'cart 7');
             INSERT INTO buyers VALUES ('friday', 0, '{user}', 1, 0);
             INSERT INTO order_log SELECT {part}, next_offset, CAST('{record}' AS BLOB)
               FROM consumer_positions WHERE part = {part};
             UPDATE consumer_positions SET next_offset = next_offset + 1 WHERE part = {part};
             INSERT INTO orders VALUES ('{id}', {month}, 'friday', 'phone', '{user}', 1, 100, 'CNY',
               'awaiting_payment', NULL, 1, {accepted_ms}, {accepted_ms}, {accepted_ms} + 900000, 'cart 7');
             INSERT INTO claims VALUES ('friday', '{user}', 0, '{id}');"
        ))
        .await;
        self.tell(user, accepted_ms, ("persisted", "queued", "awaiting_payment")).await;
    }

    /// Tells a step of an order.
    async fn tell(&self, user: &str, at_ms: i64, (kind, from, to): (&str, &str, &str)) {
        let step = serde_json::json!({
            "common": { "sale_id": SALE, "sku_id": "phone", "quantity": 1,
                "unit_price": { "amount": 100, "currency": "CNY" } },
            "moves": [{ "order_id": id(user), "user_id": user, "accepted_ms": STARTS_MS + 5,
                "kind": kind, "from": from, "to": to, "by": "order_writer", "reference": "cart 7" }],
        });
        self.damage(&format!(
            "INSERT INTO order_moves VALUES ('{}', '{kind}', {at_ms}, NULL, NULL);
             INSERT INTO order_events SELECT next_number, 1, {at_ms}, CAST('{step}' AS BLOB) FROM event_logs;
             UPDATE event_logs SET next_number = next_number + 1;",
            id(user)
        ))
        .await;
    }

    /// Pays an order, as a capture does.
    async fn pay(&self, user: &str) {
        let (id, paid_ms) = (id(user), STARTS_MS + 60_000);
        let request = serde_json::json!({
            "id": id.payment(1), "deployment": "shop", "amount": { "amount": 100, "currency": "CNY" },
        });
        self.damage(&format!(
            "UPDATE orders SET state = 'paid' WHERE order_id = '{id}';
             UPDATE ledger SET held = held - 1, sold = sold + 1;
             INSERT INTO payments (order_id, attempt, state, request, reference, capture, created_ms)
               VALUES ('{id}', 1, 'captured', '{request}', 'cs_1', 'pi_1', {paid_ms});"
        ))
        .await;
        self.tell(user, paid_ms, ("paid", "awaiting_payment", "paid")).await;
    }

    async fn damage(&self, statements: &str) {
        let path = self.config.folder.join(DATABASE);
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let mut connection = options.connect().await.expect("a database");
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()));
        statements.execute(&mut connection).await.expect("valid statements");
        connection.close().await.expect("closed");
    }

    async fn broken(&self) -> BTreeSet<Rule> {
        let evidence = collect::stores(&self.config, SALE, None, BTreeSet::new()).await.expect("readable");
        audit(&evidence).into_iter().map(|violation| violation.rule).collect()
    }
}

#[tokio::test]
async fn a_good_folder_is_good_and_says_what_is_not_judged() {
    let folder = Folder::good().await;
    let evidence = collect::stores(&folder.config, SALE, None, BTreeSet::new()).await.expect("readable");
    assert_eq!(audit(&evidence), []);
    assert_eq!(evidence.rows.len(), 4);
    assert_eq!(judged(evidence.mode), Rule::ALL.len() - 7);
    assert!(notes(&evidence).iter().any(|note| note.contains("outbox_not_empty")));
    assert_eq!(collect::order_ids(&folder.config, SALE).await.expect("readable").len(), 4);
}

#[tokio::test]
async fn what_is_broken_in_a_table_is_found() {
    let (first, month) = (id("u-0"), id("u-0").month() + 1);
    let cases: [(&str, &[Rule]); 12] = [
        (
            "PRAGMA ignore_check_constraints = 1; UPDATE ledger SET stock = 3 WHERE sku_id = 'phone'",
            &[Rule::PoolDiffers, Rule::LedgerOverAllotment],
        ),
        ("UPDATE ledger SET held = 3", &[Rule::LedgerDiffers]),
        ("UPDATE stock SET available = 7", &[Rule::RedisStockDiffers]),
        ("UPDATE buyers SET units = 0 WHERE user_id = 'u-1'", &[Rule::RedisBuyersDiffer]),
        ("DELETE FROM gates", &[Rule::GateDiffers]),
        ("DELETE FROM claims WHERE user_id = 'u-2'", &[Rule::ClaimsDiffer]),
        (
            "DELETE FROM reservations WHERE user_id = 'u-3'; UPDATE buyers SET units = 1 WHERE user_id = 'u-3'",
            &[Rule::RowWithoutHold],
        ),
        (
            "UPDATE orders SET unit_price = 1 WHERE user_id = 'u-1'",
            &[Rule::PriceDiffers, Rule::RowDiffersFromRecord, Rule::EventDiffers],
        ),
        ("DELETE FROM order_events WHERE first_number = 2", &[Rule::MoveUntold, Rule::EventNumbersDiffer]),
        (
            "INSERT INTO view_counts VALUES ('friday', 0, 'phone', 1, 'paid', 'a', 'b', '', 'CNY', 1, 1, 1)",
            &[Rule::ViewDiffers],
        ),
        (
            "UPDATE order_log SET payload = CAST('garbage' AS BLOB) WHERE log_offset = 0 AND part = (SELECT MIN(part) FROM order_log)",
            &[Rule::RecordWithoutRow, Rule::RowWithoutRecord],
        ),
        ("UPDATE reservations SET bucket = 1 WHERE user_id = 'u-1'", &[Rule::WrongBucket, Rule::GateDiffers]),
    ];
    for (damage, expected) in cases {
        let folder = Folder::good().await;
        folder.damage(damage).await;
        let expected: BTreeSet<Rule> = expected.iter().copied().collect();
        assert_eq!(folder.broken().await, expected, "{damage}");
    }
    let folder = Folder::good().await;
    folder.damage(&format!("UPDATE orders SET month = {month} WHERE order_id = '{first}'")).await;
    assert_eq!(folder.broken().await, [Rule::WrongMonth].into());
}

#[tokio::test]
async fn what_is_wrong_with_money_is_found() {
    let lost = id("u-lost");
    let (other, order) = (lost.payment(1), id("u-0"));
    let refund = |reason: &str| {
        format!(
            "INSERT INTO refunds (order_id, attempt, amount, currency, capture, reason, state, created_ms)
             VALUES ('{order}', 1, 100, 'CNY', 'pi_1', '{reason}', 'owed', 5)"
        )
    };
    let copied = format!(
        "INSERT INTO payments SELECT '{lost}', attempt, 'closed', request, reference, url, NULL, created_ms,
           closing_ms, ask_ms, asks FROM payments"
    );
    let orphan = "INSERT INTO orphan_captures (capture, payment, amount, currency, state, created_ms)
         VALUES ('pi_1', 'x', 100, 'CNY', 'owed', 5)";
    let renamed = format!("UPDATE payments SET request = json_set(request, '$.id', '{other}')");
    let cases: [(String, &[Rule]); 6] = [
        ("SELECT 1".to_owned(), &[]),
        ("DELETE FROM payments".to_owned(), &[Rule::PaidWithoutCapture]),
        (renamed, &[Rule::PaymentDiffers]),
        (copied, &[Rule::PaymentWithoutOrder]),
        (refund("paid_before"), &[Rule::PaidWithoutCapture]),
        (orphan.to_owned(), &[Rule::CaptureShared]),
    ];
    for (damage, expected) in cases {
        let folder = Folder::good().await;
        folder.pay("u-0").await;
        folder.damage(&damage).await;
        let expected: BTreeSet<Rule> = expected.iter().copied().collect();
        assert_eq!(folder.broken().await, expected, "{damage}");
    }
}

#[tokio::test]
async fn the_money_of_another_sale_is_told_apart() {
    let folder = Folder::good().await;
    folder.pay("u-0").await;
    let read = async || collect::stores(&folder.config, SALE, None, BTreeSet::new()).await.expect("readable");
    let evidence = read().await;
    assert_eq!((evidence.payments.len(), evidence.other_sales.len()), (1, 0));
    assert!(evidence.provider.is_none());
    folder.damage("UPDATE orders SET sale_id = 'monday' WHERE user_id = 'u-0'").await;
    let evidence = read().await;
    assert!(evidence.payments.is_empty());
    assert_eq!(evidence.other_sales, [id("u-0")].into());
}

#[tokio::test]
async fn an_accepted_order_that_is_never_written_is_found() {
    let folder = Folder::good().await;
    let (first, part) = (id("u-0"), folder.config.layout.partition_of(id("u-0").shard()));
    let undo = format!(
        "DELETE FROM orders WHERE order_id = '{first}'; DELETE FROM claims WHERE order_id = '{first}';
         DELETE FROM order_moves WHERE order_id = '{first}'; UPDATE ledger SET held = held - 1;"
    );
    folder.damage(&undo).await;
    let lost = BTreeSet::from([
        Rule::RedisStockDiffers,
        Rule::RedisBuyersDiffer,
        Rule::HoldWithoutRow,
        Rule::RecordWithoutRow,
        Rule::EventWithoutMove,
    ]);
    assert_eq!(folder.broken().await, lost);
    let waiting = format!("UPDATE consumer_positions SET next_offset = 0 WHERE part = {part}");
    folder.damage(&waiting).await;
    assert_eq!(folder.broken().await, [Rule::RecordsUnread, Rule::EventWithoutMove].into());
    let facts = collect::sale(&folder.config, SALE).await.expect("readable").expect("a sale");
    let limit = std::time::Duration::from_millis(1);
    let settled = collect::settle::settle(&folder.config, &facts, limit).await.expect("readable");
    assert!(!settled.quiet);
}

#[tokio::test]
async fn another_layout_and_another_folder_are_refused() {
    let folder = Folder::good().await;
    let mut config = folder.config.clone();
    config.layout = Layout::new(16, 4, 1).expect("a layout");
    let error = collect::stores(&config, SALE, None, BTreeSet::new()).await.expect_err("another layout");
    assert!(error.to_string().contains("8 shards, 4 partitions"), "{error}");
    config.folder.push("nothing-here");
    let error = collect::sale(&config, SALE).await.expect_err("no folder");
    assert!(error.to_string().contains("--data"), "{error}");
    assert!(collect::stores(&folder.config, "monday", None, BTreeSet::new()).await.is_err());
}
