//! Makes configurations that are right, or nearly.

use rand::Rng;
use rand::rngs::StdRng;
use toml::Value;

use super::{FLAGS, MARKERS, SECRETS};
use crate::grammar::{INTEGERS, one_of, slug, text_of};

const ODD_VALUES: &[&str] = &[
    "1.5",
    "-1",
    "1e3",
    "inf",
    "nan",
    "true",
    "\"on\"",
    "\"7\"",
    "[]",
    "[1]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
    "0x10",
    "0o7",
    "0b1",
    "1_000",
    "+5",
    "07",
    "''",
    "\"\"\"",
    "'''",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "",
    "no quotes",
    "\"open",
];

const TYPOS: &[&str] = &[
    "http.workres",
    "htpp.workers",
    "mysql.instance",
    "auth.hs256_secrt",
    "workers",
    "http",
    "http.bind.port",
    "\"\"",
    "\"a.b\"",
    "\"http.bind\"",
    "\"mysql.instances[3]\"",
    "\"mysql.instances[-9]\"",
    "é",
];

pub fn file(defaults: &[(String, Value)], rng: &mut StdRng) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..one_of(&[0, 1, 1, 2, 3, 6], rng) {
        let (key, default) = &defaults[rng.random_range(0..defaults.len())];
        text.push_str(&format!("{key} = {}\n", value(key, default, rng)));
    }
    if rng.random_bool(0.3) {
        text = sections(&text);
    }
    if rng.random_bool(0.3) {
        shard_map(&mut text, rng);
    }
    if rng.random_bool(0.1) {
        text.push_str(&format!("{} = {}\n", one_of(TYPOS, rng), one_of(&["1", "\"x\"", "[1]"], rng)));
    }
    if rng.random_bool(0.4) {
        secret(&mut text, rng);
    }
    for _ in 0..one_of(&[0, 0, 1, 2], rng) {
        variable(&mut text, defaults, rng);
    }
    if rng.random_bool(0.2) {
        let address = one_of(&["127.0.0.1:1", "0.0.0.0:0", "[::1]:80", "localhost:80", "1", ""], rng);
        text.push_str(&format!("#flag {}={address}\n", one_of(&FLAGS, rng)));
    }
    text.into_bytes()
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Writes a value. Most of the time it is one that this key may have.
fn value(key: &str, default: &Value, rng: &mut StdRng) -> String {
    match rng.random_range(0..20) {
        0 => return (one_of(ODD_VALUES, rng)).to_owned(),
        1 => return one_of(INTEGERS, rng).to_string(),
        2 => return quoted(&text_of(rng)),
        _ => {}
    }
    match default {
        Value::Integer(number) => match rng.random_range(0..4) {
            0 => one_of(INTEGERS, rng).to_string(),
            1 => (number * 2).to_string(),
            2 => (number / 2).to_string(),
            _ => number.to_string(),
        },
        Value::Array(_) if key == "mysql.instances" => {
            let count = one_of(&[0, 1, 2, 3, 4, 8], rng);
            format!("[{}]", vec!["\"127.0.0.1:1\""; count].join(", "))
        }
        Value::Array(_) => {
            let address = || quoted(one_of(&["10.0.0.1", "::1", "10.0.0.1:80", "x", ""], rng));
            format!("[{}]", std::iter::repeat_with(address).take(2).collect::<Vec<_>>().join(","))
        }
        Value::String(text) if rng.random_bool(0.4) => quoted(text),
        Value::String(_) if key == "redis.url" && rng.random_bool(0.5) => {
            quoted(&format!("redis://user:{}@127.0.0.1:6379", MARKERS[0]))
        }
        _ => quoted(one_of(
            &[
                "127.0.0.1:80",
                "pretty",
                "json",
                "xml",
                "RS256",
                "EdDSA",
                "rs256",
                "consumer",
                "classic",
                "a_b",
                "{x}",
            ],
            rng,
        )),
    }
}

/// Writes the same keys under section headings.
fn sections(text: &str) -> String {
    let mut lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('.')).collect();
    lines.sort_unstable();
    let (mut sections, mut last) = (String::new(), "");
    for (section, line) in lines {
        if section != last {
            sections.push_str(&format!("[{section}]\n"));
            last = section;
        }
        sections.push_str(&format!("{line}\n"));
    }
    sections
}

fn shard_map(text: &mut String, rng: &mut StdRng) {
    let counts = [1, 2, 3, 4, 8, 16, 4096, 8192, 0];
    let lines = format!(
        "shards.shards = {}\nshards.partitions = {}\n",
        one_of(&[8, 8, 8, 16, 32, 3, 8192], rng),
        one_of(&counts, rng)
    );
    text.insert_str(0, &lines);
}

/// Puts a secret into one of the places where it may be. Now and then it is spoilt.
fn secret(text: &mut String, rng: &mut StdRng) {
    let key = one_of(&SECRETS, rng);
    let secret = format!(
        "{}{}",
        one_of(&MARKERS, rng),
        one_of(&["", "-of-32-bytes-or-more-than-that", "\\\"", "\\q", "\u{1}", "é"], rng)
    );
    let variable = format!("SECKILL__{}", key.to_uppercase().replace('.', "__"));
    let line = match rng.random_range(0..8) {
        0 => format!("#env {variable}={secret}\n"),
        1 => format!("#env {variable}={}\n", one_of(&["007", "1.10", "true", "1e5", " x", "inf", ""], rng)),
        2 => format!("#secret {secret}\n{key}_file = \"@DIR@/secret\"\n"),
        3 => format!("{key}_file = \"@DIR@/nothing\"\n"),
        4 => format!("{key} = [\"{secret}\"]\n"),
        5 => format!("{key} = {}{secret}\n", one_of(&["\"", "'", "\"\"\"", ""], rng)),
        6 => format!("{key} = \"{secret}\" {}\n", one_of(&["x", "\"", "#", ",", "=", "]"], rng)),
        _ => format!("{key} = \"{secret}\"\n"),
    };
    let at = if rng.random_bool(0.5) { 0 } else { text.len() };
    text.insert_str(at, &line);
}

fn variable(text: &mut String, defaults: &[(String, Value)], rng: &mut StdRng) {
    let (key, default) = &defaults[rng.random_range(0..defaults.len())];
    let name = format!("SECKILL__{}", key.to_uppercase().replace('.', "__"));
    let name = match rng.random_range(0..12) {
        0 => name.to_lowercase(),
        1 => format!("{name}{}", one_of(&["X", "[0]", "[99]", "__X", "__", "\u{1}", ".x"], rng)),
        2 => format!("SECKILL__{}", slug(rng)),
        3 => "SECKILL_FUZZ_SECONDS".to_owned(),
        _ => name,
    };
    let value = match rng.random_range(0..4) {
        0 => text_of(rng),
        1 => one_of(INTEGERS, rng).to_string(),
        2 => (one_of(&["007", "1.10", "true", "1e5", " 5", "10.0.0.1,10.0.0.2", "h:1,h:2", ""], rng))
            .to_owned(),
        _ => value(key, default, rng).trim_matches('"').to_owned(),
    };
    text.push_str(&format!("#env {name}={}\n", value.replace(['\n', '\r'], "")));
}
