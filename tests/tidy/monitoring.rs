//! Checks what watches the shop: that somebody sees every metric, that every alert is explained and tested, and that
//! the dashboards are what their table says.

use std::collections::BTreeSet;
use std::process::Command;

use seckill::metrics::TABLE;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::{files_ending, none, read, root, same};

const RULES: &str = "deploy/prometheus/rules.yml";
const RUNBOOK: &str = "docs/operations.md";
const DASHBOARDS: &str = "deploy/grafana/dashboards";

fn yaml(path: &str) -> Yaml {
    YamlLoader::load_from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}")).remove(0)
}

fn items(node: &Yaml) -> Vec<Yaml> {
    node.as_vec().cloned().unwrap_or_default()
}

fn text(node: &Yaml, key: &str) -> String {
    node[key].as_str().unwrap_or_else(|| panic!("no {key} in {node:?}")).to_owned()
}

/// Lists all rules: the alerts, and the series that are recorded.
fn rules() -> Vec<Yaml> {
    items(&yaml(RULES)["groups"]).iter().flat_map(|group| items(&group["rules"])).collect()
}

fn alerts() -> Vec<Yaml> {
    rules().into_iter().filter(|rule| rule["alert"].as_str().is_some()).collect()
}

/// Lists all panels that show something, each with its file.
fn panels() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for path in files_ending(DASHBOARDS, ".json") {
        let file: Value =
            serde_json::from_str(&read(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let panels = file["panels"].as_array().cloned().unwrap_or_default();
        found.extend(panels.into_iter().filter(|panel| panel["type"] != "row").map(|p| (path.clone(), p)));
    }
    assert!(found.len() >= 50, "{} panels", found.len());
    found
}

/// Lists the expressions of all panels, each with its file.
fn expressions_of_panels() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, panel) in panels() {
        for target in panel["targets"].as_array().cloned().unwrap_or_default() {
            let expr =
                target["expr"].as_str().unwrap_or_else(|| panic!("{path}: {} has no expr", panel["title"]));
            found.push((path.clone(), expr.to_owned()));
        }
    }
    found
}

/// Lists the words of an expression: metrics, functions and labels alike. What stands in quotes is none.
fn words(expr: &str) -> BTreeSet<String> {
    let outside: Vec<&str> = expr.split('"').step_by(2).collect();
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    outside
        .join(" ")
        .split(|c: char| !is_part(c))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_metric(name: &str) -> bool {
    TABLE.iter().any(|metric| metric.name == name)
}

/// Returns the metric of a series: a histogram's series have something behind its name.
fn metric_of(series: &str) -> &str {
    let ends = ["_bucket", "_sum", "_count"];
    let mut bases = ends.iter().filter_map(|end| series.strip_suffix(*end));
    bases.find(|base| is_metric(base)).unwrap_or(series)
}

/// Adds the words of the recorded series that are among some words.
fn with_what_is_recorded(mut known: BTreeSet<String>) -> BTreeSet<String> {
    loop {
        let before = known.len();
        for rule in rules() {
            if rule["record"].as_str().is_some_and(|name| known.contains(name)) {
                known.extend(words(&text(&rule, "expr")));
            }
        }
        if known.len() == before {
            return known;
        }
    }
}

fn words_of_alerts() -> BTreeSet<String> {
    alerts().iter().flat_map(|alert| words(&text(alert, "expr"))).collect()
}

/// Lists every word at which somebody looks: in an alert, in a panel, or in a recorded series that one of them uses.
fn words_that_are_used() -> BTreeSet<String> {
    let mut used = words_of_alerts();
    used.extend(expressions_of_panels().iter().flat_map(|(_, expr)| words(expr)));
    with_what_is_recorded(used)
}

#[test]
fn every_metric_stands_in_an_alert_or_a_panel() {
    let used = words_that_are_used();
    let used: BTreeSet<&str> = used.iter().map(|word| metric_of(word)).collect();
    let unused = TABLE.iter().filter(|metric| !used.contains(metric.name));
    none(unused.map(|metric| format!("{} stands in no alert and in no panel", metric.name)));
}

#[test]
fn expressions_name_only_metrics_that_there_are() {
    let recorded: BTreeSet<String> =
        rules().iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned)).collect();
    // A word that begins as one of our metrics does is meant to be one.
    let ours: BTreeSet<&str> = TABLE.iter().filter_map(|metric| metric.name.split('_').next()).collect();
    let mut all = expressions_of_panels();
    all.extend(rules().iter().map(|rule| (RULES.to_owned(), text(rule, "expr"))));
    let mut breaches = Vec::new();
    for (path, expr) in all {
        for word in words(&expr) {
            let is_ours = word.split_once(['_', ':']).is_some_and(|(first, _)| ours.contains(first));
            if is_ours && !is_metric(metric_of(&word)) && !recorded.contains(&word) {
                breaches.push(format!("{path} names {word}, and there is no such metric"));
            }
        }
    }
    let used = words_that_are_used();
    breaches.extend(recorded.difference(&used).map(|name| format!("{RULES} records {name} for nobody")));
    none(breaches);
}

