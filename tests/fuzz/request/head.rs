//! Compares headers, path segments and query strings with rules that are written down a second time.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::web::Query;
use seckill::domain::{OrderId, SaleId};
use seckill::http::admin::changes::if_versions;
use seckill::http::client_address::{ClientAddresses, ForwardedHeader};
use seckill::http::extract;
use seckill::http::shopper::orders::{ListQuery, ReadQuery, cursor_text};

use super::{Input, answer};

const CROCKFORD: &str = "0123456789abcdefghjkmnpqrstvwxyz";
/// The proxies whose `X-Forwarded-For` is believed.
pub const PROXIES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "2001:db8::1"];

pub fn is_slug(text: &str) -> bool {
    let is_slug = |c: char| c == '-' || c.is_ascii_digit() || c.is_ascii_lowercase();
    (1..=32).contains(&text.len()) && text.chars().all(is_slug)
}

/// Returns whether a text is one of 1 to 255 visible ASCII characters, as users and keys are.
pub fn is_visible(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.chars().all(|c| ('!'..='~').contains(&c))
}

/// Returns whether a text is a shop's own name for an order.
pub fn is_reference(text: &str) -> bool {
    (1..=64).contains(&text.chars().count()) && text.chars().all(|character| !character.is_control())
}

/// Splits a list at its commas outside of quotes, trims its entries, and leaves empty ones out.
fn entries(lines: &[&[u8]]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in lines {
        let (mut of_line, mut in_quotes, mut escape) = (vec![Vec::new()], false, false);
        for byte in *line {
            if *byte == b',' && !in_quotes {
                of_line.push(Vec::new());
                continue;
            }
            if escape {
                escape = false;
            } else if in_quotes && *byte == b'\\' {
                escape = true;
            } else if *byte == b'"' {
                in_quotes = !in_quotes;
            }
            of_line.last_mut().expect("one").push(*byte);
        }
        if in_quotes {
            of_line = line.split(|byte| *byte == b',').map(<[u8]>::to_vec).collect();
        }
        // An entry that is not ASCII means nothing.
        let text = |entry: Vec<u8>| String::from_utf8(entry).ok().filter(|text| text.is_ascii());
        found.extend(of_line.into_iter().map(|entry| text(entry).unwrap_or("\u{1}".to_owned())));
    }
    let trimmed = found.iter().map(|entry| entry.trim().to_owned());
    trimmed.filter(|entry| !entry.is_empty()).collect()
}

/// Reads a text in quotes, in which a backslash keeps the next character.
fn without_quotes(text: &str) -> Option<String> {
    let mut rest = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut read = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => return None,
            '\\' => read.push(rest.next()?),
            c => read.push(c),
        }
    }
    Some(read)
}

/// Finds the key that a request names; `None` when it names none, a bad one or two.
fn key_of(input: &Input) -> Option<String> {
    let values = input.values("Idempotency-Key");
    let first = std::str::from_utf8(values.first()?).ok()?;
    let key = if first.starts_with('"') { without_quotes(first)? } else { first.to_owned() };
    (values.iter().all(|value| value == &values[0]) && is_visible(&key)).then_some(key)
}

fn is_digit_64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn digits(text: &str) -> Option<u64> {
    let is_whole = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_whole.then(|| text.parse().ok()).flatten()
}

pub fn check(input: &Input, request: &HttpRequest) -> String {
    let mut shown = String::new();
    let key = key_of(input);
    match extract::idempotency_key(request) {
        Ok(parsed) => {
            assert_eq!(Some(parsed.as_str()), key.as_deref(), "a key is taken as it is, or refused");
            shown.push_str("key ");
        }
        Err(problem) => {
            assert_eq!(key, None, "a key of visible characters is taken");
            let is_there = !input.values("Idempotency-Key").is_empty();
            let code = if is_there { "idempotency_key_invalid" } else { "idempotency_key_missing" };
            assert_eq!(answer(&problem).0, code);
        }
    }
    let preferences = entries(&input.values("Prefer"));
    let waits: Vec<u64> = preferences.iter().filter_map(|one| wait_of(one)).collect();
    let wait_s = extract::prefer_wait_s(request);
    assert_eq!(wait_s, waits.first().copied(), "Prefer: wait is its first whole number of seconds");
    shown.push_str(if wait_s.is_some() { "wait " } else { "" });
    shown.push_str(address(input, request));
    shown
}

/// Reads `wait=N` or `wait="N"`, with or without parameters.
fn wait_of(preference: &str) -> Option<u64> {
    let (name, value) = preference.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("wait") {
        return None;
    }
    let mut in_quotes = false;
    let end = value.find(|c| {
        in_quotes ^= c == '"';
        c == ';' && !in_quotes
    });
    let value = value[..end.unwrap_or(value.len())].trim();
    if value.starts_with('"') { digits(&without_quotes(value)?) } else { digits(value) }
}

