//! Signs what is sent to others, and checks the signatures of a payment provider's events. Both have the same form.
//! Source: Stripe, "Verify webhook signatures manually".

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// How far the time of a signature may be from now, in seconds.
const TOLERANCE_S: i64 = 300;
/// Most signatures of one header that are looked at.
const SIGNATURES_MAX: usize = 16;

/// Answers whether one of `secrets` has signed `body`. `header` is `t=SECONDS,v1=HEX`, with any number of `v1`, and
/// what it has besides is passed over. The time of the signature must be at most five minutes from now. All comparisons
/// take the same time whatever they find.
pub fn is_signed(header: &str, body: &[u8], secrets: &[&[u8]], now_s: i64) -> bool {
    let entries = header.split(',').filter_map(|entry| entry.trim().split_once('='));
    let of =
        |name: &'static str| entries.clone().filter(move |(key, _)| *key == name).map(|(_, value)| value);
    let Some(at) = of("t").next() else { return false };
    let in_time = at.parse::<i64>().is_ok_and(|at_s| now_s.abs_diff(at_s) <= TOLERANCE_S.unsigned_abs());
    let mut found = Choice::from(0);
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let expected = digest(secret, at, body);
        for signature in of("v1").take(SIGNATURES_MAX) {
            found |= expected.as_bytes().ct_eq(signature.as_bytes());
        }
    }
    in_time && bool::from(found)
}

/// Signs a body with every secret: `t=SECONDS,v1=HEX`, with a `v1` for each of them.
pub fn sign<'a>(secrets: impl Iterator<Item = &'a str>, body: &[u8], now_s: i64) -> String {
    let at = now_s.to_string();
    secrets.fold(format!("t={at}"), |header, secret| {
        format!("{header},v1={}", digest(secret.as_bytes(), &at, body))
    })
}

fn digest(secret: &[u8], at: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length");
    mac.update(at.as_bytes());
    mac.update(b".");
    mac.update(body);
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1"}"#;
    const NOW_S: i64 = 1_800_000_000;

    fn signature(secret: &[u8], at_s: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key");
        mac.update(format!("{at_s}.").as_bytes());
        mac.update(body);
        hex(&mac.finalize().into_bytes())
    }

    #[test]
    fn what_is_signed_is_what_is_checked() {
        let header = sign(["whsec_new", "whsec_old"].into_iter(), BODY, NOW_S);
        for secret in [&b"whsec_new"[..], b"whsec_old"] {
            assert!(is_signed(&header, BODY, &[secret], NOW_S));
            assert!(!is_signed(&header, b"{}", &[secret], NOW_S));
        }
        assert!(!is_signed(&header, BODY, &[b"whsec_other"], NOW_S));
    }

    #[test]
    fn only_who_has_a_secret_signs_and_only_for_five_minutes() {
        let (new, old): (&[u8], &[u8]) = (b"whsec_new", b"whsec_old");
        let header = |secret, at_s| format!("t={at_s},v1={},v0=x", signature(secret, at_s, BODY));
        let both = [new, old];
        assert!(is_signed(&header(new, NOW_S), BODY, &both, NOW_S));
        assert!(is_signed(&header(old, NOW_S), BODY, &both, NOW_S), "both secrets hold while they change");
        assert!(!is_signed(&header(old, NOW_S), BODY, &[new], NOW_S));
        assert!(!is_signed(&header(b"whsec_other", NOW_S), BODY, &both, NOW_S));
        assert!(!is_signed(&header(b"", NOW_S), BODY, &[b"", b""], NOW_S), "no secret signs nothing");
        assert!(is_signed(&header(new, NOW_S - 300), BODY, &both, NOW_S));
        assert!(is_signed(&header(new, NOW_S + 300), BODY, &both, NOW_S));
        assert!(!is_signed(&header(new, NOW_S - 301), BODY, &both, NOW_S), "replayed");
        assert!(!is_signed(&header(new, NOW_S + 301), BODY, &both, NOW_S));
        assert!(!is_signed(&header(new, NOW_S), br#"{"id":"evt_2"}"#, &both, NOW_S), "another body");
        let two = format!("t={NOW_S},v1=00,v1={}", signature(new, NOW_S, BODY));
        assert!(is_signed(&two, BODY, &both, NOW_S), "each signature counts");
        let moved = header(new, NOW_S - 600).replace(&format!("t={}", NOW_S - 600), &format!("t={NOW_S}"));
        assert!(!is_signed(&moved, BODY, &both, NOW_S), "the time is signed, too");
        for broken in ["", "t=1", "v1=00", "t=,v1=", "t=x,v1=00", "t", ",,,", "t=1800000000,v1="] {
            assert!(!is_signed(broken, BODY, &both, NOW_S), "{broken}");
        }
    }
}
