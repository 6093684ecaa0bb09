//! What the shop tells a buyer about an order.

use std::time::Duration;

use serde_json::Value;

use super::ending::Ending;
use crate::client::{NoReply, Reply};

/// The parts of an answer about an order that matter.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The HTTP status; 0 without an answer.
    pub http_status: u16,
    /// The problem's code, or the tool's own word when there is no answer.
    pub code: Option<String>,
    /// The order's state.
    pub order_status: Option<String>,
    /// Until when the order can be paid, as RFC 3339.
    pub expires_at: Option<String>,
    /// Where the order's payment is paid.
    pub page: Option<String>,
    /// After which time the shop wants to be asked again.
    pub pause: Option<Duration>,
}

impl Told {
    /// Reads an answer. A body that is no JSON tells nothing.
    pub fn of(result: Result<Reply, NoReply>) -> Self {
        let reply = match result {
            Ok(reply) => reply,
            Err(NoReply::NotSent(why) | NoReply::Unknown(why)) => {
                return Self { code: Some(why.to_owned()), ..Self::default() };
            }
        };
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let pause_ms = body["retry_after_ms"].as_u64().or_else(|| body["poll_after_ms"].as_u64());
        Self {
            http_status: reply.status,
            code: text(&body["code"]),
            order_status: text(&body["status"]),
            expires_at: text(&body["expires_at"]),
            page: text(&body["payment"]["redirect_url"]),
            pause: pause_ms.map(Duration::from_millis),
        }
    }

    /// Returns whether the same call may have another answer a little later. No answer at all is such an answer,
    /// because the process may be starting again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.http_status, 0 | 429 | 503 | 504) || self.is_problem("order_not_decided")
    }

    /// Returns whether the answer is the problem with this code.
    pub fn is_problem(&self, code: &str) -> bool {
        self.http_status >= 400 && self.code.as_deref() == Some(code)
    }

    /// Returns whether the answer shows an order that is not decided.
    pub fn is_pending(&self) -> bool {
        matches!(self.order_status.as_deref(), Some("queued" | "reserved"))
    }

    /// Returns the ending of the order that an answer without a problem shows. `None` means that the order goes on.
    pub fn ending(&self) -> Option<Ending> {
        let status = self.order_status.as_deref().filter(|_| self.http_status < 400);
        status.and_then(Ending::of_order)
    }

    /// Says in a word what the answer is.
    pub fn why(&self) -> String {
        self.code.clone().unwrap_or_else(|| format!("http_{}", self.http_status))
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;

    use super::*;

    fn told(status: u16, body: &'static str) -> Told {
        Told::of(Ok(Reply { status, replayed: false, body: Bytes::from_static(body.as_bytes()) }))
    }

    #[test]
    fn only_what_may_change_by_itself_is_asked_again() {
        for (status, body, is_retryable) in [
            (503, r#"{"code":"draining"}"#, true),
            (504, r#"{"code":"outcome_unknown"}"#, true),
            (429, r#"{"code":"rate_limited"}"#, true),
            (503, "<html>", true),
            (409, r#"{"code":"order_not_decided"}"#, true),
            (409, r#"{"code":"order_not_payable"}"#, false),
            (404, r#"{"code":"order_not_found"}"#, false),
            (500, r#"{"code":"internal"}"#, false),
            (200, r#"{"status":"paid"}"#, false),
        ] {
            assert_eq!(told(status, body).is_retryable(), is_retryable, "{status} {body}");
        }
        assert!(Told::of(Err(NoReply::NotSent("connect_failed"))).is_retryable());
        assert!(Told::of(Err(NoReply::Unknown("connection_lost"))).is_retryable());
    }

    #[test]
    fn an_order_ends_where_its_state_is_final_and_a_problem_ends_nothing() {
        assert_eq!(told(200, r#"{"status":"expired"}"#).ending(), Some(Ending::Expired));
        assert_eq!(told(200, r#"{"status":"awaiting_payment"}"#).ending(), None);
        let refused = told(409, r#"{"status":409,"code":"order_not_payable","order_status":"expired"}"#);
        assert!(refused.is_problem("order_not_payable"));
        assert_eq!(refused.ending(), None);
    }
}
