//! Asks the rules of traffic about requests of the public listener, and tells clients what the rules say of them.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};

use super::Context;
use super::auth::Shopper;
use super::problem::{Code, Problem};
use super::rate_limit::write_limit;
use crate::chance::Chance;
use crate::domain::rule::{Switch, Way};
use crate::domain::{DeviceId, SaleId, UserId};
use crate::memory::rulebook::{Asker, Given, Refused, Standing};
use crate::shop::ladder::Step;

/// The shortest wait that a refusal asks for, so that a crowd does not come again at once.
const WAIT_MS_MIN: u64 = 100;

const CANARY: HeaderName = HeaderName::from_static("x-seckill-canary");
const FLAGS: HeaderName = HeaderName::from_static("x-seckill-flags");

/// What an answer says of the rules. It is kept with the request, and the middleware writes it.
#[derive(Default)]
pub struct Told {
    standing: Option<Standing>,
    given: Given,
}

impl Told {
    /// Writes the headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        if let Some(Standing { policy, remaining, full_in_ns }) = &self.standing {
            write_limit(headers, policy, *remaining, Duration::from_nanos(*full_in_ns));
        }
        if self.given.canary {
            headers.insert(CANARY, HeaderValue::from_static("true"));
        }
        if !self.given.flags.is_empty() {
            let flags: Vec<&str> = self.given.flags.iter().map(|flag| flag.as_str()).collect();
            if let Ok(flags) = HeaderValue::from_str(&flags.join(", ")) {
                headers.insert(FLAGS, flags);
            }
        }
    }
}

/// Asks the rules about a request, and waits as long as they say.
///
/// # Errors
/// `rate_limited` and `blocked`, each with the rule as `policy`, and `switched_off`.
pub async fn pass(
    request: &HttpRequest,
    context: &Context,
    way: Way,
    (shopper, sale): (Option<&Shopper>, Option<&SaleId>),
) -> Result<(), Problem> {
    let address = context.addresses.of(request, context.shop.now_ms());
    let who = shopper.map(|of| (&of.user, of.device.as_ref()));
    let (user, device) = who.unzip();
    let asker = Asker { way, user, address, sale, device: device.flatten() };
    let standing = context.shop.traffic().pass(&asker).await.map_err(refusal)?;
    // What anybody may be shown from a cache says nothing of one client.
    if let Some(shopper) = shopper {
        tell(request, context, (&shopper.user, shopper.proven_device()), standing);
    }
    Ok(())
}

/// Refuses while an operator has switched something off.
///
/// # Errors
/// `switched_off`.
pub fn while_on(context: &Context, switch: Switch) -> Result<(), Problem> {
    if context.shop.traffic().is_off(switch) { Err(refusal(Refused::SwitchedOff(switch))) } else { Ok(()) }
}

/// Keeps for the answer what the rules say of its client.
pub fn tell(
    request: &HttpRequest,
    context: &Context,
    (user, device): (&UserId, Option<&DeviceId>),
    standing: Option<Standing>,
) {
    let given = context.shop.traffic().given(user, device);
    // A request that keeps nothing needs no table.
    if standing.is_some() || given != Given::default() {
        request.extensions_mut().insert(Told { standing, given });
    }
}

/// Translates the refusal of a rule.
pub fn refusal(refused: Refused) -> Problem {
    match refused {
        Refused::Blocked(rule) => Problem::new(Code::Blocked).with("policy", rule.as_str()),
        Refused::NotRead => Problem::new(Code::DependencyUnavailable),
        Refused::SwitchedOff(switch) => {
            let problem = Problem::new(Code::SwitchedOff)
                .with("switch", switch.as_str())
                .retry_after_ms(Chance::System.with_jitter(5000));
            let step = Step::ALL.into_iter().find(|step| step.switch() == switch);
            step.map_or(problem.clone(), |step| problem.degraded(step))
        }
        Refused::TooFast { policy, retry_after } => {
            let wait = retry_after.max(Duration::from_millis(1));
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / 2).max(WAIT_MS_MIN);
            let ms = Chance::System.with_jitter(ms);
            Problem::new(Code::RateLimited).retry_after_ms(ms).limit(policy)
        }
    }
}
