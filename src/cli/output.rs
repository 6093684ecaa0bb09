//! Data on stdout as a table or JSON, talk on stderr.

use std::io::Write;

use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// A closed stdout or stderr is the reader's decision and no failure of ours.
pub fn talk(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

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
