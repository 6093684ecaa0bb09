//! Checks the imports between the files of one module. They form no circle, so that a file can be read without the
//! files that use it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{leaves, without_comments};
use crate::{files_ending, none, read};

/// A file as the path of its module, such as `["backend", "embedded", "sqlite"]`.
type Module = Vec<String>;

/// Reads the files below `root` that are no tests, each without its tests.
fn sources(root: &str) -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    for path in files_ending(root, ".rs") {
        let inner = path.strip_prefix(root).and_then(|rest| rest.strip_suffix(".rs")).expect("a source file");
        let module: Module = inner.trim_matches('/').split('/').map(str::to_owned).collect();
        let is_test = module.iter().any(|part| part == "tests" || part == "stepped");
        if !is_test && module != ["lib"] && module != ["main"] {
            let text = without_comments(&read(&path));
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            found.insert(module, without_aliases(&code));
        }
    }
    found
}

/// Removes the aliases of imports: `use a::{b as c}` names `b`.
fn without_aliases(code: &str) -> String {
    let mut parts = code.split(" as ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
    }
    text
}

/// Lists what a file names, as full paths: after `crate::`, after `super::`, and in the modules that it declares.
fn paths(module: &Module, text: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let mut note = |base: &[String], rest: &str| {
        for leaf in leaves(rest).0 {
            found.push(base.iter().cloned().chain(leaf.split("::").map(str::to_owned)).collect());
        }
    };
    for (at, start) in text.match_indices("crate::") {
        note(&[], &text[at + start.len()..]);
    }
    let parent = &module[..module.len() - 1];
    for (at, start) in text.match_indices("super::") {
        let before = &text[..at];
        // In `super::super::x` every further `super::` leads one level up.
        let levels = before.len() - before.trim_end_matches("super::").len();
        let up = parent.len().saturating_sub(levels / start.len());
        note(&parent[..up], &text[at + start.len()..]);
    }
    let declared = text.lines().filter_map(|line| {
        let name = line
            .trim_start()
            .trim_start_matches("pub(super) ")
            .trim_start_matches("pub ")
            .strip_prefix("mod ")?;
        name.strip_suffix(';')
    });
    for name in declared {
        let uses = format!("{name}::");
        let is_used = text
            .match_indices(&uses)
            .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
        if is_used {
            found.push(module.iter().cloned().chain([name.to_owned()]).collect());
        }
    }
    found
}

/// Returns for each file the files of its own module that it needs.
fn edges(sources: &BTreeMap<Module, String>) -> BTreeMap<&Module, BTreeSet<&Module>> {
    let target = |path: &Module| {
        (1..=path.len()).rev().find_map(|length| sources.get_key_value(&path[..length]).map(|(file, _)| file))
    };
    let needs = |module: &Module, text: &str| {
        let found = paths(module, text).iter().filter_map(target).collect::<Vec<_>>();
        found.into_iter().filter(|file| file[0] == module[0] && *file != module).collect()
    };
    sources.iter().map(|(module, text)| (module, needs(module, text))).collect()
}

/// Lists the files that can be reached from a file. The file itself is among them only when it is on a circle.
fn reached<'a>(from: &'a Module, edges: &BTreeMap<&'a Module, BTreeSet<&'a Module>>) -> BTreeSet<&'a Module> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        for next in edges.get(file).into_iter().flatten() {
            if seen.insert(*next) {
                open.push(next);
            }
        }
    }
    seen
}

fn circles(root: &str) -> Vec<String> {
    let sources = sources(root);
    let edges = edges(&sources);
    let on_circle = edges.keys().filter(|file| reached(file, &edges).contains(**file));
    on_circle
        .map(|file| {
            let back = edges[file].iter().filter(|next| reached(next, &edges).contains(file));
            let back: Vec<String> = back.map(|next| next.join("::")).collect();
            format!("{root}: {} needs {}, which needs it", file.join("::"), back.join(" and "))
        })
        .collect()
}

#[test]
fn files_of_one_module_import_each_other_in_no_circle() {
    none(["src", "loadtest/src"].into_iter().flat_map(circles));
}

#[test]
fn a_circle_of_imports_is_found() {
    let file = |name: &str, text: &str| (vec!["m".to_owned(), name.to_owned()], text.to_owned());
    let sources = BTreeMap::from([
        (vec!["m".to_owned()], "mod a;\nmod b;\nuse a::A;".to_owned()),
        file("a", "use super::b::{B, C};"),
        file("b", "use crate::m::a::A;"),
        file("c", "use super::a::A;"),
    ]);
    let edges = edges(&sources);
    let on_circle: Vec<String> = sources
        .keys()
        .filter(|file| reached(file, &edges).contains(file))
        .map(|file| file.join("::"))
        .collect();
    assert_eq!(on_circle, ["m::a", "m::b"]);
}
