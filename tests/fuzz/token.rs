//! Fuzzes the token check. It is compared with HS256, computed here from SHA-256, and with the rules of RFC 7515 and
//! 7519.
//!
//! An input is a recipe for a token, so that mutations can still have a good signature. Its first line has words
//! (`signed`, `foreign` or `raw`; `kid` for a key with an id; `issuer`; `at=SECONDS` for the clock). The header's JSON
//! follows on one line, and then the payload's JSON. After `raw` the value of `Authorization` itself follows.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use rand::Rng;
use rand::rngs::StdRng;
use seckill::clock::Clock;
use seckill::http::auth::{TokenKey, TokenRules, Tokens};
use sha2::{Digest, Sha256};

use crate::engine::{Target, run};
use crate::grammar::{INTEGERS, Node, one_of, text_of};
use crate::json::{self, Doc};
use crate::request::is_visible;

const SECRET: &[u8] = b"a secret of the fuzz targets, of 32 bytes or more";
const FOREIGN: &[u8] = b"a secret of somebody else, also of 32 bytes or more";
const NOW_S: i64 = 1_900_000_000;
const LEEWAY_S: i64 = 5;
const BYTES_MAX: usize = 4096;

/// Computes HMAC-SHA256. Source: RFC 2104.
pub fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// Decodes base64url without padding, in which every byte string has one text only. Source: RFC 4648 §5.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0u32);
    for c in text.chars() {
        held = held << 6 | u32::try_from(alphabet.find(c)?).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits).ok()?);
            held &= (1 << bits) - 1;
        }
    }
    (held == 0 && bits < 6).then_some(bytes)
}

/// How a token is checked, and at which time.
#[derive(Clone, Copy, Default)]
struct Setting {
    has_kid: bool,
    has_issuer: bool,
    now_ms: i64,
}

/// The user that a credential proves, by the rules, and when the proof ends. `is_plain` says that the credential holds
/// nothing that a strict reader may refuse for another reason.
struct Proof {
    user: String,
    expires_ms: i128,
    is_plain: bool,
}

