//! Proofs of work, as ALTCHA has them: a challenge that only we can have made, and a solution that anybody can check
//! with one hash.
//!
//! Invariant: a proof serves one buyer in one sale, for two minutes. It may be shown more than once: what it gives is
//! the same each time.

use std::collections::BTreeMap;

use altcha::{CreateChallengeOptions, Payload, VerifySolutionOptions, create_challenge, verify_solution};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::domain::{SaleId, UserId};

/// How long a challenge may be solved, in s.
const LIFE_S: i64 = 120;
const ALGORITHM: &str = "SHA-256";

/// Makes challenges and checks their solutions.
pub struct Proofs {
    /// What only the processes of this shop know. The first one makes challenges, and all are accepted.
    pub secrets: Vec<String>,
}

/// What a proof is about.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// The buyer.
    pub user: &'a UserId,
    /// The sale.
    pub sale: &'a SaleId,
    /// Hexadecimal zeros that the hash has to begin with.
    pub digits: u8,
}

impl Work<'_> {
    fn prefix(self) -> String {
        "0".repeat(usize::from(self.digits))
    }

    fn data(self) -> BTreeMap<String, Value> {
        let text = |name: &str, value: &str| (name.to_owned(), Value::from(value));
        BTreeMap::from([text("sale", self.sale.as_str()), text("user", self.user.as_str())])
    }
}

impl Proofs {
    /// Makes a challenge.
    pub fn challenge(&self, work: Work<'_>, now_ms: i64) -> Option<Value> {
        let challenge = create_challenge(CreateChallengeOptions {
            algorithm: ALGORITHM.to_owned(),
            cost: 1,
            data: Some(work.data()),
            expires_at: Some(now_ms / 1000 + LIFE_S),
            hmac_signature_secret: self.secrets.first().cloned(),
            key_prefix: work.prefix(),
            ..CreateChallengeOptions::default()
        });
        serde_json::to_value(challenge.ok()?).ok()
    }

    /// Answers whether a payload, base64 of challenge and solution, proves the work.
    pub fn is_good(&self, payload: &str, work: Work<'_>, now_ms: i64) -> bool {
        let Ok(bytes) = STANDARD.decode(payload) else { return false };
        let Ok(Payload { challenge, solution }) = serde_json::from_slice(&bytes) else { return false };
        let said = &challenge.parameters;
        // An easier challenge, or one of another buyer, is signed as well.
        let is_this = said.algorithm == ALGORITHM
            && said.cost == 1
            && said.key_prefix == work.prefix()
            && said.data.as_ref() == Some(&work.data())
            && said.expires_at.is_some_and(|expires_s| now_ms / 1000 < expires_s);
        let is_signed_with = |secret: &String| {
            let options = VerifySolutionOptions::new(&challenge, &solution, secret);
            verify_solution(options).is_ok_and(|result| result.verified)
        };
        is_this && self.secrets.iter().any(is_signed_with)
    }
}

#[cfg(test)]
mod tests {
    use altcha::{Challenge, SolveChallengeOptions, solve_challenge};

    use super::*;
    use crate::clock::Clock;

    fn solved(challenge: &Value) -> String {
        let challenge: Challenge = serde_json::from_value(challenge.clone()).expect("a challenge");
        let solution =
            solve_challenge(SolveChallengeOptions::new(&challenge)).expect("solvable").expect("in time");
        STANDARD.encode(serde_json::to_vec(&Payload { challenge, solution }).expect("JSON"))
    }

    #[test]
    fn a_proof_serves_its_buyer_in_its_sale_for_its_time_and_its_work() {
        let (ada, bob) = (UserId::parse("ada").expect("a user"), UserId::parse("bob").expect("a user"));
        let (drop, other) = (SaleId::parse("drop").expect("a sale"), SaleId::parse("other").expect("a sale"));
        let (proofs, now_ms) = (Proofs { secrets: vec!["s".repeat(32)] }, Clock::System.now_ms());
        let work = Work { user: &ada, sale: &drop, digits: 2 };
        let proof = solved(&proofs.challenge(work, now_ms).expect("a challenge"));
        assert!(proofs.is_good(&proof, work, now_ms) && proofs.is_good(&proof, work, now_ms));
        for wrong in [Work { user: &bob, ..work }, Work { sale: &other, ..work }, Work { digits: 3, ..work }]
        {
            assert!(!proofs.is_good(&proof, wrong, now_ms), "{wrong:?}");
        }
        assert!(!proofs.is_good(&proof, work, now_ms + LIFE_S * 1000), "too late");
        let with =
            |secrets: &[&str]| Proofs { secrets: secrets.iter().map(|secret| secret.repeat(32)).collect() };
        assert!(!with(&["t"]).is_good(&proof, work, now_ms), "another shop's");
        assert!(with(&["t", "s"]).is_good(&proof, work, now_ms), "before a rotation");
        for text in ["", "x", "e30=", &proof[..proof.len() - 8]] {
            assert!(!proofs.is_good(text, work, now_ms), "{text}");
        }
    }
}
