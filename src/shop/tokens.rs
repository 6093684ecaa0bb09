//! Gives purchase tokens to buyers, and asks for a proof of work where the sale wants one.

use super::Shop;
use super::proofs::{Proofs, Work};
use crate::domain::purchase_token::{Bound, LIFE_MS};
use crate::domain::sale::Phase;
use crate::domain::{DeviceId, SaleId, UserId};

/// A token that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// Its text.
    pub token: String,
    /// From when on it serves, ms since 1970.
    pub not_before_ms: i64,
    /// Until when, ms since 1970.
    pub expires_ms: i64,
}

/// Why a buyer gets no token.
#[derive(Debug, Clone, PartialEq)]
pub enum NoToken {
    /// There is no such sale, or the buyer does not see it.
    UnknownSale,
    /// The sale is over.
    Ended,
    /// This process has no key, or does not know the sales yet.
    Unavailable,
    /// The sale wants a proof of work, and none was given that is good. This is a challenge for one, as ALTCHA has it.
    ProofWanted {
        /// The challenge.
        challenge: serde_json::Value,
        /// Whether one was given.
        was_given: bool,
    },
}

impl Shop {
    /// Gives a token to a buyer. It is valid from the opening on, for a minute. Costs no I/O.
    ///
    /// # Errors
    /// Why there is none.
    pub fn issue_token(
        &self,
        (user, device): (&UserId, Option<&DeviceId>),
        id: &SaleId,
        proof: Option<&str>,
    ) -> Result<IssuedToken, NoToken> {
        let (snapshot, now_ms) = (self.catalog(), self.now_ms());
        let Some((sale, phase)) = snapshot.visible(id, now_ms) else {
            return Err(if snapshot.is_read { NoToken::UnknownSale } else { NoToken::Unavailable });
        };
        if !self.traffic.shows(id, Some((user, device))) {
            return Err(NoToken::UnknownSale);
        }
        if phase == Phase::Ended {
            return Err(NoToken::Ended);
        }
        let keys = self.settings.token_keys.as_ref().ok_or(NoToken::Unavailable)?;
        if sale.access.proof_of_work > 0 {
            let work = Work { user, sale: id, digits: sale.access.proof_of_work };
            let proofs = Proofs { secret: keys.proof_secret() };
            if !proof.is_some_and(|proof| proofs.is_good(proof, work, now_ms)) {
                let challenge = proofs.challenge(work, now_ms).ok_or(NoToken::Unavailable)?;
                return Err(NoToken::ProofWanted { challenge, was_given: proof.is_some() });
            }
        }
        let not_before_ms = sale.starts_ms;
        let expires_ms = not_before_ms.max(now_ms) + LIFE_MS;
        let token = keys.issue(Bound { user, sale: id, device }, not_before_ms, expires_ms);
        Ok(IssuedToken { token, not_before_ms, expires_ms })
    }
}
