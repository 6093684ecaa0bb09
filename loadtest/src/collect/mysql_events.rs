//! Reads the events of a control database, and what is built of them.

use anyhow::Context;
use sqlx::Row;
use sqlx::mysql::MySqlConnection;

use super::event::events;
use super::mysql_fields::{fetch, number, text};
use crate::evidence::EventFacts;

fn small(value: i64) -> anyhow::Result<u16> {
    u16::try_from(value).with_context(|| format!("{value} is no number of a partition"))
}

/// Adds what a control database holds of a sale's events.
pub async fn read(
    connection: &mut MySqlConnection,
    control: &str,
    sale: &str,
    facts: &mut EventFacts,
) -> anyhow::Result<()> {
    let query = format!("SELECT part, next_number FROM {control}.event_logs");
    for row in fetch(connection, query, &[]).await? {
        facts.logs.entry(small(number(&row, 0)?)?).or_default().next_number = number(&row, 1)?;
    }
    let query = format!(
        "SELECT part, first_number, events, at_ms, payload FROM {control}.order_events ORDER BY part, first_number"
    );
    for row in fetch(connection, query, &[]).await? {
        let (part, first, of_row) = (small(number(&row, 0)?)?, number(&row, 1)?, number(&row, 2)?);
        let log = facts.logs.entry(part).or_default();
        log.rows.push((first, of_row));
        let payload: Vec<u8> = row.try_get(4)?;
        match events(part, (first, of_row), number(&row, 3)?, (&payload, sale)) {
            Ok(found) => facts.events.extend(found),
            Err(_) => log.damaged.push(first),
        }
    }
    let query = format!("SELECT reader, part, next_number FROM {control}.event_readers");
    for row in fetch(connection, query, &[]).await? {
        facts.readers.insert((text(&row, 0)?, small(number(&row, 1)?)?), number(&row, 2)?);
    }
    let query = format!(
        "SELECT part, sku_id, minute, kind, from_state, to_state, reason, currency, orders, units, amount \
         FROM {control}.view_counts WHERE sale_id = ?"
    );
    for row in fetch(connection, query, &[sale]).await? {
        let words = (text(&row, 3)?, text(&row, 4)?, text(&row, 5)?, text(&row, 6)?, text(&row, 7)?);
        let key = (text(&row, 1)?, number(&row, 2)?, words.0, words.1, words.2, words.3, words.4);
        let sums = facts.sums.entry(small(number(&row, 0)?)?).or_default();
        sums.insert(key, (number(&row, 8)?, number(&row, 9)?, number(&row, 10)?));
    }
    let query =
        format!("SELECT part, first_number, last_number, events FROM {control}.view_marks WHERE sale_id = ?");
    for row in fetch(connection, query, &[sale]).await? {
        let mark = (number(&row, 1)?, number(&row, 2)?, number(&row, 3)?);
        facts.marks.insert(small(number(&row, 0)?)?, mark);
    }
    Ok(())
}