/// Returns the anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase();
    let letters = letters.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    letters.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(path: &str) -> BTreeSet<String> {
    let (text, mut found, mut is_code) = (read(path), BTreeSet::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if line.starts_with('#') && !is_code {
            found.insert(anchor(line.trim_start_matches('#')));
        }
    }
    found
}

#[test]
fn every_alert_has_a_row_that_says_where_to_go() {
    let runbook = read(RUNBOOK);
    let rows = runbook.lines().filter(|line| line.starts_with("| Seckill"));
    let rows: Vec<Vec<&str>> =
        rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let explained: BTreeSet<(String, String)> =
        rows.iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let alerts: BTreeSet<(String, String)> =
        alerts().iter().map(|alert| (text(alert, "alert"), text(&alert["labels"], "severity"))).collect();
    same(RULES, &alerts, RUNBOOK, &explained);

    let mut breaches = Vec::new();
    for row in rows {
        if row.len() != 4 || row.iter().any(|cell| cell.is_empty()) {
            breaches.push(format!("{}: what it means or where to go is missing", row[0]));
        }
        let cell = row.last().expect("a cell");
        for target in cell.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let Some((file, place)) = target.split_once('#') else { continue };
            let file = if file.is_empty() { RUNBOOK.to_owned() } else { format!("docs/{file}") };
            if !anchors(&file).contains(place) {
                breaches.push(format!("{}: {file} has no heading for #{place}", row[0]));
            }
        }
    }
    none(breaches);
}

/// Lists the tests of all files that `promtool test rules` reads, each with whether it is the healthy hour.
fn tests_of_alerts() -> Vec<(bool, Yaml)> {
    let files = files_ending("deploy/prometheus", ".test.yml");
    let tests = files.iter().flat_map(|path| items(&yaml(path)["tests"]));
    tests.map(|test| (text(&test, "name") == "a healthy hour", test)).collect()
}

#[test]
fn every_alert_is_seen_to_fire_in_time_and_to_be_silent_in_a_healthy_hour() {
    let kinds = ["fires", "is silent before", "is silent in the healthy hour"];
    let names: Vec<String> = alerts().iter().map(|alert| text(alert, "alert")).collect();
    let wanted: BTreeSet<(&str, &str)> =
        names.iter().flat_map(|name| kinds.map(|kind| (name.as_str(), kind))).collect();
    let tests = tests_of_alerts();
    let entries = tests.iter().flat_map(|(is_healthy, test)| {
        let entries = test["alert_rule_test"].as_vec().map(Vec::as_slice).unwrap_or_default();
        entries.iter().map(move |entry| (*is_healthy, entry))
    });
    let tested = entries.map(|(is_healthy, entry)| {
        let kind = match (is_healthy, items(&entry["exp_alerts"]).is_empty()) {
            (false, false) => kinds[0],
            (false, true) => kinds[1],
            (true, true) => kinds[2],
            (true, false) => "fires in the healthy hour",
        };
        (entry["alertname"].as_str().expect("a name"), kind)
    });
    same(RULES, &wanted, "their tests", &tested.collect());
}

#[test]
fn the_healthy_hour_has_every_metric_of_every_alert() {
    let healthy: BTreeSet<String> = tests_of_alerts()
        .iter()
        .filter(|(is_healthy, _)| *is_healthy)
        .flat_map(|(_, test)| items(&test["input_series"]))
        .map(|series| text(&series, "series").split('{').next().unwrap_or_default().to_owned())
        .collect();
    assert!(healthy.contains("up"), "the healthy hour has no series");
    let needed = with_what_is_recorded(words_of_alerts());
    let missing = needed.iter().filter(|word| is_metric(metric_of(word)) && !healthy.contains(*word));
    none(missing.map(|word| format!("the healthy hour has no {word}")));
}

#[test]
fn every_severity_has_a_receiver() {
    let severities = alerts().iter().map(|alert| text(&alert["labels"], "severity")).collect();
    let file = "deploy/prometheus/alertmanager.yml";
    let receivers = items(&yaml(file)["receivers"]).iter().map(|receiver| text(receiver, "name")).collect();
    same(RULES, &severities, file, &receivers);
}

#[test]
fn the_dashboards_are_what_their_table_says_and_every_panel_explains_itself() {
    let check = Command::new(root().join("scripts/dashboards")).arg("--check").output();
    let check = check.expect("scripts/dashboards runs, with python3");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let mut breaches = Vec::new();
    for (path, panel) in panels() {
        let parts = [
            ("title", &panel["title"]),
            ("unit", &panel["fieldConfig"]["defaults"]["unit"]),
            ("description", &panel["description"]),
        ];
        let missing = parts.iter().filter(|(_, value)| value.as_str().is_none_or(str::is_empty));
        breaches.extend(missing.map(|(part, _)| format!("{path}: {} has no {part}", panel["title"])));
    }
    none(breaches);
}
