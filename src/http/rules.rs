//! Asks the rules of traffic about requests of the public listener.

use std::time::Duration;

use actix_web::HttpRequest;

use super::Context;
use super::problem::{Code, Problem};
use crate::chance::Chance;
use crate::domain::rule::Way;
use crate::domain::{SaleId, UserId};
use crate::memory::rulebook::{Asker, Refused};

/// The shortest wait that a refusal asks for, so that a crowd does not come again at once.
const WAIT_MS_MIN: u64 = 100;

/// Asks the rules about a request, and waits as long as they say.
///
/// # Errors
/// `rate_limited` and `blocked`, each with the rule as `policy`.
pub async fn pass(
    request: &HttpRequest,
    context: &Context,
    way: Way,
    (user, sale): (Option<&UserId>, Option<&SaleId>),
) -> Result<(), Problem> {
    let address = context.addresses.of(request, context.shop.now_ms());
    context.shop.traffic().pass(&Asker { way, user, address, sale }).await.map_err(refusal)
}

/// Translates the refusal of a rule.
pub fn refusal(refused: Refused) -> Problem {
    match refused {
        Refused::Blocked(rule) => Problem::new(Code::Blocked).with("policy", rule.as_str()),
        Refused::TooFast { rule, retry_after } => {
            let wait = retry_after.max(Duration::from_millis(1));
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / 2).max(WAIT_MS_MIN);
            let ms = Chance::System.with_jitter(ms);
            Problem::new(Code::RateLimited).with("policy", rule.as_str()).retry_after_ms(ms)
        }
    }
}