fn proof(authorization: &str, setting: Setting) -> Option<Proof> {
    let (scheme, credential) = authorization.split_once(' ')?;
    let token = credential.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.len() > BYTES_MAX {
        return None;
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else { return None };
    let message = format!("{header}.{payload}");
    if decoded(signature)? != hmac(SECRET, message.as_bytes()) {
        return None;
    }
    let is_plain_header = header_is_plain(&json::parse(&decoded(header)?)?, setting)?;
    let mut proof = claimed(&json::parse(&decoded(payload)?)?, setting)?;
    proof.is_plain &= is_plain_header;
    Some(proof)
}

/// Reads a header, and returns whether it is plain. `None` means that the header asks for anything but HS256 with the
/// key at hand.
fn header_is_plain(header: &Doc, setting: Setting) -> Option<bool> {
    let must_understand = header.has("crit") && header.member("crit") != Some(&Doc::Null);
    if header.member("alg")?.text() != Some("HS256") || must_understand {
        return None;
    }
    let kid = header.member("kid").and_then(Doc::text);
    if setting.has_kid && kid != Some("main") {
        return None;
    }
    let is_text = |name: &str| !header.has(name) || header.member(name).is_some_and(|d| d.text().is_some());
    let has_known = header.is_object_of(&["alg"], &["typ", "kid", "x"]) && is_text("typ") && is_text("kid");
    Some(has_known && header.is_plain())
}

/// Reads the claims. `None` means that a claim is missing, repeated, out of order or out of time.
fn claimed(claims: &Doc, setting: Setting) -> Option<Proof> {
    let audience = claims.member("aud")?;
    let is_ours = |doc: &Doc| doc.text() == Some("seckill");
    if !is_ours(audience) && !audience.list().is_some_and(|list| list.iter().any(is_ours)) {
        return None;
    }
    let user = claims.member("sub")?.text().filter(|user| is_visible(user))?;
    let expires_ms = (ms(claims.member("exp")?)? + i128::from(LEEWAY_S) * 1000).min(i128::from(i64::MAX));
    if i128::from(setting.now_ms) >= expires_ms {
        return None;
    }
    if claims.has("nbf") {
        let begins_ms = ms(claims.member("nbf")?)?;
        if begins_ms > i128::from(setting.now_ms) + i128::from(LEEWAY_S * 1000) {
            return None;
        }
    }
    let is_issuer = |doc: &Doc| doc.text() == Some("shop");
    let issued = claims.member("iss");
    let is_issued =
        issued.is_some_and(|doc| is_issuer(doc) || doc.list().is_some_and(|list| list.iter().any(is_issuer)));
    if setting.has_issuer && !is_issued {
        return None;
    }
    let is_text =
        |doc: &Doc| doc.text().is_some() || doc.list().is_some_and(|l| l.iter().all(|d| d.text().is_some()));
    // What the library refuses beyond these bounds is no time of a shop.
    let is_usual =
        |doc: &Doc| matches!(doc, Doc::Number(text) if (0.0..1e15).contains(&text.parse().unwrap_or(-1.0)));
    let is_time = |name: &str| !claims.has(name) || claims.member(name).is_some_and(is_usual);
    let is_plain = claims.is_object_of(&["sub", "aud", "exp"], &["nbf", "iss", "iat", "x"])
        && claims.is_plain()
        && is_text(audience)
        && (!claims.has("iss") || issued.is_some_and(is_text))
        && is_time("exp")
        && is_time("nbf");
    Some(Proof { user: user.to_owned(), expires_ms, is_plain })
}

/// Reads a NumericDate, which may have a fraction and an exponent, as whole milliseconds.
fn ms(doc: &Doc) -> Option<i128> {
    let Doc::Number(text) = doc else { return None };
    let seconds: f64 = text.parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
    let ms = Duration::try_from_secs_f64(seconds.abs())
        .map_or(i128::MAX, |span| i128::try_from(span.as_millis()).unwrap_or(i128::MAX));
    let ms = ms.min(i128::from(i64::MAX));
    Some(if seconds < 0.0 { -ms } else { ms })
}

fn tokens(setting: Setting, clock: &Clock) -> Tokens {
    let kid = setting.has_kid.then(|| "main".to_owned());
    let key = TokenKey { kid, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(SECRET) };
    let rules = TokenRules {
        audience: "seckill".to_owned(),
        issuer: setting.has_issuer.then(|| "shop".to_owned()),
        leeway_s: 5,
        device_claim: None,
        verified_max: 64,
    };
    Tokens::new(vec![key], &rules, clock.clone())
}

/// Asks the product, and compares its answer with the rules.
fn asked(tokens: &Tokens, authorization: &str, setting: Setting) -> Option<Proof> {
    let proof = proof(authorization, setting);
    match tokens.shopper(Some(authorization)) {
        Ok(shopper) => {
            let proven = proof.as_ref().map(|proof| proof.user.as_str());
            assert_eq!(Some(shopper.user.as_str()), proven, "a token that proves nothing was believed");
        }
        Err(_) => {
            assert!(!proof.as_ref().is_some_and(|proof| proof.is_plain), "a good token was refused");
            return None;
        }
    }
    proof
}

/// One `Tokens` for all inputs, as in a process. What it remembers must not change an answer.
struct Remembering {
    clock: Clock,
    tokens: [Tokens; 4],
}

impl Remembering {
    fn new() -> Self {
        let clock = Clock::manual(NOW_S * 1000);
        let of = |has_kid, has_issuer| tokens(Setting { has_kid, has_issuer, now_ms: 0 }, &clock);
        let tokens = [of(false, false), of(false, true), of(true, false), of(true, true)];
        Self { clock, tokens }
    }

    fn at(&self, setting: Setting) -> &Tokens {
        self.clock.advance_ms(setting.now_ms - self.clock.now_ms());
        &self.tokens[usize::from(setting.has_kid) * 2 + usize::from(setting.has_issuer)]
    }
}

/// Makes the setting and the value of `Authorization`. `None` means that no header could hold the value.
fn recipe(input: &[u8]) -> Option<(Setting, String)> {
    let text = std::str::from_utf8(input).ok()?;
    let (words, rest) = text.split_once('\n').unwrap_or((text, ""));
    let words: Vec<&str> = words.split(' ').collect();
    let at_s = words.iter().find_map(|word| word.strip_prefix("at=")?.parse::<i32>().ok());
    let setting = Setting {
        has_kid: words.contains(&"kid"),
        has_issuer: words.contains(&"issuer"),
        now_ms: (NOW_S + i64::from(at_s.unwrap_or(0))).max(0) * 1000,
    };
    if words.contains(&"raw") {
        return Some((setting, rest.to_owned()));
    }
    let (header, payload) = rest.split_once('\n').unwrap_or((rest, ""));
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let secret = if words.contains(&"foreign") { FOREIGN } else { SECRET };
    let signature = URL_SAFE_NO_PAD.encode(hmac(secret, message.as_bytes()));
    Some((setting, format!("Bearer {message}.{signature}")))
}

fn check(input: &[u8], shared: &Remembering) -> String {
    let Some((setting, authorization)) = recipe(input) else { return "no recipe".to_owned() };
    let fresh = tokens(setting, &Clock::manual(setting.now_ms));
    if input.iter().filter(|byte| b"[{".contains(byte)).count() >= json::DEPTH_MAX {
        // The text is too deep for the reader of this test. The product has to answer all the same.
        return format!("deep {}", fresh.shopper(Some(&authorization)).is_ok());
    }
    let first = asked(&fresh, &authorization, setting);
    for _ in 0..2 {
        let again = asked(shared.at(setting), &authorization, setting);
        assert_eq!(again.is_some(), first.is_some(), "the answer depends on what was asked before");
    }
    let Some(proof) = first else { return signature_of(input, &authorization, setting) };
    for worse in variants(&authorization) {
        asked(shared.at(setting), &worse, setting);
    }
    // The token is good to the last millisecond and not one longer, also when it is remembered.
    if let Ok(expires_ms) = i64::try_from(proof.expires_ms) {
        let last = Setting { now_ms: expires_ms - 1, ..setting };
        assert!(asked(shared.at(last), &authorization, last).is_some(), "refused before its time");
        let over = Setting { now_ms: expires_ms, ..setting };
        assert!(asked(shared.at(over), &authorization, over).is_none(), "outlived its exp");
    }
    format!("proven {} {} {}", setting.has_kid, setting.has_issuer, proof.is_plain)
}

/// Makes variants of a credential that was remembered, each changed in one place.
fn variants(authorization: &str) -> Vec<String> {
    let mut variants: Vec<String> = ["=", ".", " ", "\0", "A", "%00", "\n"]
        .iter()
        .flat_map(|more| {
            [format!("{authorization}{more}"), authorization.replacen('.', &format!("{more}."), 1)]
        })
        .collect();
    let at = authorization.len() - 1;
    variants.push(authorization[..at].to_owned());
    variants.push(authorization.to_ascii_lowercase());
    variants.push(authorization.replacen("Bearer ", "Bearer  ", 1));
    variants.push(authorization.replacen("Bearer ", "bearer ", 1));
    // The last digit of a signature of 32 bytes carries two bits that mean nothing.
    for last in ["A", "B", "C", "Q", "R", "g", "w", "8"] {
        variants.push(format!("{}{last}", &authorization[..at]));
    }
    variants
}

/// Says why a token was refused, as far as the recipe shows.
fn signature_of(input: &[u8], authorization: &str, setting: Setting) -> String {
    let way = if input.starts_with(b"raw") { "raw" } else { "made" };
    let token = authorization.split_once(' ').map_or("", |(_, token)| token.trim());
    let parts: Vec<&str> = token.split('.').collect();
    let doc = |at: usize| parts.get(at).and_then(|part| json::parse(&decoded(part)?));
    let header = doc(0).map(|header| header_is_plain(&header, setting).is_some());
    let claims = doc(1);
    let kind = |name: &str| match claims.as_ref().map(|claims| claims.member(name)) {
        None => "-",
        Some(None) => "missing",
        Some(Some(Doc::Null)) => "null",
        Some(Some(Doc::Bool(_))) => "bool",
        Some(Some(Doc::Number(_))) => "number",
        Some(Some(Doc::Text(_))) => "text",
        Some(Some(Doc::List(_))) => "list",
        Some(Some(Doc::Object(_))) => "object",
    };
    let is_signed = authorization.len() > BYTES_MAX || proof(authorization, setting).is_some();
    let claims: Vec<&str> = ["sub", "aud", "exp", "nbf"].into_iter().map(kind).collect();
    format!("refused {way} {} {header:?} {is_signed} {}", parts.len().min(5), claims.join(" "))
}

fn made(rng: &mut StdRng) -> Vec<u8> {
    let mut words = vec![if rng.random_bool(0.97) { "signed".to_owned() } else { "foreign".to_owned() }];
    let has_kid = rng.random_bool(0.3);
    words.extend(has_kid.then(|| "kid".to_owned()));
    words.extend(rng.random_bool(0.3).then(|| "issuer".to_owned()));
    if rng.random_bool(0.3) {
        words.push(format!(
            "at={}",
            one_of(&[-6, -5, -1, 0, 1, 3604, 3605, 3606, 86_400, i32::MAX, i32::MIN], rng)
        ));
    }
    let alg = if rng.random_bool(0.9) {
        "HS256"
    } else {
        one_of(&["none", "None", "hs256", "HS384", "RS256", ""], rng)
    };
    let mut members = vec![("typ", Node::text("JWT")), ("alg", Node::text(alg))];
    if has_kid || rng.random_bool(0.2) {
        members
            .push(("kid", Node::text(one_of(&["main", "main", "main", "MAIN", "main ", "other", ""], rng))));
    }
    let odd = ["crit", "b64", "jwk", "jku", "x5c", "zip", "enc", "cty", "x"];
    if rng.random_bool(0.1) {
        members.push((one_of(&odd, rng), Node::List(vec![Node::text("exp")])));
    }
    let mut header = Node::object(&members);
    if rng.random_bool(0.2) {
        header.perhaps_corrupt(rng);
    }
    let mut claims = payload(rng);
    claims.perhaps_corrupt(rng);
    format!("{}\n{}\n{}", words.join(" "), header.write(rng).replace('\n', " "), claims.write(rng))
        .into_bytes()
}

fn payload(rng: &mut StdRng) -> Node {
    let time = |usual: i64, rng: &mut StdRng| match rng.random_range(0..20) {
        0 => Node::raw(one_of(INTEGERS, rng)),
        1 => Node::raw(format!("{usual}.5")),
        2 => Node::raw(format!("{usual}.0")),
        3 => Node::raw(format!("-{usual}")),
        4 => Node::Text(usual.to_string()),
        5 => Node::raw("1.9e9"),
        _ => Node::raw(usual),
    };
    let audience = match rng.random_range(0..10) {
        0 => Node::List(vec![Node::text("other"), Node::text("seckill")]),
        1 => Node::List(vec![Node::text("seckill"), Node::raw(1)]),
        2 => Node::List(Vec::new()),
        3 => Node::text(one_of(&["Seckill", "seckill ", "other", ""], rng)),
        _ => Node::text("seckill"),
    };
    let user = if rng.random_bool(0.9) { "alice".to_owned() } else { text_of(rng) };
    let mut members = vec![("sub", Node::Text(user)), ("aud", audience), ("exp", time(NOW_S + 3600, rng))];
    if rng.random_bool(0.3) {
        let begins = NOW_S + one_of(&[-10, 0, 4, 5, 6, 3600], rng);
        members.push(("nbf", time(begins, rng)));
    }
    if rng.random_bool(0.5) {
        members.push(("iss", Node::text(one_of(&["shop", "shop", "shop", "Shop", ""], rng))));
    }
    if rng.random_bool(0.2) {
        members.push(("iat", time(NOW_S, rng)));
    }
    Node::object(&members)
}

#[test]
fn a_token_is_believed_exactly_when_signature_and_claims_prove_its_user() {
    let remembering = Remembering::new();
    let seen = run(&Target {
        name: "token",
        check: &|input| check(input, &remembering),
        generate: &made,
        bytes_max: 8 * 1024,
        slowest: Duration::from_millis(50),
    });
    assert!(seen.iter().any(|signature| signature.starts_with("proven")), "no token was good");
}
