//! Holds the files of `migrations/` in the program. `sqlx::migrate!` would do the same. Its macros, however, compile a
//! second SQLite, a second tokio and a second copy of the client into every first build.

use std::borrow::Cow;

use sqlx::AssertSqlSafe;
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A migration's file name, which is `VERSION_what_it_does.sql`, and its text.
pub type File = (&'static str, &'static str);

/// Lists the files of one folder of `migrations/`. `tests/tidy` compares the list with the folder.
macro_rules! migrations {
    ($folder:literal: $($file:literal),+) => {
        &[$(($file, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $folder, "/", $file)))),+]
    };
}

/// Migrations of the directory database.
#[cfg(feature = "distributed")]
pub const DIRECTORY: &[File] = migrations!("directory": "0001_sales.sql", "0002_audit_and_places.sql", "0003_orphan_captures.sql", "0004_unpaid_max.sql", "0005_words_seals_subscriptions.sql", "0006_alarms.sql", "0007_bucket_epochs.sql", "0008_rules.sql", "0009_access.sql", "0010_keys_and_sessions.sql", "0011_stock_adjustments.sql");
/// Migrations of an instance's control database.
#[cfg(feature = "distributed")]
pub const CONTROL: &[File] = migrations!("control": "0001_ledger.sql", "0002_log_identity_and_idle_units.sql", "0003_user_ids.sql", "0004_release_states.sql", "0005_withheld.sql", "0006_events.sql", "0007_fences.sql", "0008_watermark.sql");
/// Migrations of a shard's database.
#[cfg(feature = "distributed")]
pub const SHARD: &[File] = migrations!("shard": "0001_claims.sql", "0002_user_ids.sql", "0003_payments.sql", "0004_failed_refunds.sql", "0005_journal.sql", "0006_nodes.sql");
/// Shapes of a month's orders table, each made from the one before it. `{yyyymm}` stands for the month. Every shape but
/// the first one names itself in the table's comment, in the same statement that makes it.
#[cfg(feature = "distributed")]
pub const MONTH: &[File] = migrations!("month": "0001_orders.sql", "0002_user_ids.sql", "0003_refunded.sql", "0004_given_up.sql", "0005_references.sql", "0006_stale_epoch.sql", "0007_nodes.sql");
/// Migrations of the one database of the embedded mode.
#[cfg(feature = "embedded")]
pub const EMBEDDED: &[File] = migrations!("embedded": "0001_shop.sql", "0002_halts_audit_and_places.sql", "0003_user_ids.sql", "0004_units_return.sql", "0005_payments.sql", "0006_unpaid_max.sql", "0007_notices_and_failed_refunds.sql", "0008_journal_and_events.sql", "0009_references.sql", "0010_alarms.sql", "0011_rules.sql", "0012_keys_and_sessions.sql", "0013_processes.sql");

/// Lists the names of the files that are not among those applied, ascending.
pub fn pending(files: &[File], applied: &[i64]) -> impl Iterator<Item = &'static str> {
    let version = |name: &str| name.split_once('_').and_then(|(version, _)| version.parse().ok());
    let is_pending = move |name: &&str| version(name).is_some_and(|version| !applied.contains(&version));
    files.iter().map(|(name, _)| *name).filter(is_pending)
}

/// Makes the migrator that runs `files`. A migration has the version, description and checksum that `sqlx::migrate!`
/// would record of it.
///
/// # Panics
/// When the name of a file is not `VERSION_what_it_does.sql`.
pub fn migrator(files: &[File]) -> Migrator {
    let migration = |(name, text): &File| {
        let parts = name.strip_suffix(".sql").and_then(|stem| stem.split_once('_'));
        let (version, what) = parts.expect("VERSION_what_it_does.sql");
        Migration::new(
            version.parse().expect("a migration's version is a number"),
            Cow::Owned(what.replace('_', " ")),
            MigrationType::Simple,
            AssertSqlSafe(*text).into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

#[cfg(all(test, feature = "distributed"))]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_a_month_but_the_first_names_itself() {
        for (nth, (name, text)) in MONTH.iter().enumerate().skip(1) {
            let comment = format!("COMMENT = 'shape {}'", nth + 1);
            assert!(text.contains(&comment), "{name} does not say {comment}");
        }
    }
}