fn address(input: &Input, request: &HttpRequest) -> &'static str {
    let trusted = PROXIES.map(|text| text.parse::<IpAddr>().expect("an address"));
    let addresses = ClientAddresses::new(trusted.map(Into::into).to_vec(), ForwardedHeader::XForwardedFor);
    let peer = request.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip().to_canonical());
    let address = addresses.of(request, 0);
    assert_eq!(address, address.to_canonical(), "one client has one address");
    if !trusted.contains(&peer) {
        assert_eq!(address, peer, "a stranger's X-Forwarded-For is not believed");
        return "direct ";
    }
    if address == peer {
        return "proxy ";
    }
    if trusted.contains(&address) {
        return "proxies alone ";
    }
    // Entries that a client puts in front change nothing.
    let mut spoofed = Input { headers: input.headers.clone(), segments: Vec::new(), ..*input };
    let at = spoofed.headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"));
    spoofed.headers.insert(at.expect("it came from there"), ("x-forwarded-for", b"6.6.6.6, 10.0.0.1, x"));
    assert_eq!(addresses.of(&spoofed.request(), 0), address, "a client cannot choose its address");
    "forwarded "
}

pub fn sale(segment: &str) -> String {
    match SaleId::parse(segment) {
        Ok(id) => {
            assert!(is_slug(segment) && id.as_str() == segment, "{segment:?} is a sale");
            String::new()
        }
        Err(_) => {
            assert!(!is_slug(segment), "{segment:?} is no sale");
            "no sale ".to_owned()
        }
    }
}

/// Writes an order id as we do: lower case, and 0 and 1 for the letters that look like them.
pub fn canonical(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let digits = text.strip_prefix("ord_")?;
    Some(format!("ord_{}", digits.replace('o', "0").replace(['i', 'l'], "1")))
}

/// Returns whether a text is `ord_` and 128 bits in base 32, whose first digit holds three of them.
pub fn is_order(text: &str) -> bool {
    canonical(text).is_some_and(|text| {
        let digits = &text[4..];
        digits.len() == 26
            && digits.chars().all(|c| CROCKFORD.contains(c))
            && digits.starts_with(|c: char| ('0'..='7').contains(&c))
    })
}

pub fn order(segment: &str) -> String {
    match OrderId::parse(segment) {
        Ok(id) => {
            assert!(is_order(segment), "{segment:?} is an order");
            assert_eq!(Some(id.to_string()), canonical(segment));
            assert_eq!(OrderId::from_bytes(id.bytes()), Ok(id));
            "order ".to_owned()
        }
        Err(_) => {
            assert!(!is_order(segment), "{segment:?} is no order");
            "no order ".to_owned()
        }
    }
}

pub fn read_query(query: &str) -> String {
    let plain = query.strip_prefix("wait=").and_then(digits);
    match Query::<ReadQuery>::from_query(query) {
        Ok(read) => {
            assert!(plain.is_none() || plain == read.wait, "?{query} waits {plain:?}");
            format!("wait {}", read.wait.is_some())
        }
        Err(_) => {
            assert_eq!(plain, None, "?{query} is a wait");
            "no query".to_owned()
        }
    }
}

pub fn list_query(query: &str) -> String {
    let plain = query.strip_prefix("limit=").and_then(digits).filter(|limit| (1..=100).contains(limit));
    let Ok(list) = Query::<ListQuery>::from_query(query) else {
        assert_eq!(plain, None, "?{query} is a limit");
        return "no query".to_owned();
    };
    match list.page() {
        Ok((after, limit)) => {
            assert!((1..=100).contains(&limit), "a page of {limit}");
            assert!(plain.is_none() || plain == Some(u64::from(limit)), "?{query} is not {limit}");
            let Some(after) = after else { return "first page".to_owned() };
            let text = cursor_text(&after);
            // A cursor that is escaped, or stands beside other parameters, is not compared.
            let alone = query.strip_prefix("cursor=").filter(|text| text.bytes().all(is_digit_64));
            assert!(alone.is_none_or(|alone| alone == text), "?{query} was read as {text}");
            let again = format!("cursor={text}");
            let again = Query::<ListQuery>::from_query(&again).expect("a query");
            let (cursor, _) = again.page().expect("a cursor of ours");
            assert_eq!(cursor, Some(after), "a cursor means what it meant");
            assert_eq!(after.month, after.order.month());
            "next page".to_owned()
        }
        Err(problem) => {
            assert_eq!(plain, None, "?{query} is a limit");
            let (code, pointer) = answer(&problem);
            assert_eq!(code, "validation_failed");
            assert!(["/limit", "/cursor"].contains(&pointer.as_str()), "{pointer}");
            pointer
        }
    }
}

pub fn version(input: &Input, request: &HttpRequest) -> String {
    let tags = entries(&input.values("If-Match"));
    let numbers: Vec<u64> = tags.iter().filter_map(|tag| digits(tag.trim_matches('"'))).collect();
    match if_versions(request) {
        Ok(Some(versions)) => {
            assert_eq!(versions, numbers, "{tags:?} are versions {versions:?}");
            if versions.is_empty() { "no version ".to_owned() } else { "version ".to_owned() }
        }
        Ok(None) => {
            let is_there = !input.values("If-Match").is_empty();
            assert!(!is_there || tags.iter().any(|tag| tag == "*"), "{tags:?} are any version");
            String::new()
        }
        Err(problem) => {
            assert!(!tags.is_empty() && tags.iter().all(|tag| tag.starts_with("W/")), "{tags:?} are weak");
            assert_eq!(answer(&problem).0.as_str(), "etag_mismatch");
            "weak ".to_owned()
        }
    }
}
