//! Prints data on stdout, as a table or JSON, and messages for people on stderr.

use std::io::Write;

use serde_json::Value;

/// The form in which data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Prints a message on stderr. When the reader has closed it, that is no failure of ours.
pub fn talk(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Prints data on stdout. When the reader has closed it, that is no failure of ours.
pub fn data(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Prints `value` as JSON, or `rows` under `head` as a table.
pub fn print(format: Format, value: &Value, head: &[&str], rows: &[Vec<String>]) {
    match format {
        Format::Json => data(&format!("{value:#}")),
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
