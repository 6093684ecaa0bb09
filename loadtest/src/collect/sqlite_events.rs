//! Reads the events of a folder, and what is built of them.

use sqlx::sqlite::SqliteConnection;

use super::event::events;
use super::sqlite_fields::{fetch, number, text};
use crate::evidence::{EventFacts, EventLog};

/// Reads what a folder holds of a sale's events. All of them are one partition.
pub async fn read(connection: &mut SqliteConnection, sale: &str) -> anyhow::Result<EventFacts> {
    let mut facts = EventFacts::default();
    let mut log = EventLog::default();
    for row in fetch(connection, "SELECT next_number FROM event_logs", None).await? {
        log.next_number = number(&row, 0)?;
    }
    let query = "SELECT first_number, events, at_ms, payload FROM order_events ORDER BY first_number";
    for row in fetch(connection, query, None).await? {
        let (first, of_row) = (number(&row, 0)?, number(&row, 1)?);
        log.rows.push((first, of_row));
        let payload: Vec<u8> = sqlx::Row::try_get(&row, 3)?;
        match events(0, (first, of_row), number(&row, 2)?, (&payload, sale)) {
            Ok(found) => facts.events.extend(found),
            Err(_) => log.damaged.push(first),
        }
    }
    facts.logs.insert(0, log);
    for row in fetch(connection, "SELECT reader, next_number FROM event_readers", None).await? {
        facts.readers.insert((text(&row, 0)?, 0), number(&row, 1)?);
    }
    let query = "SELECT sku_id, minute, kind, from_state, to_state, reason, currency, orders, units, amount \
                 FROM view_counts WHERE sale_id = ?";
    for row in fetch(connection, query, Some(sale)).await? {
        let words = (text(&row, 2)?, text(&row, 3)?, text(&row, 4)?, text(&row, 5)?, text(&row, 6)?);
        let key = (text(&row, 0)?, number(&row, 1)?, words.0, words.1, words.2, words.3, words.4);
        let sum = (number(&row, 7)?, number(&row, 8)?, number(&row, 9)?);
        facts.sums.entry(0).or_default().insert(key, sum);
    }
    let query = "SELECT first_number, last_number, events FROM view_marks WHERE sale_id = ?";
    for row in fetch(connection, query, Some(sale)).await? {
        facts.marks.insert(0, (number(&row, 0)?, number(&row, 1)?, number(&row, 2)?));
    }
    Ok(facts)
}
