//! Checks how texts are written: the length of lines, and that public fields have comments.

use crate::{files, files_ending, none, read};

const LINE_MAX: usize = 120;
const CELL_MAX: usize = 160;
/// The least share of public fields that have a comment, in percent.
const DOCUMENTED_LEAST: usize = 60;

fn is_too_long(line: &str) -> bool {
    line.chars().count() > LINE_MAX
}

/// Returns whether a line is long because of a link, which cannot be broken.
fn is_held_by_a_link(line: &str) -> bool {
    let longest = line.split_whitespace().max_by_key(|word| word.chars().count()).unwrap_or_default();
    longest.contains("](") || longest.contains("://")
}

#[test]
fn documents_wrap_at_120_and_cells_of_tables_at_160() {
    let mut breaches = Vec::new();
    // The cases are kept as they came.
    for path in files_ending("", ".md").into_iter().filter(|path| !path.starts_with("tests/cases/")) {
        let mut is_code = false;
        for (number, line) in (1..).zip(read(&path).lines()) {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            } else if line.starts_with('|') {
                let cells =
                    line.trim_matches('|').split(" | ").filter(|cell| cell.trim().chars().count() > CELL_MAX);
                breaches
                    .extend(cells.map(|cell| format!("{path}:{number}: a cell of {}", cell.trim().len())));
            } else if !is_code && is_too_long(line) && !is_held_by_a_link(line) {
                breaches.push(format!("{path}:{number} has {} characters", line.chars().count()));
            }
        }
    }
    none(breaches);
}

#[test]
fn comments_wrap_at_120() {
    let mark = |path: &str| match path.rsplit('.').next() {
        Some("rs") => Some("//"),
        Some("lua" | "sql") => Some("--"),
        Some("toml") => Some("#"),
        _ => None,
    };
    let mut breaches = Vec::new();
    for path in files("") {
        let Some(mark) = mark(&path) else { continue };
        for (number, line) in (1..).zip(read(&path).lines()) {
            if line.trim_start().starts_with(mark) && is_too_long(line) && !is_held_by_a_link(line) {
                breaches.push(format!("{path}:{number} has {} characters", line.chars().count()));
            }
        }
    }
    none(breaches);
}

/// Counts the public fields of a file, and how many of them have a comment.
fn public_fields(text: &str) -> (usize, usize) {
    let (mut fields, mut documented) = (0, 0);
    let mut is_documented = false;
    for line in text.lines().map(str::trim_start) {
        let is_item =
            ["fn ", "struct ", "enum ", "mod ", "use ", "const ", "static ", "type ", "trait ", "async "]
                .iter()
                .any(|word| line.strip_prefix("pub ").is_some_and(|rest| rest.starts_with(word)));
        if line.starts_with("pub ") && !is_item && line.contains(": ") {
            fields += 1;
            documented += usize::from(is_documented);
        }
        is_documented = line.starts_with("///") || (is_documented && line.starts_with("#["));
    }
    (fields, documented)
}

#[test]
fn most_public_fields_are_documented() {
    let (mut fields, mut documented) = (0, 0);
    let mut bare = Vec::new();
    for path in files_ending("src", ".rs") {
        let (all, with) = public_fields(&read(&path));
        fields += all;
        documented += with;
        if with < all {
            bare.push(format!("{path}: {} of {all} without a comment", all - with));
        }
    }
    assert!(
        documented * 100 >= fields * DOCUMENTED_LEAST,
        "{documented} of {fields} public fields are documented, {DOCUMENTED_LEAST} % are asked for:\n  {}",
        bare.join("\n  ")
    );
}
