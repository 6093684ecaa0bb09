//! The forms that headers have: one value, or a list over several lines. Source: RFC 9110 §5.3 and §5.6.

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderName, IF_NONE_MATCH};

/// A header that is one value stands in a request with two different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwoValues;

/// Finds the value of a header that is no list. A line that repeats the value of the first one changes nothing.
///
/// # Errors
/// [`TwoValues`] when the lines differ, since nothing says which one the client or a proxy meant.
pub fn sole<'a>(request: &'a HttpRequest, name: &HeaderName) -> Result<Option<&'a [u8]>, TwoValues> {
    let mut values = request.headers().get_all(name).map(|value| value.as_bytes());
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.all(|other| other == first) { Ok(Some(first)) } else { Err(TwoValues) }
}

/// Answers whether the client has what has this entity tag, by `If-None-Match`. Whether a tag is weak makes no
/// difference. Source: RFC 9110, 13.1.2.
pub fn knows(request: &HttpRequest, etag: &str) -> bool {
    let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    entries(request, &IF_NONE_MATCH).iter().any(|entry| *entry == "*" || strong(entry) == strong(etag))
}

/// What stands for an entry that is not ASCII. It means nothing in any list.
const UNREADABLE: &str = "\u{1}";

/// Lists the entries of a header that is a list, from all of its lines, in order. They are trimmed, and empty ones are
/// left out. An entry that is not ASCII is one that means nothing.
pub fn entries<'a>(request: &'a HttpRequest, name: &HeaderName) -> Vec<&'a str> {
    let lines = request.headers().get_all(name).map(|line| line.as_bytes());
    lines.flat_map(|line| split(line, b',')).filter(|entry| !entry.is_empty()).collect()
}

/// Splits at a separator that does not stand in quotes, and trims the pieces. Quotes that are not closed are none: what
/// a client left open must not take in what a proxy appended.
pub fn split(line: &[u8], separator: u8) -> Vec<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let unquoted = |byte: &u8| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match byte {
            b'"' if !was_escaped => is_quoted = !is_quoted,
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            _ => {}
        }
        *byte == separator && !is_quoted
    };
    let mut pieces: Vec<&[u8]> = line.split(unquoted).collect();
    if is_quoted {
        pieces = line.split(|byte| *byte == separator).collect();
    }
    let text = |piece| std::str::from_utf8(piece).ok().filter(|text| text.is_ascii());
    pieces.into_iter().map(|piece| text(piece).unwrap_or(UNREADABLE).trim()).collect()
}

/// Reads a quoted text: `"a\"b"` → `a"b`. Any other text is what it is. `None` when a quoted text is not closed, or
/// something follows it.
pub fn unquoted(text: &str) -> Option<String> {
    let Some(inside) = text.strip_prefix('"') else {
        return Some(text.to_owned());
    };
    let mut read = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    loop {
        match characters.next()? {
            '"' => return characters.as_str().is_empty().then_some(read),
            '\\' => read.push(characters.next()?),
            other => read.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::IF_MATCH;
    use actix_web::test::TestRequest;

    use super::*;

    fn request(lines: &[&str]) -> HttpRequest {
        let with = |request: TestRequest, line: &&str| request.append_header((IF_MATCH, *line));
        lines.iter().fold(TestRequest::default(), with).to_http_request()
    }

    #[test]
    fn a_value_that_two_lines_contradict_is_none() {
        assert_eq!(sole(&request(&[]), &IF_MATCH), Ok(None));
        assert_eq!(sole(&request(&["a", "a"]), &IF_MATCH), Ok(Some(&b"a"[..])));
        assert_eq!(sole(&request(&["a", "b"]), &IF_MATCH), Err(TwoValues));
        assert_eq!(sole(&request(&["a", "a", "b"]), &IF_MATCH), Err(TwoValues));
    }

    #[test]
    fn all_lines_are_one_list_and_quotes_hold_together() {
        let of = |lines: &[&str]| {
            entries(&request(lines), &IF_MATCH).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of(&["a ,b", ",", "c"]), ["a", "b", "c"]);
        assert_eq!(of(&[r#""a,b", c"#, r#""d\",e""#]), [r#""a,b""#, "c", r#""d\",e""#]);
        assert_eq!(of(&[r#"a;x=", b, c"#]), [r#"a;x=""#, "b", "c"], "quotes that nobody closed");
        assert_eq!(of(&["a, \u{e9}, c"]), ["a", UNREADABLE, "c"]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn a_quoted_text_is_read_whole_or_not_at_all() {
        assert_eq!(unquoted("plain").as_deref(), Some("plain"));
        assert_eq!(unquoted(r#""a\"b\\c""#).as_deref(), Some(r#"a"b\c"#));
        for open in [r#"""#, r#""a"#, r#""a\"#, r#""a"b"#] {
            assert_eq!(unquoted(open), None, "{open}");
        }
    }
}
