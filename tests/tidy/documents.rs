//! Compares documents with the code that they describe.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use seckill::http::problem::Code;
use seckill::metrics::{Kind, TABLE};

use crate::{files, files_ending, list, none, read, root, same};

/// The hosts to which a file here may link. A package mirror or a colleague's machine is not among them.
const PUBLIC_HOSTS: &str = "127.0.0.1 localhost host prometheus seckill github.com docs.rs api.stripe.com maven.apache.org www.apache.org \
     www.w3.org www.rfc-editor.org rustsec.org keepachangelog.com semver.org json-schema.org 192.0.2.1";

/// Reads the cells of all rows of Markdown tables.
fn table_rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn unquoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

#[test]
fn the_metrics_table_stands_in_the_docs() {
    let kind = |kind| match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let code: BTreeSet<(String, String, String)> = TABLE
        .iter()
        .map(|metric| (metric.name.to_owned(), kind(metric.kind).to_owned(), metric.labels.join(", ")))
        .collect();
    let docs = table_rows(&read("docs/operations.md"));
    let docs = docs.iter().filter_map(|row| {
        let name = unquoted(row.first()?)?;
        if !["seckill_", "http_", "db_", "messaging_", "process_", "tokio_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            return None;
        }
        let labels = row.get(2)?.replace(['`', '–'], "");
        Some((name.to_owned(), row.get(1)?.clone(), labels))
    });
    same("src/metrics.rs", &code, "docs/operations.md", &docs.collect());
}

#[test]
fn the_problem_codes_stand_in_the_docs() {
    let retryable = |is_retryable| if is_retryable { "yes" } else { "no" };
    let code: BTreeSet<(String, String, String)> = Code::ALL
        .iter()
        .map(|c| (c.as_str().to_owned(), c.status().to_string(), retryable(c.is_retryable()).to_owned()))
        .collect();
    let docs = table_rows(&read("docs/api.md"));
    let docs = docs.iter().filter_map(|row| {
        let status = row.first().filter(|status| status.parse::<u16>().is_ok())?;
        Some((unquoted(row.get(1)?)?.to_owned(), status.clone(), row.get(2)?.clone()))
    });
    same("src/http/problem.rs", &code, "docs/api.md", &docs.collect());
}

#[test]
fn every_configuration_key_is_explained() {
    let text = read("config/default.toml");
    let (mut breaches, mut section, mut is_explained) = (Vec::new(), "", false);
    for line in text.lines().map(str::trim) {
        if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            if !is_explained {
                breaches.push(format!("config/default.toml: {section}{key} has no comment above it"));
            }
        } else {
            is_explained = line.starts_with('#');
            section = if line.starts_with('[') { line } else { section };
        }
    }
    none(breaches);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut breaches = Vec::new();
    for path in files_ending("", ".md") {
        let folder = Path::new(&path).parent().expect("a folder");
        for target in read(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !root().join(folder).join(file).exists() {
                breaches.push(format!("{path} links to {target}"));
            }
        }
    }
    none(breaches);
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let decisions = files_ending("docs/adr", ".md");
    assert!(!decisions.is_empty(), "no decisions in docs/adr");
    none(decisions.iter().enumerate().filter_map(|(index, path)| {
        let number = format!("{:04}", index + 1);
        let is_right = path.starts_with(&format!("docs/adr/{number}-"))
            && read(path).starts_with(&format!("# {number} "));
        (!is_right).then(|| format!("{path} should be {number}, in its name and in its title"))
    }));
}

/// Tells whether a host may be named: it is everybody's, or reserved for examples. Source: RFC 2606 §2.
fn is_public(host: &str) -> bool {
    host.ends_with(".example") || list(PUBLIC_HOSTS).contains(host)
}

#[test]
fn nothing_names_a_private_host_or_a_folder_of_somebodys_machine() {
    // The names are written in pieces, so that this file does not breach its own rule.
    let folders =
        [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let mut breaches = Vec::new();
    for path in files("").into_iter().filter(|path| path != "Cargo.lock") {
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (number, line) in (1..).zip(text.lines()) {
            let folder = folders.iter().filter(|folder| line.contains(**folder));
            breaches.extend(folder.map(|folder| format!("{path}:{number} names {folder}")));
            for rest in line.split("://").skip(1) {
                let before = line.split("://").next().unwrap_or_default();
                let host: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || ".-".contains(*c)).collect();
                let is_web = before.ends_with("http") || before.ends_with("https");
                // An empty host is a placeholder such as {address}.
                if is_web && !host.is_empty() && !is_public(host.trim_end_matches('.')) {
                    breaches.push(format!("{path}:{number} names the host {host}"));
                }
            }
        }
    }
    none(breaches);
}
