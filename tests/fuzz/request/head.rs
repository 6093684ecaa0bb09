//! Compares headers, path segments and query strings with rules that are written down a second time.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::web::Query;
use seckill::domain::{OrderId, SaleId};
use seckill::http::admin::sales::if_version;
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

pub fn is_safe(text: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(is_safe)
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
    let key = input.text("Idempotency-Key").filter(|key| is_safe(key));
    match extract::idempotency_key(request) {
        Ok(parsed) => {
            assert_eq!(Some(parsed.as_str()), key, "a key is taken as it is, or refused");
            shown.push_str("key ");
        }
        Err(problem) => {
            assert_eq!(key, None, "a key of safe characters is taken");
            assert_eq!(answer(&problem).0, "idempotency_key_missing");
        }
    }
    let prefer = input.text("Prefer").unwrap_or("");
    let waits: Vec<u64> =
        prefer.split([',', ';']).filter_map(|one| digits(one.trim().strip_prefix("wait=")?)).collect();
    let wait_s = extract::prefer_wait_s(request);
    assert_eq!(wait_s, waits.first().copied(), "Prefer: wait is its first whole number of seconds");
    shown.push_str(if wait_s.is_some() { "wait " } else { "" });
    shown.push_str(address(input, request));
    shown
}

fn address(input: &Input, request: &HttpRequest) -> &'static str {
    let trusted: Vec<IpAddr> = PROXIES.iter().map(|text| text.parse().expect("an address")).collect();
    let peer = request.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip().to_canonical());
    let address = extract::address(request, &trusted);
    assert_eq!(address, address.to_canonical(), "one client has one address");
    if !trusted.contains(&peer) {
        assert_eq!(address, peer, "a stranger's X-Forwarded-For is not believed");
        return "direct ";
    }
    if address == peer {
        return "proxy ";
    }
    assert!(!trusted.contains(&address), "a proxy is no client");
    // Entries that a client puts in front change nothing.
    let mut spoofed = Input { headers: input.headers.clone(), segments: Vec::new(), ..*input };
    let at = spoofed.headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"));
    spoofed.headers.insert(at.expect("it came from there"), ("x-forwarded-for", b"6.6.6.6, 10.0.0.1, x"));
    assert_eq!(extract::address(&spoofed.request(), &trusted), address, "a client cannot choose its address");
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

/// Returns whether a text is `ord_` and 128 bits in base 32, whose first digit holds three of them.
pub fn is_order(text: &str) -> bool {
    let digits = text.get(4..).unwrap_or("").to_ascii_lowercase();
    text.starts_with("ord_")
        && digits.len() == 26
        && digits.chars().all(|c| CROCKFORD.contains(c))
        && digits.starts_with(|c: char| ('0'..='7').contains(&c))
}

pub fn order(segment: &str) -> String {
    match OrderId::parse(segment) {
        Ok(id) => {
            assert!(is_order(segment), "{segment:?} is an order");
            assert_eq!(id.to_string(), segment.to_ascii_lowercase());
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
    let asked = input.values("If-Match").first().map(|_| input.text("If-Match").unwrap_or(""));
    let number = asked.and_then(|text| digits(text.trim_matches('"')));
    match if_version(request) {
        Ok(Some(version)) => {
            assert_eq!(Some(version), number, "{asked:?} is version {version}");
            "version ".to_owned()
        }
        Ok(None) => {
            assert!(asked.is_none_or(|text| text == "*"), "{asked:?} is any version");
            String::new()
        }
        Err(problem) => {
            assert_eq!((number, answer(&problem).0.as_str()), (None, "etag_mismatch"));
            "no version ".to_owned()
        }
    }
}
