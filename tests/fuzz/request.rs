//! Fuzzes everything that is parsed of a request before any store is asked: body, headers, path and query.
//!
//! An input is a request as text: `METHOD /path?query`, headers, a blank line, the body. The pseudo header `:peer` is
//! the address that the socket would give.

mod bodies;
mod calendar;
mod head;
mod made;

use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::test::TestRequest;
use actix_web::{HttpRequest, ResponseError};
use seckill::http::problem::{Code, Problem};
use serde_json::Value;

use crate::engine::{Target, run};
use crate::json::Doc;

pub use head::{canonical, is_order, is_reference, is_slug, is_visible};

/// One input, taken apart.
pub struct Input<'a> {
    pub method: &'a str,
    pub segments: Vec<&'a str>,
    pub query: &'a str,
    pub headers: Vec<(&'a str, &'a [u8])>,
    pub body: &'a [u8],
}

impl<'a> Input<'a> {
    fn parse(input: &'a [u8]) -> Option<Self> {
        let end = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
        let body = input.get(end + 2..).unwrap_or(&[]);
        let mut lines = input[..end].split(|byte| *byte == b'\n');
        let (method, target) = std::str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let header = |line: &'a [u8]| {
            let colon = line.iter().skip(1).position(|byte| *byte == b':')? + 1;
            Some((std::str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii()))
        };
        let segments = path.split('/').skip(1).collect();
        Some(Self { method, segments, query, headers: lines.filter_map(header).collect(), body })
    }

    /// Returns the values of a header, as the server has them.
    pub fn values(&self, name: &str) -> Vec<&'a [u8]> {
        let of_name = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| *value).filter(|value| HeaderValue::from_bytes(value).is_ok()).collect()
    }

    /// Returns the first value of a header, if it is a text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let first = self.values(name).first().copied()?;
        let is_text = first.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        std::str::from_utf8(first).ok().filter(|_| is_text)
    }

    /// Makes the request as handlers get it. Headers that no server would let through are left out.
    pub fn request(&self) -> HttpRequest {
        let mut request = TestRequest::default();
        for (name, value) in &self.headers {
            let header = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value));
            if let (Ok(name), Ok(value)) = header {
                request = request.append_header((name, value));
            }
        }
        let peer = self.headers.iter().find(|(name, _)| *name == ":peer");
        let peer = peer.and_then(|(_, text)| std::str::from_utf8(text).ok()?.parse().ok());
        if let Some(peer) = peer {
            request = request.peer_addr(peer);
        }
        request.to_http_request()
    }
}

/// Reads a refusal as the client does: the code, and the pointer of the first fault.
pub fn answer(problem: &Problem) -> (String, String) {
    let status = problem.status_code().as_u16();
    let body: Value = serde_json::from_slice(&problem.body("r-1", None)).expect("a problem is JSON");
    let code = body["code"].as_str().expect("a code").to_owned();
    let documented = Code::ALL.iter().find(|known| known.as_str() == code).expect("a documented code");
    assert_eq!(
        (u64::from(status), status),
        (body["status"].as_u64().expect("a status"), documented.status())
    );
    assert_eq!(body["type"], format!("/problems/{code}"));
    assert_eq!(body["retryable"], false, "what a parser refuses stays refused");
    let pointer = body["errors"][0]["pointer"].as_str().unwrap_or("").to_owned();
    (code, pointer)
}

/// Asserts that a pointer leads into the document, or to a member that is missing there.
pub fn leads_somewhere(pointer: &str, doc: &Doc) {
    assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer:?} is no JSON pointer");
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    assert!(doc.at(parent).is_some(), "{pointer:?} leads nowhere");
}

fn check(input: &[u8]) -> String {
    let Some(input) = Input::parse(input) else { return "no request".to_owned() };
    let request = input.request();
    let mut shown = head::check(&input, &request);
    let of_path = match (input.method, input.segments.as_slice()) {
        ("POST", ["sales", sale, "orders"]) => head::sale(sale) + &bodies::place(&input, &request),
        ("GET", ["orders", order]) => head::order(order) + &head::read_query(input.query),
        ("GET", ["orders"]) => head::list_query(input.query),
        ("POST", ["admin", "sales"]) => bodies::create(&input, &request),
        ("PATCH", ["admin", "sales", _]) => {
            head::version(&input, &request) + &bodies::patch(&input, &request)
        }
        ("POST", ["admin", "sales", _, _]) => bodies::reason(&input, &request),
        _ => "no route".to_owned(),
    };
    shown.push_str(&of_path);
    shown
}

#[test]
fn a_request_is_accepted_exactly_when_it_keeps_every_documented_bound() {
    run(&Target {
        name: "request",
        check: &check,
        generate: &made::request,
        bytes_max: 16 * 1024,
        slowest: Duration::from_millis(50),
    });
}
