//! Gives purchase tokens to buyers, asks for a proof of work where the sale wants one, and checks the tokens of
//! purchases.

use std::sync::Arc;

use super::Shop;
use super::proofs::{Proofs, Work};
use super::purchase::{Purchase, Refusal};
use super::submit::{Submitted, asker, replayed};
use crate::domain::purchase_token::{Bound, LIFE_MS, TokenFault};
use crate::domain::sale::Phase;
use crate::domain::{DeviceId, OrderId, Sale, SaleId, UserId};

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

/// Who wants a token.
#[derive(Debug, Clone, Copy)]
pub struct TokenWish<'a> {
    /// The buyer.
    pub user: &'a UserId,
    /// The device to which it is bound.
    pub device: Option<&'a DeviceId>,
    /// The device by which a sale may be seen: one that the buyer's token names.
    pub seen_by: Option<&'a DeviceId>,
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
        TokenWish { user, device, seen_by }: TokenWish<'_>,
        id: &SaleId,
        proof: Option<&str>,
    ) -> Result<IssuedToken, NoToken> {
        let (snapshot, now_ms) = (self.catalog(), self.now_ms());
        let Some((sale, phase)) = snapshot.visible(id, now_ms) else {
            return Err(if snapshot.is_read { NoToken::UnknownSale } else { NoToken::Unavailable });
        };
        if !self.traffic.shows(id, Some((user, seen_by))) {
            return Err(NoToken::UnknownSale);
        }
        if phase == Phase::Ended {
            return Err(NoToken::Ended);
        }
        let keys = self.settings.token_keys.as_ref().ok_or(NoToken::Unavailable)?;
        if sale.access.proof_of_work > 0 {
            let work = Work { user, sale: id, digits: sale.access.proof_of_work };
            let proofs = Proofs { secrets: keys.proof_secrets() };
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

    /// Checks the buyer's purchase token.
    pub(super) fn check_token(
        &self,
        purchase: &Purchase,
        sale: &Sale,
        phase: Phase,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        let Some(keys) = &self.settings.token_keys else {
            tracing::error!(sale = %sale.id, "auth.purchase_token_secret is not set: the sale sells nothing here");
            return Err(Refusal::Unavailable);
        };
        let token = purchase.token.as_deref().ok_or(Refusal::TokenRequired)?;
        let bound = Bound { user: &purchase.user, sale: &sale.id, device: purchase.device.as_ref() };
        keys.check(token, bound, now_ms, self.settings.opening_skew_ms).map_err(|fault| match fault {
            TokenFault::Early if phase == Phase::Upcoming => {
                Refusal::NotStarted { starts_ms: sale.starts_ms }
            }
            fault => Refusal::TokenInvalid(fault),
        })
    }

    /// Answers a purchase whose token has expired: with the order that the same key has made, if there is one. A buyer
    /// who had no answer in time has it so.
    pub(super) async fn submit_expired(self: &Arc<Self>, purchase: &Purchase) -> Submitted {
        self.traffic.pass(&asker(purchase)).await.map_err(Refusal::Ruled)?;
        let Purchase { user, sale, key, sku, quantity, reference, .. } = purchase;
        let month = self.catalog().sales.get(sale).map(Sale::month).ok_or(Refusal::UnknownSale)?;
        let order = OrderId::derive(self.map.shard_of(user), month, sale, user, key);
        match self.order(user, order).await {
            Ok(Some(whole)) => replayed(whole.order.clone(), (sku, *quantity, reference.as_ref())),
            Ok(None) => Err(Refusal::TokenInvalid(TokenFault::Expired)),
            Err(_) => Err(Refusal::Unavailable),
        }
    }
}
