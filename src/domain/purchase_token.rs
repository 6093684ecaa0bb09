//! Purchase tokens: a buyer who has one may buy in a sale for a minute. Whoever only replays the purchase call has
//! none.
//!
//! A token says from when and until when it is valid, and its code binds it to a buyer, a sale and a device. It is
//! checked without I/O, and with a keyed hash that costs a tenth of a refusal (docs/adr/0028).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use super::ids::{DeviceId, SaleId, UserId};

/// The shortest secret, in bytes.
pub const SECRET_BYTES_MIN: usize = 32;
/// How long a token is valid after its issue, or after the opening when that is later, in ms.
pub const LIFE_MS: i64 = 60_000;
/// The length of a token's text: hexadecimal digits, which cost a fifth of what base64 costs to read.
pub const TEXT_LEN: usize = 68;

const VERSION: u8 = 1;
const CODE_LEN: usize = 16;
const SIGNED_LEN: usize = 18;
/// No id is longer.
const ID_LEN_MAX: usize = 255;
/// Keeps the codes of tokens apart from whatever else a secret is used for.
const PURPOSE: &str = "seckill purchase token v1";
/// Keeps them apart from proofs of work.
const PROOF_PURPOSE: &str = "seckill proof of work v1";

/// A key of tokens.
#[derive(Clone)]
pub struct TokenKey {
    /// Its number, which each of its tokens names.
    pub id: u8,
    key: [u8; 32],
    proof_key: [u8; 32],
}

impl TokenKey {
    /// Makes a key of a secret.
    pub fn new(id: u8, secret: &[u8]) -> Self {
        let [key, proof_key] = [PURPOSE, PROOF_PURPOSE].map(|purpose| blake3::derive_key(purpose, secret));
        Self { id, key, proof_key }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey {}", self.id)
    }
}

/// The keys of tokens: one issues, and all are accepted.
#[derive(Debug, Clone)]
pub struct TokenKeys {
    /// Issues.
    pub current: TokenKey,
    /// The one before a rotation.
    pub previous: Option<TokenKey>,
}

/// To whom and to what a token is bound.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// The buyer.
    pub user: &'a UserId,
    /// The sale.
    pub sale: &'a SaleId,
    /// The device, when the request that asked for it named one.
    pub device: Option<&'a DeviceId>,
}

/// Why a token does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// It is none of ours, or another buyer's, sale's or device's.
    Foreign,
    /// Its time is over.
    Expired,
    /// Its time begins later.
    Early,
}

impl TokenKeys {
    /// Answers the secrets by which challenges for a proof of work are known again. The first one makes new ones.
    pub fn proof_secrets(&self) -> Vec<String> {
        let keys = [Some(&self.current), self.previous.as_ref()].into_iter().flatten();
        keys.map(|key| URL_SAFE_NO_PAD.encode(key.proof_key)).collect()
    }

    /// Makes a token that is valid from `not_before_ms` until `expires_ms`, ms since 1970.
    pub fn issue(&self, bound: Bound<'_>, not_before_ms: i64, expires_ms: i64) -> String {
        let mut bytes = [0; SIGNED_LEN + CODE_LEN];
        bytes[0] = VERSION;
        bytes[1] = self.current.id;
        bytes[2..10].copy_from_slice(&not_before_ms.to_be_bytes());
        bytes[10..18].copy_from_slice(&expires_ms.to_be_bytes());
        let code = code(&self.current, &bytes[..SIGNED_LEN], bound);
        bytes[SIGNED_LEN..].copy_from_slice(&code);
        const_hex::encode(bytes)
    }

    /// Checks a token. `skew_ms` is how much too early it may be.
    ///
    /// # Errors
    /// Why it does not serve.
    pub fn check(&self, text: &str, bound: Bound<'_>, now_ms: i64, skew_ms: i64) -> Result<(), TokenFault> {
        let mut bytes = [0; SIGNED_LEN + CODE_LEN];
        if text.len() != TEXT_LEN || const_hex::decode_to_slice(text, &mut bytes).is_err() {
            return Err(TokenFault::Foreign);
        }
        let [version, id, ..] = bytes;
        let key =
            [Some(&self.current), self.previous.as_ref()].into_iter().flatten().find(|key| key.id == id);
        let Some(key) = key.filter(|_| version == VERSION) else { return Err(TokenFault::Foreign) };
        let (signed, given) = bytes.split_at(SIGNED_LEN);
        // One number is compared in a tenth of the time of sixteen bytes.
        let given: [u8; CODE_LEN] = given.try_into().map_err(|_| TokenFault::Foreign)?;
        let [given, wanted] = [given, code(key, signed, bound)].map(u128::from_be_bytes);
        if !bool::from(given.ct_eq(&wanted)) {
            return Err(TokenFault::Foreign);
        }
        let time = |at: usize| signed[at..at + 8].try_into().map_or(0, i64::from_be_bytes);
        let (not_before_ms, expires_ms) = (time(2), time(10));
        match now_ms {
            now_ms if now_ms >= expires_ms => Err(TokenFault::Expired),
            now_ms if now_ms + skew_ms < not_before_ms => Err(TokenFault::Early),
            _ => Ok(()),
        }
    }
}

