//! Tests of style. They check the rules of CONTRIBUTING.md that neither rustc nor clippy can check, and the places
//! where one fact is written twice. Each test names the rule that it checks, and lists every breach that it finds.

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/first_build.rs"]
mod first_build;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/monitoring.rs"]
mod monitoring;
#[path = "tidy/prose.rs"]
mod prose;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/stack.rs"]
mod stack;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

/// Lists the repository's files below `folder` ("" for all), with slashes. Build and stack folders are left out.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("entry").path();
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            let is_ours =
                !matches!(name.as_str(), "target" | ".git" | ".stack" | ".env" | ".idea" | ".vscode");
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if path.is_file() && is_ours && !name.ends_with(".log") {
                let path = path.strip_prefix(root()).expect("below the root");
                found.push(path.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn files_ending(folder: &str, end: &str) -> Vec<String> {
    files(folder).into_iter().filter(|path| path.ends_with(end)).collect()
}

#[track_caller]
fn none(breaches: impl IntoIterator<Item = String>) {
    let breaches: Vec<String> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "{} breach(es):\n  {}", breaches.len(), breaches.join("\n  "));
}

/// Asserts that two sets are the same, and lists what is only in one of them.
#[track_caller]
fn same<T: Ord + std::fmt::Debug>(left: &str, a: &BTreeSet<T>, right: &str, b: &BTreeSet<T>) {
    assert!(!a.is_empty(), "nothing found in {left}");
    let only = |here: &BTreeSet<T>, there: &BTreeSet<T>, name: &str| -> Vec<String> {
        here.difference(there).map(|row| format!("only in {name}: {row:?}")).collect()
    };
    none(only(a, b, left).into_iter().chain(only(b, a, right)));
}

fn list(words: &str) -> BTreeSet<&str> {
    words.split_whitespace().collect()
}
