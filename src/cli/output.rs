//! Prints data on stdout, as a table or JSON, and messages for people on stderr.

use std::io::Write;

use serde_json::Value;

/// The form in which data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// The whole answer, over many lines.
    Json,
    /// Each entry of a list, or the whole answer, on a line of its own.
    Ndjson,
}

/// Prints a message on stderr. When the reader has closed it, that is no failure of ours.
pub fn talk(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Prints data on stdout. When the reader has closed it, that is no failure of ours.
pub fn data(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Writes a value for a table: an object as `name=value`, and nothing as `-`.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Object(members) if members.is_empty() => "-".to_owned(),
        Value::Object(members) => {
            let pairs = members.iter().map(|(name, value)| format!("{name}={}", cell(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        value => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    }
}

/// Prints the list that `answer` has under `member`: each entry on a line, the whole answer, or a row of each.
pub fn list(
    format: Format,
    answer: &Value,
    member: &str,
    head: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) {
    entries(format, answer, answer[member].as_array().map(Vec::as_slice).unwrap_or_default(), head, row);
}

/// Prints the entries that `answer` has: each on a line, the whole answer, or a row of each.
pub fn entries(
    format: Format,
    answer: &Value,
    entries: &[Value],
    head: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) {
    if format == Format::Ndjson {
        entries.iter().for_each(|entry| data(&entry.to_string()));
    } else {
        print(format, answer, head, &entries.iter().map(row).collect::<Vec<_>>());
    }
}

/// Prints `value` as JSON, or `rows` under `head` as a table.
pub fn print(format: Format, value: &Value, head: &[&str], rows: &[Vec<String>]) {
    match format {
        Format::Json => data(&format!("{value:#}")),
        Format::Ndjson => data(&value.to_string()),
        Format::Table => {
            let width = |column: usize| {
                let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
                cells.chain(head.get(column).map(|name| name.len())).max().unwrap_or(0)
            };
            let widths: Vec<usize> = (0..head.len()).map(width).collect();
            let line = |cells: Vec<&str>| {
                let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
                data(padded.collect::<Vec<_>>().join("  ").trim_end());
            };
            line(head.to_vec());
            for row in rows {
                line(row.iter().map(String::as_str).collect());
            }
        }
    }
}
