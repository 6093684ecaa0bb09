//! The report as a page for people: one file that needs nothing else. It is made of the JSON summary, so it can be made
//! of an old one, too.

use std::fmt::Write as _;

use serde_json::Value;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
h1,h2{line-height:1.2}table{border-collapse:collapse;width:100%;margin:0 0 2rem}th,td{padding:.35rem .6rem;border-bottom:1px solid #ccc;text-align:right}\
th:first-child,td:first-child{text-align:left}.verdict{font-size:1.4rem;padding:.6rem 1rem;border-left:.5rem solid}.pass{color:#0a6b2d}\
.fail{color:#b00020}svg{width:100%;height:auto;background:#f6f6f6;margin:0 0 .5rem}.legend{margin:0 0 2rem}.legend span{margin-right:1.2rem}\
.legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.3rem}.c0{--c:#0a6b2d}.c1{--c:#8a5a00}.c2{--c:#b00020}.c3{--c:#1652b8}\
.legend i{background:var(--c)}polyline{fill:none;stroke:var(--c);stroke-width:2}text{font-size:12px;fill:#555}line{stroke:#ccc}\
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}th,td{border-color:#444}svg{background:#222}.pass{color:#6fdc8c}\
.fail{color:#ff8389}.c0{--c:#6fdc8c}.c1{--c:#f1c21b}.c2{--c:#ff8389}.c3{--c:#78a9ff}text{fill:#bbb}line{stroke:#555}}";

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;
const EDGE: f64 = 50.0;

/// A line of a chart: its name, and its points by time in s.
type Line = (&'static str, Vec<(f64, f64)>);

/// Makes the page of a summary.
pub fn render(summary: &Value) -> String {
    let verdict = summary["verdict"].as_str().unwrap_or("unknown");
    let sale = escaped(summary["sale"].as_str().unwrap_or_default());
    let title = escaped(verdict);
    let class = if verdict == "pass" { "pass" } else { "fail" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{sale}: {title}</title>\n<style>{STYLE}</style>\n<main>\n<h1>Load on {sale}</h1>\n\
         <p class=\"verdict {class}\"><strong>{}</strong>{}</p>\n",
        said(verdict),
        validity(summary),
    );
    audit(&mut page, &summary["audit"]);
    thresholds(&mut page, &summary["thresholds"]);
    figures(&mut page, summary);
    let load = &summary["load"]["timeline"];
    let of = |value: &Value| value.as_f64().unwrap_or(0.0);
    let at = |stretch: &Value| of(&stretch["at_ms"]) / 1000.0;
    let per_s = |stretch: &Value, is_wanted: &dyn Fn(&str) -> bool| {
        let classes = stretch["classes"].as_object().into_iter().flatten();
        let count: f64 = classes.filter(|(class, _)| is_wanted(class)).map(|(_, count)| of(count)).sum();
        count * 1000.0 / of(&stretch["lasts_ms"]).max(1.0)
    };
    let accepted = |class: &str| ["won", "replayed"].contains(&class);
    let failed = |class: &str| ["error", "unknown"].contains(&class);
    let refused = |class: &str| !accepted(class) && !failed(class);
    let series = |value: &dyn Fn(&Value) -> f64| -> Vec<(f64, f64)> {
        list(load).iter().map(|stretch| (at(stretch), value(stretch))).collect()
    };
    chart(
        &mut page,
        ("Answers per second", "answers/s"),
        &[
            ("accepted", series(&|stretch| per_s(stretch, &accepted))),
            ("refused", series(&|stretch| per_s(stretch, &refused))),
            ("failed", series(&|stretch| per_s(stretch, &failed))),
        ],
    );
    chart(
        &mut page,
        ("Latency, from the intended click", "ms"),
        &[
            ("median", series(&|stretch| of(&stretch["latency"]["p50_ms"]))),
            ("p99", series(&|stretch| of(&stretch["latency"]["p99_ms"]))),
            ("longest", series(&|stretch| of(&stretch["latency"]["max_ms"]))),
        ],
    );
    let rows = list(&summary["stored"]["timeline"]);
    let stock: f64 = list(&summary["stored"]["stock"]).iter().map(|line| of(&line["stock"])).sum();
    let by_rows = |value: &dyn Fn(&Value) -> f64| -> Vec<(f64, f64)> {
        rows.iter().map(|row| (of(&row["until_ms"]) / 1000.0, value(row))).collect()
    };
    chart(
        &mut page,
        ("Stock that is left, by orders of one unit", "units"),
        &[
            ("after acceptance", by_rows(&|row| (stock - of(&row["accepted"])).max(0.0))),
            ("after the row", by_rows(&|row| (stock - of(&row["persisted"])).max(0.0))),
        ],
    );
    chart(
        &mut page,
        ("Orders that wait for their row", "orders"),
        &[("waiting", by_rows(&|row| of(&row["accepted"]) - of(&row["persisted"])))],
    );
    page.push_str("</main>\n</html>\n");
    page
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn said(verdict: &str) -> &'static str {
    match verdict {
        "pass" => "Passed: nothing is wrong.",
        "errors" => "Failed: there were answers that are errors.",
        "threshold_crossed" => "Failed: a threshold does not hold.",
        "violation" => "Failed: the audit found a broken promise.",
        _ => "Unknown.",
    }
}

fn validity(summary: &Value) -> &'static str {
    match summary["load"]["latency"]["valid"].as_bool() {
        Some(false) => "<br>INVALID as a measure of latency: the generator itself was late.",
        _ => "",
    }
}

/// Writes a text so that it can stand in a page.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => escaped(text),
        Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or(0.0)),
        value => escaped(&value.to_string()),
    }
}

fn audit(page: &mut String, audit: &Value) {
    if audit.is_null() {
        page.push_str("<p>The stores were not audited.</p>\n");
        return;
    }
    let (rules, violations) = (shown(&audit["rules"]), shown(&audit["violations"]));
    // Writing to a text does not fail.
    let _ = writeln!(page, "<p>The audit judged {rules} rules and found {violations} violations.</p>");
    for broken in list(&audit["broken"]) {
        let (rule, says, count) = (shown(&broken["rule"]), shown(&broken["says"]), shown(&broken["count"]));
        let examples: String =
            list(&broken["examples"]).iter().map(|example| format!("<li>{}</li>", shown(example))).collect();
        let _ = writeln!(page, "<h2 class=\"fail\">{rule}: {count}</h2>\n<p>{says}</p>\n<ul>{examples}</ul>");
    }
    for note in list(&audit["notes"]) {
        let _ = writeln!(page, "<p>{}</p>", shown(note));
    }
}

fn thresholds(page: &mut String, thresholds: &Value) {
    let row = |result: &Value| {
        let held = if result["held"] == true { "holds" } else { "does not hold" };
        vec![shown(&result["threshold"]), shown(&result["value"]), held.to_owned()]
    };
    let rows: Vec<Vec<String>> = list(thresholds).iter().map(row).collect();
    table(page, "Thresholds", &["Threshold", "Figure", ""], &rows);
}

fn figures(page: &mut String, summary: &Value) {
    let (load, stored) = (&summary["load"], &summary["stored"]);
    let rows = [
        ("Shape", &load["shape"]),
        ("Clicks", &load["clicks"]),
        ("Buyers", &load["users"]),
        ("Seed", &load["seed"]),
        ("Offered per second", &load["offered_per_s"]),
        ("Accepted", &load["accepted"]),
        ("Accepted per second", &load["accepted_per_s"]),
        ("Refused", &load["refused"]),
        ("Persisted", &stored["persisted"]),
        ("Persisted per second", &stored["persisted_per_s"]),
        ("Rejected after acceptance", &stored["rejected"]),
        ("Acceptance to row, p99 in ms", &stored["accept_to_row"]["p99_ms"]),
    ];
    let rows: Vec<Vec<String>> = rows.map(|(name, value)| vec![name.to_owned(), shown(value)]).into();
    table(page, "Figures", &["", ""], &rows);
    let quantiles = [("Accepted", &load["latency"]["accepted"]), ("Refused", &load["latency"]["refused"])];
    let names = ["count", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"];
    let row = |(name, of): (&str, &Value)| {
        std::iter::once(name.to_owned()).chain(names.map(|quantile| shown(&of[quantile]))).collect()
    };
    let head = ["Latency in ms", "Answers", "Median", "p90", "p99", "p99.9", "Longest"];
    table(page, "Latency", &head, &quantiles.map(row));
    let codes = load["codes"].as_object().into_iter().flatten();
    let codes: Vec<Vec<String>> = codes.map(|(code, count)| vec![escaped(code), shown(count)]).collect();
    table(page, "Codes of answers that were not accepted", &["Code", "Answers"], &codes);
    let line = |line: &Value| ["sku", "stock", "sold", "oversold"].map(|name| shown(&line[name])).to_vec();
    let lines: Vec<Vec<String>> = list(&stored["stock"]).iter().map(line).collect();
    table(page, "Stock", &["SKU", "Stock", "Live units", "Oversold"], &lines);
}

/// Writes a table of texts that can stand in a page; nothing without rows.
fn table(page: &mut String, title: &str, head: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let head: String = head.iter().map(|cell| format!("<th>{cell}</th>")).collect();
    let row = |row: &Vec<String>| {
        format!("<tr>{}</tr>\n", row.iter().map(|cell| format!("<td>{cell}</td>")).collect::<String>())
    };
    let rows: String = rows.iter().map(row).collect();
    let _ = writeln!(
        page,
        "<h2>{title}</h2>\n<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"
    );
}

/// Draws lines over time; nothing without points.
fn chart(page: &mut String, (title, unit): (&str, &str), lines: &[Line]) {
    let points = || lines.iter().flat_map(|(_, points)| points);
    if points().next().is_none() {
        return;
    }
    let last = points().map(|(at, _)| *at).fold(0.1, f64::max);
    let most = points().map(|(_, value)| *value).fold(1.0, f64::max);
    let x = |at: f64| EDGE + at / last * (WIDTH - 2.0 * EDGE);
    let y = |value: f64| HEIGHT - 30.0 - value / most * (HEIGHT - 60.0);
    let mut drawn = String::new();
    for (number, (_, points)) in lines.iter().enumerate() {
        let points: Vec<String> =
            points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = writeln!(drawn, "<polyline class=\"c{number}\" points=\"{}\"/>", points.join(" "));
    }
    let legend: String = lines
        .iter()
        .enumerate()
        .map(|(number, (name, _))| format!("<span class=\"c{number}\"><i></i>{name}</span>"))
        .collect();
    let (left, right, zero, top) = (EDGE, WIDTH - EDGE, y(0.0), y(most));
    let _ = writeln!(
        page,
        "<h2>{title}</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
         <line x1=\"{left}\" y1=\"{zero}\" x2=\"{right}\" y2=\"{zero}\"/>\n<line x1=\"{left}\" y1=\"{top}\" x2=\"{right}\" y2=\"{top}\"/>\n\
         <text x=\"4\" y=\"{:.1}\">{most:.0} {unit}</text>\n<text x=\"4\" y=\"{:.1}\">0</text>\n\
         <text x=\"{left}\" y=\"{:.1}\">0 s</text>\n<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{last:.1} s</text>\n\
         {drawn}</svg>\n<p class=\"legend\">{legend}</p>",
        top - 8.0,
        zero + 4.0,
        HEIGHT - 8.0,
        HEIGHT - 8.0,
    );
}

/// Compares the figures of two summaries, one line each.
pub fn compare(before: &Value, after: &Value) -> String {
    let figures = [
        ("accepted", "/load/accepted"),
        ("accepted/s", "/load/accepted_per_s"),
        ("persisted/s", "/stored/persisted_per_s"),
        ("accepted p50 ms", "/load/latency/accepted/p50_ms"),
        ("accepted p99 ms", "/load/latency/accepted/p99_ms"),
        ("refused p50 ms", "/load/latency/refused/p50_ms"),
        ("refused p99 ms", "/load/latency/refused/p99_ms"),
        ("accept to row p99 ms", "/stored/accept_to_row/p99_ms"),
        ("violations", "/audit/violations"),
    ];
    let mut text = format!("{:<22}{:>14}{:>14}{:>10}\n", "FIGURE", "BEFORE", "AFTER", "RATIO");
    for (name, pointer) in figures {
        let of = |summary: &Value| summary.pointer(pointer).and_then(Value::as_f64);
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let (one, other) = (of(before), of(after));
        let ratio = one.zip(other).filter(|(one, _)| *one > 0.0).map(|(one, other)| other / one);
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
        let _ = writeln!(text, "{name:<22}{:>14}{:>14}{ratio:>10}", cell(one), cell(other));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_says_its_verdict_first_and_holds_nothing_that_runs() {
        let summary = json!({
            "verdict": "violation", "sale": "<drop>", "load": { "shape": "spike of 9", "clicks": 9, "users": 9,
            "latency": { "valid": false }, "codes": { "sold_out": 4 },
            "timeline": [{ "at_ms": 0, "lasts_ms": 100, "classes": { "won": 5, "sold_out": 4 }, "latency": { "p50_ms": 1.0 } }] },
            "audit": { "rules": 46, "violations": 1, "broken": [{ "rule": "sold_over_stock", "says": "x < y", "count": 1,
            "examples": ["<script>alert(1)</script>"] }], "notes": [] },
        });
        let page = render(&summary);
        let verdict = page.find("broken promise").expect("the verdict");
        assert!(page.find("sold_over_stock").is_some_and(|at| verdict < at));
        assert!(page.contains("INVALID") && page.contains("&lt;drop&gt;") && page.contains("<polyline"));
        assert!(!page.contains("<script") && !page.contains("http"), "{page}");
        let compared = compare(&summary, &summary);
        assert!(
            compared.contains("violations                       1.0           1.0     1.000"),
            "{compared}"
        );
    }
}