/// Answers the code of a token. Each part stands with its length, so no two bounds have one text.
fn code(key: &TokenKey, signed: &[u8], Bound { user, sale, device }: Bound<'_>) -> [u8; CODE_LEN] {
    // The text is hashed at once: to add to a hash piece by piece takes as much again.
    let mut text = [0; SIGNED_LEN + 3 * (1 + ID_LEN_MAX)];
    text[..SIGNED_LEN].copy_from_slice(signed);
    let mut len = SIGNED_LEN;
    for part in [user.as_str(), sale.as_str(), device.map_or("", DeviceId::as_str)] {
        let part = &part.as_bytes()[..part.len().min(ID_LEN_MAX)];
        text[len] = u8::try_from(part.len()).unwrap_or(u8::MAX);
        text[len + 1..][..part.len()].copy_from_slice(part);
        len += 1 + part.len();
    }
    let mut code = [0; CODE_LEN];
    code.copy_from_slice(&blake3::keyed_hash(&key.key, &text[..len]).as_bytes()[..CODE_LEN]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(current: u8, previous: Option<u8>) -> TokenKeys {
        let key = |id: u8| TokenKey::new(id, &[id; 32]);
        TokenKeys { current: key(current), previous: previous.map(key) }
    }

    #[test]
    fn a_token_serves_its_buyer_in_its_sale_on_its_device_in_its_time() {
        let user = |name: &str| UserId::parse(name).expect("a user");
        let (ada, bob) = (user("ada"), user("bob"));
        let (drop, other) = (SaleId::parse("drop").expect("a sale"), SaleId::parse("other").expect("a sale"));
        let (phone, tablet) =
            (DeviceId::parse("p").expect("a device"), DeviceId::parse("t").expect("a device"));
        let bound = Bound { user: &ada, sale: &drop, device: Some(&phone) };
        let keys = keys(7, None);
        let token = keys.issue(bound, 1000, 61_000);
        assert_eq!(token.len(), TEXT_LEN);
        let check = |bound, now_ms| keys.check(&token, bound, now_ms, 0);
        assert_eq!((check(bound, 1000), check(bound, 60_999)), (Ok(()), Ok(())));
        assert_eq!(check(bound, 999), Err(TokenFault::Early));
        assert_eq!(keys.check(&token, bound, 999, 1), Ok(()), "a purchase may be early by that much");
        assert_eq!(check(bound, 61_000), Err(TokenFault::Expired));
        for foreign in [
            Bound { user: &bob, ..bound },
            Bound { sale: &other, ..bound },
            Bound { device: Some(&tablet), ..bound },
            Bound { device: None, ..bound },
        ] {
            assert_eq!(check(foreign, 1000), Err(TokenFault::Foreign), "{foreign:?}");
        }
    }

    #[test]
    fn a_token_that_was_changed_anywhere_is_foreign() {
        let (ada, drop) = (UserId::parse("ada").expect("a user"), SaleId::parse("drop").expect("a sale"));
        let bound = Bound { user: &ada, sale: &drop, device: None };
        let keys = keys(7, None);
        let token = keys.issue(bound, 0, i64::MAX);
        let bytes = const_hex::decode(&token).expect("its own form");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = const_hex::encode(changed);
            assert_eq!(keys.check(&changed, bound, 1, 0), Err(TokenFault::Foreign), "bit {bit}");
        }
        for text in
            ["", "x", &token[1..], &format!("{token}A"), &format!("0x{}", &token[2..]), &"*".repeat(TEXT_LEN)]
        {
            assert_eq!(keys.check(text, bound, 1, 0), Err(TokenFault::Foreign), "{text}");
        }
    }

    #[test]
    fn a_key_before_a_rotation_is_accepted_until_it_is_taken_away() {
        let (ada, drop) = (UserId::parse("ada").expect("a user"), SaleId::parse("drop").expect("a sale"));
        let bound = Bound { user: &ada, sale: &drop, device: None };
        let old = keys(1, None).issue(bound, 0, 10);
        assert_eq!(keys(2, Some(1)).check(&old, bound, 5, 0), Ok(()));
        assert_eq!(keys(2, None).check(&old, bound, 5, 0), Err(TokenFault::Foreign));
        // Another secret under the same number.
        let other = TokenKeys { current: TokenKey::new(1, &[9; 32]), previous: None };
        assert_eq!(other.check(&old, bound, 5, 0), Err(TokenFault::Foreign));
    }

    #[test]
    fn parts_of_a_bound_do_not_run_into_each_other() {
        let (a, bc) = (UserId::parse("a").expect("a user"), SaleId::parse("bc").expect("a sale"));
        let (ab, c) = (UserId::parse("ab").expect("a user"), SaleId::parse("c").expect("a sale"));
        let keys = keys(1, None);
        let token = keys.issue(Bound { user: &a, sale: &bc, device: None }, 0, 10);
        let other = Bound { user: &ab, sale: &c, device: None };
        assert_eq!(keys.check(&token, other, 5, 0), Err(TokenFault::Foreign));
    }
}
